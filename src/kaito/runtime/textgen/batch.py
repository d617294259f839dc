# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Continuous batching: every step computes one token for all sequences under way; new ones join between two steps.

Sequences are padded on the left to one length. A new group is computed alone first (prefill), then its KV cache is put
under that of the others; whoever is done leaves at once. Everything here runs on one thread; results are handed over
once a step. Knows tokens only: text is `text.py`, requests are `bodies.py`.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from collections.abc import Sequence as Many
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
import torch.nn.functional as nn

from kaito.runtime.textgen.lora import BASE, LoraModel
from kaito.runtime.textgen.sampling import Logprobs, Sampling, adjusted, drawn, logprobs_of

PREFILL_TOKENS = 8192
"""Tokens of prompts (with padding) that are computed at once."""
TRIM_AT = 64
"""Columns of common padding that are worth cutting off."""


class Matcher(Protocol):
    """Which tokens a grammar allows next."""

    def mask(self, logits: Any) -> None:
        """Make the others impossible, in place."""

    def accept(self, token: int) -> None:
        """Go on with this token."""


@dataclass(eq=False, slots=True)
class Sequence:
    """One answer being made."""

    prompt: list[int]
    sampling: Sampling
    grammar: Matcher | None = None
    adapter: str = BASE
    """As `LoraModel.inner` says it."""
    tokens: list[int] = field(default_factory=list)
    cancelled: bool = False
    """Set by anybody who wants no more of it."""
    generator: Any = None
    seen: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Step:
    """What happened to a sequence in one step."""

    sequence: Sequence
    token: int | None = None
    logprobs: Logprobs | None = None
    finish: str | None = None
    """`stop`, `length` or `error`; with `stop` the token is the one that ended it and is no text."""
    error: str = ""


Deliver = Callable[[list[Step]], None]


WORK_ERRORS = (RuntimeError, ValueError, TypeError, LookupError, OSError, ImportError, AttributeError)
"""What torch, PEFT and files raise."""


class Job:
    """Something to be done between two steps."""

    def __init__(self, work: Callable[[], None]) -> None:
        self._work = work
        self.future: Future[None] = Future()

    def run(self) -> None:
        """Do it; what goes wrong is the asker's."""
        try:
            self._work()
        except WORK_ERRORS as error:
            self.future.set_exception(error)
        else:
            self.future.set_result(None)


class Batch:
    """The sequences under way, and those that wait."""

    def __init__(self, model: LoraModel, deliver: Deliver, *, most: int, budget: int, cache: Callable[[], Any]) -> None:
        self._model = model
        self._deliver = deliver
        self._most = most
        self._budget = budget
        self._new_cache = cache
        self._arrived: queue.SimpleQueue[Sequence | Job | None] = queue.SimpleQueue()
        self._waiting: list[Sequence] = []
        self._rows: list[Sequence] = []
        self._cache: Any = None
        self._mask: Any = None
        self._next: Any = None
        self._positions: Any = None
        self._thread = threading.Thread(target=self._run, name="textgen", daemon=True)
        self.error: str | None = None
        """Why the thread ended, if it did."""
        self.prompt_tokens = 0
        self.generated_tokens = 0

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def add(self, sequence: Sequence) -> None:
        """Have this one answered; any thread may ask."""
        self._arrived.put(sequence)

    def adapters_in_use(self) -> set[str]:
        """The adapters of the sequences under way; to be asked on the thread that computes."""
        return {sequence.adapter for sequence in (*self._rows, *self._waiting)}

    def call(self, work: Callable[[], None]) -> Future[None]:
        """Have something done between two steps, on the thread that computes; any thread may ask."""
        job = Job(work)
        self._arrived.put(job)
        return job.future

    def stop(self) -> None:
        """End after the step under way."""
        self._arrived.put(None)
        self._thread.join(10)

    @property
    def running(self) -> int:
        """Sequences under way."""
        return len(self._rows)

    @property
    def waiting(self) -> int:
        """Sequences that wait for a place."""
        return self._arrived.qsize() + len(self._waiting)

    def _run(self) -> None:
        try:
            with torch.inference_mode():
                while self._take():
                    self._join_waiting()
                    if self._rows:
                        self._decode()
        except (RuntimeError, ValueError, TypeError, LookupError, MemoryError, OSError) as error:
            self.error = f"{type(error).__name__}: {error}"
            lost = [*self._rows, *self._waiting]
            self._deliver([Step(sequence, finish="error", error=self.error) for sequence in lost])

    def _take(self) -> bool:
        """Look who has come; waits when there is nothing to do. False means stop."""
        idle = not self._rows and not self._waiting
        while idle or not self._arrived.empty():
            sequence = self._arrived.get()
            if sequence is None:
                return False
            if isinstance(sequence, Job):
                sequence.run()
                continue
            self._waiting.append(sequence)
            idle = False
        return True

    def _join_waiting(self) -> None:
        """Let in whoever there is room for."""
        while self._waiting:
            group: list[Sequence] = []
            longest = 0
            width = self._mask.shape[1] if self._mask is not None else 0
            for sequence in self._waiting:
                length = max(longest, len(sequence.prompt))
                rows = len(self._rows) + len(group) + 1
                fits = max(width, length) * rows <= self._budget and length * (len(group) + 1) <= PREFILL_TOKENS
                if rows > self._most or (not fits and (group or self._rows)):
                    break
                group.append(sequence)
                longest = length
            if not group:
                return
            del self._waiting[: len(group)]
            self._prefill([sequence for sequence in group if not sequence.cancelled], longest)

    def _prefill(self, group: Many[Sequence], longest: int) -> None:
        if not group:
            return
        device = self._model.base.device
        ids = torch.zeros((len(group), longest), dtype=torch.long)
        mask = torch.zeros((len(group), longest), dtype=torch.long)
        for row, sequence in enumerate(group):
            size = len(sequence.prompt)
            ids[row, longest - size :] = torch.tensor(sequence.prompt)
            mask[row, longest - size :] = 1
            sequence.seen = frozenset(sequence.prompt)
            if not sequence.sampling.is_greedy:
                sequence.generator = torch.Generator(device=device)
                if sequence.sampling.seed is None:
                    sequence.generator.seed()
                else:
                    sequence.generator.manual_seed(sequence.sampling.seed)
            self.prompt_tokens += size
        ids, mask = ids.to(device), mask.to(device)
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        cache = self._new_cache()
        logits, cache = self._forward(group, ids, mask, positions, cache=cache)
        ends = positions[:, -1] + 1
        self._merge(list(group), cache, mask, ends)
        self._emit(logits, first=len(self._rows) - len(group))

    def _forward(self, rows: Many[Sequence], ids: Any, mask: Any, positions: Any, *, cache: Any) -> tuple[Any, Any]:
        """Logits of each row's last token, and the cache that holds all of it."""
        padded = None if bool(mask.all()) else mask
        answer = self._model.forward(
            [sequence.adapter for sequence in rows],
            input_ids=ids,
            attention_mask=padded,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        return answer.logits[:, -1].float(), answer.past_key_values

    def _merge(self, group: list[Sequence], cache: Any, mask: Any, positions: Any) -> None:
        """Put a computed group under the others."""
        nothing = torch.zeros(len(group), dtype=torch.long, device=mask.device)
        if not self._rows:
            self._rows, self._cache, self._mask, self._positions, self._next = group, cache, mask, positions, nothing
            return
        width = max(self._mask.shape[1], mask.shape[1])
        self._mask = torch.cat([padded_left(self._mask, width, -1), padded_left(mask, width, -1)])
        for mine, other in zip(self._cache.layers, cache.layers, strict=True):
            mine.keys = torch.cat([padded_left(mine.keys, width, -2), padded_left(other.keys, width, -2)])
            mine.values = torch.cat([padded_left(mine.values, width, -2), padded_left(other.values, width, -2)])
        self._rows = self._rows + group
        self._positions = torch.cat([self._positions, positions])
        self._next = torch.cat([self._next, nothing])

    def _decode(self) -> None:
        """One token for everybody."""
        one = torch.ones((len(self._rows), 1), dtype=torch.long, device=self._mask.device)
        self._mask = torch.cat([self._mask, one], dim=1)
        logits, self._cache = self._forward(
            self._rows, self._next[:, None], self._mask, self._positions[:, None], cache=self._cache
        )
        self._positions = self._positions + 1
        self._emit(logits, first=0)

    def _emit(self, logits: Any, *, first: int) -> None:
        """Choose tokens for the rows from `first` on, tell them, and let go of those that are done."""
        likeliest = logits.argmax(-1).tolist()
        steps: list[Step] = []
        chosen: list[int] = []
        for row, sequence in enumerate(self._rows[first:]):
            step = self._chosen(sequence, logits[row], likeliest[row])
            chosen.append(step.token or 0)
            steps.append(step)
        self.generated_tokens += len(steps)
        self._next[first:] = torch.tensor(chosen, dtype=torch.long, device=self._next.device)
        done = {id(step.sequence) for step in steps if step.finish is not None or step.sequence.cancelled}
        if done:
            self._keep([row for row, sequence in enumerate(self._rows) if id(sequence) not in done])
        self._deliver(steps)

    def _chosen(self, sequence: Sequence, logits: Any, likeliest: int) -> Step:
        sampling = sequence.sampling
        token = likeliest
        if sampling.adjusts or sequence.grammar is not None or not sampling.is_greedy:
            changed = adjusted(logits, sampling, sequence.seen, sequence.tokens) if sampling.adjusts else logits.clone()
            if sequence.grammar is not None:
                sequence.grammar.mask(changed)
            token = drawn(changed, sampling, sequence.generator)
        told = None if sampling.logprobs is None else logprobs_of(logits, token, sampling.logprobs)
        sequence.tokens.append(token)
        if token in sampling.stop_ids and len(sequence.tokens) > sampling.min_tokens:
            return Step(sequence, token, told, "stop")
        if sequence.grammar is not None:
            sequence.grammar.accept(token)
        return Step(sequence, token, told, "length" if len(sequence.tokens) >= sampling.max_tokens else None)

    def _keep(self, rows: list[int]) -> None:
        """Let go of all other rows."""
        self._rows = [self._rows[row] for row in rows]
        if not rows:
            self._cache = self._mask = self._positions = self._next = None
            return
        index = torch.tensor(rows, device=self._mask.device)
        self._cache.batch_select_indices(index)
        self._mask, self._positions, self._next = self._mask[index], self._positions[index], self._next[index]
        spare = int(self._mask.argmax(-1).min())
        if spare >= TRIM_AT:
            self._mask = self._mask[:, spare:].contiguous()
            for layer in self._cache.layers:
                layer.keys = layer.keys[..., spare:, :].contiguous()
                layer.values = layer.values[..., spare:, :].contiguous()


def padded_left(tensor: Any, width: int, dimension: int) -> Any:
    """The tensor with zeros before it up to this width; the dimension is the last (-1) or the last but one (-2)."""
    missing = width - tensor.shape[dimension]
    if not missing:
        return tensor
    return nn.pad(tensor, (missing, 0) if dimension == -1 else (0, 0, missing, 0))
