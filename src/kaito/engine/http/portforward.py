# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""`kubectl port-forward`: connections to a pod's ports inside one tunnel of SPDY frames.

The client opens two streams for each connection: one for errors, one for data. What carries the tunnel (a WebSocket)
and how a port is reached are handed in.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

from kaito.engine.stream import NodeError
from kaito.engine.wire import spdy

SUBPROTOCOL = "SPDY/3.1+portforward.k8s.io"
CHUNK = 32768
QUEUE = 64
REFUSED = 3

Connect = Callable[[int], Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]
"""Opens a connection to a port of the pod. Raises NodeError."""


class Tunnel:
    """The server's end of one client's tunnel."""

    def __init__(self, connect: Connect, send: Callable[[bytes], Awaitable[None]]) -> None:
        self._connect, self._send = connect, send
        self._decoder, self._encoder = spdy.Decoder(), spdy.Encoder()
        self._sending = asyncio.Lock()
        self._errors: dict[str, int] = {}
        self._inputs: dict[int, asyncio.Queue[bytes]] = {}
        self._tasks: dict[int, asyncio.Task[None]] = {}

    async def feed(self, raw: bytes) -> None:
        """Take what the client sent. Raises SpdyError."""
        for frame in self._decoder.feed(raw):
            match frame:
                case spdy.Opened():
                    await self._opened(frame)
                case spdy.Data():
                    await self._data(frame)
                case spdy.Ping():
                    await self._out(spdy.ping(frame.number))
                case spdy.Reset():
                    self._drop(frame.stream)
                case spdy.Goodbye():
                    pass  # the client closes the WebSocket next

    async def close(self) -> None:
        """The client has gone: end every connection."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _out(self, frame: bytes) -> None:
        async with self._sending:
            await self._send(frame)

    async def _opened(self, frame: spdy.Opened) -> None:
        headers = frame.headers
        port, request = headers.get("port", ""), headers.get("requestid", "")
        kind = headers.get("streamtype")
        if not port.isdigit() or not 0 < int(port) < 65536 or kind not in ("error", "data"):
            await self._out(spdy.reset(frame.stream, REFUSED))
            return
        async with self._sending:
            await self._send(self._encoder.reply(frame.stream))
        if kind == "error":
            self._errors[request] = frame.stream
            return
        source: asyncio.Queue[bytes] = asyncio.Queue(QUEUE)
        self._inputs[frame.stream] = source
        work = self._serve(frame.stream, self._errors.pop(request, None), int(port), source)
        task = asyncio.create_task(work)
        self._tasks[frame.stream] = task
        task.add_done_callback(lambda _: self._forget(frame.stream))

    async def _data(self, frame: spdy.Data) -> None:
        source = self._inputs.get(frame.stream)
        if source is None:
            return
        if frame.data:
            await source.put(frame.data)
        if frame.is_last:
            await source.put(b"")

    def _drop(self, stream: int) -> None:
        task = self._tasks.get(stream)
        if task is not None:
            task.cancel()

    def _forget(self, stream: int) -> None:
        self._inputs.pop(stream, None)
        self._tasks.pop(stream, None)

    async def _serve(self, stream: int, errors: int | None, port: int, source: asyncio.Queue[bytes]) -> None:
        """One connection, from its first byte to its last; what goes wrong is told on the stream for errors."""
        trouble = b""
        try:
            reader, writer = await self._connect(port)
        except NodeError as error:
            trouble = str(error).encode()
        else:
            feeding = asyncio.create_task(_feed(source, writer))
            try:
                await self._copy(reader, stream)
            finally:
                feeding.cancel()
                writer.close()
                with contextlib.suppress(OSError):
                    await writer.wait_closed()
        await self._out(spdy.data(stream, b"", is_last=True))
        if errors is not None:
            await self._out(spdy.data(errors, trouble, is_last=True))

    async def _copy(self, reader: asyncio.StreamReader, stream: int) -> None:
        with contextlib.suppress(OSError):
            while piece := await reader.read(CHUNK):
                await self._out(spdy.data(stream, piece))


async def _feed(source: asyncio.Queue[bytes], writer: asyncio.StreamWriter) -> None:
    """Pass on what the client sends; its end is an end of input for the pod. A broken connection swallows the rest."""
    broken = False
    while piece := await source.get():
        if broken:
            continue
        try:
            writer.write(piece)
            await writer.drain()
        except OSError:
            broken = True
    if not broken and writer.can_write_eof():
        with contextlib.suppress(OSError):
            writer.write_eof()
