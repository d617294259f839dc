# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Sending a stream of chunks until it ends or the client is gone.

A client that hangs up is noticed by `http.disconnect`, so an idle watch does not outlive its watcher.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from typing import Any

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


async def stream_chunks(chunks: AsyncIterator[bytes], receive: Receive, send: Send) -> None:
    """Send every chunk as it comes; returns at the end of the chunks or of the client."""
    sender = asyncio.ensure_future(_send_all(chunks, send))
    watcher = asyncio.ensure_future(_until_gone(receive))
    try:
        await asyncio.wait((sender, watcher), return_when=asyncio.FIRST_COMPLETED)
    finally:
        watcher.cancel()
        if not sender.done():
            sender.cancel()
        with contextlib.suppress(asyncio.CancelledError, OSError):
            await sender
        with contextlib.suppress(asyncio.CancelledError):
            await watcher
        close = getattr(chunks, "aclose", None)
        if close is not None:
            await close()


async def _send_all(chunks: AsyncIterator[bytes], send: Send) -> None:
    async for chunk in chunks:
        await send({"type": "http.response.body", "body": chunk, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
