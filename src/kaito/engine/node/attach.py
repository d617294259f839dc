# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""A client connected to a container's own process (`kubectl attach`, `kubectl run -it`).

Output comes from the container's log, which holds every byte, so a client that comes late (even after the end) misses
nothing; input goes into the container's FIFO.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from kaito.engine.node.logs import Entry, Follower
from kaito.engine.node.process import Feed
from kaito.engine.stream import Channel, Streams

ATTACHED_POLL_S = 0.02


class AttachSession:
    """One attached client (`kaito.engine.stream.Session`)."""

    def __init__(
        self,
        folder: Path,
        is_over: Callable[[], bool],
        streams: Streams,
        *,
        from_start: bool,
        closes_input: bool,
        left: Callable[[], None],
    ) -> None:
        self._follower = Follower(folder, is_over, from_start=from_start, poll_s=ATTACHED_POLL_S)
        self._entries: AsyncIterator[Entry] = self._follower.follow()
        self._streams = streams
        self._closes_input = closes_input
        self._left = left
        self._over = asyncio.Event()
        self._feed: Feed | None = None
        if streams.stdin:
            with contextlib.suppress(BrokenPipeError):
                self._feed = Feed(folder)

    async def read(self) -> tuple[Channel, bytes] | None:
        """The next output; None once the container has ended and all was read."""
        async for entry in self._entries:
            if entry.channel == "stderr" and not self._streams.stderr:
                continue
            if entry.channel == "stdout" and not self._streams.stdout:
                continue
            return entry.channel, entry.data
        self._over.set()
        return None

    async def write(self, data: bytes) -> None:
        """Feed the container's input."""
        if self._feed is not None:
            with contextlib.suppress(OSError):
                await self._feed.data(data)

    async def close_stdin(self) -> None:
        """The client's input ended; so does the container's, if it takes one client only (stdinOnce)."""
        if self._feed is not None and self._closes_input:
            with contextlib.suppress(OSError):
                await self._feed.end()

    async def resize(self, columns: int, rows: int) -> None:
        """Tell the container's terminal its size."""
        if self._feed is not None:
            with contextlib.suppress(OSError):
                await self._feed.resize(columns, rows)

    async def exit_code(self) -> int:
        """0 once all output was read: how the container ended is in the pod's status."""
        await self._over.wait()
        return 0

    async def close(self) -> None:
        """The client has gone; the container goes on, without input if it takes one client only."""
        await self.close_stdin()
        if self._feed is not None:
            self._feed.close()
        self._follower.close()
        self._over.set()
        self._left()
