# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Every fault of a pod on a real engine: pods with that status, events with that text, and an operator."""

from __future__ import annotations

import asyncio
import contextlib
import copy
from collections.abc import AsyncIterator, Iterator

import pytest

from kaito.api import names
from kaito.api.meta import WORKSPACES
from kaito.kube.client import Client
from kaito.kube.config import load_kubeconfig
from kaito.kube.errors import NotFound
from kaito.kube.manifest import Manifest
from kaito.kube.resource import EVENTS, NODES, PODS, STATEFUL_SETS
from kaito.operator.app import run
from kaito.operator.settings import Settings
from tests.builders import node, workspace
from tests.engine_process import EngineProcess
from tests.scenario.faults import POD_FAULTS, PodFault

pytestmark = pytest.mark.slow
WITHIN_S = 60.0
ON_ENGINE = [fault for fault in POD_FAULTS if fault.status and fault.status.get("phase") != "Failed"]
"""The engine's own controllers remove pods that have failed, and make those that are missing."""
SETTINGS = Settings(provisioner="byo", install_crds=True, namespace="default")
"""The operator's Lease is in a namespace that an engine alone has."""


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineProcess]:
    with EngineProcess(tmp_path_factory.mktemp("engine"), "--no-node") as running:
        yield running


@pytest.fixture
async def client(engine: EngineProcess) -> AsyncIterator[Client]:
    config = load_kubeconfig(engine.kubeconfig)
    operator = asyncio.create_task(run(SETTINGS, config))
    async with Client(config) as opened:
        yield opened
    operator.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await operator


def asked(index: int) -> Manifest:
    """A Workspace as a user writes it, with a pod that waits for volumes."""
    manifest = workspace(f"w{index}")
    manifest["metadata"] = {"name": f"w{index}", "namespace": "default"}
    return manifest


async def when_there(client: Client, name: str) -> Manifest:
    """The pod, as soon as it has its node."""
    async with asyncio.timeout(WITHIN_S):
        while True:
            with contextlib.suppress(NotFound):
                found = await client.get(PODS, name, "default")
                if found["spec"].get("nodeName"):
                    return found
            await asyncio.sleep(0.02)


async def inject(client: Client, index: int, fault: PodFault) -> None:
    name = f"w{index}-0"
    pod = await when_there(client, name)
    stateful_set = await client.get(STATEFUL_SETS, f"w{index}", "default")
    for kind, reason, message in fault.events:
        subject = {"Pod": pod, "StatefulSet": stateful_set}[kind]
        about = {"kind": kind, "namespace": "default", **{k: subject["metadata"][k] for k in ("name", "uid")}}
        made = {"apiVersion": "v1", "kind": "Event", "metadata": {"name": f"{name}.{reason.lower()}"},
                "involvedObject": about, "type": "Warning", "reason": reason, "message": message}  # fmt: skip
        await client.create(EVENTS, made, namespace="default")
    status = copy.deepcopy(fault.status)
    for container in status.get("containerStatuses") or []:
        container["name"] = f"w{index}"
    await client.patch(PODS, name, "default", {"status": status}, kind="merge", subresource="status")


async def reasons_of_events(client: Client, told: set[str]) -> set[str]:
    """The reasons in the Workspaces' Events, waited for: an Event is written after the status that it is about."""
    deadline = asyncio.get_running_loop().time() + WITHIN_S
    while True:
        items, _ = await client.list_objects(EVENTS, "default", field_selector="involvedObject.kind=Workspace")
        seen = {item["reason"] for item in items}
        if told <= seen or asyncio.get_running_loop().time() > deadline:
            return seen
        await asyncio.sleep(0.02)


async def test_each_fault_is_told_with_its_own_reason(client: Client) -> None:
    faults = [fault for fault in ON_ENGINE if "PersistentVolumeClaim" not in {kind for kind, _, _ in fault.events}]
    assert len(faults) >= 40
    made = node("mine", metadata={"labels": {"apps": "demo"}}, status={"allocatable": {"pods": "200"}})
    async with asyncio.timeout(WITHIN_S):
        while True:
            with contextlib.suppress(NotFound):
                await client.list_objects(WORKSPACES)
                break
            await asyncio.sleep(0.02)
    status = made.pop("status")
    made["metadata"] = {"name": "mine", "labels": made["metadata"]["labels"]}
    await client.create(NODES, made)
    await client.patch(NODES, "mine", "", {"status": status}, kind="merge", subresource="status")
    for index in range(len(faults)):
        await client.create(WORKSPACES, asked(index))
    waiting = {f"w{index}": fault.reason for index, fault in enumerate(faults)}
    wrong: dict[str, object] = {}

    async def watched() -> None:
        _, version = await client.list_objects(WORKSPACES)
        async for event in client.watch(WORKSPACES, resource_version=version):
            name = event.object["metadata"]["name"]
            failure = (event.object.get("status") or {}).get("failure") or {}
            wrong[name] = failure
            if failure.get("reason") == waiting.get(name) and failure.get("nextStep"):
                del waiting[name], wrong[name]
            if not waiting:
                return

    looking = asyncio.create_task(watched())
    for index, fault in enumerate(faults):
        await inject(client, index, fault)
    try:
        await asyncio.wait_for(looking, WITHIN_S)
    except TimeoutError:
        raise AssertionError({name: (reason, wrong.get(name)) for name, reason in waiting.items()}) from None
    told = {fault.reason for fault in faults} | {names.REASON_NO_GPU_FREE}
    assert told <= await reasons_of_events(client, told)
