# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""What a tuning will take, from a sample of its data and the shape of its model: tokens, memory, time. Arithmetic only.

Estimates, and called so: activations depend on kernels. They are made to find what cannot work, before it is tried.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

GIB = 1024**3
BYTES_OF_ADAM = 8
PEAKS = {"T4": 65e12, "L4": 121e12, "A100": 312e12, "H100": 989e12}
"""Operations a second with 16-bit numbers, without sparsity, as NVIDIA's data sheets have them (H100: SXM)."""
REACHED = 0.4
"""Of the peak, what trainings of language models reach at best, about (arXiv:2204.02311, section 4.1)."""
BUCKETS = (32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768)


@dataclass(frozen=True, slots=True)
class Tokens:
    """The lengths of a data set's examples, as a sample tells them."""

    sample: tuple[int, ...]
    rows: int
    limit: int | None

    @property
    def mean(self) -> float:
        """Tokens of an example."""
        return sum(self.sample) / len(self.sample) if self.sample else 0.0

    @property
    def total(self) -> int:
        """Of all rows, as far as they are trained on."""
        kept = [min(length, self.limit) if self.limit else length for length in self.sample]
        return round(sum(kept) / len(kept) * self.rows) if kept else 0

    @property
    def truncated(self) -> float:
        """The share of examples that are longer than the limit."""
        if not self.limit or not self.sample:
            return 0.0
        return sum(length > self.limit for length in self.sample) / len(self.sample)

    def histogram(self) -> list[tuple[str, int]]:
        """How many examples of the sample have how many tokens."""
        bounds = [bound for bound in BUCKETS if bound < max(self.sample, default=0)]
        edges = [0, *bounds]
        found = []
        for low, high in zip(edges, [*bounds, None], strict=True):
            count = sum(low < length and (high is None or length <= high) for length in self.sample)
            found.append((f"{low + 1}–{high}" if high else f"over {low}", count))
        return found


@dataclass(frozen=True, slots=True)
class Shape:
    """What memory depends on."""

    parameters: int
    trained: int
    """Parameters that are trained."""
    hidden: int
    layers: int
    vocabulary: int
    weight_bytes: float
    """Of each parameter that is not trained."""
    is_checkpointed: bool = True
    """Activations are computed again on the way back instead of being kept."""


def memory_gib(shape: Shape, *, batch: int, length: int, shards: int = 1) -> float:
    """Memory of one GPU: weights, what is trained with its optimizer, activations, and the largest logits. Of weights
    that are divided among GPUs each has a share, and two layers whole: the one that it computes, and the next."""
    weights = (shape.parameters - shape.trained) * shape.weight_bytes
    if shards > 1:
        weights = weights / shards + weights * min(1.0, 2 / max(1, shape.layers))
    trained = shape.trained * (4 + 4 + BYTES_OF_ADAM)
    tokens = batch * length
    kept = 2 if shape.is_checkpointed else 34
    activations = tokens * shape.hidden * shape.layers * kept * (1 if shape.is_checkpointed else 2)
    widest = tokens * shape.hidden * 34 * 2
    logits = min(tokens, 4096) * shape.vocabulary * 4
    return (weights + trained + activations + widest + logits) / GIB


def micro_batch(shape: Shape, *, batch: int, length: int, free_gib: float, shards: int = 1) -> int:
    """The most rows that fit the GPU at once, at least one: a divisor of the optimizer's batch, so that it stays."""
    divisors = (n for n in range(batch, 1, -1) if batch % n == 0)
    fitting = (n for n in divisors if memory_gib(shape, batch=n, length=length, shards=shards) <= free_gib)
    return next(fitting, 1)


def hours(tokens: float, shape: Shape, *, flops: float) -> float:
    """Time to train on so many tokens, on hardware that computes so many operations a second: two for each parameter
    forward, two back, and two more for the gradient of each that is trained (arXiv:2001.08361, section 2.1)."""
    return tokens * (4 * shape.parameters + 2 * shape.trained) / flops / 3600


def padding_share(lengths: Sequence[int], batch: int, limit: int | None) -> float:
    """Of the tokens that are computed without packing, the share that is padding."""
    kept = [min(length, limit) if limit else length for length in lengths]
    groups = [kept[first : first + batch] for first in range(0, len(kept), batch)]
    computed = sum(max(group) * len(group) for group in groups)
    return 1 - sum(kept) / computed if computed else 0.0
