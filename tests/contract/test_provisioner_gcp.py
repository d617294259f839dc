# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""The GKE backend through Google's own SDK, against a server that speaks the documented node pool operations (REST)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from google.auth.credentials import AnonymousCredentials

from kaito.api import nodeclaims as names
from kaito.provisioner import errors
from kaito.provisioner.backends.calls import GCP
from kaito.provisioner.backends.gcp import GcpBackend
from kaito.provisioner.settings import Settings
from tests.contract.cloud_server import Answer, CloudServer
from tests.unit.provisioner.orders import order

WHERE = "/v1/projects/p/locations/us-central1"
BASE = f"{WHERE}/clusters/c/nodePools"
SETTINGS = Settings(cloud="gcp", cluster="c", region="us-central1", project="p", zones=("us-central1-a",))


class Gke:
    """The node pools of one cluster, as the REST reference of projects.locations.clusters.nodePools describes them."""

    def __init__(self) -> None:
        self.pools: dict[str, dict[str, Any]] = {}
        self.operations: dict[str, dict[str, Any]] = {}
        self.server = CloudServer(
            [
                ("GET", BASE, "nodePools.list", self.list),
                ("GET", f"{BASE}/([^/]+)", "nodePools.get", self.get),
                ("POST", BASE, "nodePools.create", self.create),
                ("DELETE", f"{BASE}/([^/]+)", "nodePools.delete", self.delete),
                ("GET", f"{WHERE}/operations/([^/]+)", "operations.get", self.operation),
            ]
        )

    def list(self, match: re.Match[str], body: Any, headers: dict[str, str]) -> Answer:
        return Answer(200, {"nodePools": list(self.pools.values())})

    def get(self, match: re.Match[str], body: Any, headers: dict[str, str]) -> Answer:
        found = self.pools.get(match[1])
        return Answer(200, found) if found else refusal(404, "NOT_FOUND", f"Not found: node pool {match[1]}")

    def create(self, match: re.Match[str], body: Any, headers: dict[str, str]) -> Answer:
        pool = body["nodePool"]
        if pool["name"] in self.pools:
            return refusal(409, "ALREADY_EXISTS", f"Already exists: node pool {pool['name']}")
        self.pools[pool["name"]] = {**pool, "status": "PROVISIONING", "version": "1.36"}
        self.operations["op-1"] = {"name": "op-1", "status": "RUNNING", "operationType": "CREATE_NODE_POOL"}
        return Answer(200, self.operations["op-1"])

    def delete(self, match: re.Match[str], body: Any, headers: dict[str, str]) -> Answer:
        if match[1] not in self.pools:
            return refusal(404, "NOT_FOUND", f"Not found: node pool {match[1]}")
        self.pools[match[1]]["status"] = "STOPPING"
        return Answer(200, {"name": "op-2", "status": "RUNNING"})

    def operation(self, match: re.Match[str], body: Any, headers: dict[str, str]) -> Answer:
        return Answer(200, self.operations[match[1]])


def refusal(code: int, status: str, message: str, **headers: str) -> Answer:
    body = {"error": {"code": code, "status": status, "message": message}}
    return Answer(code, body, {name.replace("_", "-"): value for name, value in headers.items()})


@pytest.fixture
def gke() -> Iterator[Gke]:
    made = Gke()
    with made.server:
        yield made


@pytest.fixture
def backend(gke: Gke) -> GcpBackend:
    return GcpBackend(replace(SETTINGS, endpoint=gke.server.url), AnonymousCredentials())


async def test_a_pool_of_one_machine_with_its_gpus_comes_and_goes(gke: Gke, backend: GcpBackend) -> None:
    wanted = order("ws0", "a2-highgpu-2g", zone="us-central1-a", capacity_type="spot", disk_gib=300, gpus=2)
    made = await backend.create(wanted)
    assert (made.id, made.state) == ("ws0", "pending")
    pool = gke.pools["ws0"]
    config = pool["config"]
    assert (pool["initialNodeCount"], pool["locations"]) == (1, ["us-central1-a"])
    assert (config["machineType"], config["diskSizeGb"], config["spot"]) == ("a2-highgpu-2g", 300, True)
    (accelerator,) = config["accelerators"]
    assert (accelerator["acceleratorType"], int(accelerator["acceleratorCount"])) == ("nvidia-tesla-a100", 2)
    assert {taint["key"] for taint in config["taints"]} == {"sku", names.UNREGISTERED_TAINT}
    assert config["labels"] == {
        names.CLAIM_LABEL: "ws0", names.CLAIM_UID_LABEL: "uid-ws0", "kaito.sh/workspace": "demo",
    }  # fmt: skip
    pool["status"] = "RUNNING"
    (listed,) = await backend.list()
    assert (listed.state, listed.zone, listed.capacity_type) == ("running", "us-central1-a", "spot")
    assert await backend.get(listed) == listed
    await backend.delete(listed)
    assert [one.state for one in await backend.list()] == ["stopping"]
    del gke.pools["ws0"]
    for call in (backend.delete(listed), backend.get(listed)):
        with pytest.raises(errors.NotFound):
            await call


async def test_a_lost_answer_and_a_second_try_make_one_pool(gke: Gke, backend: GcpBackend) -> None:
    gke.server.failures["nodePools.create"] = [Answer(hangs_up=True)]
    with pytest.raises(errors.Unclear):
        await backend.create(order("ws0", "g2-standard-4"))
    assert (await backend.create(order("ws0", "g2-standard-4"))).id == "ws0"
    assert len(gke.pools) == 1


async def test_the_pool_of_somebody_else_is_left_alone(gke: Gke, backend: GcpBackend) -> None:
    gke.pools["ws0"] = {"name": "ws0", "config": {"labels": {"team": "a"}}, "status": "RUNNING"}
    with pytest.raises(errors.NameTaken, match="ws0"):
        await backend.create(order("ws0", "g2-standard-4"))
    assert await backend.list() == []


async def test_why_a_pool_failed_is_told_by_the_pool_or_its_operation(gke: Gke, backend: GcpBackend) -> None:
    await backend.create(order("ws0", "g2-standard-4"))
    gke.pools["ws0"]["status"] = "ERROR"
    text = "Google Compute Engine: The zone does not have enough resources available"
    gke.operations["op-1"] = {"name": "op-1", "status": "DONE", "error": {"code": 8, "message": text}}
    (found,) = await backend.list()
    assert (found.state, found.fault, found.note) == ("failed", "capacity", text)
    gke.pools["ws0"]["conditions"] = [{"code": "GCE_QUOTA_EXCEEDED", "message": "Quota 'NVIDIA_L4_GPUS' exceeded"}]
    (found,) = await backend.list()
    assert (found.fault, found.note) == ("quota", "GCE_QUOTA_EXCEEDED: Quota 'NVIDIA_L4_GPUS' exceeded")


BUSY = "Cluster is running incompatible operation operation-1"
RATE = "Quota exceeded for quota metric 'Mutate requests' and limit 'Mutate requests per minute'"


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (refusal(429, "RESOURCE_EXHAUSTED", RATE, Retry_After="17"), errors.Throttled),
        (refusal(400, "FAILED_PRECONDITION", BUSY), errors.Throttled),
        (refusal(403, "PERMISSION_DENIED", "Required permission container.clusters.update"), errors.Unauthorised),
        (refusal(403, "PERMISSION_DENIED", "Insufficient regional quota to satisfy request"), errors.QuotaExceeded),
        (refusal(400, "INVALID_ARGUMENT", "Machine type g9 does not exist"), errors.Rejected),
        (refusal(503, "UNAVAILABLE", "try again"), errors.Unclear),
    ],
    ids=["rate", "busy", "right", "quota", "argument", "unavailable"],
)
async def test_what_google_refuses_is_told_in_its_own_words(
    gke: Gke, backend: GcpBackend, answer: Answer, kind: type[errors.CloudError]
) -> None:
    gke.server.failures["nodePools.create"] = [answer]
    with pytest.raises(kind) as told:
        await backend.create(order("ws0", "g2-standard-4"))
    assert answer.body["error"]["message"] in str(told.value)
    if "Retry-After" in answer.headers:
        assert isinstance(told.value, errors.Throttled)
        assert told.value.retry_after_s == 17


RIGHTS = {
    "nodePools.create": "container.clusters.update",
    "nodePools.delete": "container.clusters.update",
    "nodePools.get": "container.clusters.get",
    "nodePools.list": "container.clusters.get",
    "operations.get": "container.operations.get",
}
"""The permission behind each REST method (GKE, "Permissions for REST methods")."""


async def test_the_calls_made_are_those_of_the_table(gke: Gke, backend: GcpBackend) -> None:
    recorded: dict[str, set[str]] = {}

    async def record(method: str, call: Any) -> Any:
        before = len(gke.server.calls)
        result = await call
        recorded.setdefault(method, set()).update(RIGHTS[call] for call in gke.server.calls[before:])
        return result

    made = await record("create", backend.create(order("ws0", "g2-standard-4")))
    await record("create", backend.create(order("ws0", "g2-standard-4")))
    await record("get", backend.get(made))
    gke.pools["ws0"]["status"] = "ERROR"
    await record("list", backend.list())
    await record("delete", backend.delete(made))
    await record("instance_types", backend.instance_types())
    assert recorded == {method: set(needed) for method, needed in GCP.items()}
