# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""How many objects a second the engine takes from several clients at once, over HTTPS and on to the disk.

The clients run in one other process on the same machine, so they take their share of its cores.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack
from pathlib import Path

from tests.engine_process import EngineProcess

from kaito.api.crd import custom_resource_definitions
from kaito.api.kinds import WORKSPACES
from kaito.kube.client import Client
from kaito.kube.config import load_kubeconfig
from kaito.kube.errors import NotFound
from kaito.kube.manifest import Manifest
from kaito.kube.resource import CONFIG_MAPS, CUSTOM_RESOURCE_DEFINITIONS, Resource

CLIENTS = 16
ROUNDS = 3


async def measure(folder: Path, *, count: int) -> dict[Resource, list[float]]:
    """Creates a second of ConfigMaps and of Workspaces (without the operator), a figure for each round of `count`."""
    folder.mkdir(parents=True, exist_ok=True)
    found: dict[Resource, list[float]] = {}
    with EngineProcess(folder, "--no-node") as engine:
        async with AsyncExitStack() as stack:
            config = load_kubeconfig(engine.kubeconfig)
            clients = [await stack.enter_async_context(Client(config)) for _ in range(CLIENTS)]
            for definition in custom_resource_definitions():
                await clients[0].create(CUSTOM_RESOURCE_DEFINITIONS, definition)
            await served(clients[0], WORKSPACES)
            for resource in (CONFIG_MAPS, WORKSPACES):
                rounds = [await created_per_s(clients, resource, f"round-{number}", count) for number in range(ROUNDS)]
                found[resource] = rounds
    return found


async def served(client: Client, resource: Resource) -> None:
    """Return once the kind is served."""
    async with asyncio.timeout(10):
        while True:
            try:
                await client.list_objects(resource)
                return
            except NotFound:
                await asyncio.sleep(0.05)


async def created_per_s(clients: list[Client], resource: Resource, prefix: str, count: int) -> float:
    """One round: every client creates its share, one object after the other."""

    async def share(number: int, client: Client) -> None:
        for index in range(count // len(clients)):
            await client.create(resource, manifest(resource, f"{prefix}-{number}-{index}"))

    for client in clients:  # The handshakes are no part of it.
        await client.list_objects(resource)
    began = time.perf_counter()
    await asyncio.gather(*(share(number, client) for number, client in enumerate(clients)))
    return count // len(clients) * len(clients) / (time.perf_counter() - began)


def manifest(resource: Resource, name: str) -> Manifest:
    """A small object of the kind."""
    head: Manifest = {
        "apiVersion": resource.api_version,
        "kind": resource.kind,
        "metadata": {"name": name, "namespace": "default"},
    }
    if resource == CONFIG_MAPS:
        return {**head, "data": {"key": "value"}}
    selector = {"matchLabels": {"app": name}}
    return {**head, "resource": {"labelSelector": selector}, "inference": {"preset": {"name": "kaito-demo"}}}
