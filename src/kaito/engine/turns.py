# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""How work shares the event loop: at once as far as it goes, and long queues of it in small helpings.

Nearly every request is answered without waiting for anything, so `begin` runs it right away and makes a task only of
what does wait: a task costs more than the whole reading of an object. `Turns` keeps writes that have come in a heap
from holding up everybody else.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from typing import Any, TypeVar

T = TypeVar("T")

HELPING_S = 0.001
"""How long queued work may run before the loop looks at its sockets again: reads beside it are to take 5 ms."""


def begin(work: Coroutine[Any, Any, T], done: Callable[[T], None]) -> asyncio.Task[T] | None:
    """Run the work up to where it first waits; `done` gets its result. Returns the task of what has to wait.

    Before its first wait the work has no task of its own: see `in_task`.
    """
    try:
        awaited = work.send(None)
    except StopIteration as end:
        done(end.value)
        return None
    task = asyncio.get_running_loop().create_task(_Begun(work, awaited))
    task.add_done_callback(lambda ended: None if ended.cancelled() else done(ended.result()))
    return task


class _Begun(Coroutine[Any, Any, T]):
    """A coroutine that waits for `awaited` already, for a task that begins only now."""

    def __init__(self, work: Coroutine[Any, Any, T], awaited: Any) -> None:
        self._work = work
        self._first = [awaited]

    def send(self, value: Any) -> Any:
        return self._first.pop() if self._first else self._work.send(value)

    def throw(self, *error: Any) -> Any:
        return self._work.throw(*error)

    def close(self) -> None:
        self._work.close()

    def __await__(self) -> Generator[Any, Any, T]:
        return self._work.__await__()


async def in_task() -> None:
    """To be awaited before what only works in a task: time limits, task groups, aiohttp."""
    if asyncio.current_task() is None:
        await asyncio.sleep(0)


class Turns:
    """Runs what it is handed in order, for a millisecond in each turn of the event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._queue: deque[Callable[[], None]] = deque()

    def add(self, work: Callable[[], None]) -> None:
        """Run the work soon. It must not raise."""
        self._queue.append(work)
        if len(self._queue) == 1:
            self._loop.call_soon(self._run)

    def _run(self) -> None:
        queue, end = self._queue, time.monotonic() + HELPING_S
        while True:
            queue[0]()  # it stays at the head meanwhile: what it adds must not start a second run
            queue.popleft()
            if not queue:
                return
            if time.monotonic() >= end:
                self._loop.call_soon(self._run)
                return
