# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""The provisioner put together: client, CustomResourceDefinitions, backend, cloud, controllers, election, metrics.

The one place that knows all of them. Each cloud's SDK is loaded only when that cloud is chosen.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from importlib import resources
from typing import Any

import yaml
from aiohttp import web

from kaito.api import nodeclaims as names
from kaito.kube.client import Client
from kaito.kube.clock import Clock, RealClock
from kaito.kube.config import ClusterConfig
from kaito.kube.controller import Manager
from kaito.kube.errors import AlreadyExists, ApiError, NotFound, Unavailable
from kaito.kube.lease import Election
from kaito.kube.manifest import Manifest, is_true
from kaito.kube.resource import CUSTOM_RESOURCE_DEFINITIONS
from kaito.provisioner.backends.engine import EngineBackend
from kaito.provisioner.cloud import AnyChange, Cloud
from kaito.provisioner.controllers import NAME, budget_controller, claim_controller
from kaito.provisioner.fleet import Fleet
from kaito.provisioner.instances import Backend
from kaito.provisioner.metrics import exposition
from kaito.provisioner.offers import Market
from kaito.provisioner.settings import Settings

REACHABLE_WITHIN_S = 60.0
ESTABLISHED_WITHIN_S = 30.0
POLL_S = 0.1
SDK = {"aks": "AksBackend", "aws": "AwsBackend", "gcp": "GcpBackend"}
"""The class of each backend, in the module of the cloud's name."""

_log = logging.getLogger(__name__)


class CannotStart(Exception):
    """The provisioner cannot do its work; the text says why and what to do, in one sentence."""


async def run(
    settings: Settings, config: ClusterConfig, *, clock: Clock | None = None, backend: Backend | None = None
) -> None:
    """Make machines for claims until cancelled. Raises CannotStart when there is no way to begin."""
    clock = clock or RealClock()
    async with Client(config, user_agent="kaito-provisioner", clock=clock) as client:
        await _reached(client, config.server, clock)
        if settings.install_crds:
            await _install_crds(client, clock)
        await _check_crds(client)
        chosen = backend or backend_of(settings, client)
        fleet = Fleet(Market([]), list_lag_s=chosen.list_lag_s, settle_s=settings.settle_s)
        cloud = Cloud(chosen, client, fleet, clock)
        manager = Manager(client, _controllers(fleet, cloud, settings), clock=clock)

        async def work() -> None:
            fleet.started = clock.now()
            async with asyncio.TaskGroup() as group:
                group.create_task(cloud.run())
                group.create_task(manager.run())

        async with _monitoring(manager, cloud, settings):
            _log.info("provisioner runs against %s with cloud %s", config.server, settings.cloud)
            if settings.leader_elect:
                election = Election(client, name=NAME, namespace=settings.namespace, identity=socket.gethostname())
                await election.lead(work)
            else:
                await work()


def _controllers(fleet: Fleet, cloud: Cloud, settings: Settings) -> list[Any]:
    return [
        claim_controller(names.NODE_CLAIMS, fleet, cloud, settings),
        claim_controller(names.MACHINES, fleet, cloud, settings),
        budget_controller(fleet, AnyChange(fleet), settings),
    ]


def backend_of(settings: Settings, client: Client) -> Backend:
    """The backend of the chosen cloud. Raises CannotStart when its SDK is not installed."""
    if settings.cloud == "engine":
        return EngineBackend(client, boot_s=settings.boot_s)
    try:
        module = importlib.import_module(f"kaito.provisioner.backends.{settings.cloud}")
    except ModuleNotFoundError as error:
        raise CannotStart(
            f"--cloud {settings.cloud} needs {error.name}: pip install 'kaito[provisioner-{settings.cloud}]'."
        ) from error
    made: Callable[[Settings], Backend] = getattr(module, SDK[settings.cloud]).from_settings
    return made(settings)


async def _reached(client: Client, server: str, clock: Clock) -> None:
    """Return once the server answers: it may be starting at the same time."""
    deadline = clock.monotonic() + REACHABLE_WITHIN_S
    while True:
        try:
            answer = await client.raw("GET", "/readyz")
            if answer.status in (200, 401, 403, 404):
                return
            said = f"HTTP {answer.status}"
        except Unavailable as error:
            said = str(error)
        if clock.monotonic() >= deadline:
            raise CannotStart(f"{server} does not answer ({said}): start the cluster, or give another kubeconfig.")
        await clock.sleep(POLL_S)


def definitions() -> list[Manifest]:
    """The CustomResourceDefinitions: NodeClaim as Karpenter documents it, and our NodeBudget."""
    folder = resources.files("kaito.provisioner").joinpath("data")
    return [
        yaml.safe_load(folder.joinpath(name).read_text("utf-8")) for name in ("nodeclaims.yaml", "nodebudgets.yaml")
    ]


async def _install_crds(client: Client, clock: Clock) -> None:
    """Install those that are missing; what is there, Karpenter's own NodeClaim for one, is left as it is."""
    for definition in definitions():
        name = definition["metadata"]["name"]
        try:
            await client.create(CUSTOM_RESOURCE_DEFINITIONS, definition)
        except AlreadyExists:
            continue
        except ApiError as error:
            raise CannotStart(f"CustomResourceDefinition {name} cannot be installed: {error}.") from error
    deadline = clock.monotonic() + ESTABLISHED_WITHIN_S
    for definition in definitions():
        name = definition["metadata"]["name"]
        while not is_true(await client.get(CUSTOM_RESOURCE_DEFINITIONS, name), "Established"):
            if clock.monotonic() >= deadline:
                raise CannotStart(f"CustomResourceDefinition {name} is not established: see its conditions.")
            await clock.sleep(POLL_S)


async def _check_crds(client: Client) -> None:
    for kind in (names.NODE_BUDGETS,):
        try:
            await client.list_objects(kind)
        except NotFound as error:
            raise CannotStart(
                f"The cluster has no {kind.plural}.{kind.group}: start with --install-crds, or apply "
                f"deploy/provisioner/crds/{kind.group}_{kind.plural}.yaml."
            ) from error


@asynccontextmanager
async def _monitoring(manager: Manager, cloud: Cloud, settings: Settings) -> AsyncIterator[None]:
    """/metrics, /healthz, and /readyz, which answers 503 until the caches are filled."""
    if settings.metrics_port is None:
        yield
        return
    synced = asyncio.create_task(manager.synced())

    async def metrics(request: web.Request) -> web.Response:
        return web.Response(text=exposition(manager.stats, cloud))

    async def healthy(request: web.Request) -> web.Response:
        return web.Response(text="ok")

    async def ready(request: web.Request) -> web.Response:
        return web.Response(text="ok") if synced.done() else web.Response(status=503, text="caches are being filled")

    app = web.Application()
    app.add_routes([web.get("/metrics", metrics), web.get("/healthz", healthy), web.get("/readyz", ready)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, settings.metrics_host, settings.metrics_port).start()
        except OSError as error:
            message = f"--metrics-port {settings.metrics_port} cannot be listened on: {error.strerror}."
            raise CannotStart(message) from error
        _log.info("metrics on http://%s:%s/metrics", *runner.addresses[0][:2])
        yield
    finally:
        synced.cancel()
        await runner.cleanup()
