# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""The operator put together: client, CustomResourceDefinitions, webhook, metrics, leader election, controllers.

The one place that knows all of them. What each does is in its own module; `__main__` is the process around this.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version

from kaito.api.crd import custom_resource_definitions
from kaito.api.training import latest_progress
from kaito.catalog.gpus import BadTable
from kaito.kube.client import Client
from kaito.kube.clock import Clock, RealClock
from kaito.kube.config import ClusterConfig
from kaito.kube.controller import Manager
from kaito.kube.errors import ApiError, Unavailable
from kaito.kube.lease import Election, LeaseTimes
from kaito.kube.manifest import is_true
from kaito.kube.resource import CUSTOM_RESOURCE_DEFINITIONS, NODES
from kaito.operator import hooks, monitoring
from kaito.operator.authority import UnusableAuthority
from kaito.operator.facts import model_lookup
from kaito.operator.metrics import Metrics
from kaito.operator.podlogs import PodLogs
from kaito.operator.provisioners.byo import BYO
from kaito.operator.provisioners.local import LOCAL
from kaito.operator.provisioners.nodeclaim import node_claim_provisioner
from kaito.operator.provisioners.nodepool import NodeClass, node_pool_provisioner
from kaito.operator.provisioners.survey import Provisioner
from kaito.operator.settings import Settings
from kaito.operator.workspace.controller import workspace_controller
from kaito.operator.workspace.nodes import without_heartbeat
from kaito.operator.workspace.observe import Heard, Lookup
from kaito.operator.workspace.performance import latest_result
from kaito.operator.workspace.starting import latest_start

FIELD_MANAGER = "kaito-operator"
LEASE = "kaito-operator"
REACHABLE_WITHIN_S = 60.0
ESTABLISHED_WITHIN_S = 30.0
POLL_S = 0.1
BENCHMARK_LINES = 500
"""Of a model server's log, which has a line for each request; as KAITO."""

_log = logging.getLogger(__name__)


class CannotStart(Exception):
    """The operator cannot do its work; the text says why and what to do, in one sentence."""


async def run(settings: Settings, config: ClusterConfig, *, clock: Clock | None = None) -> None:
    """Keep Workspaces as they should be until cancelled. Raises CannotStart when there is no way to begin."""
    clock = clock or RealClock()
    try:
        agent = f"kaito-operator/{_version()}"
        async with Client(config, user_agent=agent, clock=clock) as client, model_lookup(settings, clock) as lookup:
            await _run(settings, client, config.server, clock=clock, lookup=lookup)
    except (hooks.CannotListen, monitoring.CannotListen, UnusableAuthority) as error:
        raise CannotStart(str(error)) from error


async def _run(settings: Settings, client: Client, server: str, *, clock: Clock, lookup: Lookup) -> None:
    tunings = PodLogs(client, latest_progress)
    servers = PodLogs(client, latest_result, tail_lines=BENCHMARK_LINES, rounds=1, patience=4)
    starts = PodLogs(client, latest_start, tail_lines=BENCHMARK_LINES, rounds=1)
    heard = Heard(tunings.said, servers.said, starts.said)
    controller = workspace_controller(settings, _equipped(settings), lookup, heard)
    # Every Workspace has some of each of these, and a plan reads those of one; nodes may be gone through as a whole.
    packed = {controller.resource, *(watch.resource for watch in controller.watches)} - {NODES}
    manager = Manager(client, [controller], clock=clock, packed=packed, trims={NODES: without_heartbeat})
    election = _election(settings, client, clock)
    metrics = Metrics(manager, election, LEASE)
    readiness = monitoring.Readiness()
    readiness.set("api-server", "it has not answered yet")
    async with monitoring.monitoring(settings, readiness, metrics.exposition):
        await _reached(client, server, clock)
        readiness.set("api-server", "")
        if settings.install_crds:
            await _install_crds(client, clock)
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(_webhooks(settings, client, clock, readiness))
            for logs in (tunings, servers, starts):
                await stack.enter_async_context(logs.followed(clock))
            readiness.add("caches", lambda: _unfilled(manager, election))
            _log.info("operator runs against %s with provisioner %s", server, settings.provisioner)
            try:
                await (election.lead(manager.run) if election else manager.run())
            except asyncio.CancelledError:
                readiness.set("shutdown", "the operator ends")
                raise


def _election(settings: Settings, client: Client, clock: Clock) -> Election | None:
    """This replica as a candidate; the name of its machine alone would make two on one machine look like one."""
    if not settings.elects:
        return None
    return Election(
        client,
        name=LEASE,
        namespace=settings.namespace,
        identity=f"{socket.gethostname()}_{uuid.uuid4()}",
        times=LeaseTimes.of(settings.lease_seconds),
        clock=clock,
    )


def _unfilled(manager: Manager, election: Election | None) -> str:
    """What keeps this replica from being ready. One that stands by fills no caches, and is ready to."""
    if election is not None and not election.is_leader:
        return ""
    return f"waiting for the first list of {', '.join(manager.unsynced)}" if manager.unsynced else ""


@asynccontextmanager
async def _webhooks(
    settings: Settings, client: Client, clock: Clock, readiness: monitoring.Readiness
) -> AsyncIterator[None]:
    if settings.webhook_port is None:
        yield
        return
    readiness.set("webhook", "it does not listen yet")
    async with AsyncExitStack() as stack:
        try:
            serving = await stack.enter_async_context(hooks.serving(client, settings, clock))
        except ApiError as error:
            raise CannotStart(f"The webhooks cannot be registered: {error}.") from error
        readiness.add("webhook", serving.problem)
        try:
            yield
        finally:
            await clock.sleep(settings.shutdown_delay_seconds)


def _equipped(settings: Settings) -> Provisioner:
    """The provisioner, knowing the user's machines too. Raises CannotStart."""
    provisioner = _provisioner(settings)
    if settings.machines is None:
        return provisioner
    try:
        known = provisioner.machines.extended(settings.machines.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, BadTable) as error:
        raise CannotStart(f"--machines {settings.machines} cannot be used: {error}.") from error
    return replace(provisioner, machines=known)


def _provisioner(settings: Settings) -> Provisioner:
    match settings.provisioner:
        case "local":
            return LOCAL
        case "byo":
            return BYO
        case "nodeclaim":
            return node_claim_provisioner(settings.cloud, settings.node_image_family)
        case "karpenter":
            return node_pool_provisioner(NodeClass(*settings.node_class.split("/")))


def _version() -> str:
    try:
        return version("kaito")
    except PackageNotFoundError:
        return "0"


async def _reached(client: Client, server: str, clock: Clock) -> None:
    """Return once the server answers: it may be starting at the same time."""
    deadline = clock.monotonic() + REACHABLE_WITHIN_S
    while True:
        try:
            answer = await client.raw("GET", "/readyz")
            if answer.status in (200, 403, 404):
                return
            said = f"HTTP {answer.status}"
        except Unavailable as error:
            said = str(error)
        if clock.monotonic() >= deadline:
            raise CannotStart(f"{server} does not answer ({said}): start the cluster, or give another kubeconfig.")
        await clock.sleep(POLL_S)


async def _install_crds(client: Client, clock: Clock) -> None:
    for definition in custom_resource_definitions():
        try:
            await client.apply(CUSTOM_RESOURCE_DEFINITIONS, definition, field_manager=FIELD_MANAGER)
        except ApiError as error:
            name = definition["metadata"]["name"]
            raise CannotStart(f"CustomResourceDefinition {name} cannot be installed: {error}.") from error
    deadline = clock.monotonic() + ESTABLISHED_WITHIN_S
    for definition in custom_resource_definitions():
        name = definition["metadata"]["name"]
        while not is_true(await client.get(CUSTOM_RESOURCE_DEFINITIONS, name), "Established"):
            if clock.monotonic() >= deadline:
                raise CannotStart(f"CustomResourceDefinition {name} is not established: see its conditions.")
            await clock.sleep(POLL_S)
