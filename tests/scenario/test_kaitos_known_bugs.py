# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Bugs of ownership and of races that users of KAITO met, each under its number, shown not to be here.

Numbers of issues and pull requests are those of github.com/kaito-project/kaito. How long histories of such accidents
end is in `test_node_orders_simulated.py` and `test_ordering_model.py`; here each bug is a story of a few steps.
"""

from __future__ import annotations

from typing import Any

import pytest

from kaito.api import names
from kaito.api.meta import WORKSPACES
from kaito.kube.manifest import Key, Manifest, condition_of, key_of, labels_of
from kaito.kube.plan import Controller
from kaito.kube.resource import NODES, PODS, STATEFUL_SETS
from kaito.operator.facts import catalogue_lookup
from kaito.operator.provisioners.byo import BYO
from kaito.operator.provisioners.nodeclaim import NODE_CLAIMS, node_claim_provisioner
from kaito.operator.provisioners.nodepool import NODE_POOLS, NodeClass, node_pool_provisioner, pool_name
from kaito.operator.settings import Settings
from kaito.operator.workspace.controller import workspace_controller
from tests.builders import node, workspace
from tests.scenario.cloud import Cloud, Karpenter
from tests.scenario.test_node_orders import ordering
from tests.scenario.test_node_orders_simulated import Operator
from tests.scenario.world import World, starting_kubelet

CLAIMS = workspace_controller(Settings(), node_claim_provisioner(), catalogue_lookup)
POOLS = workspace_controller(Settings(), node_pool_provisioner(NodeClass()), catalogue_lookup)
OWN = workspace_controller(Settings(), BYO, catalogue_lookup)
DEMO = Key("default", "demo")
both = pytest.mark.parametrize("controller", [CLAIMS, POOLS], ids=["nodeclaim", "karpenter"])


def named(name: str, namespace: str = "default", count: int = 1) -> Manifest:
    """A Workspace that orders nodes, with the labels that all of them ask for."""
    manifest = ordering(count)
    manifest["metadata"] |= {"name": name, "namespace": namespace, "uid": f"uid-{namespace}-{name}"}
    return manifest


def begun(*objects: Manifest) -> tuple[World, Cloud]:
    here = World(*objects, known=(WORKSPACES, NODE_CLAIMS, NODE_POOLS))
    cloud = Cloud(here, kinds=(NODE_CLAIMS,))
    here.others += [Karpenter(here).step, cloud.step]
    return here, cloud


def settle(here: World, controller: Controller[Any]) -> None:
    here.settle(controller, starting_kubelet)


def state(here: World, key: Key) -> str:
    found = here.get(WORKSPACES, key.name, key.namespace)
    assert found is not None
    return str(found["status"]["state"])


def workers(here: World) -> list[list[str]]:
    return [obj["status"]["workerNodes"] for obj in here.list(WORKSPACES)]


def admits(stateful_set: Manifest, one: Manifest) -> bool:
    """Whether the pods' required node affinity takes the node."""
    affinity = stateful_set["spec"]["template"]["spec"]["affinity"]["nodeAffinity"]
    (term,) = affinity["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    return all(labels_of(one).get(want["key"]) in want["values"] for want in term["matchExpressions"])


def test_2177_two_operators_that_have_seen_the_same_order_a_node_once() -> None:
    here, cloud = begun(ordering(2))
    one, other = Operator(here), Operator(here)
    one.work(DEMO)
    other.work(DEMO)
    for operator in (one, other):
        operator.catch_up(WORKSPACES)
        operator.work(DEMO)
    assert len(cloud.live()) == 2, "the names of orders follow from the Workspace: the second order is the first"


def test_1300_a_cache_that_lags_orders_no_further_node() -> None:
    here, cloud = begun(ordering())
    operator = Operator(here)
    for _ in range(6):
        operator.catch_up(WORKSPACES)
        operator.work(DEMO)
    assert not operator.view.objects[NODE_CLAIMS], "it has seen none of its orders"
    assert len(cloud.live()) == 1


def spread(name: str) -> Manifest:
    """A Workspace whose model takes two of such nodes, of those that anybody may take."""
    manifest = workspace(name, inference={"preset": {"name": "phi-4"}})
    manifest["metadata"]["uid"] = f"uid-{name}"
    return manifest


def own_nodes(count: int) -> list[Manifest]:
    labels = {"apps": "demo", "nvidia.com/gpu.product": "NVIDIA-A10", "nvidia.com/gpu.memory": "24576"}
    return [node(f"n{index}", gpus=1, metadata={"labels": labels}) for index in range(count)]


def test_2174_models_over_several_own_nodes_take_all_of_them_or_wait_without_holding_any() -> None:
    here, _ = begun(*own_nodes(3), spread("demo"), spread("sibling"))
    settle(here, OWN)
    assert [one["metadata"]["name"] for one in here.list(STATEFUL_SETS)] == ["demo"]
    waiting = here.get(WORKSPACES, "sibling", "default")
    assert waiting is not None and waiting["status"]["state"] == "Pending" and state(here, DEMO) == "Ready"
    failure = waiting["status"]["failure"]
    assert failure["reason"] == names.REASON_NODES_HELD and "default/demo" in failure["evidence"]
    assert here.reconcile(OWN) == 0
    here.put(own_nodes(4)[3])
    settle(here, OWN)
    assert state(here, Key("default", "sibling")) == "Ready"


def test_2174_who_lets_go_lets_the_next_one_begin_and_what_runs_never_stops() -> None:
    here, _ = begun(*own_nodes(2), spread("sibling"))
    settle(here, OWN)
    here.put(spread("demo"))
    settle(here, OWN)
    assert state(here, Key("default", "sibling")) == "Ready" and state(here, DEMO) == "Pending"
    here.delete(WORKSPACES, Key("default", "sibling"))
    here.settle(OWN, starting_kubelet)
    assert state(here, DEMO) == "Ready"


def test_2174_who_can_never_start_keeps_nobody_waiting() -> None:
    broken = workspace("broken", inference={"preset": {"name": "no-such-model"}})
    large = spread("demo")
    large["inference"]["preset"]["name"] = "llama-3.3-70b-instruct"
    here, _ = begun(*own_nodes(2), broken, large, spread("sibling"))
    settle(here, OWN)
    assert state(here, DEMO) == "Pending" and state(here, Key("default", "sibling")) == "Ready"


def test_2174_an_older_workspace_that_nobody_has_looked_at_yet_goes_first() -> None:
    here, _ = begun(*own_nodes(2), spread("demo"), spread("sibling"))
    key = Key("default", "sibling")
    observed = OWN.observe(here, key)
    assert observed is not None
    plan = OWN.plan(observed, here.now)
    assert not plan.apply and plan.requeue_after_s is not None
    here.carry_out(plan, WORKSPACES, key)
    settle(here, OWN)
    assert state(here, DEMO) == "Ready" and state(here, key) == "Pending"


@both
def test_2201_siblings_do_not_count_one_anothers_nodes(controller: Controller[Any]) -> None:
    here, cloud = begun(ordering())
    settle(here, controller)
    here.put(named("sibling"))
    settle(here, controller)
    assert len(cloud.live()) == 2
    first, second = workers(here)
    assert len(first) == len(second) == 1 and first != second
    assert state(here, DEMO) == state(here, Key("default", "sibling")) == "Ready"


@both
def test_2161_pods_take_the_nodes_of_their_own_workspace_only(controller: Controller[Any]) -> None:
    here, _ = begun(ordering(2), named("sibling", count=2), named("demo", namespace="other"))
    settle(here, controller)
    for stateful_set in here.list(STATEFUL_SETS):
        owner = here.get(WORKSPACES, *reversed(key_of(stateful_set)))
        assert owner is not None
        taken = [one["metadata"]["name"] for one in here.list(NODES) if admits(stateful_set, one)]
        assert sorted(taken) == owner["status"]["workerNodes"]


@both
def test_a_node_that_only_matches_neither_counts_nor_keeps_the_pods_waiting(controller: Controller[Any]) -> None:
    """KAITO with Karpenter orders nothing where such a node is, and its pods demand labels that it does not have."""
    here, cloud = begun(ordering(), node("stranger", gpus=1, metadata={"labels": {"apps": "demo"}}))
    settle(here, controller)
    (stateful_set,) = here.list(STATEFUL_SETS)
    assert len(cloud.live()) == 1 and state(here, DEMO) == "Ready"
    assert [one["metadata"]["name"] for one in here.list(NODES) if admits(stateful_set, one)] == workers(here)[0]


def test_equal_names_over_two_namespaces_are_two_pools_and_deleting_one_leaves_the_other() -> None:
    one, other = Key("a-b", "c"), Key("a", "b-c")
    here, cloud = begun(*(named(key.name, key.namespace) for key in (one, other)))
    settle(here, POOLS)
    assert {pool["metadata"]["name"] for pool in here.list(NODE_POOLS)} == {pool_name(one), pool_name(other)}
    assert len(cloud.live()) == 2
    here.delete(WORKSPACES, one)
    settle(here, POOLS)
    assert [pool["metadata"]["name"] for pool in here.list(NODE_POOLS)] == [pool_name(other)]
    assert state(here, other) == "Ready" and len(cloud.live()) == 1


def test_an_order_too_many_is_given_back() -> None:
    here, cloud = begun(ordering())
    settle(here, CLAIMS)
    (claim,) = cloud.live()
    meta = {"name": "surplus", "labels": claim["metadata"]["labels"]}
    here.put({**claim, "metadata": meta, "status": {}})
    settle(here, CLAIMS)
    assert [key_of(one) for one in cloud.live()] == [key_of(claim)]
    assert state(here, DEMO) == "Ready"


def test_an_order_that_the_server_refused_is_told_and_made_at_the_next_look() -> None:
    here, cloud = begun(ordering())
    observed = CLAIMS.observe(here, DEMO)
    assert observed is not None
    plan = CLAIMS.plan(observed, here.now)
    assert plan.refused is not None
    (claim,) = (create.manifest for create in plan.create if create.manifest["kind"] == "NodeClaim")
    here.carry_out(plan.refused(claim, "the server is out of order"), WORKSPACES, DEMO)
    found = here.get(WORKSPACES, "demo", "default")
    assert found is not None and not cloud.live()
    told = condition_of(found, names.NODE_CLAIM_READY)
    assert told is not None and "out of order" in told["message"]
    assert here.events[-1].reason == names.EVENT_NODE_CLAIM_CREATION_FAILED
    settle(here, CLAIMS)
    assert len(cloud.live()) == 1 and state(here, DEMO) == "Ready"
    assert here.get(PODS, "demo-0", "default")


@pytest.mark.parametrize("namespace", ["n", "n" * 63])
def test_2259_names_of_pools_and_orders_fit_however_long_those_of_workspaces_are(namespace: str) -> None:
    longest = named("w" * 52, namespace)
    for controller, kind in ((POOLS, NODE_POOLS), (CLAIMS, NODE_CLAIMS)):
        here, _ = begun(longest)
        settle(here, controller)
        assert all(len(made["metadata"]["name"]) <= 63 for made in here.list(kind)) and here.list(kind)
