# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""HTTP/1.1 between a socket and the server: one connection's requests in order, whole answers and streams.

Stands in uvicorn's place for HTTP (its `http=` option); uvicorn keeps the listening, the shutdown and the WebSockets.
What it does for speed: a request is one value, and a task only if it has to wait for something; reads are answered as
they come, writes in helpings (`kaito.engine.turns`); an answer is one write, a stream's chunk is one write. What it
does for safety: no answer leaves before what it tells is stored (`settled`), heads, bodies and waits are bounded.
Requests and answers are in `kaito.engine.wire.requests`; what they mean is the server's business.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from string import printable
from typing import Any, Protocol, cast
from urllib.parse import quote

import httptools
import uvicorn
from uvicorn.server import ServerState

from kaito.engine.http.answer import error_response, header_lines, status_line
from kaito.engine.storage.events import NotStored
from kaito.engine.storage.store import Settled
from kaito.engine.turns import Turns, begin
from kaito.engine.wire.requests import Request, Response, parse_query
from kaito.engine.wire.status import StatusError, bad_request, internal

log = logging.getLogger(__name__)

MAX_BODY_BYTES = 3 * 1024 * 1024
"""What kube-apiserver takes as one request body, too."""
MAX_DROPPED_BYTES = 64 * 1024 * 1024
"""How much of a larger one is read before the client is cut off."""
TOO_LARGE = f"Request body is too large: limit is {MAX_BODY_BYTES}"
MAX_HEAD_BYTES = 256 * 1024
MAX_PIPELINED = 64
IDLE_S = 120.0
"""How long a connection without a request is kept."""
STALLED_S = 60.0
"""How long a client may take to send one request, or to take the next piece of an answer."""
CHECK_EVERY_S = 10.0

NO_BODY = frozenset((204, 304))
READS = frozenset(("GET", "HEAD"))


class Application(Protocol):
    """What answers (`kaito.engine.http.server`)."""

    turns: Turns
    """Where writes wait for their turn."""

    async def answer(self, request: Request) -> Response:
        """The answer to a whole request; never raises."""

    def settled(self, response: Response, callback: Settled) -> None:
        """Call back once everything that the answer, made just now, may tell is stored, or undone."""


class HttpProtocol(asyncio.Protocol):
    """One connection."""

    def __init__(
        self,
        config: uvicorn.Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self._config, self._state, self._app_state = config, server_state, app_state
        self._app = cast(Application, config.app)
        self._loop = _loop or asyncio.get_running_loop()
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport | None = None
        self._waiting: deque[_Exchange] = deque()
        self._current: _Exchange | None = None
        self._task: asyncio.Task[Any] | None = None
        self._writable: asyncio.Future[None] | None = None
        self._since = self._loop.time()
        """When the present state (idle, reading a request, not writable) began."""
        self._timer = self._loop.call_later(CHECK_EVERY_S, self._check)
        self._reading: _Exchange | None = None
        self._url = b""
        self._headers: list[tuple[str, str]] = []
        self._head_bytes = 0
        self._closing = False
        self._is_refused = False
        """Whether nothing more is read: where the next request would begin is not known."""
        self._default_headers: list[tuple[bytes, bytes]] = []
        self._default_lines = b""
        """uvicorn's headers (the date) as they go out; its list is a new one each second."""

    # The connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._state.connections.add(cast(Any, self))

    def connection_lost(self, exc: Exception | None) -> None:
        self._state.connections.discard(cast(Any, self))
        self._timer.cancel()
        self._transport = None
        self._waiting.clear()
        self.resume_writing()
        if self._task is not None and self._current is not None and self._current.is_streaming:
            self._task.cancel()

    def shutdown(self) -> None:
        """The server stops: end after the answer that is under way."""
        self._closing = True
        if self._current is None and self._transport is not None:
            self._transport.close()

    def pause_writing(self) -> None:
        self._writable = self._loop.create_future()
        self._since = self._loop.time()

    def resume_writing(self) -> None:
        if self._writable is not None and not self._writable.done():
            self._writable.set_result(None)
        self._writable = None
        self._since = self._loop.time()

    def _check(self) -> None:
        """End the connection when its client has been silent for too long."""
        self._timer = self._loop.call_later(CHECK_EVERY_S, self._check)
        silent_s = self._loop.time() - self._since
        if self._transport is None:
            return
        if self._writable is not None:
            if silent_s > STALLED_S:
                self._transport.abort()
        elif self._reading is not None or self._head_bytes:
            if silent_s > STALLED_S:
                self._refuse(StatusError(408, "Timeout", "the request took too long to arrive"))
        elif self._current is None and silent_s > IDLE_S:
            self._transport.close()

    def _refuse(self, error: StatusError) -> None:
        """Say what is wrong with what is being read, when all before it is answered; read nothing more, and hang up."""
        if self._is_refused:
            return
        self._is_refused = True
        self._reading, self._head_bytes = None, 0
        self._enqueue(_Exchange(Request("", "", {}, []), keep_alive=False, is_chunked=False, refusal=error))

    # Reading

    def data_received(self, data: bytes) -> None:
        if self._is_refused:
            return
        if self._reading is None:
            if not self._head_bytes:
                self._since = self._loop.time()
            self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            if self._wants_websocket():
                self._upgrade()
            return
        except httptools.HttpParserCallbackError as error:
            self._refuse(_reason_of(error))
            return
        except httptools.HttpParserError as error:
            self._refuse(bad_request(f"malformed HTTP request: {error}"))
            return
        if self._reading is None and self._head_bytes > MAX_HEAD_BYTES:
            message = f"the head of a request may have {MAX_HEAD_BYTES} bytes"
            self._refuse(StatusError(431, "RequestHeaderFieldsTooLarge", message))

    def on_message_begin(self) -> None:
        self._url, self._headers = b"", []

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name.decode("latin-1").lower(), value.decode("latin-1")))

    def on_headers_complete(self) -> None:
        self._head_bytes = 0
        self._url = _origin_form(self._url)
        path, _, query = self._url.partition(b"?")
        request = Request(
            self._parser.get_method().decode("ascii"),
            path.decode("latin-1"),
            parse_query(query) if query else {},
            self._headers,
        )
        if self._parser.should_upgrade() and self._wants_websocket():
            return
        # A wish for another protocol is not granted: a plain request, and the last one that the parser can read.
        keep_alive = self._parser.should_keep_alive() and not self._parser.should_upgrade()
        is_chunked = self._parser.get_http_version() != "1.0"
        self._reading = _Exchange(request, keep_alive=keep_alive, is_chunked=is_chunked)
        if request.header("expect").lower() == "100-continue" and self._current is None and self._transport:
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        exchange = self._reading
        if exchange is None:
            return
        exchange.size += len(body)
        if exchange.size <= MAX_BODY_BYTES:
            exchange.pieces.append(body)
            return
        # The rest is read and dropped: a client that is still sending might not see an answer.
        exchange.pieces.clear()
        exchange.refusal = StatusError(413, "RequestEntityTooLarge", TOO_LARGE)
        if exchange.size > MAX_DROPPED_BYTES:
            self._refuse(exchange.refusal)

    def on_message_complete(self) -> None:
        exchange, self._reading = self._reading, None
        self._since = self._loop.time()
        if exchange is None:
            return
        pieces = exchange.pieces
        exchange.request.body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        pieces.clear()
        self._enqueue(exchange)

    def _enqueue(self, exchange: _Exchange) -> None:
        if self._current is not None:
            self._waiting.append(exchange)
            if len(self._waiting) > MAX_PIPELINED and self._transport is not None:
                self._transport.pause_reading()
            return
        self._start(exchange)

    def _wants_websocket(self) -> bool:
        return any(name == "upgrade" and value.lower() == "websocket" for name, value in self._headers)

    def _upgrade(self) -> None:
        """Hand the connection over to uvicorn's WebSocket protocol, with the request as it came."""
        factory = self._config.ws_protocol_class
        if factory is None or self._transport is None or self._current is not None:
            self._refuse(bad_request("a WebSocket cannot begin while another answer is under way"))
            return
        self._timer.cancel()
        self._state.connections.discard(cast(Any, self))
        lines = [self._parser.get_method() + b" " + self._url + b" HTTP/1.1"]
        lines += [f"{name}: {value}".encode("latin-1") for name, value in self._headers]
        successor = cast(Any, factory)(config=self._config, server_state=self._state, app_state=self._app_state)
        successor.connection_made(self._transport)
        successor.data_received(b"\r\n".join(lines) + b"\r\n\r\n")
        self._transport.set_protocol(successor)

    # Answering

    def _start(self, exchange: _Exchange) -> None:
        self._current = exchange
        if exchange.refusal is not None:
            self._send(exchange, error_response(exchange.refusal))
            return
        if exchange.request.method in READS:
            self._answer(exchange)
        else:
            self._app.turns.add(lambda: self._answer(exchange))

    def _answer(self, exchange: _Exchange) -> None:
        def answered(response: Response) -> None:
            def settled(failure: NotStored | None) -> None:
                self._send(exchange, response if failure is None else error_response(internal(str(failure))))

            self._app.settled(response, settled)

        task = begin(self._app.answer(exchange.request), answered)
        if task is not None:
            self._keep(task)

    def _keep(self, task: asyncio.Task[Any]) -> None:
        self._task = task
        self._state.tasks.add(task)
        task.add_done_callback(self._state.tasks.discard)

    def _send(self, exchange: _Exchange, response: Response) -> None:
        if response.chunks is not None:
            exchange.is_streaming = True
            self._keep(self._loop.create_task(self._stream(exchange, response, response.chunks)))
            return
        if self._transport is None:
            return
        head, body = self._head(exchange, response), response.body
        if exchange.request.method == "HEAD" or response.status in NO_BODY:
            body = b""
        self._transport.write(b"%scontent-length: %d\r\n\r\n%s" % (head, len(response.body), body))
        self._finished(exchange)

    def _head(self, exchange: _Exchange, response: Response) -> bytes:
        if self._default_headers is not self._state.default_headers:
            self._default_headers = self._state.default_headers
            self._default_lines = b"".join([b"%s: %s\r\n" % pair for pair in self._default_headers])
        close = b"" if exchange.keep_alive and not self._closing else b"connection: close\r\n"
        lines = header_lines(exchange.request, response)
        return b"%s%s%s%s" % (status_line(response.status), self._default_lines, lines, close)

    def _finished(self, exchange: _Exchange) -> None:
        """Go on with the next request, or close."""
        self._current = None
        self._since = self._loop.time()
        if self._transport is None:
            return
        if not exchange.keep_alive or self._closing:
            self._transport.close()
            return
        if self._waiting:
            following = self._waiting.popleft()
            if not self._waiting:
                self._transport.resume_reading()
            self._start(following)

    async def _stream(self, exchange: _Exchange, response: Response, chunks: AsyncIterator[bytes]) -> None:
        """Send a stream to its end or its client's. The head goes out at once: a watcher learns that it watches."""
        head = self._head(exchange, response)
        frame = _chunk if exchange.is_chunked else _plain
        exchange.keep_alive = exchange.keep_alive and exchange.is_chunked
        try:
            await self._write(head + (b"transfer-encoding: chunked\r\n\r\n" if exchange.is_chunked else b"\r\n"))
            if exchange.request.method != "HEAD":
                async for chunk in chunks:
                    if chunk:
                        await self._write(frame(chunk))
                if exchange.is_chunked:
                    await self._write(b"0\r\n\r\n")
        finally:
            if response.release is not None:
                response.release()
            close = cast(Callable[[], Awaitable[None]] | None, getattr(chunks, "aclose", None))
            if close is not None:
                with contextlib.suppress(OSError):
                    await close()
        self._finished(exchange)

    async def _write(self, data: bytes) -> None:
        """Send, and wait while the client does not take what it has been sent. Ends the task when it is gone."""
        while self._writable is not None:
            await self._writable
        if self._transport is None:
            raise asyncio.CancelledError
        self._transport.write(data)


def _origin_form(url: bytes) -> bytes:
    """The target as a path of printable ASCII. Raises StatusError 400 for one without a path, such as `*`."""
    if not url.startswith(b"/"):
        scheme, _, rest = url.partition(b"://")
        if scheme.lower() not in (b"http", b"https"):
            raise bad_request("malformed HTTP request: the request's target is no path")
        authority, slash, path = rest.partition(b"/")
        url = slash + path if slash else b"/" + authority[authority.find(b"?") :] if b"?" in authority else b"/"
    # Bytes that should have been percent-encoded, by a client that writes UTF-8 as it is.
    return url if url.isascii() else quote(url, safe=printable).encode()


def _reason_of(error: httptools.HttpParserCallbackError) -> StatusError:
    """Why one of the parser's callbacks refused the request."""
    cause = error.__context__
    if isinstance(cause, StatusError):
        return cause
    log.error("a request cannot be read: %r", cause)
    return bad_request("malformed HTTP request")


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def _plain(data: bytes) -> bytes:
    return data


class _Exchange:
    """A request, what is known of its form, and how its answer stands."""

    __slots__ = ("is_chunked", "is_streaming", "keep_alive", "pieces", "refusal", "request", "size")

    def __init__(
        self, request: Request, *, keep_alive: bool, is_chunked: bool, refusal: StatusError | None = None
    ) -> None:
        self.request = request
        self.keep_alive = keep_alive
        self.is_chunked = is_chunked
        """Whether the client reads chunks: HTTP/1.0 does not."""
        self.refusal = refusal
        """Its answer, when the request was not even to be read."""
        self.is_streaming = False
        self.pieces: list[bytes] = []
        self.size = 0
