# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""A connection whose client dawdles is ended: on a real socket, with a clock that the test moves."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import uvicorn
from uvicorn.server import ServerState

from kaito.engine.http.protocol import CHECK_EVERY_S, IDLE_S, STALLED_S, HttpProtocol
from kaito.engine.wire.requests import Request, Response


class Clock:
    """The running loop, but for its time."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._now = 0.0
        self._timers: list[tuple[float, Callable[[], None]]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loop, name)

    def time(self) -> float:
        return self._now

    def call_later(self, delay: float, callback: Callable[[], None]) -> asyncio.Handle:
        self._timers.append((self._now + delay, callback))
        return asyncio.Handle(callback, (), self._loop)

    async def pass_by(self, seconds: float) -> None:
        """Let time pass, and the loop do what that brings."""
        until = self._now + seconds
        while self._timers and min(self._timers)[0] <= until:
            due = min(self._timers, key=lambda timer: timer[0])
            self._timers.remove(due)
            self._now = due[0]
            due[1]()
            await asyncio.sleep(0)
        self._now = until


class Application:
    """Answers everything; a path of /stream without end."""

    async def answer(self, request: Request) -> Response:
        return Response(200, chunks=self._endless()) if request.path == "/stream" else Response(200, body=b"ok")

    def settled(self, response: Response, callback: Callable[[None], None]) -> None:
        callback(None)

    async def _endless(self) -> AsyncIterator[bytes]:
        while True:
            yield b"x" * 65536
            await asyncio.sleep(0)


class Connection:
    """A client's end of a connection to the protocol."""

    def __init__(self, clock: Clock, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.clock, self.reader, self.writer = clock, reader, writer

    async def send(self, text: str) -> None:
        self.writer.write(text.encode())
        await self.writer.drain()
        await asyncio.sleep(0.01)

    async def is_open(self) -> bool:
        await asyncio.sleep(0.01)
        return not self.reader.at_eof()


@pytest.fixture
async def connection() -> AsyncIterator[Connection]:
    ours, theirs = socket.socketpair()
    clock = Clock()
    config = uvicorn.Config(Application())  # type: ignore[arg-type]
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_connection(
        lambda: HttpProtocol(config, ServerState(), {}, clock),  # type: ignore[arg-type]
        sock=ours,
    )
    reader, writer = await asyncio.open_connection(sock=theirs, limit=1024)
    yield Connection(clock, reader, writer)
    writer.close()
    transport.abort()


@pytest.mark.parametrize(
    "begun",
    [
        "GET / HTTP/1.1\r\nX-Slow: ",
        "POST / HTTP/1.1\r\nContent-Length: 1000\r\n\r\n{",
        "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n50\r\n{",
    ],
)
async def test_a_request_has_to_arrive_in_time(connection: Connection, begun: str) -> None:
    await connection.send(begun)
    for _ in range(int(STALLED_S / CHECK_EVERY_S)):
        await connection.send("a")  # a little now and then does not help
        await connection.clock.pass_by(CHECK_EVERY_S)
    await connection.clock.pass_by(CHECK_EVERY_S)
    head = await asyncio.wait_for(connection.reader.readline(), 5)
    assert head.startswith(b"HTTP/1.1 408 ")
    await connection.reader.read()
    assert not await connection.is_open()


async def test_an_idle_connection_is_kept_for_a_while(connection: Connection) -> None:
    await connection.send("GET / HTTP/1.1\r\n\r\n")
    assert b"ok" in await connection.reader.readuntil(b"ok")
    await connection.clock.pass_by(IDLE_S - CHECK_EVERY_S)
    await connection.send("GET / HTTP/1.1\r\n\r\n")
    assert b"ok" in await connection.reader.readuntil(b"ok")
    await connection.clock.pass_by(IDLE_S + 2 * CHECK_EVERY_S)
    assert await asyncio.wait_for(connection.reader.read(), 5) == b""


async def test_a_watcher_that_reads_nothing_is_let_go(connection: Connection) -> None:
    await connection.send("GET /stream HTTP/1.1\r\n\r\n")
    await connection.clock.pass_by(STALLED_S + 2 * CHECK_EVERY_S)
    async with asyncio.timeout(5):  # the answer itself has no end
        with contextlib.suppress(ConnectionError):
            while await connection.reader.read(65536):
                pass
