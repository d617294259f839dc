# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""The HTTP client for any Kubernetes API server: sends what `kaito.kube.request` describes, one connection pool.

Objects are plain dicts. Every failure is an `ApiError`: `errors.py` draws the hierarchy. The client retries only what
the server asked it to (429, Retry-After) and a 401 with renewed credentials; the rest is for the caller to decide.
`kaito.kube.cache` is how controllers read; this is how things are written, and how a program asks once.
"""

from __future__ import annotations

import asyncio
import io
import os
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Self

import aiohttp
import msgspec
from yarl import URL

from kaito.kube import request as requests
from kaito.kube.answer import WatchEvent, decode_event, items_of, lines_of
from kaito.kube.auth import Login
from kaito.kube.clock import Clock, RealClock
from kaito.kube.config import ClusterConfig, ConfigError
from kaito.kube.errors import ApiError, Gone, Unauthorized, Unavailable, error_from_response
from kaito.kube.manifest import Manifest
from kaito.kube.request import PatchKind, Propagation, Request, with_body
from kaito.kube.resource import Resource

Body = Manifest | list[Manifest] | bytes | str | None

_MOST_ATTEMPTS = 5
_WATCH_TIMEOUT_S = 290
_CLOSED_ERRORS = (aiohttp.ServerDisconnectedError, ConnectionResetError, BrokenPipeError)
_LARGE = 1024 * 1024
_NETWORK_ERRORS = (aiohttp.ClientError, OSError, TimeoutError)


@dataclass(frozen=True, slots=True)
class Timeouts:
    """How long to wait for a server, in seconds."""

    connect_s: float = 10.0
    request_s: float = 30.0
    """For a whole request and its answer."""
    inactivity_s: float = 70.0
    """For the next bytes of a watch. A kube-apiserver sends a bookmark each minute: silence means a dead connection."""


@dataclass(frozen=True, slots=True)
class Response:
    """A whole answer, whatever its status."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Stream:
    """An answer that is still arriving: `async for chunk in stream`."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self.status = response.status
        self.headers: Mapping[str, str] = response.headers
        self._response = response

    @property
    def chunks(self) -> AsyncIterator[bytes]:
        """The body in pieces as they arrive. Raises Unavailable when the connection breaks."""
        return self.__aiter__()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for chunk in self._response.content.iter_any():
                yield chunk
        except _NETWORK_ERRORS as error:
            raise _unavailable(self._response.url.path, error) from error


class Client:
    """An async context manager; open it once and share it.

    A namespaced object without a namespace is looked for, or put, in the login's namespace.
    """

    def __init__(
        self,
        config: ClusterConfig,
        *,
        user_agent: str = "kaito",
        timeouts: Timeouts | None = None,
        clock: Clock | None = None,
        answered: Callable[[str, int, float], None] | None = None,
    ) -> None:
        """`answered` is told of every answer: the method, the status (0: none came) and the seconds that it took."""
        self.config = config
        self._answered = answered
        self._user_agent = user_agent
        self._timeouts = timeouts or Timeouts()
        self._clock = clock or RealClock()
        self._login = Login(config, self._clock)
        self._opened: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        # No limit of connections: every watch holds one, and workers are few.
        connector = aiohttp.TCPConnector(limit=0, ttl_dns_cache=60)
        headers = {"User-Agent": self._user_agent, "Accept": "application/json"}
        self._opened = aiohttp.ClientSession(connector=connector, headers=headers, json_serialize=_no_json)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._opened is not None:
            await self._opened.close()
            self._opened = None

    async def get(
        self, resource: Resource, name: str, namespace: str = "", *, subresource: str | None = None
    ) -> Manifest:
        """The object. Raises NotFound."""
        return await self._object(
            requests.get(resource, name, self._scope(resource, namespace), subresource=subresource)
        )

    async def list_objects(
        self,
        resource: Resource,
        namespace: str | None = None,
        *,
        label_selector: str | None = None,
        field_selector: str | None = None,
        page_size: int = 500,
    ) -> tuple[list[Manifest], str]:
        """All objects, with apiVersion and kind, and the collection's resourceVersion (read page by page)."""
        items: list[Manifest] = []
        token, size = "", page_size
        while True:
            page_request = requests.list_page(
                resource,
                namespace,
                label_selector=label_selector,
                field_selector=field_selector,
                limit=size,
                token=token,
            )
            try:
                page = await self._object(page_request)
            except Gone:
                if not token:
                    raise
                # The pages took longer than the server keeps history: once more, in one piece.
                items, token, size = [], "", 0
                continue
            items += items_of(resource, page)
            meta = page.get("metadata") or {}
            token = meta.get("continue", "")
            if not token:
                return items, meta.get("resourceVersion", "")

    async def create(
        self,
        resource: Resource,
        manifest: Manifest,
        *,
        namespace: str = "",
        subresource: str | None = None,
        name: str | None = None,
        field_manager: str | None = None,
    ) -> Manifest:
        """POST the manifest, to a subresource of `name` if one is given. Raises AlreadyExists, Invalid."""
        scope = self._scope(resource, namespace or manifest.get("metadata", {}).get("namespace", ""))
        return await self._object(
            requests.create(resource, manifest, scope, name=name, subresource=subresource, field_manager=field_manager)
        )

    async def replace(self, resource: Resource, manifest: Manifest, *, subresource: str | None = None) -> Manifest:
        """PUT the manifest; conditional when it carries a resourceVersion. Raises NotFound, Conflict, Invalid."""
        scope = self._scope(resource, manifest["metadata"].get("namespace", ""))
        return await self._object(requests.replace(resource, manifest, scope, subresource=subresource))

    async def patch(
        self,
        resource: Resource,
        name: str,
        namespace: str,
        body: Manifest | list[Manifest],
        *,
        kind: PatchKind = "merge",
        subresource: str | None = None,
        field_manager: str | None = None,
    ) -> Manifest:
        """The patched object. Raises NotFound, Conflict, Invalid."""
        scope = self._scope(resource, namespace)
        return await self._object(
            requests.patch(resource, name, scope, body, kind=kind, subresource=subresource, field_manager=field_manager)
        )

    async def apply(
        self,
        resource: Resource,
        manifest: Manifest,
        *,
        field_manager: str,
        force: bool = True,
        subresource: str | None = None,
    ) -> Manifest:
        """The object after a server-side apply. Raises Conflict (only without force), Invalid."""
        scope = self._scope(resource, manifest["metadata"].get("namespace", ""))
        return await self._object(
            requests.apply(resource, manifest, scope, field_manager=field_manager, force=force, subresource=subresource)
        )

    async def delete(
        self,
        resource: Resource,
        name: str,
        namespace: str = "",
        *,
        uid: str | None = None,
        propagation: Propagation = "Background",
        grace_period_s: int | None = None,
    ) -> None:
        """Ask for deletion. Raises NotFound, or Conflict when the object of that name has another uid."""
        scope = self._scope(resource, namespace)
        await self._object(
            requests.delete(resource, name, scope, uid=uid, propagation=propagation, grace_period_s=grace_period_s)
        )

    async def watch(
        self,
        resource: Resource,
        namespace: str | None = None,
        *,
        resource_version: str,
        label_selector: str | None = None,
        field_selector: str | None = None,
        bookmarks: bool = False,
        opened: Callable[[], None] | None = None,
    ) -> AsyncGenerator[WatchEvent, None]:
        """Changes after `resource_version`; BOOKMARK events (only their resourceVersion counts) if wanted.

        Ends when the server ends the stream: watch again from the last resourceVersion seen. Raises Gone when that is
        too old, Unavailable when the connection breaks, falls silent or stops in the middle of a line, and ApiError for
        anything else, after which only a new list is safe. `opened` is called when the server has accepted the watch.
        """
        request = requests.watch(
            resource,
            namespace,
            resource_version=resource_version,
            label_selector=label_selector,
            field_selector=field_selector,
            timeout_s=_WATCH_TIMEOUT_S,
        )
        async with self._open(request, timeout=self._streaming()) as response:
            if response.status != 200:
                raise error_from_response(response.status, await _body(response))
            if opened is not None:
                opened()
            async for line in lines_of(Stream(response)):
                event = decode_event(line)
                if bookmarks or event.type != "BOOKMARK":
                    yield event

    async def raw(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        body: Body = None,
        headers: Mapping[str, str] | None = None,
    ) -> Response:
        """Whatever the server answers, errors included. Raises Unavailable when it does not answer."""
        return await self._send(_raw(method, path, params, body, headers))

    @asynccontextmanager
    async def stream(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        body: Body = None,
        headers: Mapping[str, str] | None = None,
    ) -> AsyncIterator[Stream]:
        """An answer read piece by piece, without a time limit between pieces (logs that are followed)."""
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=self._timeouts.connect_s)
        async with self._open(_raw(method, path, params, body, headers), timeout=timeout) as response:
            yield Stream(response)

    def _scope(self, resource: Resource, namespace: str) -> str:
        return (namespace or self.config.namespace) if resource.namespaced else ""

    async def _object(self, request: Request) -> Manifest:
        response = await self._send(request)
        if response.status >= 300:
            raise error_from_response(response.status, response.body)
        try:
            decoded: Manifest = msgspec.json.decode(response.body, type=dict[str, Any])
        except msgspec.MsgspecError:
            raise ApiError(response.status, "MalformedAnswer", f"{request.path}: the answer is no object") from None
        return decoded

    async def _send(self, request: Request) -> Response:
        timeout = aiohttp.ClientTimeout(total=self._timeouts.request_s, sock_connect=self._timeouts.connect_s)
        renewed = False
        for attempt in range(_MOST_ATTEMPTS):
            try:
                response = await self._once(request, timeout)
            except Unavailable as error:
                # The server closed a connection of the pool in the moment in which we used it.
                if attempt == 0 and request.is_repeatable and isinstance(error.__cause__, _CLOSED_ERRORS):
                    continue
                raise
            if response.status == 401 and self._login.is_renewable and not renewed:
                renewed = True
                self._login.forget()
                continue
            wait_s = requests.retry_after_s(response.status, response.headers, attempt)
            if wait_s is None or attempt == _MOST_ATTEMPTS - 1:
                break
            await self._clock.sleep(wait_s)
        return response

    async def _once(self, request: Request, timeout: aiohttp.ClientTimeout) -> Response:
        began = self._clock.monotonic()
        status = 0
        try:
            async with self._open(request, timeout=timeout) as opened:
                response = Response(opened.status, opened.headers, await _body(opened))
            status = response.status
            return response
        finally:
            if self._answered is not None:
                self._answered(request.method, status, self._clock.monotonic() - began)

    @asynccontextmanager
    async def _open(self, request: Request, *, timeout: aiohttp.ClientTimeout) -> AsyncIterator[aiohttp.ClientResponse]:
        if self._opened is None:
            raise RuntimeError("the client is not open: use `async with Client(...)`")
        try:
            headers = await self._login.headers()
            tls: ssl.SSLContext | bool = await self._login.tls() if self.config.server.startswith("https:") else True
        except ConfigError as error:
            raise Unauthorized(401, "Unauthorized", str(error)) from None
        try:
            response = await self._opened.request(
                request.method,
                URL(self.config.server + request.path),
                params=request.params or None,
                headers={**headers, **request.headers},
                data=_payload(request.body),
                timeout=timeout,
                ssl=tls,
                server_hostname=self.config.tls_server_name,
                proxy=self.config.proxy_url,
                allow_redirects=request.is_read,
            )
        except _NETWORK_ERRORS as error:
            raise _unavailable(self.config.server, error) from error
        try:
            yield response
        finally:
            response.close() if not response.content.at_eof() else response.release()

    def _streaming(self) -> aiohttp.ClientTimeout:
        return aiohttp.ClientTimeout(
            total=None, sock_connect=self._timeouts.connect_s, sock_read=self._timeouts.inactivity_s
        )


async def _body(response: aiohttp.ClientResponse) -> bytes:
    try:
        return await response.read()
    except _NETWORK_ERRORS as error:
        raise _unavailable(response.url.path, error) from error


def _raw(
    method: str, path: str, params: Mapping[str, str] | None, body: Body, headers: Mapping[str, str] | None
) -> Request:
    if isinstance(body, str):
        body = body.encode()
    if body is None or isinstance(body, bytes):
        return Request(method, path, params or {}, headers or {}, body)
    built = with_body(method, path, body, params=params)
    return replace(built, headers={**built.headers, **(headers or {})})


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
