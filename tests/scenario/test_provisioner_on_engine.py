# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""The whole way on a real engine: a Workspace, its NodeClaim, the machine, the node with its GPUs, the pod, and away
again; with the provisioner as a process, and once more with a fault at every call to the cloud.
"""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest

from kaito.api import names as workspaces
from kaito.api import nodeclaims as names
from kaito.api.kinds import WORKSPACES
from kaito.kube.client import Client
from kaito.kube.config import load_kubeconfig
from kaito.kube.errors import AlreadyExists, Invalid, NotFound
from kaito.kube.manifest import Manifest, condition_of, is_true
from kaito.kube.resource import (
    CONFIG_MAPS,
    CUSTOM_RESOURCE_DEFINITIONS,
    EVENTS,
    NODES,
    POD_DISRUPTION_BUDGETS,
    PODS,
)
from kaito.provisioner import errors
from kaito.provisioner.app import run
from kaito.provisioner.backends.engine import NAMESPACE, EngineBackend
from kaito.provisioner.instances import Instance, Order
from kaito.provisioner.offers import Offer
from kaito.provisioner.settings import Settings
from tests.engine_process import EngineProcess
from tests.scenario.test_operator_process import Operator, fresh
from tests.unit.provisioner.simulation import claim_of

pytestmark = pytest.mark.slow
WITHIN_S = 40.0
TYPE = "Standard_NC24ads_A100_v4"


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineProcess]:
    with EngineProcess(tmp_path_factory.mktemp("engine"), "--no-node", "--simulated-machines") as running:
        yield running


@pytest.fixture
async def client(engine: EngineProcess) -> AsyncIterator[Client]:
    async with Client(load_kubeconfig(engine.kubeconfig)) as opened:
        yield opened


@pytest.fixture
def provisioner(engine: EngineProcess) -> Iterator[subprocess.Popen[bytes]]:
    argv = [
        sys.executable, "-m", "kaito.provisioner", "--cloud", "engine", "--kubeconfig", str(engine.kubeconfig),
        "--install-crds", "--settle", "1", "--boot", "0.5",
    ]  # fmt: skip
    with (engine.folder / "provisioner.log").open("ab") as log:
        process = subprocess.Popen(argv, stdout=log, stderr=log)
    yield process
    process.terminate()
    assert process.wait(20) == 0
    assert "Traceback" not in (engine.folder / "provisioner.log").read_text()


@pytest.fixture
def operator(engine: EngineProcess) -> Iterator[Operator]:
    running = Operator(engine)
    place = running.argv.index("--webhook-port")
    del running.argv[place : place + 4]
    running.argv[running.argv.index("local")] = "nodeclaim"
    running.start()
    yield running
    assert running.stop() == 0


@contextlib.asynccontextmanager
async def running(
    engine: EngineProcess, settings: Settings, backend: EngineBackend | None = None
) -> AsyncIterator[asyncio.Task[None]]:
    """A provisioner in this process."""
    work = asyncio.create_task(run(settings, load_kubeconfig(engine.kubeconfig), backend=backend))
    yield work
    work.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await work


async def eventually(check: Callable[[], Awaitable[Any]], what: str) -> Any:
    """What the check returns once that is something."""
    deadline = asyncio.get_running_loop().time() + WITHIN_S
    while asyncio.get_running_loop().time() < deadline:
        with contextlib.suppress(NotFound):
            found = await check()
            if found:
                return found
        await asyncio.sleep(0.05)
    raise AssertionError(f"not within {WITHIN_S:g} s: {what}")


async def listed(client: Client, kind: Any, namespace: str = "") -> list[Manifest]:
    found, _ = await client.list_objects(kind, namespace)
    return found


async def test_a_workspace_gets_a_node_and_gives_it_back(
    client: Client, operator: Operator, provisioner: subprocess.Popen[bytes]
) -> None:
    asked = fresh("whole", resource={"instanceType": TYPE})
    await client.create(WORKSPACES, asked)

    async def is_ready() -> bool:
        return is_true(await client.get(WORKSPACES, "whole", "default"), workspaces.WORKSPACE_READY)

    await eventually(is_ready, "the Workspace is ready")
    (claim,) = await listed(client, names.NODE_CLAIMS)
    assert is_true(claim, names.READY)
    node = await client.get(NODES, claim["status"]["nodeName"])
    assert node["status"]["capacity"]["nvidia.com/gpu"] == "1"
    assert node["spec"]["providerID"] == claim["status"]["providerID"]
    assert [taint["key"] for taint in node["spec"]["taints"]] == ["sku"]
    assert node["metadata"]["labels"][workspaces.WORKSPACE_LABEL] == "whole"
    pod = await client.get(PODS, "whole-0", "default")
    assert (pod["spec"]["nodeName"], pod["status"]["phase"]) == (node["metadata"]["name"], "Running")
    await client.delete(WORKSPACES, "whole", "default")

    async def is_clean() -> bool:
        kinds = (WORKSPACES, names.NODE_CLAIMS, NODES)
        left = [one for kind in kinds for one in await listed(client, kind)]
        return not left and not await machines(client)

    await eventually(is_clean, "everything is given back")
    budget = await client.get(names.NODE_BUDGETS, "default")
    assert (budget["status"]["nodes"], budget["status"].get("reservations") or {}) == (0, {})


async def machines(client: Client) -> list[Manifest]:
    found, _ = await client.list_objects(CONFIG_MAPS, NAMESPACE, label_selector="engine.kaito.sh/machine")
    return found


async def test_pods_leave_as_their_disruption_budget_allows(
    client: Client, provisioner: subprocess.Popen[bytes]
) -> None:
    await eventually(lambda: ordered(client, "drained"), "the kind is there")
    await eventually(lambda: stands(client, "drained", names.READY), "the node")
    node = (await client.get(names.NODE_CLAIMS, "drained"))["status"]["nodeName"]
    meta = {"name": "held", "namespace": "default", "labels": {"app": "held"}}
    spec = {"nodeName": node, "containers": [{"name": "c", "image": "i"}], "terminationGracePeriodSeconds": 0}
    await client.create(PODS, {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": spec})
    guard = {"minAvailable": 1, "selector": {"matchLabels": {"app": "held"}}}
    budget = {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": {"name": "guard", "namespace": "default"},
    }
    await client.create(POD_DISRUPTION_BUDGETS, {**budget, "spec": guard})
    await client.delete(names.NODE_CLAIMS, "drained")

    async def waits() -> bool:
        told = condition_of(await client.get(names.NODE_CLAIMS, "drained"), names.DRAINED) or {}
        return "PodDisruptionBudget guard" in told.get("message", "")

    await eventually(waits, "the claim says what holds it up")
    taints = (await client.get(NODES, node))["spec"]["taints"]
    assert names.DISRUPTED_TAINT in {taint["key"] for taint in taints}
    assert not (await client.get(PODS, "held", "default"))["metadata"].get("deletionTimestamp")
    await client.delete(POD_DISRUPTION_BUDGETS, "guard", "default")
    await eventually(lambda: gone(client, "drained"), "the claim goes")
    assert await listed(client, PODS, "default") == []


async def ordered(client: Client, name: str, types: Sequence[str] = (TYPE,)) -> bool:
    """Make a claim, once the kind is there."""
    with contextlib.suppress(AlreadyExists):
        await client.create(names.NODE_CLAIMS, claim_of(name, types))
    return True


async def stands(client: Client, name: str, type_: str) -> bool:
    return is_true(await client.get(names.NODE_CLAIMS, name), type_)


async def gone(client: Client, name: str) -> bool:
    return all(claim["metadata"]["name"] != name for claim in await listed(client, names.NODE_CLAIMS))


async def test_a_machine_that_dies_takes_its_claim_along(client: Client, provisioner: subprocess.Popen[bytes]) -> None:
    await eventually(lambda: ordered(client, "dies"), "the kind is there")
    await eventually(lambda: stands(client, "dies", names.READY), "the node")
    (machine,) = await machines(client)
    await client.delete(CONFIG_MAPS, machine["metadata"]["name"], NAMESPACE)
    await eventually(lambda: gone(client, "dies"), "the claim goes")
    assert await listed(client, NODES) == []


async def test_a_claim_that_cannot_be_filled_says_why_and_is_left_alone(
    client: Client, provisioner: subprocess.Popen[bytes]
) -> None:
    await eventually(lambda: ordered(client, "odd", ["Standard_Nothing"]), "the kind is there")

    async def why() -> str:
        return (condition_of(await client.get(names.NODE_CLAIMS, "odd"), names.LAUNCHED) or {}).get("reason", "")

    async def is_told() -> bool:
        return await why() == names.REASON_NO_TYPE

    await eventually(is_told, "the reason")
    before = (await client.get(names.NODE_CLAIMS, "odd"))["metadata"]["resourceVersion"]
    await asyncio.sleep(1.0)
    assert (await client.get(names.NODE_CLAIMS, "odd"))["metadata"]["resourceVersion"] == before
    with pytest.raises(Invalid, match="spec is immutable"):
        await client.patch(names.NODE_CLAIMS, "odd", "", {"spec": {"expireAfter": "1h"}})
    await client.delete(names.NODE_CLAIMS, "odd")
    await eventually(lambda: gone(client, "odd"), "the claim goes")


async def test_a_dry_run_says_what_it_would_do_and_does_nothing(client: Client, engine: EngineProcess) -> None:
    async with running(engine, replace(Settings(), install_crds=True, settle_s=0.5, dry_run=True)):
        await eventually(lambda: ordered(client, "dry"), "the kind is there")

        async def said() -> str:
            found = await listed(client, EVENTS, "default")
            return next((one["message"] for one in found if one["involvedObject"]["name"] == "dry"), "")

        text = await eventually(said, "an event")
        assert text.startswith(f"Dry run: would make a {TYPE}")
        assert await machines(client) == []
        assert not (await client.get(names.NODE_CLAIMS, "dry")).get("status")
        await client.delete(names.NODE_CLAIMS, "dry")


MACHINE_KIND = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": "machines.karpenter.sh"},
    "spec": {
        "group": "karpenter.sh",
        "scope": "Cluster",
        "names": {"kind": "Machine", "plural": "machines"},
        "versions": [
            {
                "name": "v1alpha5",
                "served": True,
                "storage": True,
                "subresources": {"status": {}},
                "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}},
            }
        ],
    },
}


async def test_a_machine_of_older_clusters_gets_its_node_too(
    client: Client, provisioner: subprocess.Popen[bytes]
) -> None:
    await client.create(CUSTOM_RESOURCE_DEFINITIONS, MACHINE_KIND)
    wanted = claim_of("older", [TYPE])
    old = {"requirements": wanted["spec"]["requirements"], "machineTemplateRef": {"name": "older"}}
    machine = {**wanted, "apiVersion": "karpenter.sh/v1alpha5", "kind": "Machine", "spec": old}

    async def is_made() -> bool:
        await client.create(names.MACHINES, machine)
        return True

    await eventually(is_made, "the kind is served")

    async def has_come() -> Manifest | None:
        found = await client.get(names.MACHINES, "older")
        return found if is_true(found, "Ready") else None

    found = await eventually(has_come, "the node")
    node = await client.get(NODES, found["status"]["nodeName"])
    assert node["status"]["capacity"]["nvidia.com/gpu"] == "1"
    await client.delete(names.MACHINES, "older")

    async def is_gone() -> bool:
        return not await listed(client, names.MACHINES) and not await listed(client, NODES)

    await eventually(is_gone, "everything is given back")
    await client.delete(CUSTOM_RESOURCE_DEFINITIONS, "machines.karpenter.sh")


class FaultyBackend(EngineBackend):
    """The engine as a cloud in which every call fails in every way before it succeeds, at last after it was done."""

    busy_s = 0.1
    idle_s = 0.3

    def __init__(self, client: Client) -> None:
        super().__init__(client, boot_s=0.2)
        self.left = {name: self._faults() for name in ("create", "list", "delete", "instance_types")}
        self.calls: dict[str, int] = {}

    @staticmethod
    def _faults() -> list[errors.CloudError | None]:
        refused: list[errors.CloudError | None] = [
            errors.Throttled("slow down", 0.1),
            errors.Unclear("no answer"),
            errors.QuotaExceeded("no quota"),
            errors.OutOfCapacity("none free"),
            errors.Unauthorised("no right"),
        ]
        return [*refused, None]

    async def _trouble(self, name: str, call: Awaitable[Any]) -> Any:
        self.calls[name] = self.calls.get(name, 0) + 1
        if not self.left[name]:
            return await call
        fault = self.left[name].pop(0)
        if fault is not None:
            assert asyncio.iscoroutine(call)
            call.close()
            raise fault
        await call
        raise errors.Unclear("it was done, and the answer is lost")

    async def create(self, order: Order) -> Instance:
        return await self._trouble("create", super().create(order))

    async def list(self) -> Sequence[Instance]:
        return await self._trouble("list", super().list())

    async def delete(self, instance: Instance) -> None:
        await self._trouble("delete", super().delete(instance))

    async def instance_types(self) -> Sequence[Offer]:
        return await self._trouble("instance_types", super().instance_types())


async def test_with_a_fault_at_every_call_there_is_one_machine_and_in_the_end_none(
    client: Client, engine: EngineProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module, name, value in (
        ("fleet", "PAUSES_S", (0.1,)), ("fleet", "UNCLEAR_S", 0.1), ("fleet", "STOCKOUT_S", 0.5),
        ("cloud", "RETRY_S", (0.1,)), ("ending", "RETRY_DELETE_S", 0.3),
    ):  # fmt: skip
        monkeypatch.setattr(f"kaito.provisioner.{module}.{name}", value)
    monkeypatch.setattr("kaito.provisioner.fleet._pause_s", lambda error, refusals: 0.1)
    backend = FaultyBackend(client)
    settings = replace(Settings(), install_crds=True, settle_s=0.5, workers=4)
    async with running(engine, settings, backend) as work:
        await eventually(lambda: ordered(client, "faulty"), "the kind is there")
        most = 0

        async def is_ready() -> bool:
            nonlocal most
            assert not work.done()
            most = max(most, len(await machines(client)))
            return await stands(client, "faulty", names.READY)

        await eventually(is_ready, "ready in spite of all")
        assert most == 1
        await client.delete(names.NODE_CLAIMS, "faulty")
        await eventually(lambda: gone(client, "faulty"), "the claim goes")
        assert await machines(client) == []
        assert await listed(client, NODES) == []
        assert {name for name, left in backend.left.items() if left} == set()
