# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""How the next token of a sequence is chosen. The meaning of every field is vLLM's, so that both engines answer alike.

Order: penalties and biases, the grammar, temperature, then top-k, top-p and min-p; log-probabilities are those of the
model, before any of it.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import torch

GREEDY_BELOW = 1e-5


@dataclass(frozen=True, slots=True)
class Sampling:
    """One request's wishes."""

    max_tokens: int
    min_tokens: int = 0
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    """0 takes all."""
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: dict[int, float] = field(default_factory=dict)
    seed: int | None = None
    stop_ids: frozenset[int] = frozenset()
    """Tokens that end the answer."""
    logprobs: int | None = None
    """How many alternatives to tell beside the chosen token; None tells nothing."""

    @property
    def is_greedy(self) -> bool:
        """The likeliest token is taken."""
        return self.temperature < GREEDY_BELOW or self.top_k == 1

    @property
    def adjusts(self) -> bool:
        """The logits are changed before a token is chosen."""
        penalties = self.repetition_penalty != 1.0 or self.presence_penalty != 0.0 or self.frequency_penalty != 0.0
        return penalties or bool(self.logit_bias) or self.min_tokens > 0


@dataclass(frozen=True, slots=True)
class Logprobs:
    """What the model thought of a token and of the likeliest ones."""

    chosen: float
    top: tuple[tuple[int, float], ...]
    """Token and log-probability, the likeliest first."""


def adjusted(logits: Any, sampling: Sampling, prompt: frozenset[int], answer: list[int]) -> Any:
    """Penalties and biases on one row of logits (a copy)."""
    logits = logits.clone()
    seen = torch.tensor(sorted(prompt.union(answer)), dtype=torch.long, device=logits.device)
    if sampling.repetition_penalty != 1.0 and len(seen):
        values = logits[seen]
        penalty = sampling.repetition_penalty
        logits[seen] = torch.where(values > 0, values / penalty, values * penalty)
    if (sampling.presence_penalty or sampling.frequency_penalty) and answer:
        counts = Counter(answer)
        ids = torch.tensor(list(counts), dtype=torch.long, device=logits.device)
        times = torch.tensor(list(counts.values()), dtype=logits.dtype, device=logits.device)
        logits[ids] -= sampling.frequency_penalty * times + sampling.presence_penalty
    for token, bias in sampling.logit_bias.items():
        logits[token] += bias
    if len(answer) < sampling.min_tokens and sampling.stop_ids:
        logits[list(sampling.stop_ids)] = -math.inf
    return logits


def drawn(logits: Any, sampling: Sampling, generator: Any) -> int:
    """A token drawn from one row of logits."""
    if sampling.is_greedy:
        return int(logits.argmax())
    logits = logits / sampling.temperature
    if 0 < sampling.top_k < logits.shape[-1]:
        lowest = torch.topk(logits, sampling.top_k).values[-1]
        logits = logits.masked_fill(logits < lowest, -math.inf)
    probabilities = torch.softmax(logits, dim=-1)
    if sampling.top_p < 1.0:
        ordered, order = torch.sort(probabilities, descending=True)
        beyond = ordered.cumsum(-1) - ordered >= sampling.top_p
        probabilities[order[beyond]] = 0.0
    if sampling.min_p > 0.0:
        probabilities[probabilities < sampling.min_p * probabilities.max()] = 0.0
    return int(torch.multinomial(probabilities, 1, generator=generator))


def logprobs_of(logits: Any, token: int, top: int) -> Logprobs:
    """The log-probabilities of one row, as the model gave it."""
    values = torch.log_softmax(logits, dim=-1)
    likeliest = torch.topk(values, min(top, values.shape[-1])) if top else None
    pairs = zip(likeliest.indices.tolist(), likeliest.values.tolist(), strict=True) if likeliest is not None else ()
    return Logprobs(float(values[token]), tuple(pairs))
