# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Puts the engine together: store, registry, HTTP server, controllers and node agent. The only composition root.

The controllers and the node agent are clients like any other, but for the socket between them and the server
(`kaito.engine.http.inprocess`).
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import os
from collections.abc import Coroutine, Mapping
from datetime import datetime
from pathlib import Path
from urllib.parse import urlsplit

from kaito.engine.access.auth import Authenticator
from kaito.engine.access.rbac import Authorizer
from kaito.engine.access.reviews import Reviews
from kaito.engine.controllers.catalogue import COLLECTOR_NAMES, collectors, controllers
from kaito.engine.controllers.catalogue import Settings as ControllerSettings
from kaito.engine.http.certificates import Credentials, load_credentials
from kaito.engine.http.documents import Documents
from kaito.engine.http.inprocess import InProcess
from kaito.engine.http.kubeconfig import write_kubeconfig
from kaito.engine.http.listener import Listener, listen
from kaito.engine.http.server import Server
from kaito.engine.http.websocket import PodSocket
from kaito.engine.kinds import BUILT_IN, METRICS, REVIEWS, Kinds
from kaito.engine.node.addresses import service_network
from kaito.engine.node.agent import NodeAgent
from kaito.engine.node.images import ImageMap, builtin_images, read_images
from kaito.engine.node.machines import SimulatedMachines
from kaito.engine.node.simulated import SimulatedCapacity, SimulatedNodes
from kaito.engine.objects.addresses import Addresses
from kaito.engine.objects.admission import Admission
from kaito.engine.objects.bootstrap import bootstrap
from kaito.engine.objects.definitions import Definitions
from kaito.engine.objects.deletion import Deletion
from kaito.engine.objects.metrics import Metrics
from kaito.engine.objects.podaccess import PodAccess
from kaito.engine.objects.registry import Registry
from kaito.engine.objects.resources import Resources
from kaito.engine.objects.routing import service_resolver
from kaito.engine.objects.serviceaccounts import without_token
from kaito.engine.objects.strategy import Strategies
from kaito.engine.objects.subresources import Subresources
from kaito.engine.objects.versions import Versions
from kaito.engine.objects.webhookcall import Caller
from kaito.engine.objects.webhooks import Webhooks
from kaito.engine.settings import Settings
from kaito.engine.storage.events import Journal, MemoryJournal
from kaito.engine.storage.journal import DirectoryLock, SqliteJournal
from kaito.engine.storage.store import Store
from kaito.engine.turns import Turns
from kaito.kube.client import Client
from kaito.kube.clock import Clock, RealClock
from kaito.kube.config import ClusterConfig
from kaito.kube.controller import Manager
from kaito.kube.resource import PODS, Resource

log = logging.getLogger(__name__)

HOSTS = ("localhost", "127.0.0.1", "::1", "kubernetes", "kubernetes.default", "kubernetes.default.svc")


class Engine:
    """One engine in this process. `start`, then `stop`."""

    def __init__(self, settings: Settings, *, environment: Mapping[str, str], clock: Clock | None = None) -> None:
        """`environment` is what the node hands on to pods (a few names of it)."""
        self._settings, self._environment = settings, environment
        self._clock = clock or RealClock()
        self._service_network = (
            ipaddress.IPv4Network(settings.service_network)
            if settings.service_network
            else service_network(settings.data_dir, os.getuid())
        )
        self._tasks: list[asyncio.Task[None]] = []
        self._stack = contextlib.AsyncExitStack()
        self.url = ""
        self.agent: NodeAgent | None = None

    async def start(self) -> None:
        """Serve, and run what was asked for. Raises AlreadyRunning or CannotListen."""
        settings = self._settings
        settings.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = DirectoryLock(settings.data_dir)
        self._stack.callback(lock.release)
        socket = listen(settings.host, settings.port)
        port = int(socket.getsockname()[1])
        kubernetes_ip = str(self._service_network[1])
        now = self._clock.now()
        hosts = tuple(dict.fromkeys((*HOSTS, settings.host, kubernetes_ip)))
        credentials = load_credentials(settings.data_dir / "pki", hosts, now)
        store = Store(self._journal(), loop=asyncio.get_running_loop())
        self._stack.callback(store.close)
        server = await self._compose(store, credentials)
        server.address = f"{settings.host}:{port}"
        self.url = f"https://{settings.host}:{port}"
        await bootstrap(self._registry, self._clock, host=settings.host, port=port, kubernetes_ip=kubernetes_ip)
        listener = Listener(server, socket, credentials)
        await listener.start()
        self._stack.push_async_callback(listener.stop)
        self._stack.callback(store.end_watches)
        await self._run_clients(server, credentials, now)
        server.ready = True
        write_kubeconfig(settings.kubeconfig_path, self.url, credentials)

    def _journal(self) -> Journal:
        durability = self._settings.durability
        if durability == "memory":
            return MemoryJournal()
        path = self._settings.data_dir / "state.db"
        return SqliteJournal(path, synchronous="FULL" if durability == "power" else "NORMAL")

    async def _compose(self, store: Store, credentials: Credentials) -> Server:
        """The server and everything behind it."""
        clock, kinds = self._clock, Kinds(BUILT_IN + REVIEWS + (METRICS if self._settings.node else ()))
        addresses = Addresses(store, str(self._service_network))
        registry = Registry(store, kinds, Strategies(kinds, {"/services": addresses.allocate}))
        caller = Caller(service_resolver(registry))
        self._stack.push_async_callback(caller.close)
        registry.versions = Versions(kinds, registry.strategies, caller)
        # Without controllers nobody gives a namespace the account and the certificate that its pods would wait for.
        gives_tokens = self._settings.controllers and "ServiceAccount" not in self._settings.disabled_plugins
        registry.admission = Admission(registry, Webhooks(registry, caller), gives_tokens=gives_tokens)
        deletion = Deletion(registry)
        definitions = Definitions(registry, deletion, clock)
        definitions.load()
        definitions.resume()
        authorizer = Authorizer(registry)
        authenticator = Authenticator(
            credentials.token, credentials.signing_key, uid_of=lambda *what: _uid_of(registry, *what)
        )
        resources = Resources(registry, deletion, clock)
        self._registry, self._pods = registry, PodAccess(registry, clock)
        return Server(
            store,
            kinds,
            resources,
            Subresources(registry, resources, deletion, authenticator, self._pods, clock),
            Reviews(authenticator, authorizer, clock),
            Documents(kinds),
            Metrics(registry, self._pods, clock),
            authenticator=authenticator,
            authorizer=authorizer,
            socket=PodSocket(self._pods),
            clock=clock,
            turns=Turns(asyncio.get_running_loop()),
        )

    # What runs against the server

    async def _run_clients(self, server: Server, credentials: Credentials, started: datetime) -> None:
        settings = self._settings
        if not (settings.controllers or settings.node or settings.simulated_nodes or settings.simulated_machines):
            return
        config = ClusterConfig(self.url, ca_pem=credentials.ca_file.read_text(), token=credentials.token)

        async def client_named(user_agent: str) -> Client:
            transport = InProcess(server, token=credentials.token, user_agent=user_agent)
            return await self._stack.enter_async_context(Client(config, transport=transport))

        if settings.controllers:
            self._run_controllers(await client_named("kube-controller-manager"), credentials, started)
        if settings.node:
            self.agent = NodeAgent(
                await client_named("kubelet"),
                data_dir=settings.data_dir / "node",
                images=_images(settings.images),
                environment=self._environment,
                api=(settings.host, urlsplit(self.url).port or 443),
                clock=self._clock,
            )
            self._pods.backend = self.agent
            self._spawn(self.agent.run(), "node agent")
        if settings.simulated_nodes:
            client = await client_named("kubelet (simulated)")
            capacity = SimulatedCapacity(gpus=settings.simulated_gpus)
            nodes = SimulatedNodes(client, count=settings.simulated_nodes, capacity=capacity, clock=self._clock)
            self._spawn(nodes.run(), "simulated nodes")
        if settings.simulated_machines:
            client = await self._stack.enter_async_context(Client(config, user_agent="kubelet (simulated machines)"))
            self._spawn(SimulatedMachines(client, clock=self._clock).run(), "simulated machines")

    def _run_controllers(self, client: Client, credentials: Credentials, started: datetime) -> None:
        wanted = ControllerSettings(
            started=started,
            volume_root=str(self._settings.data_dir / "volumes"),
            authority=credentials.ca_file.read_text(),
        )
        manager = Manager(client, controllers(wanted), clock=self._clock, trims={PODS: without_token})
        for controller in collectors(self._resources()):
            manager.add(controller)
        self._spawn(manager.run(), "controllers")
        self._spawn(self._follow_kinds(manager), "collectors")

    def _resources(self) -> list[Resource]:
        """One resource for each collection that holds objects of its own."""
        kinds = self._registry.kinds.stored()
        return [Resource(k.group, k.version, k.plural, k.kind, k.namespaced) for k in kinds]

    async def _follow_kinds(self, manager: Manager) -> None:
        """Hand the collectors the new set of kinds whenever custom kinds come or go."""
        known = self._resources()
        while True:
            await self._registry.kinds.changed()
            current = self._resources()
            if current == known:
                continue
            known = current
            for name in COLLECTOR_NAMES:
                manager.remove(name)
            for controller in collectors(current):
                manager.add(controller)

    def _spawn(self, work: Coroutine[None, None, None], name: str) -> None:
        task = asyncio.create_task(work, name=name)
        task.add_done_callback(_report)
        self._tasks.append(task)

    async def stop(self, *, kill_pods: bool = False) -> None:
        """Stop serving and running; pods go on unless they are to be killed."""
        if self.agent is not None:
            await self.agent.stop(kill_pods=kill_pods)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._stack.aclose()


def _report(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and task.exception() is not None:
        log.error("%s ended: %s", task.get_name(), task.exception(), exc_info=task.exception())


def _images(path: Path | None) -> ImageMap:
    built_in = builtin_images()
    return built_in if path is None else ImageMap(read_images(path) + built_in.entries)


def _uid_of(registry: Registry, plural: str, namespace: str, name: str) -> str | None:
    found = registry.object("", plural, name, namespace)
    return None if found is None else str(found["metadata"]["uid"])
