# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""The operator as a process beside a real engine, ordering nodes; the test plays the provisioner behind the claims."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import pytest

from kaito.api import names
from kaito.api.meta import WORKSPACES
from kaito.kube.client import Client
from kaito.kube.clock import RealClock
from kaito.kube.config import load_kubeconfig
from kaito.kube.errors import NotFound
from kaito.kube.manifest import Manifest, condition_of, is_deleting, is_true, labels_of, rfc3339
from kaito.kube.resource import CUSTOM_RESOURCE_DEFINITIONS, EVENTS, NODES, STATEFUL_SETS
from kaito.operator.provisioners.nodeclaim import NODE_CLAIMS
from tests.builders import node
from tests.engine_process import EngineProcess
from tests.scenario.test_operator_process import Operator, fresh

pytestmark = pytest.mark.slow
WITHIN_S = 60.0
FINALIZER = "karpenter.sh/termination"
OPEN = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
TERM = {"type": "object", "required": ["key", "operator"], "properties": {
    "key": {"type": "string"}, "operator": {"type": "string"}, "values": {"type": "array", "items": {"type": "string"}},
}}  # fmt: skip
SPEC = {
    "type": "object",
    "required": ["nodeClassRef", "requirements"],
    "properties": {
        "nodeClassRef": {
            "type": "object",
            "required": ["group", "kind", "name"],
            "properties": {name: {"type": "string"} for name in ("group", "kind", "name")},
        },
        "requirements": {"type": "array", "items": TERM},
        "resources": OPEN,
        "taints": {"type": "array", "items": OPEN},
    },
    "x-kubernetes-validations": [{"rule": "self == oldSelf", "message": "spec is immutable"}],
}
CRD: Manifest = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": "nodeclaims.karpenter.sh"},
    "spec": {
        "group": "karpenter.sh",
        "scope": "Cluster",
        "names": {"plural": "nodeclaims", "singular": "nodeclaim", "kind": "NodeClaim", "listKind": "NodeClaimList"},
        "versions": [
            {
                "name": "v1",
                "served": True,
                "storage": True,
                "subresources": {"status": {}},
                "schema": {"openAPIV3Schema": {"type": "object", "properties": {"spec": SPEC, "status": OPEN}}},
            }
        ],
    },
}


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineProcess]:
    with EngineProcess(tmp_path_factory.mktemp("engine")) as running:
        yield running


@pytest.fixture(scope="module")
def operator(engine: EngineProcess) -> Iterator[Operator]:
    running = Operator(engine)
    place = running.argv.index("--webhook-port")
    del running.argv[place : place + 4]
    running.argv[running.argv.index("local")] = "nodeclaim"
    running.start()
    yield running
    assert running.stop() == 0


@pytest.fixture
async def client(engine: EngineProcess, operator: Operator) -> AsyncIterator[Client]:
    async with Client(load_kubeconfig(engine.kubeconfig)) as opened:
        yield opened


async def eventually(check: Callable[[], Awaitable[object]], what: str) -> float:
    """Wait until it is so; the seconds that took."""
    began = time.monotonic()
    while time.monotonic() - began < WITHIN_S:
        with contextlib.suppress(NotFound):
            if await check():
                return time.monotonic() - began
        await asyncio.sleep(0.02)
    raise AssertionError(f"not within {WITHIN_S:g} s: {what}")


async def reason(client: Client, name: str, type_: str) -> str:
    found = condition_of(await client.get(WORKSPACES, name, "default"), type_)
    return str(found["reason"]) if found else ""


async def claims_of(client: Client, name: str) -> list[Manifest]:
    found, _ = await client.list_objects(NODE_CLAIMS, label_selector=f"{names.WORKSPACE_LABEL}={name}")
    return found


async def tell(client: Client, claim: Manifest, **status: object) -> None:
    name = claim["metadata"]["name"]
    await client.patch(NODE_CLAIMS, name, "", {"status": status}, kind="merge", subresource="status")


def stage(type_: str, status: str, text: str = "") -> Manifest:
    now = rfc3339(RealClock().now())
    return {"type": type_, "status": status, "reason": type_, "message": text, "lastTransitionTime": now}


async def provide(client: Client, claim: Manifest) -> Manifest:
    """Make the claim's node, ready and with a GPU."""
    name = f"node-{claim['metadata']['name']}"
    made = node(name, gpus=1, metadata={"labels": labels_of(claim)})
    made["metadata"] = {"name": name, "labels": made["metadata"]["labels"]}
    await client.create(NODES, made)
    await client.patch(NODES, name, "", {"status": made["status"]}, kind="merge", subresource="status")
    reached = [stage(type_, "True") for type_ in ("Launched", "Registered", "Initialized", "Ready")]
    await tell(client, claim, nodeName=name, conditions=reached)
    return made


async def test_a_workspace_from_a_cluster_without_claims_to_its_node_and_away_again(
    client: Client, operator: Operator
) -> None:
    asked = fresh("ordered", resource={"instanceType": "Standard_NC24ads_A100_v4"})
    await client.create(WORKSPACES, asked)
    missing = names.REASON_NO_NODE_PROVISIONER

    async def is_told() -> bool:
        return await reason(client, "ordered", names.NODE_CLAIM_READY) == missing

    await eventually(is_told, missing)
    assert operator.log.read_text().count("ERROR") == 0

    await client.create(CUSTOM_RESOURCE_DEFINITIONS, CRD)
    await eventually(lambda: claims_of(client, "ordered"), "the claim, once the kind is there")
    (claim,) = await claims_of(client, "ordered")
    assert "namespace" not in claim["metadata"]
    await client.patch(NODE_CLAIMS, claim["metadata"]["name"], "", {"metadata": {"finalizers": [FINALIZER]}})

    await tell(client, claim, conditions=[stage("Launched", "False", "exceeding approved quota of NCADSA100v4")])

    async def quota_is_told() -> bool:
        return await reason(client, "ordered", names.RESOURCE_READY) == names.REASON_NODE_QUOTA

    assert await eventually(quota_is_told, "the quota") < 2.0

    made = await provide(client, claim)

    async def resources_are_ready() -> bool:
        return is_true(await client.get(WORKSPACES, "ordered", "default"), names.RESOURCE_READY)

    await eventually(resources_are_ready, "the node")
    await eventually(lambda: client.get(STATEFUL_SETS, "ordered", "default"), "the workload")
    there = await client.get(NODES, made["metadata"]["name"])
    assert labels_of(there)[names.ACCELERATOR_LABEL] == "nvidia"

    operator.kill()
    operator.start()
    await asyncio.sleep(1.0)
    assert [c["metadata"]["uid"] for c in await claims_of(client, "ordered")] == [claim["metadata"]["uid"]]

    await client.delete(WORKSPACES, "ordered", "default")

    async def waits_for_the_machine() -> bool:
        workspace = await client.get(WORKSPACES, "ordered", "default")
        told = condition_of(workspace, names.WORKSPACE_DELETING)
        left = await claims_of(client, "ordered")
        return told is not None and claim["metadata"]["name"] in told["message"] and is_deleting(left[0])

    await eventually(waits_for_the_machine, "the deletion waits for the claim")
    await client.delete(NODES, made["metadata"]["name"])
    await client.patch(NODE_CLAIMS, claim["metadata"]["name"], "", {"metadata": {"finalizers": None}})

    async def is_gone() -> bool:
        found, _ = await client.list_objects(WORKSPACES, "default")
        return not found

    await eventually(is_gone, "the Workspace is gone")
    events, _ = await client.list_objects(EVENTS, "default")
    told = {event["reason"] for event in events if event["involvedObject"]["name"] == "ordered"}
    assert {names.EVENT_NODE_CLAIM_CREATED, names.EVENT_NODES_READY} <= told
    assert "Traceback" not in operator.log.read_text()
