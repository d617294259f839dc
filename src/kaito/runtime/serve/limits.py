# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""How much may be asked: rates per minute, and how many requests may wait for the engine. Pure; time is handed in."""

from __future__ import annotations

import math
from dataclasses import dataclass


class Bucket:
    """A rate per minute as a bucket that refills evenly; what is used beyond it is paid off first."""

    __slots__ = ("_at", "_left", "per_minute")

    def __init__(self, per_minute: int, now: float) -> None:
        self.per_minute = per_minute
        self._left = float(per_minute)
        self._at = now

    def _refill(self, now: float) -> None:
        self._left = min(self.per_minute, self._left + (now - self._at) * self.per_minute / 60)
        self._at = now

    def wait_s(self, amount: float, now: float) -> float:
        """Seconds until this amount may be taken; 0 when it may be now. More than a minute's worth needs a full one."""
        self._refill(now)
        missing = min(amount, self.per_minute) - self._left
        return max(0.0, missing * 60 / self.per_minute)

    def take(self, amount: float) -> None:
        """Use up this amount (or give it back when it is negative), whether it is there or not."""
        self._left = min(self.per_minute, self._left - amount)


@dataclass(slots=True)
class Queue:
    """The requests that the engine works on, and those that wait in it.

    A request counts until its answer has ended, a streamed one included. `running` is how many sequences the engine
    works on at once; what is beyond waits. More than `waiting` of them are refused.
    """

    running: int | None = None
    """None before it is known: then nothing is refused."""
    waiting: int | None = None
    """None takes as many as may run."""
    in_flight: int = 0
    engine_waiting: int = 0
    """What the engine itself says that it has waiting; a request may be several sequences."""
    rejected: int = 0

    @property
    def limit(self) -> int | None:
        """How many may wait."""
        return self.running if self.waiting is None else self.waiting

    def depth(self) -> int:
        """How many wait."""
        beyond = self.in_flight - (self.running or 0)
        return max(0, beyond, self.engine_waiting)

    def is_full(self) -> bool:
        """Whether another request must be refused."""
        if self.running is None or self.limit is None:
            return False
        return self.depth() > self.limit

    def retry_after_s(self) -> int:
        """When to ask again: the fuller, the later."""
        return 1 + min(30, math.ceil(self.depth() / max(1, self.running or 1)))
