# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""How a client's requests reach an API server: `HttpTransport` over pools of connections.

A server that runs in this very process offers a `Transport` of its own (`kaito.engine.http.inprocess`).
"""

from __future__ import annotations

import asyncio
import io
import os
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Protocol

import aiohttp
from yarl import URL

from kaito.kube.auth import Login
from kaito.kube.config import ClusterConfig, ConfigError
from kaito.kube.errors import Unauthorized, Unavailable
from kaito.kube.request import Request

_CLOSED_ERRORS = (aiohttp.ServerDisconnectedError, ConnectionResetError, BrokenPipeError)
AT_ONCE = 12
"""Requests under way to a server; more wait for their turn."""
_LARGE = 1024 * 1024
_NETWORK_ERRORS = (aiohttp.ClientError, OSError, TimeoutError)


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to wait for a server, in seconds; None: for ever."""

    connect_s: float
    whole_s: float | None = None
    """For a whole request and its answer."""
    silence_s: float | None = None
    """For the next bytes."""


class Answer(Protocol):
    """An answer that is still arriving. Reading raises Unavailable when the connection breaks."""

    status: int
    headers: Mapping[str, str]

    async def read(self) -> bytes:
        """All of the body."""

    def chunks(self) -> AsyncIterator[bytes]:
        """The body in pieces as they arrive."""


class Transport(Protocol):
    """Sends requests; open between `open` and `close`."""

    def open(self) -> None:
        """Make ready to send."""

    async def close(self) -> None:
        """Release what is held."""

    def send(self, request: Request, patience: Patience) -> AbstractAsyncContextManager[Answer]:
        """Send the request with the login's credentials; the answer holds until the context ends.

        Raises Unavailable and Unauthorized.
        """


class HttpTransport:
    """Two pools of connections to the server that a login names: one for requests, one for what is read for long.

    A connection with TLS costs a quarter of a MiB (the buffer that it reads into), so requests share a few.
    """

    def __init__(self, config: ClusterConfig, login: Login, headers: Mapping[str, str]) -> None:
        """`headers` go with every request."""
        self._config, self._login, self._headers = config, login, headers
        self._requests: aiohttp.ClientSession | None = None
        self._streams: aiohttp.ClientSession | None = None
        # aiohttp's own pool gives a free connection to who asks first, so that those who wait may wait for ever.
        self._turns = asyncio.Semaphore(AT_ONCE)

    def open(self) -> None:
        self._requests, self._streams = self._session(), self._session()

    def _session(self) -> aiohttp.ClientSession:
        connector = aiohttp.TCPConnector(limit=0, ttl_dns_cache=60)
        return aiohttp.ClientSession(connector=connector, headers=self._headers, json_serialize=_no_json)

    async def close(self) -> None:
        for session in (self._requests, self._streams):
            if session is not None:
                await session.close()
        self._requests = self._streams = None

    @asynccontextmanager
    async def _turn(self, patience: Patience) -> AsyncIterator[None]:
        """One of the requests that may be under way; what is read for long takes no turn. Raises Unavailable."""
        if patience.whole_s is None:
            yield
            return
        try:
            async with asyncio.timeout(patience.whole_s):
                await self._turns.acquire()
        except TimeoutError as error:
            raise _unavailable(self._config.server, error) from error
        try:
            yield
        finally:
            self._turns.release()

    @asynccontextmanager
    async def send(self, request: Request, patience: Patience) -> AsyncIterator[Answer]:
        session = self._streams if patience.whole_s is None else self._requests
        if session is None:
            raise RuntimeError("the client is not open: use `async with Client(...)`")
        try:
            headers = await self._login.headers()
            tls: ssl.SSLContext | bool = await self._login.tls() if self._config.server.startswith("https:") else True
        except ConfigError as error:
            raise Unauthorized(401, "Unauthorized", str(error)) from None
        timeout = aiohttp.ClientTimeout(
            total=patience.whole_s, sock_connect=patience.connect_s, sock_read=patience.silence_s
        )
        async with self._turn(patience), self._sent(session, request, headers, tls, timeout) as answer:
            yield answer

    @asynccontextmanager
    async def _sent(
        self,
        session: aiohttp.ClientSession,
        request: Request,
        headers: Mapping[str, str],
        tls: ssl.SSLContext | bool,
        timeout: aiohttp.ClientTimeout,
    ) -> AsyncIterator[Answer]:
        try:
            response = await session.request(
                request.method,
                URL(self._config.server + request.path),
                params=request.params or None,
                headers={**headers, **request.headers},
                data=_payload(request.body),
                timeout=timeout,
                ssl=tls,
                server_hostname=self._config.tls_server_name,
                proxy=self._config.proxy_url,
                allow_redirects=request.is_read,
            )
        except _NETWORK_ERRORS as error:
            raise _unavailable(self._config.server, error) from error
        try:
            yield _HttpAnswer(response)
        finally:
            response.close() if not response.content.at_eof() else response.release()


class _HttpAnswer:
    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self.status = response.status
        self.headers: Mapping[str, str] = response.headers
        self._response = response

    async def read(self) -> bytes:
        try:
            return await self._response.read()
        except _NETWORK_ERRORS as error:
            raise _unavailable(self._response.url.path, error) from error

    async def chunks(self) -> AsyncIterator[bytes]:
        try:
            async for chunk in self._response.content.iter_any():
                yield chunk
        except _NETWORK_ERRORS as error:
            raise _unavailable(self._response.url.path, error) from error


def was_closed(error: Unavailable) -> bool:
    """Whether the server closed a connection of the pool, perhaps in the moment in which it was used."""
    return isinstance(error.__cause__, _CLOSED_ERRORS)


def _unavailable(where: str, error: BaseException) -> Unavailable:
    if isinstance(error, ssl.SSLCertVerificationError | aiohttp.ClientConnectorCertificateError):
        return Unavailable(0, "CertificateNotTrusted", f"{where}: its certificate is not trusted; check the login's CA")
    if isinstance(error, asyncio.TimeoutError):
        return Unavailable(0, "Timeout", f"{where}: no answer in time")
    # aiohttp's own words carry the address of an SSL context; the cause below them says what happened.
    cause = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
    text = os.strerror(cause.errno) if isinstance(cause, OSError) and cause.errno and cause.errno > 0 else str(cause)
    return Unavailable(0, "NoConnection", f"{where}: no connection ({text or type(cause).__name__})")


def _payload(body: bytes | None) -> bytes | io.BytesIO | None:
    # aiohttp writes large plain bytes in one go and warns about it; a file-like body goes out in pieces.
    return io.BytesIO(body) if body is not None and len(body) > _LARGE else body


def _no_json(content: object) -> str:
    raise TypeError("bodies are encoded before they are sent")
