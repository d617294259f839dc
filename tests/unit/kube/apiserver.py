# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""A small API server on loopback that can misbehave on purpose: freeze, die, cut lines, forget its history.

It keeps objects of any kind by path, knows create, get, list, watch, merge patch, server-side apply (lists are atomic),
PUT with a resourceVersion, and delete. It logs every request, so that a test can count them.
"""

from __future__ import annotations

import asyncio
import copy
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web

from kaito.kube.client import Client, Timeouts
from kaito.kube.clock import Clock
from kaito.kube.config import ClusterConfig
from kaito.kube.manifest import Manifest

QUICK = Timeouts(connect_s=0.5, request_s=1.0, inactivity_s=0.3)

Answer = Callable[[web.Request], web.Response]


def status_object(code: int, reason: str, message: str = "no") -> Manifest:
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "status": "Failure",
        "code": code,
        "reason": reason,
        "message": message,
    }


def refusal(code: int, reason: str, **headers: str) -> Answer:
    return lambda request: web.json_response(
        status_object(code, reason),
        status=code,
        headers={key.replace("_", "-"): value for key, value in headers.items()},
    )


class ApiServer:
    """Start it with `async with running() as server`."""

    def __init__(self) -> None:
        self.objects: dict[str, dict[str, Manifest]] = {}
        self.history: list[tuple[int, str, str, bytes]] = []
        self.version = 100
        self.compacted = 0
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        self.answers: list[tuple[str, Answer]] = []
        """Answers given, once each, instead of the real one: to `watch`, `list`, an HTTP method or a path."""
        self.thawed = asyncio.Event()
        self.thawed.set()
        self.changed = asyncio.Condition()
        self.watches: set[web.StreamResponse] = set()
        self.deaf: set[web.StreamResponse] = set()
        """Watches that stay open and are never told anything again."""
        self.bookmark_on_watch = False
        self.normalise: Callable[[Manifest], object] = lambda obj: None
        """What the server does to whatever it is given, such as filling in defaults."""
        self.port = 0
        self._runner: web.AppRunner | None = None

    @property
    def config(self) -> ClusterConfig:
        return ClusterConfig(server=f"http://127.0.0.1:{self.port}", token="t0ken")

    def client(self, clock: Clock | None = None) -> Client:
        return Client(self.config, timeouts=QUICK, clock=clock)

    def count(self, what: str) -> int:
        """How many requests of a kind (`watch`, `list`, or an HTTP method) came."""
        return sum(1 for method, path, query in self.requests if what in (method, _kind_of(method, path, query)))

    async def start(self) -> None:
        app = web.Application(client_max_size=16 * 1024 * 1024)
        app.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(app, shutdown_timeout=0.05, access_log=None)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port, reuse_address=True).start()
        self.port = self._runner.addresses[0][1]

    async def kill(self) -> None:
        """As kill -9: connections end, nobody listens; what was stored is there after `start`."""
        await self.drop_watches()
        assert self._runner is not None
        await self._runner.cleanup()

    async def drop_watches(self, *, last_words: bytes = b"") -> None:
        """End all watches abruptly, after writing something to them."""
        for response in self.watches:
            transport = response._req.transport if response._req is not None else None
            if transport is not None:
                if last_words:
                    transport.write(b"%x\r\n%s\r\n0\r\n\r\n" % (len(last_words), last_words))
                transport.close() if last_words else transport.abort()
        self.watches.clear()
        async with self.changed:
            self.changed.notify_all()

    async def put(self, collection: str, manifest: Manifest) -> Manifest:
        """Create or change an object as another client would."""
        name = manifest["metadata"]["name"]
        type_ = "MODIFIED" if name in self.objects.setdefault(collection, {}) else "ADDED"
        self.version += 1
        stored = copy.deepcopy(manifest)
        stored["metadata"]["resourceVersion"] = str(self.version)
        self.normalise(stored)
        stored["metadata"].setdefault("uid", f"uid-{name}-{self.version}")
        self.objects[collection][name] = stored
        await self._record(collection, type_, stored)
        return stored

    async def remove(self, collection: str, name: str) -> None:
        gone = self.objects[collection].pop(name)
        self.version += 1
        gone["metadata"]["resourceVersion"] = str(self.version)
        await self._record(collection, "DELETED", gone)

    async def bookmark(self, collection: str) -> None:
        meta = {"metadata": {"resourceVersion": str(self.version)}}
        await self._record(collection, "BOOKMARK", meta)

    def compact(self) -> None:
        """Forget the history up to now."""
        self.compacted = self.version

    async def _record(self, collection: str, type_: str, obj: Manifest) -> None:
        line = json.dumps({"type": type_, "object": obj}).encode() + b"\n"
        async with self.changed:
            self.history.append((self.version, collection, type_, line))
            self.changed.notify_all()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        query = dict(request.query)
        self.requests.append((request.method, request.path, query))
        await self.thawed.wait()
        kind = _kind_of(request.method, request.path, query)
        for index, (what, answer) in enumerate(self.answers):
            if what in (kind, request.method, request.path):
                del self.answers[index]
                return answer(request)
        collection, name, subresource = _split(request.path)
        if kind == "watch":
            return await self._watch(request, collection)
        if kind == "list":
            items = list(self.objects.get(collection, {}).values())
            meta = {"resourceVersion": str(self.version)}
            return web.json_response({"kind": "List", "apiVersion": "v1", "metadata": meta, "items": items})
        if request.method == "POST":
            manifest = await request.json()
            if manifest["metadata"]["name"] in self.objects.get(collection, {}):
                return refusal(409, "AlreadyExists")(request)
            return web.json_response(await self.put(collection, manifest), status=201)
        current = self.objects.get(collection, {}).get(name)
        is_apply = "apply" in request.headers.get("Content-Type", "")
        if current is None and not (is_apply and not subresource):
            return refusal(404, "NotFound")(request)
        if request.method == "GET":
            return web.json_response(current)
        if request.method == "DELETE":
            await self.remove(collection, name)
            return web.json_response({"kind": "Status", "apiVersion": "v1", "status": "Success"})
        return await self._change(request, collection, current)

    async def _change(self, request: web.Request, collection: str, current: Manifest | None) -> web.Response:
        body = json.loads(await request.read())
        before = current or {"metadata": {}}
        expected = (body.get("metadata") or {}).get("resourceVersion")
        if expected and expected != before["metadata"].get("resourceVersion"):
            return refusal(409, "Conflict")(request)
        if request.method == "PUT":
            changed = body
        else:
            changed = _merged(before, body)
            if "apply" in request.headers["Content-Type"]:
                subresource = _split(request.path)[2]
                _apply_ownership(changed, before, body, request.query["fieldManager"], subresource)
        if changed != before:
            changed = await self.put(collection, changed)
        return web.json_response(changed)

    async def _watch(self, request: web.Request, collection: str) -> web.StreamResponse:
        since = int(request.query["resourceVersion"])
        if since < self.compacted:
            return refusal(410, "Expired")(request)
        response = web.StreamResponse()
        response.enable_chunked_encoding()
        await response.prepare(request)
        self.watches.add(response)
        if self.bookmark_on_watch:
            meta = {"metadata": {"resourceVersion": str(self.version)}}
            await response.write(json.dumps({"type": "BOOKMARK", "object": meta}).encode() + b"\n")
        sent = since
        position = 0
        try:
            while response in self.watches:
                async with self.changed:
                    while position == len(self.history) and response in self.watches:
                        await self.changed.wait()
                await self.thawed.wait()
                for version, where, type_, line in self.history[position:]:
                    if response not in self.deaf and where == collection and (version > sent or type_ == "BOOKMARK"):
                        await response.write(line)
                        sent = max(sent, version)
                position = len(self.history)
        except (ConnectionError, asyncio.CancelledError):
            pass
        finally:
            self.watches.discard(response)
        return response


def _split(path: str) -> tuple[str, str, str]:
    """The collection's path, the object's name, the subresource; each may be empty."""
    parts = path.strip("/").split("/")
    head = 2 if parts[0] == "api" else 3
    if len(parts) > head + 1 and parts[head] == "namespaces":
        head += 2
    plural = parts[head] if len(parts) > head else ""
    # One collection for all namespaces: names are unique in these tests.
    group = "/".join(parts[: 2 if parts[0] == "api" else 3])
    name = parts[head + 1] if len(parts) > head + 1 else ""
    return f"/{group}/{plural}", name, parts[head + 2] if len(parts) > head + 2 else ""


def _kind_of(method: str, path: str, query: dict[str, str]) -> str:
    if method != "GET":
        return method
    if query.get("watch") == "true":
        return "watch"
    return "get" if _split(path)[1] else "list"


def _merged(base: Any, change: Any) -> Any:
    if not isinstance(base, dict) or not isinstance(change, dict):
        return copy.deepcopy(change)
    result = copy.deepcopy(base)
    for key, value in change.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = _merged(result.get(key), value)
    return result


def _apply_ownership(changed: Manifest, before: Manifest, body: Manifest, manager: str, subresource: str) -> None:
    """Drop what the manager owned and does not want any more, and write down what it owns now."""
    meta = {key: value for key, value in body["metadata"].items() if key not in ("name", "namespace")}
    content = {key: value for key, value in body.items() if key not in ("apiVersion", "kind", "metadata")}
    wanted = _field_set({**content, "metadata": meta} if meta else content)
    entries = before["metadata"].get("managedFields") or []
    mine = [entry for entry in entries if (entry["manager"], entry.get("subresource", "")) == (manager, subresource)]
    for entry in mine:
        _drop(changed, entry["fieldsV1"], wanted)
    entry = {"manager": manager, "operation": "Apply", "fieldsV1": wanted, "fieldsType": "FieldsV1"}
    if subresource:
        entry["subresource"] = subresource
    changed["metadata"]["managedFields"] = [other for other in entries if other not in mine] + [entry]


def _field_set(value: Any) -> dict[str, Any]:
    return {f"f:{key}": _field_set(part) for key, part in value.items()} if isinstance(value, dict) else {}


def _drop(obj: Any, owned: dict[str, Any], wanted: dict[str, Any]) -> None:
    for entry, below in owned.items():
        field = entry[2:]
        if entry not in wanted:
            obj.pop(field, None)
        elif below and isinstance(obj.get(field), dict):
            _drop(obj[field], below, wanted[entry])


@asynccontextmanager
async def running() -> AsyncIterator[ApiServer]:
    server = ApiServer()
    await server.start()
    try:
        yield server
    finally:
        server.thawed.set()
        await server.kill()
