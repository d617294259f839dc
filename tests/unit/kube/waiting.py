# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Waiting for something to become true on a real event loop, without a fixed sleep."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

from kaito.kube.clock import RealClock


class HurriedClock(RealClock):
    """The machine's clock, so many times faster: pauses keep their proportions and tests their speed."""

    def __init__(self, times: float) -> None:
        self._times = times
        self.longest_s = 0.0
        """The longest pause that was asked for, in seconds of this clock."""

    def monotonic(self) -> float:
        return super().monotonic() * self._times

    async def sleep(self, seconds: float) -> None:
        self.longest_s = max(self.longest_s, seconds)
        await super().sleep(seconds / self._times)


async def until(is_so: Callable[[], bool], *, within_s: float = 20.0) -> None:
    """Return as soon as it is so; fail when that takes too long."""
    async with asyncio.timeout(within_s):
        while not is_so():
            await asyncio.sleep(0.005)


@asynccontextmanager
async def background(work: Coroutine[Any, Any, Any]) -> AsyncIterator[asyncio.Task[Any]]:
    """Run something beside the test and cancel it afterwards; what it raised by itself is raised here."""
    task = asyncio.create_task(work)
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    if not task.cancelled() and task.exception() is not None:
        raise task.exception()  # type: ignore[misc]
