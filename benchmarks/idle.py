# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""What the operator costs when there is nothing to do: many Ready Workspaces on a simulated node, and a clock."""

from __future__ import annotations

import asyncio
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
from tests.engine_process import EngineProcess

from kaito.api.kinds import WORKSPACES
from kaito.kube.client import Client
from kaito.kube.config import load_kubeconfig
from kaito.kube.errors import ApiError
from kaito.kube.manifest import is_true
from kaito.kube.resource import CONFIG_MAPS, CONTROLLER_REVISIONS, EVENTS, PODS, SERVICES, STATEFUL_SETS

WATCHED = (WORKSPACES, STATEFUL_SETS, SERVICES, CONFIG_MAPS, CONTROLLER_REVISIONS, PODS, EVENTS)
READY_WITHIN_S = 300.0
SETTLE_S = 10.0


@dataclass(frozen=True, slots=True)
class Idle:
    """What was seen while nothing happened."""

    seconds_to_ready: float
    operator_cpu_percent: float
    """Of one core, over the measured time."""
    engine_cpu_percent: float
    """The same of the engine, which keeps the nodes' leases and the watches' bookmarks going."""
    writes: int
    """Objects of any kind that the operator could write whose resourceVersion moved, appeared or went."""


async def measure(folder: Path, *, workspaces: int, seconds: float) -> Idle:
    """Bring `workspaces` to Ready on one simulated node, wait until all is quiet, then watch the operator."""
    folder.mkdir(parents=True, exist_ok=True)
    with EngineProcess(folder, "--no-node", "--simulated-nodes", "2") as engine:
        log = (folder / "operator.log").open("wb")
        operator = await asyncio.create_subprocess_exec(*operator_command(engine.kubeconfig), stdout=log, stderr=log)
        try:
            async with Client(load_kubeconfig(engine.kubeconfig)) as client:
                took = await make_ready(client, workspaces)
                await asyncio.sleep(SETTLE_S)
                before, spent = await versions(client), cpu_seconds(operator.pid)
                engine_spent = cpu_seconds(engine.pid)
                await asyncio.sleep(seconds)
                engine_s, operator_s = cpu_seconds(engine.pid) - engine_spent, cpu_seconds(operator.pid) - spent
                after = await versions(client)
        finally:
            operator.terminate()
            await operator.wait()
            log.close()
    return Idle(took, 100 * operator_s / seconds, 100 * engine_s / seconds, len(before ^ after))


def cpu_seconds(pid: int) -> float:
    """What the process has used so far."""
    spent = psutil.Process(pid).cpu_times()
    return float(spent.user + spent.system)


def operator_command(kubeconfig: Path) -> list[str]:
    """The operator as `kaito up` starts it."""
    return [
        sys.executable, "-m", "kaito.operator", "--kubeconfig", str(kubeconfig), "--provisioner", "local",
        "--install-crds", "--webhook-port", "0", "--webhook-url-host", "127.0.0.1", "--default-runtime", "transformers",
    ]  # fmt: skip


async def make_ready(client: Client, count: int) -> float:
    """Create the Workspaces as soon as the kind is served; returns the seconds until all are Ready."""
    deadline = time.monotonic() + READY_WITHIN_S
    while True:
        try:
            await client.list_objects(WORKSPACES)
            await create(client, "idle-0")
            break
        except ApiError:
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(0.2)
    began = time.monotonic()
    for number in range(1, count):
        await create(client, f"idle-{number}")
    while True:
        found, _ = await client.list_objects(WORKSPACES)
        if sum(is_true(workspace, "WorkspaceReady") for workspace in found) == count:
            return time.monotonic() - began
        if time.monotonic() > deadline:
            raise TimeoutError(f"not all of {count} Workspaces became Ready")
        await asyncio.sleep(0.5)


async def create(client: Client, name: str) -> None:
    """One Workspace of the demo preset."""
    await client.create(
        WORKSPACES,
        {
            "apiVersion": WORKSPACES.api_version,
            "kind": "Workspace",
            "metadata": {"name": name, "namespace": "default"},
            "resource": {"labelSelector": {"matchLabels": {"app": name}}},
            "inference": {"preset": {"name": "kaito-demo"}},
        },
    )


async def versions(client: Client) -> set[tuple[str, str, str, str]]:
    """Every object that the operator could have written, with its resourceVersion."""
    found = set()
    for resource in WATCHED:
        items, _ = await client.list_objects(resource)
        for item in items:
            meta = item["metadata"]
            found.add((resource.plural, meta.get("namespace", ""), meta["name"], meta["resourceVersion"]))
    return found
