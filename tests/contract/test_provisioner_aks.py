# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""The AKS backend through Azure's own SDK, against a server that speaks the documented agent pool operations."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from azure.core.credentials import AccessToken

from kaito.api import nodeclaims as names
from kaito.provisioner import errors
from kaito.provisioner.backends.aks import AksBackend
from kaito.provisioner.backends.calls import AKS, AKS_OPERATION
from kaito.provisioner.instances import Instance
from kaito.provisioner.settings import Settings
from tests.contract.cloud_server import Answer, CloudServer
from tests.unit.provisioner.orders import order

BASE = "/subscriptions/sub/resourceGroups/group/providers/Microsoft.ContainerService/managedClusters/cluster/agentPools"
OPERATION = "/subscriptions/sub/providers/Microsoft.ContainerService/locations/eastus/operations"
SETTINGS = Settings(cloud="aks", cluster="cluster", subscription="sub", resource_group="group", zones=("1", "2"))


class Token:
    """An identity that has a token at hand."""

    def get_token(self, *scopes: str, **options: Any) -> AccessToken:
        return AccessToken("token", int(time.time()) + 3600)


class Aks:
    """The pools of one cluster, as the REST reference of agent pools describes them."""

    def __init__(self, folder: Path) -> None:
        self.pools: dict[str, dict[str, Any]] = {}
        self.operations: dict[str, dict[str, Any]] = {}
        self.server = CloudServer(
            [
                ("GET", f"{BASE}", "agentPools/list", self.list),
                ("GET", f"{BASE}/([^/]+)", "agentPools/read", self.get),
                ("PUT", f"{BASE}/([^/]+)", "agentPools/write", self.put),
                ("DELETE", f"{BASE}/([^/]+)", "agentPools/delete", self.delete),
                ("GET", f"{OPERATION}/([^/]+)", "operations/read", self.operation),
            ],
            tls=folder,
        )

    def list(self, match: re.Match[str], body: Any, headers: dict[str, str]) -> Answer:
        return Answer(200, {"value": list(self.pools.values())})

    def get(self, match: re.Match[str], body: Any, headers: dict[str, str]) -> Answer:
        found = self.pools.get(match[1])
        return Answer(200, found) if found else missing(match[1])

    def put(self, match: re.Match[str], body: Any, headers: dict[str, str]) -> Answer:
        name = match[1]
        if headers.get("if-none-match") == "*" and name in self.pools:
            return Answer(412, {"error": {"code": "PreconditionFailed", "message": "the etag does not match"}})
        self.pools[name] = {
            "id": f"{BASE}/{name}",
            "name": name,
            "properties": {**body["properties"], "provisioningState": "Creating", "nodeImageVersion": "img-1"},
        }
        self.operations[name] = {"name": name, "status": "InProgress"}
        where = f"{self.server.url}{OPERATION}/{name}?api-version=1"
        return Answer(201, self.pools[name], {"Azure-AsyncOperation": where, "Retry-After": "1"})

    def delete(self, match: re.Match[str], body: Any, headers: dict[str, str]) -> Answer:
        if match[1] not in self.pools:
            return missing(match[1])
        self.pools[match[1]]["properties"]["provisioningState"] = "Deleting"
        return Answer(202, None, {"Location": f"{self.server.url}{OPERATION}/{match[1]}"})

    def operation(self, match: re.Match[str], body: Any, headers: dict[str, str]) -> Answer:
        return Answer(200, self.operations[match[1]])

    def fails(self, name: str, code: str, message: str) -> None:
        """The pool cannot be made, which only its operation tells."""
        self.pools[name]["properties"]["provisioningState"] = "Failed"
        self.operations[name] = {"name": name, "status": "Failed", "error": {"code": code, "message": message}}


def missing(name: str) -> Answer:
    return Answer(404, {"error": {"code": "NotFound", "message": f"Agent pool {name} is not found"}})


def refusal(status: int, code: str, message: str, **headers: str) -> Answer:
    return Answer(
        status, {"error": {"code": code, "message": message}}, {k.replace("_", "-"): v for k, v in headers.items()}
    )


@pytest.fixture
def aks(tmp_path: Path) -> Iterator[Aks]:
    made = Aks(tmp_path)
    with made.server:
        yield made


@pytest.fixture
def backend(aks: Aks) -> AksBackend:
    settings = Settings(**{**{f: getattr(SETTINGS, f) for f in SETTINGS.__slots__}, "endpoint": aks.server.url})
    return AksBackend(settings, Token(), connection_verify=aks.server.ca_file)


async def test_a_pool_of_one_spot_machine_comes_and_goes(aks: Aks, backend: AksBackend) -> None:
    wanted = order("ws0", "Standard_NC24ads_A100_v4", zone="2", capacity_type="spot", disk_gib=300)
    made = await backend.create(wanted)
    assert (made.id, made.state, made.claim_uid) == ("ws0", "pending", "uid-ws0")
    properties = aks.pools["ws0"]["properties"]
    assert properties["vmSize"] == "Standard_NC24ads_A100_v4"
    assert (properties["count"], properties["availabilityZones"], properties["osDiskSizeGB"]) == (1, ["2"], 300)
    assert (properties["scaleSetPriority"], properties["scaleSetEvictionPolicy"]) == ("Spot", "Delete")
    assert properties["nodeTaints"] == ["sku=gpu:NoSchedule"]
    assert properties["nodeLabels"] == {
        names.CLAIM_LABEL: "ws0", names.CLAIM_UID_LABEL: "uid-ws0", "kaito.sh/workspace": "demo",
    }  # fmt: skip
    properties["provisioningState"] = "Succeeded"
    (listed,) = await backend.list()
    assert (listed.state, listed.zone, listed.capacity_type) == ("running", "2", "spot")
    assert await backend.get(listed) == listed
    await backend.delete(listed)
    assert [one.state for one in await backend.list()] == ["stopping"]
    del aks.pools["ws0"]
    with pytest.raises(errors.NotFound):
        await backend.delete(listed)
    with pytest.raises(errors.NotFound):
        await backend.get(listed)


async def test_a_lost_answer_and_a_second_try_make_one_pool(aks: Aks, backend: AksBackend) -> None:
    aks.server.failures["agentPools/write"] = [Answer(hangs_up=True)]
    with pytest.raises(errors.Unclear):
        await backend.create(order("ws0", "Standard_NC24ads_A100_v4"))
    again = await backend.create(order("ws0", "Standard_NC24ads_A100_v4"))
    assert (again.id, again.state, len(aks.pools)) == ("ws0", "pending", 1)


async def test_the_pool_of_somebody_else_is_left_alone(aks: Aks, backend: AksBackend) -> None:
    aks.pools["ws0"] = {"id": f"{BASE}/ws0", "name": "ws0", "properties": {"vmSize": "x", "nodeLabels": {"team": "a"}}}
    with pytest.raises(errors.NameTaken, match="ws0"):
        await backend.create(order("ws0", "Standard_NC24ads_A100_v4"))
    assert aks.pools["ws0"]["properties"]["vmSize"] == "x"
    assert await backend.list() == []


async def test_a_pool_that_the_gpu_provisioner_made_is_seen(aks: Aks, backend: AksBackend) -> None:
    labels = {"kaito.sh/workspace": "demo", "karpenter.sh/nodepool": "kaito"}
    properties = {"vmSize": "x", "nodeLabels": labels, "provisioningState": "Succeeded"}
    aks.pools["ws0"] = {"id": f"{BASE}/ws0", "name": "ws0", "properties": properties}
    (found,) = await backend.list()
    assert (found.claim, found.claim_uid, found.state) == ("ws0", "", "running")


@pytest.mark.parametrize(
    ("code", "text", "fault"),
    [
        ("AllocationFailed", "Allocation failed. We do not have sufficient capacity", "capacity"),
        ("ErrCode_InsufficientVCPUQuota", "Insufficient regional vcpu quota left for NCADSA100v4", "quota"),
        ("ReconcileVMSSAgentPoolFailed", "the image is broken", "rejected"),
    ],
)
async def test_why_a_pool_failed_is_told_by_its_operation(
    aks: Aks, backend: AksBackend, code: str, text: str, fault: str
) -> None:
    await backend.create(order("ws0", "Standard_NC24ads_A100_v4"))
    aks.fails("ws0", code, text)
    (found,) = await backend.list()
    assert (found.state, found.fault) == ("failed", fault)
    assert text in found.note


async def test_after_a_restart_the_pool_itself_tells_why_it_failed(aks: Aks, backend: AksBackend) -> None:
    error = {"code": "SkuNotAvailable", "message": "The requested size is not available in zone 1"}
    labels = {names.CLAIM_LABEL: "ws0", names.CLAIM_UID_LABEL: "u"}
    properties = {"nodeLabels": labels, "provisioningState": "Failed", "status": {"provisioningError": error}}
    aks.pools["ws0"] = {"id": f"{BASE}/ws0", "name": "ws0", "properties": properties}
    (found,) = await backend.list()
    assert (found.fault, found.note) == ("capacity", f"{error['code']}: {error['message']}")


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (refusal(429, "TooManyRequests", "slow down", Retry_After="17"), errors.Throttled),
        (
            refusal(409, "OperationNotAllowed", "Operation is not allowed: another operation is in progress"),
            errors.Throttled,
        ),
        (refusal(403, "AuthorizationFailed", "The client does not have authorization"), errors.Unauthorised),
        (
            refusal(400, "QuotaExceeded", "Operation could not be completed: exceeding approved quota"),
            errors.QuotaExceeded,
        ),
        (refusal(400, "SkuNotAvailable", "The size is not available in location eastus"), errors.OutOfCapacity),
        (refusal(400, "InvalidParameter", "The value of parameter vmSize is invalid"), errors.Rejected),
        (refusal(503, "ServiceUnavailable", "try again"), errors.Unclear),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else str(value.status),
)
async def test_what_azure_refuses_is_told_in_its_own_words(
    aks: Aks, backend: AksBackend, answer: Answer, kind: type[errors.CloudError]
) -> None:
    aks.server.failures["agentPools/write"] = [answer]
    with pytest.raises(kind) as told:
        await backend.create(order("ws0", "Standard_NC24ads_A100_v4"))
    assert answer.body["error"]["message"] in str(told.value)
    if "Retry-After" in answer.headers:
        assert isinstance(told.value, errors.Throttled)
        assert told.value.retry_after_s == 17


async def test_the_calls_made_are_those_of_the_table(aks: Aks, backend: AksBackend) -> None:
    recorded: dict[str, set[str]] = {}

    async def record(method: str, call: Any) -> Any:
        before = len(aks.server.calls)
        result = await call
        recorded.setdefault(method, set()).update(aks.server.calls[before:])
        return result

    made: Instance = await record("create", backend.create(order("ws0", "Standard_NC24ads_A100_v4")))
    await record("create", backend.create(order("ws0", "Standard_NC24ads_A100_v4")))
    aks.fails("ws0", "AllocationFailed", "none")
    await record("list", backend.list())
    await record("get", backend.get(made))
    await record("delete", backend.delete(made))
    await record("instance_types", backend.instance_types())
    rights = {method: {right_of(call) for call in calls} for method, calls in recorded.items()}
    rights["get"].discard(AKS_OPERATION)
    assert rights == {method: set(needed) for method, needed in AKS.items()}


def right_of(call: str) -> str:
    kind, _, verb = call.partition("/")
    if kind == "operations":
        return AKS_OPERATION
    return f"Microsoft.ContainerService/managedClusters/agentPools/{verb.replace('list', 'read')}"
