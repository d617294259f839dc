# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Workspaces whose nodes come from a NodePool each, in a world of dicts with a Karpenter and a cloud."""

from __future__ import annotations

import pytest

from kaito.api import names
from kaito.api.meta import WORKSPACES
from kaito.kube.manifest import Key, Manifest, condition_of
from kaito.kube.resource import NODES
from kaito.operator.facts import catalogue_lookup
from kaito.operator.provisioners.nodeclaim import NODE_CLAIMS
from kaito.operator.provisioners.nodepool import NODE_POOLS, OWNERSHIP, NodeClass, node_pool_provisioner, pool_name
from kaito.operator.settings import Settings
from kaito.operator.workspace.controller import workspace_controller
from tests.builders import node
from tests.scenario.cloud import Cloud, Karpenter
from tests.scenario.test_node_orders import DEMO, found, ordering, said
from tests.scenario.world import World, starting_kubelet

CONTROLLER = workspace_controller(Settings(), node_pool_provisioner(NodeClass()), catalogue_lookup)


def begun(*objects: Manifest) -> tuple[World, Cloud]:
    here = World(*objects, known=(WORKSPACES, NODE_CLAIMS, NODE_POOLS))
    cloud = Cloud(here, kinds=(NODE_CLAIMS,))
    here.others += [Karpenter(here).step, cloud.step]
    return here, cloud


def settle(here: World) -> None:
    here.settle(CONTROLLER, starting_kubelet)


def scale(here: World, count: int) -> None:
    here.change(WORKSPACES, "demo", lambda obj: obj["resource"].update(count=count))


def test_a_workspace_gets_a_pool_whose_replicas_follow_it_up_and_down() -> None:
    here, cloud = begun(ordering(2))
    settle(here)
    (pool,) = here.list(NODE_POOLS)
    assert pool["metadata"]["name"] == pool_name(DEMO)
    for count in (2, 3, 1):
        scale(here, count)
        settle(here)
        assert len(cloud.live()) == count
        assert found(here)["status"]["state"] == "Ready"
        assert len(found(here)["status"]["workerNodes"]) == count
        assert here.reconcile(CONTROLLER) == 0
    assert said(here, names.NODE_CLAIM_READY)["message"].startswith("1 of 1 NodeClaims are ready")


def test_the_pool_and_its_claims_go_before_the_workspace_does() -> None:
    here, cloud = begun(ordering(2))
    settle(here)
    here.delete(WORKSPACES, DEMO)
    here.reconcile(CONTROLLER)
    assert len(cloud.live()) == 2, "Karpenter deletes them with the pool"
    assert pool_name(DEMO) in said(here, names.WORKSPACE_DELETING)["message"]
    settle(here)
    assert [resource.plural for resource, objects in here.objects.items() if objects] == []


def test_a_pool_that_kaito_made_goes_on_under_its_name() -> None:
    labels = {OWNERSHIP[0]: "demo", OWNERSHIP[1]: "default"}
    theirs = {
        "apiVersion": "karpenter.sh/v1",
        "kind": "NodePool",
        "metadata": {"name": "default-demo", "labels": labels},
    }
    here, _ = begun(ordering(), {**theirs, "spec": {"replicas": 0}})
    settle(here)
    assert [pool["metadata"]["name"] for pool in here.list(NODE_POOLS)] == ["default-demo"]
    assert found(here)["status"]["state"] == "Ready"


def test_nodes_that_match_but_are_not_the_workspaces_own_do_not_keep_it_from_ordering() -> None:
    here, cloud = begun(ordering(), node("stranger", gpus=1, metadata={"labels": {"apps": "demo"}}))
    settle(here)
    assert len(cloud.live()) == 1
    assert "stranger" not in found(here)["status"]["workerNodes"]
    assert found(here)["status"]["state"] == "Ready"


def test_what_a_claim_or_the_pool_says_reaches_the_workspace() -> None:
    here, cloud = begun(ordering())
    cloud.failure = "InsufficientInstanceCapacity: insufficient capacity in eu-west-1a"
    settle(here)
    assert said(here, names.RESOURCE_READY)["reason"] == names.REASON_NODE_CAPACITY
    assert not here.list(NODES)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"spec": {}}, "needs the feature gate StaticCapacity"),
        ({"status": {"conditions": [{"type": "Ready", "status": "False", "message": "NodeClass is missing."}]}},
         "is not ready: NodeClass is missing. See kubectl describe nodepool"),
    ],
)  # fmt: skip
def test_a_pool_that_does_nothing_is_explained(change: Manifest, says: str) -> None:
    here = World(ordering(), known=(WORKSPACES, NODE_CLAIMS, NODE_POOLS))
    here.reconcile(CONTROLLER)
    (pool,) = here.list(NODE_POOLS)
    here.put({**pool, **change})
    here.reconcile(CONTROLLER)
    assert says in said(here, names.NODE_CLAIM_READY)["message"]


def test_without_karpenter_the_next_step_is_named() -> None:
    here, _ = begun(ordering())
    here.absent.add(NODE_POOLS)
    here.reconcile(CONTROLLER)
    assert said(here, names.NODE_CLAIM_READY)["reason"] == names.REASON_NO_NODE_PROVISIONER
    assert condition_of(found(here), names.RESOURCE_READY)


def test_names_are_never_too_long_and_never_those_of_another_workspace() -> None:
    assert pool_name(Key("a-b", "c")) != pool_name(Key("a", "b-c"))
    longest = pool_name(Key("n" * 63, "w" * 52))
    assert len(longest) <= 63
    assert "--" not in pool_name(Key("n" * 52, "w"))
