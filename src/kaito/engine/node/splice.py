# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Joins two TCP connections: what one sends the other gets, with backpressure and half-closing."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Sequence

from kaito.engine.node.routing import Target

CHUNK = 65536
CONNECT_S = 5.0

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def connect(targets: Sequence[Target]) -> Connection | None:
    """A connection to the first target that accepts one; None when there is none."""
    for target in targets:
        try:
            return await asyncio.wait_for(asyncio.open_connection(*target), CONNECT_S)
        except (OSError, TimeoutError):
            continue
    return None


async def splice(one: Connection, other: Connection) -> None:
    """Move bytes both ways until both directions have ended or one broke; both connections are closed then."""
    directions = [asyncio.create_task(_copy(one[0], other[1])), asyncio.create_task(_copy(other[0], one[1]))]
    try:
        done, _ = await asyncio.wait(directions, return_when=asyncio.FIRST_EXCEPTION)
        for task in done:
            task.exception()
    finally:
        for task in directions:
            task.cancel()
        for _, writer in (one, other):
            await close(writer)


async def _copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    while data := await source.read(CHUNK):
        target.write(data)
        await target.drain()
    if target.can_write_eof():
        with contextlib.suppress(OSError):
            target.write_eof()


async def close(writer: asyncio.StreamWriter) -> None:
    """Close a connection, whatever state it is in."""
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


def reset(writer: asyncio.StreamWriter) -> None:
    """End a connection so that the client sees at once that nobody serves it."""
    raw = writer.get_extra_info("socket")
    if raw is not None:
        with contextlib.suppress(OSError):
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
