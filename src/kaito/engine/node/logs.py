# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Reads what the shim wrote to a container's log: tail, since, time stamps, and following it while it grows.

The files hold lines as container runtimes write them (`TIME STREAM F|P TEXT`; P says that the line goes on).
Attaching to a container reads the same file, so a client misses nothing, however late it comes.
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import BinaryIO

from kaito.engine.stream import Channel, LogOptions

FOLLOW_S = 0.1
CHUNK = 256 * 1024


@dataclass(frozen=True, slots=True)
class Entry:
    """One piece of output; `data` ends in a newline when the container's line ended."""

    stamp: str
    channel: Channel
    data: bytes


def parse(line: bytes) -> Entry | None:
    """The entry that a line of the file holds; None when it is damaged (the machine went down while it was written)."""
    parts = line.rstrip(b"\n").split(b" ", 3)
    if len(parts) != 4:
        return None
    stamp, channel, mark, text = parts
    return Entry(
        stamp.decode(errors="replace"),
        "stderr" if channel == b"stderr" else "stdout",
        text + b"\n" if mark == b"F" else text,
    )


def lines(entries: Iterator[Entry]) -> Iterator[list[Entry]]:
    """The entries grouped into the container's lines (a line can be in pieces; the last ones may be unfinished)."""
    open_lines: dict[Channel, list[Entry]] = {}
    for entry in entries:
        line = open_lines.setdefault(entry.channel, [])
        line.append(entry)
        if entry.data.endswith(b"\n"):
            yield open_lines.pop(entry.channel)
    yield from open_lines.values()


def render(line: list[Entry], *, timestamps: bool) -> bytes:
    """The line as a client sees it."""
    text = b"".join(entry.data for entry in line)
    return f"{line[0].stamp} ".encode() + text if timestamps else text


def selected(entries: Iterator[Entry], options: LogOptions) -> Iterator[bytes]:
    """What of these entries is asked for, without looking at the byte limit."""
    found = lines(entries)
    if options.since is not None:
        since = options.since
        found = (line for line in found if moment(line[0].stamp) >= since)
    if options.tail_lines is not None:
        found = iter(deque(found, maxlen=options.tail_lines))
    for line in found:
        yield render(line, timestamps=options.timestamps)


def moment(stamp: str) -> datetime:
    """A log's time stamp (nanoseconds) as a datetime (microseconds)."""
    return datetime.fromisoformat(stamp[:26] + "+00:00")


class Follower:
    """Reads a container's log on and on, across rotations, until the container has ended and all was read."""

    def __init__(
        self, folder: Path, is_over: Callable[[], bool], *, from_start: bool, poll_s: float = FOLLOW_S
    ) -> None:
        self._path = folder / "log"
        self._is_over = is_over
        self._poll_s = poll_s
        self._rest = b""
        self._file: BinaryIO | None = None
        rotated = folder / "log.1"
        if from_start and rotated.exists():
            self._file = rotated.open("rb")
        elif not from_start and self._path.exists():
            self._file = self._path.open("rb")
            self._file.seek(0, os.SEEK_END)

    def drain(self) -> Iterator[Entry]:
        """What is there now and was not read yet."""
        while data := self._read():
            *full, self._rest = (self._rest + data).split(b"\n")
            for line in full:
                entry = parse(line)
                if entry is not None:
                    yield entry

    async def follow(self) -> AsyncIterator[Entry]:
        """What is there and what comes, until the end."""
        pause_s = self._poll_s
        while True:
            # Asked before reading: what was written before the end is then certainly read.
            over = self._is_over()
            for entry in self.drain():
                yield entry
                pause_s = self._poll_s
            if over:
                return
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 1.25, FOLLOW_S)  # a silent container costs next to nothing

    def _read(self) -> bytes:
        if self._file is None:
            if not self._path.exists():
                return b""
            self._file = self._path.open("rb")
        data = self._file.read(CHUNK)
        if data or not self._was_rotated():
            return data
        data = self._file.read(CHUNK)  # the last lines may have come just before the rotation
        if not data:
            self._file.close()
            self._file = None
            return self._read()
        return data

    def _was_rotated(self) -> bool:
        assert self._file is not None
        try:
            return self._path.stat().st_ino != os.fstat(self._file.fileno()).st_ino
        except FileNotFoundError:
            return False

    def close(self) -> None:
        """Let go of the file."""
        if self._file is not None:
            self._file.close()
            self._file = None


async def read(folder: Path, options: LogOptions, is_over: Callable[[], bool]) -> AsyncIterator[bytes]:
    """The log as asked for, in pieces."""
    left = options.limit_bytes
    async for piece in _pieces(folder, options, is_over):
        if left is None:
            yield piece
            continue
        if left > 0:
            yield piece[:left]
        left -= len(piece)
        if left <= 0:
            return


async def _pieces(folder: Path, options: LogOptions, is_over: Callable[[], bool]) -> AsyncIterator[bytes]:
    follower = Follower(folder, is_over, from_start=True)
    try:
        batch = bytearray()
        for piece in selected(follower.drain(), options):
            batch += piece
            if len(batch) >= CHUNK:
                yield bytes(batch)
                batch.clear()
                await asyncio.sleep(0)
        yield bytes(batch)
        if options.follow:
            fresh = not batch or batch.endswith(b"\n")
            async for entry in follower.follow():
                yield render([entry], timestamps=options.timestamps and fresh)
                fresh = entry.data.endswith(b"\n")
    finally:
        follower.close()
