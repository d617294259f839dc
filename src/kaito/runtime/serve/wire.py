# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""HTTP/1.1 on the front's own connections: one request at a time, back-pressure, time limits; knows no route.

A request's body is handed on in the very pieces that arrive. An answer is either sent from here (`respond`, or `begin`,
`write`, `end`) or written as raw bytes by a relay. What a client sends ahead waits. Next: `relay.py` (to the engine),
`front.py` (what to do with a request).
"""

from __future__ import annotations

import asyncio
import re
import uuid
from collections.abc import Callable, Coroutine, Mapping
from http import HTTPStatus
from typing import Any, Protocol, cast

from kaito.runtime.serve.framing import (
    CRLF,
    HEAD_LIMIT,
    BadFraming,
    BodySink,
    Chunked,
    Collected,
    Headers,
    HeadParser,
    Refused,
    Request,
)

HEAD_TIMEOUT_S = 60.0
"""Seconds that a client may take for a head, and may keep an idle connection open."""
LINGER_BYTES = 8 * 1024 * 1024
LINGER_S = 5.0
"""How much, and how long, of a refused body is read and dropped so that the client gets to read the answer."""
AHEAD_LIMIT = 64 * 1024
"""Bytes that a client may send ahead of the answer to its earlier request."""
REQUEST_ID = re.compile(rb"[A-Za-z0-9._~:/+=-]{1,128}")


class Handler(Protocol):
    """What a connection gives its requests to."""

    body_limit: int

    def handle(self, exchange: Exchange) -> None:
        """Answer, now or later; must take the body or leave it."""

    def refuse(self, exchange: Exchange, error: Refused) -> None:
        """Answer what could not be read."""


class Exchange:
    """A request and the answer to it."""

    def __init__(self, connection: Connection, request: Request, now: float) -> None:
        self.connection = connection
        self.request = request
        self.started = now
        given = request.header(b"x-request-id")
        self.id = given if REQUEST_ID.fullmatch(given) else uuid.uuid4().hex.encode()
        self.status = 0
        self.on_end: list[Callable[[], None]] = []
        """Called once, when the answer is complete or the client has gone."""
        self.on_gone: Callable[[], None] | None = None
        """Called when the client goes away before the answer is complete."""
        self._sink: BodySink | None = None
        self._early: list[bytes] = []
        self._body_complete = not request.has_body
        self._frames: bool | None = None
        self._task: asyncio.Task[None] | None = None

    # The request's body

    def take_body(self, sink: BodySink) -> None:
        """From now on the body goes there, what has arrived already first."""
        self._sink = sink
        if self.request.continues and not self._body_complete:
            self.connection.write_raw(b"HTTP/1.1 100 Continue\r\n\r\n")
        early, self._early = self._early, []
        for piece in early:
            sink.feed(piece)
        if self._body_complete:
            sink.feed_end()

    async def body(self) -> bytes:
        """The whole body."""
        collected = Collected(chunked=self.request.chunked)
        self.take_body(collected)
        return await collected.whole

    def body_arrived(self, data: bytes) -> None:
        """Called by the connection."""
        if self._sink is None:
            self._early.append(data)
        else:
            self._sink.feed(data)

    def body_ended(self) -> None:
        """Called by the connection."""
        self._body_complete = True
        if self._sink is not None:
            self._sink.feed_end()

    @property
    def body_complete(self) -> bool:
        """All of the body has arrived."""
        return self._body_complete

    # The answer

    def respond(
        self,
        status: int,
        body: bytes,
        content_type: bytes = b"application/json",
        *,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Send a whole answer."""
        extra = [(name.encode(), value.encode()) for name, value in (headers or {}).items()]
        fields = [(b"content-type", content_type), (b"content-length", b"%d" % len(body)), *extra]
        self._send_head(status, fields)
        if self.request.method != "HEAD":
            self.connection.write_raw(body)
        self.end_raw()

    def begin(self, status: int, content_type: bytes) -> None:
        """Send the head of an answer whose length is not known."""
        self._frames = not self.request.old
        fields = [(b"content-type", content_type), (b"cache-control", b"no-cache")]
        if self._frames:
            fields.append((b"transfer-encoding", b"chunked"))
        self._send_head(status, fields, close=self.request.old)

    async def write(self, data: bytes) -> None:
        """Send a piece of it, and wait while the client is slow; raises ConnectionError when it has gone."""
        if self._frames:
            data = b"%x\r\n%b\r\n" % (len(data), data)
        self.connection.write_raw(data)
        await self.connection.drained()

    def end(self) -> None:
        """Send the end of it."""
        if self._frames:
            self.connection.write_raw(b"0\r\n\r\n")
        self.end_raw()

    def _send_head(self, status: int, fields: Headers, *, close: bool = False) -> None:
        self.status = status
        if close or not self._body_complete:
            self.request.keep_alive = False
        lines = [b"HTTP/1.1 %d %b" % (status, phrase(status))]
        lines += [b"%b: %b" % field for field in fields]
        lines.append(b"x-request-id: " + self.id)
        if not self.request.keep_alive:
            lines.append(b"connection: close")
        elif self.request.old:
            lines.append(b"connection: keep-alive")
        self.connection.write_raw(CRLF.join(lines) + b"\r\n\r\n")

    def end_raw(self, *, broken: bool = False) -> None:
        """The answer is out, or cannot be completed (`broken`: then the client must see that)."""
        self.connection.exchange_ended(self, broken=broken)

    def abort(self) -> None:
        """Cut the connection: the answer has begun and cannot be completed."""
        self.end_raw(broken=True)

    def run(self, work: Coroutine[Any, Any, None]) -> None:
        """Answer in a task, which ends when the client goes away."""
        self._task = asyncio.get_running_loop().create_task(work)
        self.on_gone = self._cancel

    def _cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()

    def finished(self) -> None:
        """Called by the connection, once."""
        callbacks, self.on_end = self.on_end, []
        for callback in callbacks:
            callback()


def phrase(status: int) -> bytes:
    """The words of a status."""
    try:
        return HTTPStatus(status).phrase.encode()
    except ValueError:
        return b"Unknown"


class Connection(asyncio.Protocol):
    """One client's connection: requests in, one after the other."""

    def __init__(self, handler: Handler, open_connections: set[Connection]) -> None:
        self._handler = handler
        self._open = open_connections
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._buffer = b""
        self._exchange: Exchange | None = None
        self._left = 0
        self._chunks: Chunked | None = None
        self._seen = 0
        self._dropped = 0
        self._lingering = False
        self._closing = False
        self._writable = asyncio.Event()
        self._writable.set()
        self.on_writable: Callable[[bool], None] | None = None
        """A relay's wish to know when the client takes no more, or takes more again."""
        self._timer: asyncio.TimerHandle | None = None

    # Called by the event loop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._open.add(self)
        self._wait_for_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._open.discard(self)
        self._stop_timer()
        self._transport = None
        self._writable.set()
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            if exchange.on_gone is not None:
                exchange.on_gone()
            exchange.status = exchange.status or 499  # what proxies call a client that went away
            exchange.finished()

    def pause_writing(self) -> None:
        self._writable.clear()
        if self.on_writable is not None:
            self.on_writable(False)

    def resume_writing(self) -> None:
        self._writable.set()
        if self.on_writable is not None:
            self.on_writable(True)

    def data_received(self, data: bytes) -> None:
        if self._exchange is not None and not self._exchange.body_complete:
            self._body(data)
        elif self._exchange is not None:
            self._ahead(data)
        elif self._lingering:
            self._drop(data)
        else:
            self._buffer = self._buffer + data if self._buffer else data
            self._next_head()

    def eof_received(self) -> bool:
        """A client that shuts its sending side down has gone, as most servers take it."""
        return False

    def now(self) -> float:
        """Seconds of the event loop's clock."""
        return self._loop.time()

    # Reading

    def _wait_for_head(self) -> None:
        self._stop_timer()
        self._timer = self._loop.call_later(HEAD_TIMEOUT_S, self.close)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _next_head(self) -> None:
        if self._buffer[:2] == CRLF:
            self._buffer = self._buffer[2:]
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            if len(self._buffer) > HEAD_LIMIT:
                self._refuse(Refused(431, "The request's headers are too long."))
            return
        head, rest = self._buffer[: end + 4], self._buffer[end + 4 :]
        self._buffer = b""
        self._stop_timer()
        try:
            if len(head) > HEAD_LIMIT:
                raise Refused(431, "The request's headers are too long.")
            request = HeadParser().parse(head)
            if request.length > self._handler.body_limit:
                raise Refused(413, too_long(self._handler.body_limit))
        except Refused as error:
            self._refuse(error)
            return
        exchange = self._exchange = Exchange(self, request, self._loop.time())
        self._left, self._seen = request.length, 0
        self._chunks = Chunked(keep=False) if request.chunked else None
        self._handler.handle(exchange)
        if rest:
            self.data_received(rest)

    def _refuse(self, error: Refused) -> None:
        self._stop_timer()
        self._buffer = b""
        request = Request("GET", b"/", [])
        request.keep_alive = False
        exchange = self._exchange = Exchange(self, request, self._loop.time())
        self._lingering = True
        self._handler.refuse(exchange, error)

    def _body(self, data: bytes) -> None:
        exchange = self._exchange
        assert exchange is not None
        rest = b""
        if self._chunks is not None:
            try:
                used = self._chunks.feed(data)
            except BadFraming as error:
                self._spoilt(exchange, Refused(400, f"The request's body cannot be read: {error}."))
                return
            self._seen += used
            data, rest = (data, b"") if used == len(data) else (data[:used], data[used:])
            complete = self._chunks.done
            if self._seen > self._handler.body_limit:
                self._spoilt(exchange, Refused(413, too_long(self._handler.body_limit)))
                return
        else:
            if len(data) > self._left:
                data, rest = data[: self._left], data[self._left :]
            self._left -= len(data)
            complete = not self._left
        exchange.body_arrived(data)
        if complete and self._exchange is exchange:
            exchange.body_ended()
        if rest:
            self.data_received(rest)

    def _spoilt(self, exchange: Exchange, error: Refused) -> None:
        """The body turned out to be wrong on its way: who works on it stops; the client is told if it can be."""
        if exchange.on_gone is not None:
            exchange.on_gone()
            exchange.on_gone = None
        exchange.request.keep_alive = False
        if exchange.status:
            exchange.abort()
        else:
            self._handler.refuse(exchange, error)

    def _ahead(self, data: bytes) -> None:
        self._buffer += data
        if len(self._buffer) > AHEAD_LIMIT:
            self.pause_reading()

    def _drop(self, data: bytes) -> None:
        self._dropped += len(data)
        if self._dropped > LINGER_BYTES:
            self.close()

    # Writing

    def write_raw(self, data: bytes) -> None:
        """Send bytes as they are; nothing happens when the client has gone."""
        if self._transport is not None:
            self._transport.write(data)

    async def drained(self) -> None:
        """Wait until the client takes more; raises ConnectionError when it has gone."""
        await self._writable.wait()
        if self._transport is None:
            raise ConnectionResetError

    def pause_reading(self) -> None:
        """Take no more from the client for now."""
        if self._transport is not None and self._transport.is_reading():
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Take more again."""
        if self._transport is not None and not self._transport.is_reading():
            self._transport.resume_reading()

    def exchange_ended(self, exchange: Exchange, *, broken: bool) -> None:
        """The answer is out: go on with the next request, or close."""
        if self._exchange is not exchange:
            return
        self._exchange = None
        self.on_writable = None
        self._writable.set()
        exchange.finished()
        if broken:
            if self._transport is not None:
                self._transport.abort()
            return
        if not exchange.body_complete or self._lingering:
            self._linger()
        elif not exchange.request.keep_alive or self._closing:
            self.close()
        else:
            self.resume_reading()
            self._wait_for_head()
            if self._buffer:
                self._loop.call_soon(self._more)

    def _more(self) -> None:
        if self._exchange is None and self._buffer and not self._lingering:
            self._next_head()

    def _linger(self) -> None:
        """The answer came before all of the body: read the rest and drop it, then close."""
        self._lingering = True
        self.resume_reading()
        self._stop_timer()
        self._timer = self._loop.call_later(LINGER_S, self.close)
        if self._transport is not None and self._transport.can_write_eof():
            self._transport.write_eof()

    def close(self) -> None:
        """Close once what was written is out."""
        self._stop_timer()
        if self._transport is not None:
            self._transport.close()

    def cut(self) -> None:
        """Close at once."""
        self._stop_timer()
        if self._transport is not None:
            self._transport.abort()

    def wind_up(self) -> None:
        """Take no further request: close now when idle, else after the answer that is under way."""
        self._closing = True
        if self._exchange is None:
            self.close()
        else:
            self._exchange.request.keep_alive = False


def too_long(limit: int) -> str:
    """Why a body is refused."""
    return f"The request's body is longer than {limit} bytes, the limit of this server."


class Listener:
    """The front's open port and its connections."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler
        self._connections: set[Connection] = set()
        self._server: asyncio.Server | None = None

    async def open(self, host: str, port: int) -> None:
        """Listen; raises OSError when the address cannot be had."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: Connection(self._handler, self._connections), host, port, backlog=2048, reuse_address=True
        )

    @property
    def port(self) -> int:
        """The port that it listens on."""
        assert self._server is not None
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    def stop_accepting(self) -> None:
        """Accept nothing new; answers under way go on, idle connections close."""
        if self._server is not None:
            self._server.close()
        for connection in list(self._connections):
            connection.wind_up()

    async def close(self, within_s: float) -> None:
        """Let what is written get out for this many seconds at most, then cut what is left."""
        self.stop_accepting()
        deadline = asyncio.get_running_loop().time() + within_s
        while self._connections and asyncio.get_running_loop().time() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(0.02)  # only at the end, and for seconds at most
        for connection in list(self._connections):
            connection.cut()
