# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""The operator put together: client, CustomResourceDefinitions, webhook, metrics, leader election, controllers.

The one place that knows all of them. What each does is in its own module; `__main__` is the process around this.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from base64 import b64decode, b64encode
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from importlib.metadata import PackageNotFoundError, version

from aiohttp import web

from kaito.api.crd import custom_resource_definitions
from kaito.kube.certificates import KeyPair, new_authority
from kaito.kube.client import Client
from kaito.kube.clock import Clock, RealClock
from kaito.kube.config import ClusterConfig
from kaito.kube.controller import Manager
from kaito.kube.errors import AlreadyExists, ApiError, NotFound, Unavailable
from kaito.kube.lease import Election
from kaito.kube.manifest import Manifest, is_true
from kaito.kube.resource import CUSTOM_RESOURCE_DEFINITIONS, SECRETS, VALIDATING_WEBHOOKS
from kaito.kube.webhook import WebhookServer
from kaito.operator.admission import (
    WORKSPACE_PATH,
    Address,
    policy_of,
    webhook_configuration,
    workspace_validator,
)
from kaito.operator.facts import catalogue_lookup
from kaito.operator.metrics import exposition
from kaito.operator.provisioners.byo import BYO
from kaito.operator.provisioners.local import LOCAL
from kaito.operator.provisioners.nodeclaim import node_claim_provisioner
from kaito.operator.provisioners.nodepool import NodeClass, node_pool_provisioner
from kaito.operator.provisioners.survey import Provisioner
from kaito.operator.settings import Settings
from kaito.operator.tuninglogs import TuningLogs
from kaito.operator.workspace.controller import workspace_controller

FIELD_MANAGER = "kaito-operator"
REACHABLE_WITHIN_S = 60.0
ESTABLISHED_WITHIN_S = 30.0
POLL_S = 0.1
CERTIFICATE_SECRET = "kaito-webhook-ca"
CERTIFICATE_KEYS = ("ca.crt", "ca.key")

_log = logging.getLogger(__name__)


class CannotStart(Exception):
    """The operator cannot do its work; the text says why and what to do, in one sentence."""


async def run(settings: Settings, config: ClusterConfig, *, clock: Clock | None = None) -> None:
    """Keep Workspaces as they should be until cancelled. Raises CannotStart when there is no way to begin."""
    clock = clock or RealClock()
    async with Client(config, user_agent=f"kaito-operator/{_version()}", clock=clock) as client:
        await _reached(client, config.server, clock)
        if settings.install_crds:
            await _install_crds(client, clock)
        logs = TuningLogs(client)
        controller = workspace_controller(settings, _provisioner(settings), catalogue_lookup, logs.progress)
        manager = Manager(client, [controller], clock=clock)
        async with _webhook(client, settings, clock), _monitoring(manager, settings), logs.followed(clock):
            _log.info("operator runs against %s with provisioner %s", config.server, settings.provisioner)
            if settings.leader_elect:
                election = Election(
                    client, name="kaito-operator", namespace=settings.namespace, identity=socket.gethostname()
                )
                await election.lead(manager.run)
            else:
                await manager.run()


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


@asynccontextmanager
async def _webhook(client: Client, settings: Settings, clock: Clock) -> AsyncIterator[None]:
    """The admission webhook, told to the API server once it listens."""
    if settings.webhook_port is None:
        yield
        return
    address = Address(host=settings.webhook_url_host, service=settings.webhook_service, namespace=settings.namespace)
    authority = None if address.host else await _shared_authority(client, settings, clock)
    server = WebhookServer(
        {WORKSPACE_PATH: workspace_validator(policy_of(settings.provisioner, private_urls=settings.private_urls))},
        names=address.names(),
        host=settings.webhook_url_host or "0.0.0.0",
        port=settings.webhook_port,
        authority=authority,
        clock=clock,
    )
    async with AsyncExitStack() as stack:
        try:
            await stack.enter_async_context(server)
        except OSError as error:
            message = f"--webhook-port {settings.webhook_port} cannot be listened on: {error.strerror}."
            raise CannotStart(message) from error
        if address.host:
            address = Address(host=address.host, port=server.port)
        # On one machine the engine may be up while we are not; there a request is judged by the plan alone.
        must_answer = settings.provisioner != "local"
        configuration = webhook_configuration(address, server.ca_bundle(), must_answer=must_answer)
        await client.apply(VALIDATING_WEBHOOKS, configuration, field_manager=FIELD_MANAGER)
        yield


async def _shared_authority(client: Client, settings: Settings, clock: Clock) -> KeyPair:
    """The certificate authority that all replicas use, from a Secret; the first one makes it."""
    try:
        return _authority(await client.get(SECRETS, CERTIFICATE_SECRET, settings.namespace))
    except NotFound:
        made = new_authority(f"{settings.webhook_service} webhook CA", clock.now())
    data = {key: b64encode(pem.encode()).decode() for key, pem in zip(CERTIFICATE_KEYS, _pems(made), strict=True)}
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": CERTIFICATE_SECRET, "namespace": settings.namespace},
        "type": "Opaque",
        "data": data,
    }
    try:
        await client.create(SECRETS, secret, field_manager=FIELD_MANAGER)
    except AlreadyExists:
        return _authority(await client.get(SECRETS, CERTIFICATE_SECRET, settings.namespace))
    return made


def _pems(pair: KeyPair) -> tuple[str, str]:
    return pair.cert_pem, pair.key_pem


def _authority(secret: Manifest) -> KeyPair:
    data = secret.get("data") or {}
    try:
        cert, key = (b64decode(data[name]).decode() for name in CERTIFICATE_KEYS)
    except (KeyError, ValueError) as error:
        name = f"{secret['metadata']['namespace']}/{CERTIFICATE_SECRET}"
        raise CannotStart(f"Secret {name} holds no certificate authority: delete it, a new one is made.") from error
    return KeyPair(cert, key)


@asynccontextmanager
async def _monitoring(manager: Manager, settings: Settings) -> AsyncIterator[None]:
    """/metrics, /healthz, and /readyz, which answers 503 until the caches are filled."""
    if settings.metrics_port is None:
        yield
        return
    synced = asyncio.create_task(manager.synced())

    async def metrics(request: web.Request) -> web.Response:
        return web.Response(text=exposition(manager.stats))

    async def healthy(request: web.Request) -> web.Response:
        return web.Response(text="ok")

    async def ready(request: web.Request) -> web.Response:
        return web.Response(text="ok") if synced.done() else web.Response(status=503, text="caches are being filled")

    app = web.Application()
    app.add_routes([web.get("/metrics", metrics), web.get("/healthz", healthy), web.get("/readyz", ready)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        site = web.TCPSite(runner, settings.metrics_host, settings.metrics_port)
        try:
            await site.start()
        except OSError as error:
            message = f"--metrics-port {settings.metrics_port} cannot be listened on: {error.strerror}."
            raise CannotStart(message) from error
        _log.info("metrics on http://%s:%s/metrics", *runner.addresses[0][:2])
        yield
    finally:
        synced.cancel()
        await runner.cleanup()
