# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Muon, the optimiser that teaches the demo model's weight matrices in half as many steps as AdamW.

Momentum whose matrix is brought close to an orthogonal one before it is applied (Jordan et al., 2024,
https://kellerjordan.github.io/posts/muon/). torch.optim.Muon does the same in bfloat16, which a CPU without
instructions for it multiplies more than twenty times slower than float32; hence this one, in the weights' own type.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

MOMENTUM = 0.95
ROUNDS = 4
QUINTIC = (3.4445, -4.7750, 2.0315)
"""Coefficients of the Newton-Schulz iteration, from the article."""


def orthogonal(matrix: torch.Tensor) -> torch.Tensor:
    """A matrix with the same singular vectors, whose singular values are all between about 0.6 and 1.2."""
    first, second, third = QUINTIC
    wide = matrix.mT if matrix.shape[0] > matrix.shape[1] else matrix
    found = wide / (wide.norm() + 1e-7)
    for _ in range(ROUNDS):
        square = found @ found.mT
        found = torch.addmm(found, torch.addmm(square, square, square, beta=second, alpha=third), found, beta=first)
    return found.mT if matrix.shape[0] > matrix.shape[1] else found


class Muon:
    """For matrices alone; embeddings, the output layer and vectors belong to another optimiser."""

    def __init__(self, matrices: Sequence[torch.nn.Parameter], *, decay: float) -> None:
        self.matrices = matrices
        self.momenta = [torch.zeros_like(matrix) for matrix in matrices]
        self.decay = decay

    def step(self, rate: float) -> None:
        """Apply the gradients once, at this learning rate."""
        with torch.no_grad():
            for matrix, momentum in zip(self.matrices, self.momenta, strict=True):
                momentum.mul_(MOMENTUM).add_(matrix.grad)
                change = orthogonal(matrix.grad.add(momentum, alpha=MOMENTUM))
                scale = max(1.0, matrix.shape[0] / matrix.shape[1]) ** 0.5
                matrix.mul_(1 - rate * self.decay).add_(change, alpha=-rate * scale)
