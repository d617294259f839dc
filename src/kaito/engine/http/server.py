# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""The HTTP front: authenticates, authorizes, routes, and turns refusals into answers.

Requests come from `protocol`. What a route does is elsewhere: `kaito.engine.objects` for objects, `discovery` and
`documents` for documents, `kaito.engine.access` for questions about access, `websocket` for exec, attach and
port-forward.
"""

from __future__ import annotations

import base64
import binascii
import logging
from collections.abc import MutableMapping
from typing import Any, Protocol

import msgspec

from kaito.engine.access.auth import Authenticator, Refused, impersonated
from kaito.engine.access.rbac import Authorizer, refusal
from kaito.engine.access.reviews import Reviews
from kaito.engine.http import discovery
from kaito.engine.http.answer import error_response, headers
from kaito.engine.http.documents import Documents
from kaito.engine.kinds import DEPRECATED, METRICS_GROUP, Kind, Kinds
from kaito.engine.objects.metrics import Metrics
from kaito.engine.objects.resources import Resources
from kaito.engine.objects.subresources import Subresources
from kaito.engine.storage.events import NotStored
from kaito.engine.storage.store import Settled, Store
from kaito.engine.turns import Turns
from kaito.engine.wire.asgi import Receive, Send
from kaito.engine.wire.negotiate import accepts_aggregated, negotiate
from kaito.engine.wire.requests import (
    ANONYMOUS,
    Attributes,
    Request,
    Response,
    Target,
    attributes,
    json_response,
    parse_query,
    parse_target,
    text_response,
)
from kaito.engine.wire.status import StatusError, internal, method_not_allowed, not_found, unauthorized, unknown_path
from kaito.kube.clock import Clock

log = logging.getLogger(__name__)

Scope = MutableMapping[str, Any]


class Socket(Protocol):
    """Serves the WebSocket upgrades (`kaito.engine.http.websocket`)."""

    async def serve(self, request: Request, target: Target, scope: Scope, receive: Receive, send: Send) -> None:
        """Run one connection to its end."""


class Server:
    """What answers requests; for WebSockets, an ASGI application."""

    def __init__(
        self,
        store: Store,
        kinds: Kinds,
        resources: Resources,
        subresources: Subresources,
        reviews: Reviews,
        documents: Documents,
        metrics: Metrics,
        *,
        authenticator: Authenticator,
        authorizer: Authorizer,
        socket: Socket,
        clock: Clock,
        turns: Turns,
    ) -> None:
        self._store, self.turns = store, turns
        self._kinds, self._resources, self._subresources = kinds, resources, subresources
        self._reviews, self._documents, self._metrics, self._socket = reviews, documents, metrics, socket
        self._authenticator, self._authorizer, self._clock = authenticator, authorizer, clock
        self.ready = False
        self.address = ""
        """host:port, as discovery tells it."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a WebSocket: uvicorn's part of the traffic. All other requests come through `answer`."""
        request = Request(
            scope.get("method", "GET"),
            scope["raw_path"].decode("latin-1").partition("?")[0] if scope.get("raw_path") else scope["path"],
            parse_query(scope["query_string"]),
            [(name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in scope["headers"]],
        )
        await self._websocket(request, scope, receive, send)

    async def answer(self, request: Request) -> Response:
        """The answer to a whole request. Never raises: a refusal and a failure are answers, too."""
        try:
            target = self._admit(request)
            return await self._route(request, target)
        except StatusError as error:
            return error_response(error)
        except NotStored as error:
            return error_response(internal(str(error)))
        except Exception as error:
            log.exception("request failed: method=%s path=%s", request.method, request.path)
            return error_response(internal(f"{type(error).__name__}"))

    def settled(self, response: Response, callback: Settled) -> None:
        """Call back once everything that the answer, made just now, may tell is stored, or undone."""
        self._store.settled(callback, told=response.told)

    def _admit(self, request: Request) -> Target | None:
        """Who asks, and whether he may. Raises StatusError 401 or 403."""
        target = parse_target(request.path)
        wanted = attributes(request, target)
        try:
            user = self._authenticator.user(request, self._clock.now())
        except Refused:
            raise unauthorized() from None
        if user is None:
            if not _is_public(request.path):
                raise unauthorized()
            request.user = ANONYMOUS
            return target
        request.user = user
        other = impersonated(request)
        if other is not None:
            question = Attributes("impersonate", "", "v1", "users", name=other.name)
            if not self._authorizer.allows(user, question):
                raise refusal(user, question, None)
            request.user = other
        if not self._authorizer.allows(request.user, wanted):
            raise refusal(request.user, wanted, None)
        return target

    # Routes

    async def _route(self, request: Request, target: Target | None) -> Response:
        if target is not None:
            return await self._resource(request, target)
        parts = [part for part in request.path.split("/") if part]
        if parts and parts[0] in ("healthz", "livez", "readyz"):
            return self._health(request, parts)
        if request.method not in ("GET", "HEAD"):
            raise method_not_allowed(request.method.lower(), None)
        match parts:
            case []:
                return json_response(discovery.root_paths(self._kinds))
            case ["version"]:
                return Response(200, msgspec.json.format(msgspec.json.encode(discovery.VERSION), indent=2))
            case ["openapi", *rest]:
                return self._documents.serve(request, rest)
            case ["api" | "apis", *rest] if len(rest) < 3:
                return self._discover(request, parts[0], rest)
        return text_response("404 page not found\n", 404)

    def _health(self, request: Request, parts: list[str]) -> Response:
        checks = [name for name in discovery.HEALTH_CHECKS if name not in request.query.get("exclude", [])]
        if len(parts) > 1:
            known = "/".join(parts[1:]) in discovery.HEALTH_CHECKS
            return text_response("ok") if known else text_response("404 page not found\n", 404)
        if parts[0] == "readyz" and not self.ready:
            return text_response("[-]started failed: the server is starting\nreadyz check failed\n", 500)
        if "verbose" in request.query:
            lines = [f"[+]{name} ok" for name in checks] + [f"{parts[0]} check passed", ""]
            return text_response("\n".join(lines))
        return text_response("ok")

    def _discover(self, request: Request, root: str, rest: list[str]) -> Response:
        aggregated = accepts_aggregated(request.header("accept"))
        if not rest and aggregated is not None:
            kind = f"application/json;g=apidiscovery.k8s.io;v={aggregated};as=APIGroupDiscoveryList"
            body = discovery.aggregated(self._kinds, core=root == "api", version=aggregated)
            response = json_response(body, content_type=kind)
            response.headers.append(("vary", "Accept"))
            return response
        negotiate(request.header("accept"), for_object=False)
        document = None
        match root, rest:
            case "api", []:
                document = discovery.api_versions(self.address)
            case "api", [version]:
                document = discovery.resource_list(self._kinds, "", version)
            case "apis", []:
                document = discovery.group_list(self._kinds)
            case "apis", [group]:
                document = discovery.one_group(self._kinds, group)
            case "apis", [group, version]:
                document = discovery.resource_list(self._kinds, group, version)
                if document is None and group in self._kinds.groups():
                    raise unknown_path()
        return text_response("404 page not found\n", 404) if document is None else json_response(document)

    async def _resource(self, request: Request, target: Target) -> Response:
        kind = self._kinds.find(target.group, target.version, target.plural)
        if kind is None:
            if (target.group, target.version) in {(k.group, k.version) for k in self._kinds.all() if not k.is_custom}:
                raise unknown_path()
            return text_response("404 page not found\n", 404)
        if target.namespace and not kind.namespaced and kind.plural != "namespaces":
            raise unknown_path()
        self._warn_deprecated(request, kind)
        if kind.group == METRICS_GROUP:
            return await self._metrics.handle(request, target, kind)
        if kind.verbs == ("create",):
            return await self._reviews.handle(request, target, kind)
        if target.subresource:
            return await self._sub(request, target, kind)
        return await self._resources.handle(request, target, kind)

    async def _sub(self, request: Request, target: Target, kind: Kind) -> Response:
        if target.subresource not in kind.subresources:
            raise not_found(kind, target.name) if kind.is_custom else unknown_path()
        return await self._subresources.handle(request, target, kind)

    def _warn_deprecated(self, request: Request, kind: Kind) -> None:
        if not kind.is_custom:
            if (kind.api_version, kind.kind) in DEPRECATED:
                request.warnings.append(DEPRECATED[kind.api_version, kind.kind])
            return
        version = kind.version_spec
        if version.get("deprecated"):
            text = (
                version.get("deprecationWarning")
                or f"{kind.api_version} {kind.kind} is deprecated{self._instead(kind)}"
            )
            request.warnings.append(text)

    def _instead(self, kind: Kind) -> str:
        """Which version to use in place of a deprecated one: the first that is not."""
        for version in self._kinds.groups()[kind.group]:
            other = self._kinds.find(kind.group, version, kind.plural)
            if other is not None and not other.version_spec.get("deprecated"):
                return f"; use {other.api_version} {other.kind}"
        return ""

    # Streams

    async def _websocket(self, request: Request, scope: Scope, receive: Receive, send: Send) -> None:
        _take_websocket_token(request)
        try:
            target = self._admit(request)
            if target is None or not target.subresource:
                raise unknown_path()
        except StatusError as error:
            await _refuse(request, error, send)
            return
        await self._socket.serve(request, target, scope, receive, send)


def _is_public(path: str) -> bool:
    first = path.split("/")[1]
    return first in ("healthz", "livez", "readyz", "version")


def _take_websocket_token(request: Request) -> None:
    """Clients that cannot set headers send their token as a subprotocol."""
    prefix = "base64url.bearer.authorization.k8s.io."
    for value in request.header("sec-websocket-protocol").split(","):
        name = value.strip()
        if name.startswith(prefix) and not request.header("authorization"):
            encoded = name.removeprefix(prefix)
            try:
                token = base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4)).decode()
            except (binascii.Error, UnicodeDecodeError):
                continue
            request.add_header("authorization", f"Bearer {token}")


async def _refuse(request: Request, error: StatusError, send: Send) -> None:
    """Refuse a WebSocket's handshake."""
    response = error_response(error)
    length = (b"content-length", str(len(response.body)).encode())
    found = [*headers(request, response), length]
    await send({"type": "websocket.http.response.start", "status": response.status, "headers": found})
    await send({"type": "websocket.http.response.body", "body": response.body})
