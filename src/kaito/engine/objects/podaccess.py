# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Reaching into pods over plain HTTP: their logs, and requests passed on to a port (the `proxy` subresources).

The node behind it is a `NodeBackend`; without one the answers say that no node runs here.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from urllib.parse import urlencode

from kaito.engine.kinds import Kind
from kaito.engine.objects.registry import Registry
from kaito.engine.schema.select import from_label_selector
from kaito.engine.stream import LogOptions, NodeBackend, NodeError, Streams
from kaito.engine.turns import in_task
from kaito.engine.wire.requests import Request, Response, Target, is_true
from kaito.engine.wire.status import StatusError, bad_request, method_not_allowed, not_found
from kaito.kube.clock import Clock
from kaito.kube.manifest import Manifest, labels_of, parse_time

DEFAULT_CONTAINER = "kubectl.kubernetes.io/default-container"
HOP_BY_HOP = frozenset(
    ("connection", "keep-alive", "transfer-encoding", "upgrade", "te", "trailer", "host", "authorization")
)


@dataclass(frozen=True, slots=True)
class SessionRequest:
    """What a client of exec or attach asks for, checked."""

    pod: Manifest
    container: str
    streams: Streams
    command: list[str]


class PodAccess:
    """What can be asked of a running pod."""

    def __init__(self, registry: Registry, clock: Clock) -> None:
        self._registry, self._clock = registry, clock
        self.backend: NodeBackend | None = None
        """Set once the node agent is there."""

    def pod(self, namespace: str, name: str) -> Manifest:
        """The pod. Raises StatusError 404."""
        return self._registry.get(self._registry.kind("", "pods"), namespace, name)

    def node(self) -> NodeBackend:
        """The node. Raises StatusError 503 when there is none."""
        if self.backend is None:
            raise StatusError(503, "ServiceUnavailable", "no node runs pods here: start the engine with its node agent")
        return self.backend

    def budgets_of(self, pod: Manifest) -> list[Manifest]:
        """The PodDisruptionBudgets that cover the pod."""
        budgets = self._registry.objects("policy", "poddisruptionbudgets", pod["metadata"]["namespace"])
        return [b for b in budgets if from_label_selector(b["spec"].get("selector")).matches(labels_of(pod))]

    async def logs(self, request: Request, target: Target, kind: Kind) -> Response:
        """`GET pods/NAME/log`."""
        if request.method != "GET":
            raise method_not_allowed(request.method.lower(), None)
        pod = self.pod(target.namespace, target.name)
        options = self._log_options(request, pod)
        if not pod["spec"].get("nodeName"):
            return Response(200, b"", "text/plain")
        chunks = self.node().logs(pod, options)
        await in_task()
        first = await _first(chunks)
        return Response(200, content_type="text/plain", chunks=_prefixed(first, chunks))

    # Sessions

    def session(self, request: Request, target: Target) -> SessionRequest:
        """What an exec or attach request means. Raises StatusError."""
        pod = self.pod(target.namespace, target.name)
        container = container_of(pod, request.param("container"))
        command = request.query.get("command", [])
        if target.subresource == "exec" and not command:
            raise bad_request("you must specify at least one command for the container")
        if not pod["spec"].get("nodeName"):
            raise bad_request(f"pod {target.name} does not have a host assigned")
        self.node()
        return SessionRequest(pod, container, _streams(request), command)

    async def session_without_socket(self, request: Request, target: Target, kind: Kind) -> Response:
        """Refuse a client that cannot speak WebSockets; what is wrong with its request comes first."""
        if target.subresource in ("exec", "attach"):
            self.session(request, target)
        else:
            self.pod(target.namespace, target.name)
        raise bad_request(f"{target.subresource} needs a WebSocket: use kubectl 1.31 or later")

    def _log_options(self, request: Request, pod: Manifest) -> LogOptions:
        since = None
        if request.param("sinceSeconds"):
            since = self._clock.now() - timedelta(seconds=_number(request, "sinceSeconds") or 0)
        elif request.param("sinceTime"):
            since = parse_time(request.param("sinceTime"))
        return LogOptions(
            container_of(pod, request.param("container")),
            is_true(request.param("follow")),
            is_true(request.param("previous")),
            is_true(request.param("timestamps")),
            _number(request, "tailLines"),
            _number(request, "limitBytes"),
            since,
        )

    # Proxy

    async def proxy(self, request: Request, target: Target, kind: Kind) -> Response:
        """Pass a request on to a port of a pod, or of a pod behind a service."""
        name, port = _split_port(target.name)
        if kind.plural == "services":
            pod, number = self._endpoint(target.namespace, name, port)
        else:
            pod = self.pod(target.namespace, name)
            number = _pod_port(pod, port)
        await in_task()
        try:
            reader, writer = await self.node().connect(pod, number)
        except (NodeError, OSError) as error:
            raise StatusError(503, "ServiceUnavailable", f"error trying to reach service: {error}") from None
        return await _forward(request, target, reader, writer)

    def _endpoint(self, namespace: str, name: str, port: str) -> tuple[Manifest, int]:
        """A ready pod behind the service, and its port. Raises StatusError 404 or 503."""
        services, pods = self._registry.kind("", "services"), self._registry.kind("", "pods")
        self._registry.get(services, namespace, name)
        for entry in self._registry.objects("discovery.k8s.io", "endpointslices", namespace):
            if labels_of(entry).get("kubernetes.io/service-name") != name:
                continue
            for endpoint in entry.get("endpoints") or []:
                pod_name = (endpoint.get("targetRef") or {}).get("name")
                if not pod_name or not (endpoint.get("conditions") or {}).get("ready", True):
                    continue
                number = self._slice_port(namespace, name, entry, port)
                pod = self._registry.find(pods, namespace, pod_name)
                if number is not None and pod is not None:
                    return pod, number
        raise StatusError(503, "ServiceUnavailable", f'no endpoints available for service "{name}"')

    def _slice_port(self, namespace: str, name: str, entry: Manifest, port: str) -> int | None:
        service = self._registry.get(self._registry.kind("", "services"), namespace, name)
        ports = service["spec"].get("ports") or []
        wanted = next((p for p in ports if port in ("", p.get("name", ""), str(p["port"]))), None)
        if wanted is None:
            return None
        for candidate in entry.get("ports") or []:
            if (candidate.get("name") or "") == (wanted.get("name") or ""):
                return int(candidate["port"])
        return None


def _streams(request: Request) -> Streams:
    def asked(name: str) -> bool:
        return is_true(request.param(name))

    streams = Streams(asked("stdin"), asked("stdout"), asked("stderr"), asked("tty"))
    if not (streams.stdin or streams.stdout or streams.stderr):
        raise bad_request("you must specify at least 1 of stdin, stdout, stderr")
    return streams


def container_of(pod: Manifest, name: str) -> str:
    """The container that a request means. Raises StatusError 400 when that is not clear."""
    spec, pod_name = pod["spec"], pod["metadata"]["name"]
    main = [c["name"] for c in spec.get("containers") or []]
    others = [c["name"] for part in ("initContainers", "ephemeralContainers") for c in spec.get(part) or []]
    if name:
        if name not in main + others:
            raise bad_request(f"container {name} is not valid for pod {pod_name}")
        return name
    default = (pod["metadata"].get("annotations") or {}).get(DEFAULT_CONTAINER)
    if default in main:
        return str(default)
    if len(main) == 1:
        return str(main[0])
    choices = f"[{' '.join(main)}]"
    raise bad_request(f"a container name must be specified for pod {pod_name}, choose one of: {choices}")


def _number(request: Request, name: str) -> int | None:
    text = request.param(name)
    if not text:
        return None
    try:
        return int(text)
    except ValueError:
        raise bad_request(f'strconv.ParseInt: parsing "{text}": invalid syntax') from None


async def _first(chunks: AsyncIterator[bytes]) -> bytes:
    """The first piece, so that a refusal still becomes a status. Raises StatusError."""
    try:
        return await anext(chunks, b"")
    except NodeError as error:
        raise node_refusal(error) from None


async def _prefixed(first: bytes, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    if first:
        yield first
    try:
        async for chunk in chunks:
            yield chunk
    except NodeError as error:
        yield f"\n{error}\n".encode()


def node_refusal(error: NodeError) -> StatusError:
    """What the node refused, as a status."""
    reason = {400: "BadRequest", 404: "NotFound", 409: "Conflict"}.get(error.status, "InternalError")
    return StatusError(error.status, reason, str(error))


def _split_port(name: str) -> tuple[str, str]:
    """`[scheme:]name[:port]` as name and port."""
    parts = name.split(":")
    if len(parts) == 3:
        return parts[1], parts[2]
    return (parts[0], parts[1]) if len(parts) == 2 else (name, "")


def _pod_port(pod: Manifest, port: str) -> int:
    ports = [p for c in pod["spec"].get("containers") or [] for p in c.get("ports") or []]
    for candidate in ports:
        if port in ("", candidate.get("name", "")):
            return int(candidate["containerPort"])
    if port.isdigit():
        return int(port)
    if not port:
        return 80
    raise not_found(Kind("", "v1", "pods", "Pod"), f"{pod['metadata']['name']}:{port}")


async def _forward(
    request: Request, target: Target, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> Response:
    """Send the request over the connection and stream the answer back."""
    path = "/" + target.rest
    if request.query:
        path += "?" + urlencode(request.query, doseq=True)
    head = [f"{request.method} {path} HTTP/1.0", "Host: localhost", "Connection: close"]
    head += [f"{name}: {value}" for name, value in request.headers if name not in HOP_BY_HOP | {"content-length"}]
    head.append(f"Content-Length: {len(request.body)}")
    writer.write("\r\n".join([*head, "", ""]).encode("latin-1") + request.body)
    await writer.drain()
    try:
        start = await reader.readuntil(b"\r\n\r\n")
    except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, OSError):
        writer.close()
        raise StatusError(502, "", "the pod closed the connection before it answered") from None
    lines = start.decode("latin-1").split("\r\n")
    status = int(lines[0].split(" ")[1])
    headers = [(n.strip().lower(), v.strip()) for n, _, v in (line.partition(":") for line in lines[1:] if line)]
    content_type = next((value for name, value in headers if name == "content-type"), "application/octet-stream")
    kept = [(n, v) for n, v in headers if n not in HOP_BY_HOP | {"content-type", "content-length"}]
    return Response(status, content_type=content_type, headers=kept, chunks=_rest(reader, writer))


async def _rest(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> AsyncIterator[bytes]:
    try:
        while chunk := await reader.read(65536):
            yield chunk
    finally:
        writer.close()
