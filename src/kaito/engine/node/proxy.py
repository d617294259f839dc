# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Makes Services answer on this machine: a listener for each cluster address and port that forwards to ready endpoints.

An ordinary user cannot bind a port below 1024: then a free port on the same address is taken, and the Service says so
in the annotation `engine.kaito.sh/reachable-at` and an event. `forward` lets HTTP clients use the address as written
all the same.
"""

from __future__ import annotations

import asyncio
import errno
import logging
from collections.abc import Callable
from dataclasses import dataclass

from kaito.engine.node.routing import Front, Routes, Target
from kaito.engine.node.splice import close, connect, reset, splice
from kaito.kube.client import Client
from kaito.kube.errors import ApiError, NotFound
from kaito.kube.events import Recorder
from kaito.kube.manifest import Key, Manifest, annotations_of
from kaito.kube.plan import Event
from kaito.kube.resource import SERVICES

REACHABLE_AT = "engine.kaito.sh/reachable-at"
SETTLE_S = 0.02

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Listener:
    """One open front."""

    server: asyncio.Server
    address: Target


class ServiceProxy:
    """Keeps listeners open for all Services."""

    def __init__(self, client: Client, recorder: Recorder, routes: Callable[[], Routes], *, node_address: str) -> None:
        self._client = client
        self._recorder = recorder
        self._routes = routes
        self._node_address = node_address
        self._listeners: dict[Front, _Listener] = {}
        self._unbound: set[Front] = set()
        self._changed = asyncio.Event()
        self._turns: dict[Front, int] = {}
        self._connections: set[asyncio.Task[None]] = set()

    def wake(self) -> None:
        """Services changed."""
        self._changed.set()

    def address_of(self, front: Front) -> Target | None:
        """Where a front really listens."""
        listener = self._listeners.get(front)
        return listener.address if listener else None

    async def run(self) -> None:
        """Follow the Services until cancelled; then every listener is closed."""
        try:
            while True:
                self._changed.clear()
                await self._follow()
                await self._changed.wait()
                await asyncio.sleep(SETTLE_S)  # changes come in bursts
        finally:
            for listener in self._listeners.values():
                listener.server.close()
            for task in self._connections:
                task.cancel()

    async def _follow(self) -> None:
        """Open and close listeners as the Services want it."""
        routes = self._routes()
        wanted = routes.fronts(self._node_address)
        for front in set(self._listeners) - set(wanted):
            self._listeners.pop(front).server.close()
            self._turns.pop(front, None)
        self._unbound &= set(wanted)
        for front in wanted:
            if front not in self._listeners and front not in self._unbound:
                await self._open(front, routes.services[front.service])
        for key, service in routes.services.items():
            await self._announce(key, service, [front for front in wanted if front.service == key])

    async def _open(self, front: Front, service: Manifest) -> None:
        before = _announced(service).get(front.port)
        attempts = [Target(front.host, front.port), *([before] if before else []), Target(front.host, 0)]
        for target in [*attempts, Target("127.0.0.1", 0)]:
            try:
                server = await asyncio.start_server(self._handler(front), target.host, target.port)
            except OSError as error:
                if error.errno not in (errno.EACCES, errno.EADDRINUSE, errno.EADDRNOTAVAIL, errno.EPERM):
                    _log.warning("service %s: cannot listen on %s:%d: %s", front.service, *target, error.strerror)
                continue
            host, port = server.sockets[0].getsockname()[:2]
            self._listeners[front] = _Listener(server, Target(host, port))
            return
        self._unbound.add(front)
        text = f"no address could be bound for {front.host}:{front.port}; clients on this machine cannot reach it"
        await self._recorder.record(Event(service, "AddressNotBound", text, "Warning"))

    async def _announce(self, key: Key, service: Manifest, fronts: list[Front]) -> None:
        """Write down where a Service answers when that is not where it says."""
        moved = {
            front.port: listener.address
            for front in fronts
            if (listener := self._listeners.get(front)) and listener.address != (front.host, front.port)
        }
        text = ",".join(f"{port}={host}:{actual}" for port, (host, actual) in sorted(moved.items())) or None
        if annotations_of(service).get(REACHABLE_AT) == text:
            return
        try:
            await self._client.patch(
                SERVICES, key.name, key.namespace, {"metadata": {"annotations": {REACHABLE_AT: text}}}
            )
        except NotFound:
            return
        except ApiError as error:
            _log.warning("service %s: the address that answers was not written down: %s", key, error)
            return
        if text:
            places = ", ".join("port {} at {}".format(*pair.split("=", 1)) for pair in text.split(","))
            message = f"Ports below 1024 need root; from this machine the Service answers for {places}"
            await self._recorder.record(Event(service, "PortMoved", message))

    def _handler(self, front: Front) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], None]:
        def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.create_task(self._serve(front, reader, writer))
            self._connections.add(task)
            task.add_done_callback(self._connections.discard)

        return accept

    async def _serve(self, front: Front, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            upstream = await connect(self._turn(front))
            if upstream is None:
                reset(writer)
            else:
                await splice((reader, writer), upstream)
        except asyncio.CancelledError:
            writer.transport.abort()
            raise
        except OSError:
            await close(writer)

    def _turn(self, front: Front) -> list[Target]:
        """The ready endpoints, each client beginning with the next one."""
        endpoints = self._routes().endpoints(front.service, front.port_name)
        if not endpoints:
            return []
        turn = self._turns.get(front, 0) % len(endpoints)
        self._turns[front] = turn + 1
        return endpoints[turn:] + endpoints[:turn]


def _announced(service: Manifest) -> dict[int, Target]:
    """Where the Service answered before the engine was restarted."""
    found = {}
    for item in annotations_of(service).get(REACHABLE_AT, "").split(","):
        port, _, address = item.partition("=")
        host, _, actual = address.rpartition(":")
        if port.isdigit() and actual.isdigit() and host:
            found[int(port)] = Target(host, int(actual))
    return found
