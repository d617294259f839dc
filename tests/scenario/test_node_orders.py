# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Workspaces whose nodes are ordered by claims, in a world of dicts with a cloud: from the order to what is lost."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kaito.api import names
from kaito.api.meta import WORKSPACES
from kaito.kube.manifest import Key, Manifest, condition_of, key_of, labels_of
from kaito.kube.resource import CONFIG_MAPS, NODES, PODS, STATEFUL_SETS, Resource
from kaito.operator.facts import catalogue_lookup
from kaito.operator.provisioners.claims import claim_name
from kaito.operator.provisioners.nodeclaim import MACHINES, NODE_CLAIMS, node_claim_provisioner
from kaito.operator.settings import Settings
from kaito.operator.workspace.controller import workspace_controller
from kaito.operator.workspace.observe import Observed
from tests.builders import node, workspace
from tests.scenario.cloud import FINALIZER, Cloud
from tests.scenario.world import REVISION_LABEL, World, starting_kubelet

DEMO = Key("default", "demo")
A100 = "Standard_NC24ads_A100_v4"
CONTROLLER = workspace_controller(Settings(), node_claim_provisioner(), catalogue_lookup)
OWNED = {names.WORKSPACE_LABEL: "demo", names.WORKSPACE_NAMESPACE_LABEL: "default"}


def ordering(count: int = 1, **changes: Any) -> Manifest:
    """A Workspace that needs as many nodes: a template, whose size nobody computes."""
    template = {"spec": {"containers": [{"name": "c", "image": "i"}]}}
    resource = {"instanceType": A100, "count": count, **changes}
    return workspace(resource=resource, inference={"preset": None, "template": template})


def begun(manifest: Manifest, *others: Manifest, kind: Resource = NODE_CLAIMS) -> tuple[World, Cloud]:
    here = World(manifest, *others, known=(WORKSPACES, NODE_CLAIMS, MACHINES))
    here.absent = {NODE_CLAIMS, MACHINES} - {kind}
    cloud = Cloud(here)
    here.others.append(cloud.step)
    return here, cloud


def settle(here: World) -> int:
    return here.settle(CONTROLLER, starting_kubelet)


def found(here: World) -> Manifest:
    obj = here.get(WORKSPACES, "demo", "default")
    assert obj is not None
    return obj


def annotate(obj: Manifest, name: str, value: str) -> None:
    obj["metadata"].setdefault("annotations", {})[name] = value


def said(here: World, type_: str) -> Manifest:
    condition = condition_of(found(here), type_)
    assert condition is not None, type_
    return condition


def after(here: World, **time: float) -> None:
    """Let time pass, and everything come to rest."""
    here.now += timedelta(**time)
    settle(here)


def names_(objects: list[Manifest]) -> list[str]:
    return [obj["metadata"]["name"] for obj in objects]


@pytest.mark.parametrize("kind", [NODE_CLAIMS, MACHINES])
def test_a_model_gets_its_node_and_then_nothing_is_left_to_do(kind: Resource) -> None:
    here, cloud = begun(workspace(resource={"instanceType": A100}), kind=kind)
    settle(here)
    (claim,) = here.list(kind)
    assert claim["metadata"]["name"] == claim_name(DEMO, 0)
    assert found(here)["status"]["state"] == "Ready"
    assert said(here, names.NODE_CLAIM_READY)["reason"] == names.REASON_NODE_CLAIMS_READY
    assert found(here)["status"]["workerNodes"] == names_(here.list(NODES))
    assert labels_of(here.list(NODES)[0])[names.ACCELERATOR_LABEL] == "nvidia"
    assert here.reconcile(CONTROLLER) == 0
    observed = CONTROLLER.observe(here, DEMO)
    assert observed is not None
    plan = CONTROLLER.plan(observed, here.now)
    assert plan == CONTROLLER.plan(observed, here.now)
    assert plan.requeue_after_s is None
    reasons = [event.reason for event in here.events]
    assert reasons == [names.EVENT_NODE_CLAIM_CREATED, names.EVENT_NODES_READY, names.EVENT_SERVING]
    assert len(cloud.made) == 1


def test_all_nodes_of_a_workspace_are_ordered_at_once_and_it_starts_when_all_are_there() -> None:
    here, cloud = begun(ordering(3))
    here.reconcile(CONTROLLER)
    assert sorted(names_(cloud.claims())) == sorted(claim_name(DEMO, place) for place in range(3))
    for claim in cloud.claims()[:2]:
        for _ in range(3):
            cloud.advance(NODE_CLAIMS, here.objects[NODE_CLAIMS][key_of(claim)])
    here.reconcile(CONTROLLER)
    assert "Waiting for Standard_NC24ads_A100_v4 nodes (2 of 3 ready)" in said(here, names.NODES_READY)["message"]
    assert not here.list(STATEFUL_SETS)
    settle(here)
    assert found(here)["status"]["state"] == "Ready"
    (stateful_set,) = here.list(STATEFUL_SETS)
    affinity = stateful_set["spec"]["template"]["spec"]["affinity"]["nodeAffinity"]
    (term,) = affinity["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    assert {expression["key"] for expression in term["matchExpressions"]} == {*OWNED, "apps"}


def test_a_model_that_needs_several_nodes_is_laid_over_them_when_all_are_ready() -> None:
    huge = workspace(resource={"instanceType": A100}, inference={"preset": {"name": "llama-3.3-70b-instruct"}})
    here, cloud = begun(huge)
    settle(here)
    nodes = len(cloud.claims())
    assert nodes > 1
    assert found(here)["status"]["state"] == "Ready"
    (stateful_set,) = here.list(STATEFUL_SETS)
    assert stateful_set["spec"]["replicas"] == nodes
    (config,) = (one for one in here.list(CONFIG_MAPS) if one["metadata"]["name"] == "demo-serve")
    config = json.loads(config["data"]["serve.json"])
    assert (config["nodes"], config["parallelism"]["pipeline"]) == (nodes, nodes)
    assert config["peers"] == [f"demo-{rank}.demo-headless.default.svc" for rank in range(nodes)]


def test_the_ranks_of_one_model_take_a_change_together() -> None:
    """A rank serves beside ranks of its own settings alone; a StatefulSet would wait for it before it goes on."""
    huge = workspace(resource={"instanceType": A100}, inference={"preset": {"name": "llama-3.3-70b-instruct"}})
    here, _ = begun(huge)
    settle(here)

    def kubelet(pod: Manifest) -> Manifest:
        met = {labels_of(other)[REVISION_LABEL] for other in here.list(PODS)}
        return starting_kubelet(pod) if len(met) == 1 or pod["status"]["phase"] == "Pending" else pod

    before = {labels_of(pod)[REVISION_LABEL] for pod in here.list(PODS)}
    here.change(WORKSPACES, "demo", lambda obj: annotate(obj, names.PERFORMANCE_MODE_ANNOTATION, "throughput"))
    here.settle(CONTROLLER, kubelet, steps=30)
    after = {labels_of(pod)[REVISION_LABEL] for pod in here.list(PODS)}
    assert len(after) == 1 and after != before
    assert found(here)["status"]["state"] == "Ready"


def test_no_node_is_ordered_for_a_model_whose_engine_serves_from_one() -> None:
    asked = {"preset": {"name": "phi-4"}}
    annotations = {names.RUNTIME_ANNOTATION: "transformers"}
    small = "Standard_NV36ads_A10_v5"
    here, cloud = begun(
        workspace(resource={"instanceType": small}, inference=asked, metadata={"annotations": annotations})
    )
    settle(here)
    refused = said(here, names.INFERENCE_READY)
    assert refused["reason"] == names.REASON_NOT_SUPPORTED_HERE
    assert "Set the annotation kaito.sh/runtime to vllm." in refused["message"]
    assert cloud.claims() == []


def test_what_is_too_much_is_given_back_beginning_with_what_is_not_ready() -> None:
    here, cloud = begun(ordering(3))
    settle(here)
    first = next(c for c in cloud.claims() if c["metadata"]["name"] == claim_name(DEMO, 0))
    cloud.lose(first, remove=False)
    claim = here.get(NODE_CLAIMS, claim_name(DEMO, 0))
    assert claim is not None
    claim["status"]["conditions"][-1]["status"] = "False"
    here.change(WORKSPACES, "demo", lambda obj: obj["resource"].update(count=2))
    here.reconcile(CONTROLLER)
    assert sorted(names_(cloud.live())) == sorted([claim_name(DEMO, 1), claim_name(DEMO, 2)])
    assert names.EVENT_NODE_CLAIM_REMOVED in [event.reason for event in here.events]
    settle(here)
    assert found(here)["status"]["state"] == "Ready"
    assert here.reconcile(CONTROLLER) == 0


def test_claims_and_nodes_of_earlier_hands_are_counted() -> None:
    meta = {"name": "ws0badc0ffe", "labels": {**OWNED, "apps": "demo"}}
    terms = [{"key": "node.kubernetes.io/instance-type", "operator": "In", "values": [A100]}]
    theirs = {"apiVersion": "karpenter.sh/v1", "kind": "NodeClaim", "metadata": meta, "spec": {"requirements": terms}}
    by_hand = node("by-hand", gpus=1, metadata={"labels": {**OWNED, "apps": "demo"}})
    here, cloud = begun(ordering(3), theirs, by_hand)
    settle(here)
    assert sorted(names_(cloud.live())) == sorted(["ws0badc0ffe", claim_name(DEMO, 0)])
    assert "by-hand" in found(here)["status"]["workerNodes"]
    assert found(here)["status"]["state"] == "Ready"


def test_a_workspace_without_an_instance_type_brings_its_own_nodes() -> None:
    here, cloud = begun(workspace(), node("mine", metadata={"labels": {"apps": "demo"}}))
    settle(here)
    assert found(here)["status"]["state"] == "Ready"
    assert cloud.claims() == []
    assert condition_of(found(here), names.NODE_CLAIM_READY) is None


@pytest.mark.parametrize("remove", [True, False])
def test_a_lost_node_is_replaced_after_a_while_and_an_event_says_so(remove: bool) -> None:
    here, cloud = begun(ordering())
    settle(here)
    (claim,) = cloud.claims()
    cloud.lose(claim, remove=remove)
    settle(here)
    assert said(here, names.RESOURCE_READY)["status"] == "False"
    assert here.list(STATEFUL_SETS), "a lost node is no reason to take the workload down"
    after(here, minutes=9)
    assert [c["metadata"]["uid"] for c in cloud.claims()] == [claim["metadata"]["uid"]]
    after(here, minutes=2)
    (fresh,) = cloud.claims()
    assert fresh["metadata"]["uid"] != claim["metadata"]["uid"]
    assert fresh["metadata"]["name"] == claim["metadata"]["name"]
    assert found(here)["status"]["state"] == "Ready"
    (event,) = [event for event in here.events if event.reason == names.EVENT_NODE_CLAIM_REPLACED]
    assert "has lost its node" in event.message and event.type == "Warning"


def test_a_cluster_that_was_stopped_for_days_gets_time_to_come_back() -> None:
    here, cloud = begun(ordering(2))
    settle(here)
    for claim in cloud.claims():
        cloud.lose(claim, remove=False)
    here.now += timedelta(days=3)
    here.reconcile(CONTROLLER)
    here.now += timedelta(minutes=5)
    here.reconcile(CONTROLLER)
    assert len(cloud.live()) == 2 and len(cloud.made) == 2


def test_a_node_that_never_comes_is_ordered_again_ever_more_slowly() -> None:
    here, cloud = begun(ordering())
    cloud.failure = "creating instance: SkuNotAvailable in westeurope"
    for _ in range(6 * 24):
        after(here, minutes=10)
    assert 2 <= len(cloud.made) <= 60, "a day of failures"
    assert len(cloud.live()) == 1
    cloud.failure = ""
    after(here, minutes=31)
    assert found(here)["status"]["state"] == "Ready"


def test_a_claim_that_the_provider_takes_back_at_once_is_paced() -> None:
    here, cloud = begun(ordering())
    created = 0
    for _ in range(3600):
        here.now += timedelta(seconds=1)
        here.reconcile(CONTROLLER)
        for claim in cloud.live():
            created += 1
            here.reconcile(CONTROLLER)
            here.delete(NODE_CLAIMS, key_of(claim))
    assert created == 5, "at once, after 10 s, 1, 5 and 30 minutes"
    assert "The last order failed; the next one is made at" in said(here, names.NODE_CLAIM_READY)["message"]


@pytest.mark.parametrize(
    ("text", "reason", "says"),
    [
        ("Operation could not be completed as it results in exceeding approved NCADSA100v4 Family quota",
         names.REASON_NODE_QUOTA, "Raise the quota of Standard_NC24ads_A100_v4"),
        ("AuthorizationFailed: the client has no authorization to perform action", names.REASON_NODE_UNAUTHORIZED,
         "Give the node provisioner's identity the right"),
        ("InsufficientCapacityError: all requested instance types were unavailable", names.REASON_NODE_CAPACITY,
         "use another instanceType or zone"),
        ("something else went wrong " + "x" * 400, names.REASON_NODE_CLAIM_NOT_READY, "something else went wrong"),
    ],
)  # fmt: skip
def test_what_the_cloud_says_reaches_the_workspace_with_the_next_step(text: str, reason: str, says: str) -> None:
    here, cloud = begun(ordering())
    cloud.failure = text
    settle(here)
    for type_ in (names.NODE_CLAIM_READY, names.RESOURCE_READY):
        assert said(here, type_)["reason"] == reason
        assert text[:20] in said(here, type_)["message"] and says in said(here, type_)["message"]
    cloud.failure = ""
    settle(here)
    assert found(here)["status"]["state"] == "Ready"


def test_a_node_without_its_device_plugin_is_waited_for() -> None:
    here, cloud = begun(ordering())
    cloud.gpus = 0
    settle(here)
    assert said(here, names.NODE_CLAIM_READY)["status"] == "True"
    assert said(here, names.NODES_READY)["reason"] == names.REASON_NO_GPU_PLUGIN
    assert "nvidia.com/gpu" in said(here, names.NODES_READY)["message"]
    assert not here.list(STATEFUL_SETS)
    (there,) = here.list(NODES)
    here.put({**there, "status": node("any", gpus=1)["status"]})
    settle(here)
    assert found(here)["status"]["state"] == "Ready"


def test_without_the_kind_the_workspace_says_what_to_install_and_goes_on_when_it_is_there() -> None:
    here, _ = begun(ordering())
    here.absent.add(NODE_CLAIMS)
    here.reconcile(CONTROLLER)
    assert said(here, names.NODE_CLAIM_READY)["reason"] == names.REASON_NO_NODE_PROVISIONER
    assert "--provisioner byo" in said(here, names.RESOURCE_READY)["message"]
    observed = CONTROLLER.observe(here, DEMO)
    assert observed is not None
    assert (CONTROLLER.plan(observed, here.now).requeue_after_s or 99) <= 10
    here.absent.remove(NODE_CLAIMS)
    settle(here)
    assert found(here)["status"]["state"] == "Ready"
    here.absent.add(NODE_CLAIMS)
    here.objects[NODE_CLAIMS].clear()
    here.delete(WORKSPACES, DEMO)
    settle(here)
    assert here.get(WORKSPACES, "demo", "default") is None, "an absent kind holds no Workspace back"


def test_a_workspace_goes_when_its_machines_are_gone_and_says_what_it_waits_for() -> None:
    here, cloud = begun(ordering(2))
    settle(here)
    here.delete(WORKSPACES, DEMO)
    here.reconcile(CONTROLLER)
    assert cloud.live() == [] and len(cloud.claims()) == 2
    message = said(here, names.WORKSPACE_DELETING)["message"]
    assert all(name in message for name in names_(cloud.claims()))
    here.reconcile(CONTROLLER)
    assert here.get(WORKSPACES, "demo", "default") is not None
    settle(here)
    assert here.get(WORKSPACES, "demo", "default") is None
    assert cloud.claims() == [] and here.list(NODES) == []


def test_claims_whose_workspace_was_removed_by_force_are_given_back() -> None:
    here, cloud = begun(ordering())
    settle(here)
    del here.objects[WORKSPACES][DEMO]
    for seconds in (0, 61):
        here.now += timedelta(seconds=seconds)
        observed = CONTROLLER.observe(here, DEMO)
        assert observed is not None
        plan = CONTROLLER.plan(observed, here.now)
        here.carry_out(plan, WORKSPACES, DEMO)
    assert cloud.live() == []
    watches = {watch.resource: watch for watch in CONTROLLER.watches}
    assert list(watches[NODE_CLAIMS].keys(cloud.claims()[0])) == [DEMO], "the claim itself wakes its Workspace's key"
    cloud.step()
    assert CONTROLLER.observe(here, DEMO) is None


def test_a_fresh_claim_of_a_workspace_that_is_not_known_yet_is_left_for_a_moment() -> None:
    here, cloud = begun(ordering())
    here.reconcile(CONTROLLER)
    del here.objects[WORKSPACES][DEMO]
    observed = CONTROLLER.observe(here, DEMO)
    assert observed is not None
    plan = CONTROLLER.plan(observed, here.now)
    assert plan.delete == () and plan.requeue_after_s is not None
    assert FINALIZER and cloud.live()


def test_two_workspaces_of_equal_labels_never_share_a_node() -> None:
    other = ordering()
    other["metadata"] |= {"name": "other", "uid": "uid-other"}
    here, cloud = begun(ordering(), other)
    settle(here)
    nodes = [obj["status"]["workerNodes"] for obj in here.list(WORKSPACES)]
    assert len(cloud.live()) == 2
    assert nodes[0] != nodes[1] and len(nodes[0]) == len(nodes[1]) == 1


def test_a_node_wakes_its_owner_and_those_who_take_nodes_as_they_find_them() -> None:
    finding = workspace("finding")
    here, cloud = begun(ordering(), finding)
    settle(here)
    (claim,) = cloud.claims()
    (ours,) = here.list(NODES)
    (watch,) = (watch for watch in CONTROLLER.watches if watch.resource == NODES)
    assert set(watch.keys(ours)) == {DEMO, Key("default", "finding")}
    assert set(watch.keys(node("any"))) == {Key("default", "finding")}
    observed = CONTROLLER.observe(here, DEMO)
    assert isinstance(observed, Observed)
    assert names_(list(observed.nodes)) == [claim["status"]["nodeName"]]


def test_a_refused_claim_is_told_with_the_servers_words() -> None:
    here, _ = begun(ordering())
    observed = CONTROLLER.observe(here, DEMO)
    assert observed is not None
    plan = CONTROLLER.plan(observed, here.now)
    assert plan.refused is not None
    (claim,) = (create.manifest for create in plan.create if create.manifest["kind"] == "NodeClaim")
    instead = plan.refused(claim, 'admission webhook "policy" denied the request: no more than 0 GPUs')
    told = condition_of({"status": instead.status}, names.NODE_CLAIM_READY)
    assert told is not None and told["reason"] == names.REASON_REFUSED
    assert "no more than 0 GPUs" in told["message"]
    assert [event.reason for event in instead.events] == [names.EVENT_NODE_CLAIM_CREATION_FAILED]


junk = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.just("2026-01-01T00:00:00Z"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
text = st.sampled_from(["", "True", "False", "Unknown", "quota", "2026-01-01T00:00:00Z", "nonsense"])
stage = st.fixed_dictionaries(
    {"type": st.sampled_from(["Launched", "Registered", "Initialized", "Ready", "MachineLaunched"])},
    optional={"status": text, "reason": text, "message": text, "lastTransitionTime": text},
)


@settings(max_examples=150)
@given(
    st.lists(st.tuples(st.integers(0, 4), st.lists(stage, max_size=4), text, text, st.booleans()), max_size=5),
    text | st.text(max_size=20),
    junk,
)
def test_the_plan_is_total_whatever_claims_and_the_ledger_say(
    claims: list[tuple[int, list[Manifest], str, str, bool]], ledger: str, extra: Any
) -> None:
    manifest = ordering(2)
    manifest["metadata"]["annotations"] = {names.NODE_ORDERS_ANNOTATION: ledger}
    here, _ = begun(manifest)
    for place, stages, made, host, leaving in claims:
        meta: Manifest = {"name": claim_name(DEMO, place), "labels": OWNED, "finalizers": [FINALIZER]}
        meta |= {"creationTimestamp": made} | ({"deletionTimestamp": made or "x"} if leaving else {})
        status = {"conditions": stages, "nodeName": host, "extra": extra}
        here.put({"apiVersion": "karpenter.sh/v1", "kind": "NodeClaim", "metadata": meta, "status": status})
    observed = CONTROLLER.observe(here, DEMO)
    assert observed is not None
    plan = CONTROLLER.plan(observed, here.now)
    assert plan == CONTROLLER.plan(observed, here.now)
    assert plan.status is not None and plan.status["conditions"]
