# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""A queue of keys: each is in it once, and with one worker at a time, however often it is added.

A key that is added while a worker has it comes again when the worker is done. Failures come back later and later.
Time and chance are handed in; nothing here knows what a key means.
"""

from __future__ import annotations

import asyncio
import random
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Generic, TypeVar

from kaito.kube.clock import Clock

K = TypeVar("K")

FIRST_DELAY_S = 0.005
MOST_DELAY_S = 300.0


def backoff_s(failures: int, chance: float, *, first_s: float = FIRST_DELAY_S, most_s: float = MOST_DELAY_S) -> float:
    """The wait after that many failures in a row: doubling, capped, and spread over its upper half by `chance`."""
    # The exponent is bounded so that a key that fails for a month does not overflow a float.
    full = min(most_s, first_s * 2.0 ** min(failures - 1, 60))
    return full * (0.5 + 0.5 * chance)


class WorkQueue(Generic[K]):
    """Keys for workers: `key = await get()`, then `done(key)`, and `forget(key)` or `retry(key)` before it."""

    def __init__(self, clock: Clock, *, chance: Callable[[], float] = random.random) -> None:
        self._clock = clock
        self._chance = chance
        self._waiting: OrderedDict[K, float] = OrderedDict()
        self._working: set[K] = set()
        self._again: dict[K, float] = {}
        self._failures: dict[K, int] = {}
        self._rests: dict[K, float] = {}
        self._timers: dict[K, tuple[float, asyncio.Task[None]]] = {}
        self._getters: deque[asyncio.Future[None]] = deque()

    def __len__(self) -> int:
        """How many keys wait for a worker (not those whose time has not come)."""
        return len(self._waiting) + len(self._again)

    @property
    def is_idle(self) -> bool:
        """Whether no key waits for a worker or is with one."""
        return not (self._waiting or self._working)

    def add(self, key: K) -> None:
        """Ask for the key to be worked on."""
        now = self._clock.monotonic()
        if key in self._working:
            self._again.setdefault(key, now)
            return
        rest_s = self._rests.get(key, now) - now
        if rest_s > 0:
            self.add_after(key, rest_s)
            return
        self._rests.pop(key, None)
        if key not in self._waiting:
            self._waiting[key] = now
            self._wake()

    def add_after(self, key: K, seconds: float) -> None:
        """Ask for the key after a time; an earlier wish stays, a later one is replaced."""
        if seconds <= 0:
            self.add(key)
            return
        due = self._clock.monotonic() + seconds
        pending = self._timers.get(key)
        if pending is not None:
            if pending[0] <= due:
                return
            pending[1].cancel()
        self._timers[key] = (due, asyncio.create_task(self._add_later(key, seconds)))

    def retry(self, key: K, *, most_s: float = MOST_DELAY_S) -> float:
        """Ask for the key after its next backoff; the seconds until then."""
        failures = self._failures.get(key, 0) + 1
        self._failures[key] = failures
        delay = backoff_s(failures, self._chance(), most_s=most_s)
        self.add_after(key, delay)
        return delay

    def forget(self, key: K) -> None:
        """The key succeeded: its next failure starts from the shortest delay."""
        self._failures.pop(key, None)

    def flush(self) -> None:
        """What waits after a failure is due now: the reason to wait is gone."""
        for key in [key for key in self._timers if key in self._failures]:
            self._timers.pop(key)[1].cancel()
            self.add(key)

    async def get(self) -> tuple[K, float]:
        """The key that has waited longest, and for how many seconds. Call `done` with it."""
        while not self._waiting:
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._getters.append(waiter)
            try:
                await waiter
            except asyncio.CancelledError:
                if not waiter.cancelled():
                    # This worker was woken and stopped at the same moment: another one must take the key.
                    self._wake()
                raise
        key, since = self._waiting.popitem(last=False)
        self._working.add(key)
        # Whatever was to happen later is about to be decided anew.
        timer = self._timers.pop(key, None)
        if timer is not None:
            timer[1].cancel()
        return key, self._clock.monotonic() - since

    def done(self, key: K, *, rest_s: float = 0.0) -> None:
        """The worker is done with the key; if it was added meanwhile, it waits again.

        With `rest_s`, it comes again no sooner than after so many seconds, whoever adds it.
        """
        self._working.discard(key)
        since = self._again.pop(key, None)
        if rest_s > 0:
            self._rests[key] = self._clock.monotonic() + rest_s
        if since is not None and rest_s > 0:
            self.add(key)
        elif since is not None:
            self._waiting[key] = since
            self._wake()

    def close(self) -> None:
        """Cancel what was to come later."""
        for _, task in self._timers.values():
            task.cancel()
        self._timers.clear()

    async def _add_later(self, key: K, seconds: float) -> None:
        await self._clock.sleep(seconds)
        self._timers.pop(key, None)
        self.add(key)

    def _wake(self) -> None:
        while self._getters:
            waiter = self._getters.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return
