# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Watchers of the store: the queue of each, and when they are woken.

To wake a watcher costs a write on its socket, however little it is told. So a burst of changes is told in a few large
pieces: after a round, the watchers rest for a time that follows from what the round has cost. A single change after a
quiet time is told at once.
"""

from __future__ import annotations

import asyncio
import time

from kaito.engine.storage.events import Batch

MAX_PENDING_EVENTS = 10_000
"""A watcher that lets this many events pile up is dropped; its client starts again from its last revision."""

REST_FOR_EACH_S = 0.00025
"""How long a round's rest is for each watcher that it woke: some eight times what a small encrypted write takes, so
that watchers get a small share of the processor as long as the longest rest is not reached."""
SHORTEST_REST_S, LONGEST_REST_S = 0.002, 0.01
WOKEN_AT_ONCE = 4
"""Watchers that are told in one turn of the loop: what each is sent may be tens of kilobytes, and a read that comes in
meanwhile is not to stand behind all of them."""


class Subscription:
    """A watcher's queue of events of one collection."""

    def __init__(self, collection: str) -> None:
        self.collection = collection
        self._batches: list[Batch] = []
        self._size = 0
        self._waiter: asyncio.Future[None] | None = None
        self.dropped = False

    def push(self, batch: Batch) -> bool:
        """Queue events; `wake` tells the reader. False when it has fallen too far behind and was dropped."""
        self._size += len(batch.events)
        if self._size > MAX_PENDING_EVENTS:
            self.drop()
            return False
        self._batches.append(batch)
        return True

    def drop(self) -> None:
        """End the subscription: the reader gets None."""
        self.dropped = True
        self._batches.clear()
        self.wake()

    def wake(self) -> None:
        """Let the reader go on, if it waits."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def take(self) -> list[Batch]:
        """All events that wait, without waiting."""
        batches, self._batches = self._batches, []
        self._size = 0
        return batches

    async def wait(self, timeout_s: float) -> list[Batch] | None:
        """The next events, an empty list after `timeout_s`, None once dropped."""
        if not self._batches and not self.dropped:
            loop = asyncio.get_running_loop()
            self._waiter = loop.create_future()
            # A plain timer: `asyncio.wait_for` costs more than all else that a waking watcher does.
            timer = loop.call_later(timeout_s, self.wake)
            try:
                await self._waiter
            finally:
                timer.cancel()
                self._waiter = None
        return None if self.dropped else self.take()


class FanOut:
    """Wakes the watchers that have something to read."""

    def __init__(self, loop: asyncio.AbstractEventLoop | None) -> None:
        """Without a loop nobody waits, and watchers are woken at once."""
        self._loop = loop
        self._ready: set[Subscription] = set()
        self._woken: list[Subscription] = []
        """Those of this round that have not been woken yet."""
        self._rest_ends = 0.0
        self._is_due = False

    def add(self, subscription: Subscription) -> None:
        """Wake this one in the next round."""
        self._ready.add(subscription)

    def start(self) -> None:
        """Begin a round, now or when the last one's rest is over."""
        if not self._ready or self._is_due or self._woken:
            return
        rest_s = self._rest_ends - time.monotonic()
        if self._loop is None or rest_s <= 0:
            self._wake_all()
        else:
            self._is_due = True
            self._loop.call_later(rest_s, self._wake_all)

    def _wake_all(self) -> None:
        self._is_due = False
        self._woken, self._ready = list(self._ready), set()
        rest_s = min(max(len(self._woken) * REST_FOR_EACH_S, SHORTEST_REST_S), LONGEST_REST_S)
        self._rest_ends = time.monotonic() + rest_s
        self._wake_some()

    def _wake_some(self) -> None:
        count = WOKEN_AT_ONCE if self._loop is not None else len(self._woken)
        for subscription in self._woken[:count]:
            subscription.wake()
        del self._woken[:count]
        if self._loop is None:
            return
        if self._woken:
            self._loop.call_soon(self._wake_some)
        else:
            self.start()
