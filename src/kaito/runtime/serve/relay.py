# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""The plain way to the engine: connections that stay open, bytes that go through as they come.

Of an answer only the head is read; of its body only the framing is followed, to know its end. Bytes are never joined,
parsed or encoded again. When the client is slow the engine's connection is not read, when the engine is slow the
client's is not; when the client goes away its connection to the engine is closed, which ends the engine's work.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

from kaito.runtime.serve.framing import CRLF, HEAD_LIMIT, BadFraming, Chunked, Request
from kaito.runtime.serve.wire import Exchange

HOP_BY_HOP = frozenset(
    {
        *(b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-authorization", b"te", b"trailer"),
        *(b"transfer-encoding", b"upgrade", b"host", b"expect", b"content-length", b"x-request-id"),
    }
)
"""Headers that belong to one connection (RFC 9110, section 7.6.1), and those that are written anew."""
FORM = b"application/x-www-form-urlencoded"

Failed = Callable[[Exchange], None]
"""Answers for an engine that did not."""


def request_head(exchange: Exchange, *, without: frozenset[bytes] = frozenset(), labelled_json: bool = False) -> bytes:
    """The head that the engine gets; `without` names headers that stay here."""
    request = exchange.request
    named = {name.strip().lower() for name in request.header(b"connection").split(b",")}
    lines = [b"%b %b HTTP/1.1" % (request.method.encode(), request.target), b"host: engine"]
    for name, value in request.headers:
        if name in HOP_BY_HOP or name in named or name in without:
            continue
        if labelled_json and name == b"content-type":
            value = b"application/json"
        lines.append(b"%b: %b" % (name, value))
    lines.append(b"x-request-id: " + exchange.id)
    if request.chunked:
        lines.append(b"transfer-encoding: chunked")
    elif request.length or request.method in ("POST", "PUT", "PATCH"):
        lines.append(b"content-length: %d" % request.length)
    return CRLF.join(lines) + b"\r\n\r\n"


def is_mislabelled(request: Request) -> bool:
    """The body may be JSON under the content type that curl's `-d` sets; its first byte tells."""
    return request.has_body and request.header(b"content-type").partition(b";")[0].strip().lower() in (b"", FORM)


class AnswerHead:
    """The status and framing of an engine's answer, and the head to send on."""

    __slots__ = ("chunked", "keep_alive", "left", "lines", "status")

    def __init__(self, head: bytes, method: str) -> None:
        first, *lines = head[:-4].split(CRLF)
        self.status = int(first[9:12])
        self.lines = [first]
        self.chunked = False
        self.keep_alive = True
        self.left: int | None = None
        """Bytes of the body; None means up to the connection's end."""
        for line in lines:
            name, _, value = line.partition(b":")
            name, value = name.lower(), value.strip()
            if name == b"content-length":
                self.left = int(value)
                self.lines.append(line)
            elif name == b"transfer-encoding":
                self.chunked = value.lower() == b"chunked"
            elif name == b"connection":
                self.keep_alive = value.lower() != b"close"
            elif name not in HOP_BY_HOP:
                self.lines.append(line)
        if method == "HEAD" or self.status in (204, 304) or self.status < 200:
            self.left, self.chunked = 0, False

    def to_client(self, exchange: Exchange) -> bytes:
        """The head as the client gets it."""
        request = exchange.request
        lines = self.lines
        if not exchange.body_complete or (self.left is None and (request.old or not self.chunked)):
            request.keep_alive = False
        if self.chunked and not request.old:
            lines.append(b"transfer-encoding: chunked")
        lines.append(b"x-request-id: " + exchange.id)
        if not request.keep_alive:
            lines.append(b"connection: close")
        elif request.old:
            lines.append(b"connection: keep-alive")
        return CRLF.join(lines) + b"\r\n\r\n"


class EngineConnection(asyncio.Protocol):
    """One connection to the engine: one exchange at a time."""

    def __init__(self, pool: EnginePool) -> None:
        self._pool = pool
        self._transport: asyncio.Transport | None = None
        self._exchange: Exchange | None = None
        self._buffer = b""
        self._head: AnswerHead | None = None
        self._frames: Chunked | None = None
        self._failed: Failed | None = None
        self._unlabelled: Callable[[bool], bytes] | None = None

    # The exchange

    def carry(self, exchange: Exchange, failed: Failed, without: frozenset[bytes]) -> None:
        """Send the request of this exchange and its answer back."""
        self._exchange, self._failed, self._head, self._buffer = exchange, failed, None, b""
        exchange.on_gone = self._client_gone
        exchange.connection.on_writable = self._client_writable
        if is_mislabelled(exchange.request):
            self._unlabelled = lambda json: request_head(exchange, without=without, labelled_json=json)
        else:
            self._write(request_head(exchange, without=without))
        exchange.take_body(self)
        exchange.connection.resume_reading()

    def feed(self, data: bytes) -> None:
        """A piece of the request's body."""
        if self._unlabelled is not None:
            head, self._unlabelled = self._unlabelled, None
            assert self._exchange is not None
            start = data.partition(b"\n")[2] if self._exchange.request.chunked else data
            self._write(head(start.lstrip()[:1] in (b"{", b"[")))
        self._write(data)

    def feed_end(self) -> None:
        """The request is out."""

    def _write(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)

    def _client_gone(self) -> None:
        self._exchange = None
        self.cut()

    def _client_writable(self, writable: bool) -> None:
        if self._transport is None:
            return
        if writable and not self._transport.is_reading():
            self._transport.resume_reading()
        elif not writable and self._transport.is_reading():
            self._transport.pause_reading()

    def cut(self) -> None:
        """Close at once."""
        if self._transport is not None:
            self._transport.abort()

    # Called by the event loop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def pause_writing(self) -> None:
        if self._exchange is not None:
            self._exchange.connection.pause_reading()

    def resume_writing(self) -> None:
        if self._exchange is not None:
            self._exchange.connection.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._pool.forget(self)
        exchange, self._exchange = self._exchange, None
        if exchange is None:
            return
        if self._head is None:
            exchange.on_gone = None
            assert self._failed is not None
            self._failed(exchange)
        elif self._head.left is None and not self._head.chunked:
            exchange.end_raw()
        else:
            self._broken(exchange)

    def _broken(self, exchange: Exchange) -> None:
        """The engine is gone in the middle of an answer: a stream of events gets a last one that says so."""
        exchange.on_gone = None
        event = self._pool.last_event
        whole = self._frames is not None and self._frames.between_chunks and not exchange.request.old
        if event and whole and self._head is not None and is_event_stream(self._head):
            exchange.request.keep_alive = False
            exchange.connection.write_raw(b"%x\r\n%b\r\n0\r\n\r\n" % (len(event), event))
            exchange.end_raw()
        else:
            exchange.abort()

    def data_received(self, data: bytes) -> None:
        exchange = self._exchange
        if exchange is None:
            self.cut()  # bytes that nobody asked for
            return
        if self._head is None:
            self._buffer = self._buffer + data if self._buffer else data
            self._read_head(exchange)
        else:
            self._pass_on(exchange, self._head, data)

    def _read_head(self, exchange: Exchange) -> None:
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            if len(self._buffer) > HEAD_LIMIT:
                self.cut()
            return
        head, rest = self._buffer[: end + 4], self._buffer[end + 4 :]
        try:
            answer = AnswerHead(head, exchange.request.method)
        except ValueError:
            self.cut()
            return
        if answer.status < 200:
            self._buffer = rest
            self._read_head(exchange)
            return
        self._buffer, self._head = b"", answer
        self._frames = Chunked(keep=exchange.request.old) if answer.chunked else None
        exchange.status = answer.status
        exchange.connection.write_raw(answer.to_client(exchange))
        if rest or answer.left == 0:
            self._pass_on(exchange, answer, rest)

    def _pass_on(self, exchange: Exchange, answer: AnswerHead, data: bytes) -> None:
        if self._frames is not None:
            try:
                used = self._frames.feed(data)
            except BadFraming:
                self.cut()
                return
            if exchange.request.old:
                data = b"".join(self._frames.payload)
                self._frames.payload.clear()
            elif used != len(data):
                data = data[:used]
            complete = self._frames.done
        elif answer.left is not None:
            data = data[: answer.left]
            answer.left -= len(data)
            complete = answer.left == 0
        else:
            complete = False
        if data:
            exchange.connection.write_raw(data)
        if complete:
            self._ended(exchange, answer)

    def _ended(self, exchange: Exchange, answer: AnswerHead) -> None:
        self._exchange, self._failed = None, None
        exchange.on_gone = None
        reusable = answer.keep_alive and exchange.body_complete
        exchange.connection.on_writable = None
        exchange.end_raw()
        if not reusable or self._transport is None:
            self.cut()
            return
        if not self._transport.is_reading():
            self._transport.resume_reading()
        self._pool.idle(self)


def is_event_stream(answer: AnswerHead) -> bool:
    """The answer is a stream of server-sent events."""
    return any(line.lower().startswith(b"content-type: text/event-stream") for line in answer.lines)


class EnginePool:
    """Connections to one engine's Unix socket (or, for tests, to an address)."""

    def __init__(self, path: str = "", *, address: tuple[str, int] | None = None, last_event: bytes = b"") -> None:
        self._path = path
        self._address = address
        self._idle: list[EngineConnection] = []
        self.last_event = last_event
        """What a stream ends with when the engine breaks off."""

    def relay(self, exchange: Exchange, failed: Failed, *, without: frozenset[bytes] = frozenset()) -> None:
        """Have this request answered by the engine; `failed` answers when that cannot be had."""
        if self._idle:
            self._idle.pop().carry(exchange, failed, without)
        else:
            exchange.connection.pause_reading()
            exchange.run(self._connected(exchange, failed, without))

    async def _connected(self, exchange: Exchange, failed: Failed, without: frozenset[bytes]) -> None:
        try:
            connection = await self._connect()
        except OSError:
            failed(exchange)
            return
        finally:
            exchange.connection.resume_reading()
        connection.carry(exchange, failed, without)

    async def _connect(self) -> EngineConnection:
        loop = asyncio.get_running_loop()
        if self._address is not None:
            _, connection = await loop.create_connection(lambda: EngineConnection(self), *self._address)
        else:
            _, connection = await loop.create_unix_connection(lambda: EngineConnection(self), self._path)
        return connection

    def idle(self, connection: EngineConnection) -> None:
        """This connection can carry the next request."""
        self._idle.append(connection)

    def forget(self, connection: EngineConnection) -> None:
        """This connection is closed."""
        if connection in self._idle:
            self._idle.remove(connection)

    def close(self) -> None:
        """Close what is idle."""
        for connection in list(self._idle):
            connection.cut()
