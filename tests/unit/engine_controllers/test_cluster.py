# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Services, scheduling, nodes, volumes, stray pods."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from kaito.engine.controllers import capacity, endpointslice, nodelifecycle, podgc, scheduler, volume
from kaito.engine.controllers.endpointslice import ENDPOINTS
from kaito.kube.manifest import Key, Manifest, condition_of
from kaito.kube.resource import (
    ENDPOINT_SLICES,
    NODES,
    PERSISTENT_VOLUME_CLAIMS,
    PERSISTENT_VOLUMES,
    PODS,
    SERVICES,
    STORAGE_CLASSES,
)
from tests.unit.engine_controllers.builders import node, pod
from tests.unit.engine_controllers.world import START, World, assert_at_rest

WEB = Key("default", "web")


def service(**spec: Any) -> Manifest:
    ports = [{"name": "http", "port": 80, "targetPort": 8080, "protocol": "TCP"}]
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "web", "namespace": "default"},
        "spec": {"selector": {"app": "web"}, "ports": ports, "clusterIP": "127.96.0.5", **spec},
    }


def served(**spec: Any) -> World:
    world = World()
    world.add(service(**spec))
    for name, ready in (("a", True), ("b", False)):
        world.add(pod(name, labels={"app": "web"}, nodeName="n1"))
        world.set_pod(name, ready=ready)
    world.run(endpointslice.controller())
    return world


def conditions(world: World) -> dict[str, tuple[bool, bool, bool]]:
    [found] = world.list(ENDPOINT_SLICES)
    return {
        e["targetRef"]["name"]: tuple(e["conditions"][c] for c in ("ready", "serving", "terminating"))
        for e in found["endpoints"]
    }


def test_a_slice_lists_the_pods_and_their_readiness() -> None:
    world = served()
    [found] = world.list(ENDPOINT_SLICES)
    assert found["ports"] == [{"name": "http", "port": 8080, "protocol": "TCP"}]
    assert found["metadata"]["labels"] == {
        "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
        "kubernetes.io/service-name": "web",
    }
    assert conditions(world) == {"a": (True, True, False), "b": (False, False, False)}
    [legacy] = world.list(ENDPOINTS)
    assert [a["targetRef"]["name"] for a in legacy["subsets"][0]["addresses"]] == ["a"]
    assert_at_rest(world, endpointslice.controller())


def test_a_pod_on_its_way_out_still_serves_but_is_not_ready() -> None:
    world = served()
    world.delete(PODS, Key("default", "a"))
    world.run(endpointslice.controller())
    assert conditions(world)["a"] == (False, True, True)
    world.remove(PODS, Key("default", "a"))
    world.run(endpointslice.controller())
    assert list(conditions(world)) == ["b"]


def test_publishing_not_ready_addresses_makes_all_ready() -> None:
    assert conditions(served(publishNotReadyAddresses=True))["b"][0]


def test_a_service_without_pods_has_an_empty_slice_and_one_without_selector_none() -> None:
    world = World()
    world.add(service())
    world.run(endpointslice.controller())
    [found] = world.list(ENDPOINT_SLICES)
    assert (found["endpoints"], found["ports"]) == ([], [])
    bare = World()
    bare.add(service(selector=None))
    bare.run(endpointslice.controller())
    assert not bare.list(ENDPOINT_SLICES)


def test_a_named_target_port_is_looked_up_in_the_pod() -> None:
    world = World()
    world.add(service(ports=[{"name": "http", "port": 80, "targetPort": "web"}]))
    made = pod("a", labels={"app": "web"})
    made["spec"]["containers"][0]["ports"] = [{"name": "web", "containerPort": 5000}]
    world.add(made)
    world.set_pod("a")
    world.run(endpointslice.controller())
    assert world.list(ENDPOINT_SLICES)[0]["ports"][0]["port"] == 5000


def test_many_pods_are_spread_over_slices() -> None:
    world = World()
    world.add(service(clusterIP="None"))
    for n in range(150):
        world.add(pod(f"p{n}", labels={"app": "web"}))
        world.set_pod(f"p{n}")
    world.run(endpointslice.controller(), rounds=2000)
    assert sorted(len(s["endpoints"]) for s in world.list(ENDPOINT_SLICES)) == [50, 100]
    assert world.list(ENDPOINT_SLICES)[0]["metadata"]["labels"]["service.kubernetes.io/headless"] == ""


def test_endpoints_of_a_service_that_is_gone_go() -> None:
    world = served()
    world.remove(SERVICES, WEB)
    world.run(endpointslice.controller())
    assert not world.list(ENDPOINTS)


def bound(world: World) -> dict[str, str | None]:
    return {p["metadata"]["name"]: p["spec"].get("nodeName") for p in world.pods()}


def refusal(world: World, name: str) -> str:
    condition = condition_of(world.objects[PODS, Key("default", name)], "PodScheduled")
    assert condition is not None and condition["reason"] == "Unschedulable"
    return str(condition["message"])


def test_a_pod_gets_a_node_that_fits() -> None:
    world = World()
    world.add(node("small", cpu="1"))
    world.add(node("large"))
    world.add(pod(requests={"cpu": "2"}))
    world.run(scheduler.controller())
    assert bound(world) == {"p": "large"}
    assert [e.reason for e in world.events] == ["Scheduled"]


def test_two_pods_never_get_the_same_gpu() -> None:
    world = World()
    world.add(node(gpus="1"))
    for name in ("a", "b"):
        made = pod(name)
        made["spec"]["containers"][0]["resources"] = {"limits": {"nvidia.com/gpu": "1"}}
        world.add(made)
    world.run(scheduler.controller())
    assert bound(world) == {"a": "n1", "b": None}
    assert refusal(world, "b") == "0/1 nodes are available: 1 Insufficient nvidia.com/gpu."
    assert [(e.reason, e.type) for e in world.events][-1] == ("FailedScheduling", "Warning")
    assert_at_rest(world, scheduler.controller())
    world.set_pod("a", "Succeeded")
    world.run(scheduler.controller())
    assert bound(world)["b"] == "n1"


def test_pods_spread_over_equal_nodes() -> None:
    world = World()
    for name in ("n1", "n2"):
        world.add(node(name))
    for n in range(4):
        world.add(pod(f"p{n}", requests={"cpu": "500m"}))
    world.run(scheduler.controller())
    assert sorted(filter(None, bound(world).values())) == ["n1", "n1", "n2", "n2"]


AFFINITY = {
    "nodeAffinity": {
        "requiredDuringSchedulingIgnoredDuringExecution": {
            "nodeSelectorTerms": [{"matchExpressions": [{"key": "gpu", "operator": "In", "values": ["a100"]}]}]
        }
    }
}


@pytest.mark.parametrize(
    ("spec", "change", "message"),
    [
        ({"nodeSelector": {"a": "b"}}, {}, "1 node(s) didn't match Pod's node affinity/selector"),
        ({"affinity": AFFINITY}, {}, "1 node(s) didn't match Pod's node affinity/selector"),
        ({}, {"spec": {"unschedulable": True}}, "1 node(s) were unschedulable"),
        (
            {},
            {"spec": {"taints": [{"key": "gpu", "value": "yes", "effect": "NoSchedule"}]}},
            "1 node(s) had untolerated taint(s) {gpu: yes}",
        ),
        (
            {},
            {"status": {"conditions": [{"type": "Ready", "status": "False"}]}},
            "1 node(s) had untolerated taint(s) {node.kubernetes.io/not-ready: }",
        ),
        ({}, {"status": {"allocatable": {"cpu": "1", "pods": "0"}}}, "1 Too many pods"),
    ],
)
def test_a_pod_without_a_fitting_node_says_why(spec: Manifest, change: Manifest, message: str) -> None:
    world = World()
    world.add(node())
    world.change(NODES, Key("", "n1"), change)
    world.add(pod(**spec))
    world.run(scheduler.controller())
    assert refusal(world, "p") == f"0/1 nodes are available: {message}."


def test_pods_of_other_schedulers_and_gated_ones_are_left_alone() -> None:
    world = World()
    world.add(node())
    world.add(pod("other", schedulerName="mine"))
    world.add(pod("gated", schedulingGates=[{"name": "wait"}]))
    world.run(scheduler.controller())
    assert bound(world) == {"other": None, "gated": None}


def test_an_init_container_counts_only_if_it_needs_more() -> None:
    made = pod(requests={"cpu": "1"})
    made["spec"]["initContainers"] = [{"name": "i", "resources": {"requests": {"cpu": "3"}}}]
    assert capacity.requests_of(made)["cpu"] == 3


def test_a_placed_pod_is_summed_up_again_only_when_its_spec_has_changed() -> None:
    placed = capacity.Placed()
    made = pod(requests={"cpu": "1"}, nodeName="n1")
    made["metadata"] |= {"uid": "u", "generation": 1}
    ((node_name, first),) = placed.of([made])
    assert (node_name, first["cpu"]) == ("n1", 1)
    assert placed.of([made])[0][1] is first
    resized = pod(requests={"cpu": "2"}, nodeName="n1")
    resized["metadata"] |= {"uid": "u", "generation": 2}
    assert placed.of([resized])[0][1]["cpu"] == 2
    assert placed.of([]) == ()


LIFE = nodelifecycle.controller(START)


def taints(world: World, name: str = "n1") -> list[tuple[str, str]]:
    spec = world.objects[NODES, Key("", name)]["spec"]
    return [(t["key"].rpartition("/")[2], t["effect"]) for t in spec.get("taints") or []]


def test_taints_follow_conditions_and_leave_others() -> None:
    world = World()
    world.add(node(ready=None))
    world.change(NODES, Key("", "n1"), {"spec": {"taints": [{"key": "mine", "effect": "NoSchedule"}]}})
    world.run(LIFE)
    assert taints(world) == [("mine", "NoSchedule"), ("not-ready", "NoSchedule")]
    ready = [{"type": "Ready", "status": "True"}]
    world.change(NODES, Key("", "n1"), {"spec": {"unschedulable": True}, "status": {"conditions": ready}})
    world.run(LIFE)
    assert taints(world) == [("mine", "NoSchedule"), ("unschedulable", "NoSchedule")]
    assert_at_rest(world, LIFE)


def lease(moment: str) -> Manifest:
    meta = {"name": "n1", "namespace": "kube-node-lease"}
    return {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": meta, "spec": {"renewTime": moment}}


def test_a_silent_node_is_unknown_and_its_pods_leave_in_time() -> None:
    world = World()
    world.add(node())
    world.add(lease("2026-01-01T00:01:00.000000Z"))
    keep = [{"key": nodelifecycle.UNREACHABLE, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}]
    world.add(pod("patient", nodeName="n1", tolerations=keep))
    world.add(pod("hasty", nodeName="n1"))
    world.set_all()
    world.later(100)
    world.run(LIFE)
    assert not taints(world)
    world.later(20)
    world.run(LIFE)
    world.run(LIFE)
    assert ("unreachable", "NoExecute") in taints(world)
    assert condition_of(world.objects[PODS, Key("default", "patient")], "Ready")["status"] == "False"  # type: ignore[index]
    leaving = [p["metadata"]["name"] for p in world.pods() if p["metadata"].get("deletionTimestamp")]
    assert leaving == ["hasty"]
    world.later(300)
    world.run(LIFE)
    assert all(p["metadata"].get("deletionTimestamp") for p in world.pods())


def test_an_engine_that_was_off_gives_nodes_time_to_be_heard() -> None:
    world = World()
    world.add(node())
    world.later(3600)
    world.run(nodelifecycle.controller(world.now - timedelta(seconds=10)))
    assert not taints(world)


def test_pods_of_a_node_that_is_gone_are_given_up_in_the_end() -> None:
    world = World()
    world.add(pod(nodeName="nowhere"))
    world.run(podgc.controller())
    world.later(podgc.YOUNG_S)
    world.run(podgc.controller())
    assert condition_of(world.pods()[0], podgc.DISRUPTED)["reason"] == podgc.REASON  # type: ignore[index]
    world.later(podgc.QUARANTINE_S - 1)
    world.run(podgc.controller())
    assert world.pods()
    world.later(1)
    world.run(podgc.controller())
    assert not world.pods()


def claim(name: str = "data", **spec: Any) -> Manifest:
    wanted = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}, **spec}
    meta = {"name": name, "namespace": "default", "finalizers": [volume.CLAIM_PROTECTION]}
    return {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": meta, "spec": wanted}


def bind(world: World) -> None:
    world.run(volume.binder("/data/"), volume.reclaimer())


def phase(world: World, name: str = "data") -> str:
    return str(world.objects[PERSISTENT_VOLUME_CLAIMS, Key("default", name)]["status"]["phase"])


def user(name: str = "p") -> Manifest:
    return pod(name, volumes=[{"name": "v", "persistentVolumeClaim": {"claimName": "data"}}])


def test_a_claim_gets_a_folder_when_a_pod_first_names_it() -> None:
    world = World()
    world.add(volume.default_class())
    made = world.add(claim())
    bind(world)
    assert phase(world) == "Pending"
    world.add(user())
    bind(world)
    assert phase(world) == "Bound"
    [found] = world.list(PERSISTENT_VOLUMES)
    uid = made["metadata"]["uid"]
    assert found["metadata"]["name"] == f"pvc-{uid}"
    assert found["spec"]["hostPath"] == {"path": f"/data/default-data-{uid}", "type": "DirectoryOrCreate"}
    assert found["status"]["phase"] == "Bound"
    assert_at_rest(world, volume.binder("/data"), volume.reclaimer())


def test_a_volume_made_by_hand_is_taken_if_it_fits() -> None:
    world = World()
    for name, size in (("big", "10Gi"), ("fit", "2Gi"), ("small", "1Mi")):
        spec = {"accessModes": ["ReadWriteOnce"], "capacity": {"storage": size}, "storageClassName": ""}
        world.add({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name}, "spec": spec})
    world.add(claim(storageClassName=""))
    bind(world)
    assert world.objects[PERSISTENT_VOLUME_CLAIMS, Key("default", "data")]["spec"]["volumeName"] == "fit"
    assert phase(world) == "Bound"


def test_a_used_claim_is_protected_and_its_volume_goes_with_it() -> None:
    world = World()
    world.add(volume.default_class())
    world.add(claim())
    world.add(user())
    bind(world)
    world.delete(PERSISTENT_VOLUME_CLAIMS, Key("default", "data"))
    bind(world)
    assert world.names(PERSISTENT_VOLUME_CLAIMS) == ["data"]
    world.delete(PODS, Key("default", "p"))
    bind(world)
    assert not world.names(PERSISTENT_VOLUME_CLAIMS)
    assert not world.names(PERSISTENT_VOLUMES)


def test_a_claim_of_an_unknown_class_says_so() -> None:
    world = World()
    world.add(claim(storageClassName="conf-none"))
    bind(world)
    assert phase(world) == "Pending"
    assert world.events[0].message == 'storageclass.storage.k8s.io "conf-none" not found'


def test_a_pod_waits_for_its_claim_before_it_is_placed() -> None:
    world = World()
    world.add(node())
    world.add(user())
    world.run(scheduler.controller())
    assert condition_of(world.pods()[0], "PodScheduled") is None
    world.later(scheduler.PATIENCE_S)
    world.run(scheduler.controller())
    assert refusal(world, "p") == '0/1 nodes are available: persistentvolumeclaim "data" not found.'
    world.add(volume.default_class())
    world.add(claim())
    world.run(scheduler.controller(), volume.binder("/data"))
    assert bound(world) == {"p": "n1"}


def test_the_default_class_is_installed_once() -> None:
    world = World()
    world.add({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "default"}})
    world.run(volume.class_installer())
    assert world.names(STORAGE_CLASSES) == ["standard"]
    assert_at_rest(world, volume.class_installer())
