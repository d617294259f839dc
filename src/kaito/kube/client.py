# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""The HTTP client for any Kubernetes API server: sends what `kaito.kube.request` describes, one connection pool.

Objects are plain dicts. Every failure is an `ApiError`: `errors.py` draws the hierarchy. The client retries only what
the server asked it to (429, Retry-After) and a 401 with renewed credentials; the rest is for the caller to decide.
`kaito.kube.cache` is how controllers read; this is how things are written, and how a program asks once.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Self

import msgspec

from kaito.kube import request as requests
from kaito.kube.answer import WatchEvent, decode_event, items_of, lines_of
from kaito.kube.auth import Login
from kaito.kube.clock import Clock, RealClock
from kaito.kube.config import ClusterConfig
from kaito.kube.errors import ApiError, Gone, Unavailable, error_from_response
from kaito.kube.manifest import Manifest
from kaito.kube.request import PatchKind, Propagation, Request, with_body
from kaito.kube.resource import Resource
from kaito.kube.transport import Answer, HttpTransport, Patience, Transport, was_closed

Body = Manifest | list[Manifest] | bytes | str | None

_MOST_ATTEMPTS = 5
_WATCH_TIMEOUT_S = 290


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


@dataclass(frozen=True, slots=True)
class Page:
    """A part of a list."""

    items: list[Manifest]
    version: str
    """The resourceVersion of the whole list."""
    is_first: bool


class Stream:
    """An answer that is still arriving: `async for chunk in stream`."""

    def __init__(self, answer: Answer) -> None:
        self.status = answer.status
        self.headers = answer.headers
        self._answer = answer

    @property
    def chunks(self) -> AsyncIterator[bytes]:
        """The body in pieces as they arrive. Raises Unavailable when the connection breaks."""
        return self._answer.chunks()

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._answer.chunks()


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
        transport: Transport | None = None,
    ) -> None:
        """`answered` is told of every answer: the method, the status (0: none came) and the seconds that it took.

        Without a transport, requests go over HTTP to the server that `config` names.
        """
        self.config = config
        self._answered = answered
        self._timeouts = timeouts or Timeouts()
        self._clock = clock or RealClock()
        self._login = Login(config, self._clock)
        headers = {"User-Agent": user_agent, "Accept": "application/json"}
        self._transport = transport or HttpTransport(config, self._login, headers)

    async def __aenter__(self) -> Self:
        self._transport.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._transport.close()

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
        metadata_only: bool = False,
    ) -> tuple[list[Manifest], str]:
        """All objects, with apiVersion and kind, and the collection's resourceVersion (read page by page)."""
        items: list[Manifest] = []
        version = ""
        async for page in self.pages(
            resource,
            namespace,
            label_selector=label_selector,
            field_selector=field_selector,
            page_size=page_size,
            metadata_only=metadata_only,
        ):
            items = page.items if page.is_first else items + page.items
            version = page.version
        return items, version

    async def pages(
        self,
        resource: Resource,
        namespace: str | None = None,
        *,
        label_selector: str | None = None,
        field_selector: str | None = None,
        page_size: int = 500,
        metadata_only: bool = False,
    ) -> AsyncIterator[Page]:
        """The same, one page after the other. After a second `is_first`, what came before does not count."""
        token, size = "", page_size
        while True:
            page_request = requests.list_page(
                resource,
                namespace,
                label_selector=label_selector,
                field_selector=field_selector,
                limit=size,
                token=token,
                metadata_only=metadata_only,
            )
            try:
                answer = await self._object(page_request)
            except Gone:
                if not token:
                    raise
                # The pages took longer than the server keeps history: once more, in one piece.
                token, size = "", 0
                continue
            meta = answer.get("metadata") or {}
            yield Page(items_of(resource, answer), meta.get("resourceVersion", ""), is_first=not token)
            token = meta.get("continue", "")
            if not token:
                return

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
        metadata_only: bool = False,
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
            metadata_only=metadata_only,
        )
        async with self._open(request, self._streaming()) as response:
            if response.status != 200:
                raise error_from_response(response.status, await response.read())
            if opened is not None:
                opened()
            async for line in lines_of(response.chunks()):
                event = decode_event(line)
                if metadata_only:
                    event.object.update(apiVersion=resource.api_version, kind=resource.kind)
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
        patience = Patience(self._timeouts.connect_s)
        async with self._open(_raw(method, path, params, body, headers), patience) as response:
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
        patience = Patience(self._timeouts.connect_s, whole_s=self._timeouts.request_s)
        renewed = False
        for attempt in range(_MOST_ATTEMPTS):
            try:
                response = await self._once(request, patience)
            except Unavailable as error:
                if attempt == 0 and request.is_repeatable and was_closed(error):
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

    async def _once(self, request: Request, patience: Patience) -> Response:
        began = self._clock.monotonic()
        status = 0
        try:
            async with self._open(request, patience) as opened:
                response = Response(opened.status, opened.headers, await opened.read())
            status = response.status
            return response
        finally:
            if self._answered is not None:
                self._answered(request.method, status, self._clock.monotonic() - began)

    def _open(self, request: Request, patience: Patience) -> AbstractAsyncContextManager[Answer]:
        return self._transport.send(request, patience)

    def _streaming(self) -> Patience:
        return Patience(self._timeouts.connect_s, silence_s=self._timeouts.inactivity_s)


def _raw(
    method: str, path: str, params: Mapping[str, str] | None, body: Body, headers: Mapping[str, str] | None
) -> Request:
    if isinstance(body, str):
        body = body.encode()
    if body is None or isinstance(body, bytes):
        return Request(method, path, params or {}, headers or {}, body)
    built = with_body(method, path, body, params=params)
    return replace(built, headers={**built.headers, **(headers or {})})
