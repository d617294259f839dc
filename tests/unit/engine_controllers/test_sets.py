# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""StatefulSets and DaemonSets."""

from __future__ import annotations

from typing import Any

from kaito.engine.controllers import daemonset, statefulset
from kaito.kube.manifest import Key, Manifest
from kaito.kube.resource import (
    CONTROLLER_REVISIONS,
    DAEMON_SETS,
    NODES,
    PERSISTENT_VOLUME_CLAIMS,
    PODS,
    STATEFUL_SETS,
)
from tests.unit.engine_controllers.builders import node, workload
from tests.unit.engine_controllers.world import World, assert_at_rest

DB = Key("default", "db")
CLAIMS = [{"metadata": {"name": "data"}, "spec": {"resources": {"requests": {"storage": "1Gi"}}}}]


def database(**spec: Any) -> World:
    world = World()
    rolling = {"type": "RollingUpdate", "rollingUpdate": {"partition": 0}}
    world.add(workload("StatefulSet", "db", **{"serviceName": "db", "updateStrategy": rolling, **spec}))
    return world


def run(world: World) -> None:
    world.run(statefulset.controller())


def settle(world: World) -> None:
    for _ in range(40):
        before = world.writes
        run(world)
        for p in world.pods():
            if (p.get("status") or {}).get("phase") != "Running":
                world.set_pod(p["metadata"]["name"])
        if world.writes == before:
            return
    raise AssertionError("does not settle")


def db(world: World) -> Manifest:
    return world.objects[STATEFUL_SETS, DB]


def set_image(world: World, image: str) -> None:
    body = {"spec": {"template": {"spec": {"containers": [{"name": "main", "image": image}]}}}}
    world.change(STATEFUL_SETS, DB, body)


def images(world: World) -> dict[str, str]:
    return {p["metadata"]["name"]: p["spec"]["containers"][0]["image"] for p in world.pods()}


def test_pods_start_one_after_the_other() -> None:
    world = database(replicas=3)
    run(world)
    assert world.names() == ["db-0"]
    world.set_pod("db-0")
    run(world)
    assert world.names() == ["db-0", "db-1"]


def test_a_pod_has_its_name_and_its_claims() -> None:
    world = database(replicas=1, volumeClaimTemplates=CLAIMS)
    run(world)
    [pod] = world.pods()
    assert pod["metadata"]["generateName"] == "db-"
    revision = pod["metadata"]["labels"].pop("controller-revision-hash")
    assert pod["metadata"]["labels"] == {
        "app": "db",
        "apps.kubernetes.io/pod-index": "0",
        "statefulset.kubernetes.io/pod-name": "db-0",
    }
    assert (pod["spec"]["hostname"], pod["spec"]["subdomain"]) == ("db-0", "db")
    assert pod["spec"]["volumes"] == [{"name": "data", "persistentVolumeClaim": {"claimName": "data-db-0"}}]
    [claim] = world.list(PERSISTENT_VOLUME_CLAIMS)
    assert claim["metadata"]["labels"] == {"app": "db"}
    [kept] = world.list(CONTROLLER_REVISIONS)
    assert (kept["metadata"]["name"], kept["revision"]) == (revision, 1)


def test_all_at_once_when_parallel() -> None:
    world = database(replicas=3, podManagementPolicy="Parallel", ordinals={"start": 5})
    run(world)
    assert world.names() == ["db-5", "db-6", "db-7"]


def test_the_status_counts_and_then_rests() -> None:
    world = database(replicas=2)
    settle(world)
    status = dict(db(world)["status"])
    assert status.pop("currentRevision") == status.pop("updateRevision")
    counts = ("replicas", "readyReplicas", "availableReplicas", "currentReplicas", "updatedReplicas")
    assert status == {**dict.fromkeys(counts, 2), "collisionCount": 0, "observedGeneration": 1}
    assert_at_rest(world, statefulset.controller())


def test_scaling_down_takes_the_highest_and_keeps_claims() -> None:
    world = database(replicas=3, volumeClaimTemplates=CLAIMS)
    settle(world)
    world.change(STATEFUL_SETS, DB, {"spec": {"replicas": 1}})
    settle(world)
    assert world.names() == ["db-0"]
    assert world.names(PERSISTENT_VOLUME_CLAIMS) == ["data-db-0", "data-db-1", "data-db-2"]
    assert [e.message for e in world.events if e.reason == "SuccessfulDelete"] == [
        "delete Pod db-2 in StatefulSet db successful",
        "delete Pod db-1 in StatefulSet db successful",
    ]


def test_claims_go_with_the_set_or_the_pod_when_asked_to() -> None:
    policy = {"whenDeleted": "Delete", "whenScaled": "Delete"}
    world = database(replicas=2, volumeClaimTemplates=CLAIMS, persistentVolumeClaimRetentionPolicy=policy)
    settle(world)

    def owner(name: str) -> str:
        claim = world.objects[PERSISTENT_VOLUME_CLAIMS, Key("default", name)]
        return str(claim["metadata"]["ownerReferences"][0]["kind"])

    assert owner("data-db-1") == "StatefulSet"
    world.change(PODS, Key("default", "db-1"), {"spec": {"nodeName": "n1"}})
    world.change(STATEFUL_SETS, DB, {"spec": {"replicas": 1}})
    run(world)
    assert (owner("data-db-0"), owner("data-db-1")) == ("StatefulSet", "Pod")


def test_an_update_goes_from_the_highest_to_the_lowest() -> None:
    world = database(replicas=2)
    settle(world)
    set_image(world, "app:2")
    run(world)
    assert images(world) == {"db-0": "app:1", "db-1": "app:2"}
    settle(world)
    assert set(images(world).values()) == {"app:2"}
    assert db(world)["status"]["currentRevision"] == db(world)["status"]["updateRevision"]


def test_a_partition_holds_the_lower_pods_back() -> None:
    world = database(replicas=3, updateStrategy={"type": "RollingUpdate", "rollingUpdate": {"partition": 2}})
    settle(world)
    set_image(world, "app:2")
    settle(world)
    assert images(world) == {"db-0": "app:1", "db-1": "app:1", "db-2": "app:2"}
    world.delete(PODS, Key("default", "db-0"))
    settle(world)
    assert images(world)["db-0"] == "app:1"


def test_on_delete_replaces_only_what_was_deleted() -> None:
    world = database(replicas=2, updateStrategy={"type": "OnDelete"})
    settle(world)
    set_image(world, "app:2")
    settle(world)
    assert set(images(world).values()) == {"app:1"}
    world.delete(PODS, Key("default", "db-1"))
    settle(world)
    assert images(world) == {"db-0": "app:1", "db-1": "app:2"}


def test_going_back_makes_the_old_revision_the_newest() -> None:
    world = database(replicas=1)
    settle(world)
    for image in ("app:2", "app:1"):
        set_image(world, image)
        settle(world)
    numbers = sorted(r["revision"] for r in world.list(CONTROLLER_REVISIONS))
    assert numbers == [2, 3]


def test_a_failed_pod_is_made_again() -> None:
    world = database(replicas=1)
    settle(world)
    uid = world.pods()[0]["metadata"]["uid"]
    world.set_pod("db-0", "Failed")
    run(world)
    assert world.names() == ["db-0"]
    assert world.pods()[0]["metadata"]["uid"] != uid


def test_a_pod_on_its_way_out_is_waited_for() -> None:
    world = database(replicas=2)
    settle(world)
    for name in world.names():
        world.change(PODS, Key("default", name), {"spec": {"nodeName": "n1"}})
    world.delete(PODS, Key("default", "db-0"))
    run(world)
    assert world.names() == ["db-0", "db-1"]
    world.remove(PODS, Key("default", "db-0"))
    run(world)
    assert world.names() == ["db-0", "db-1"]


def test_a_set_that_is_being_deleted_makes_nothing() -> None:
    world = database(replicas=2)
    world.delete(STATEFUL_SETS, DB, propagation="Foreground")
    run(world)
    assert not world.pods()


def test_a_daemon_set_has_a_pod_on_every_node_that_admits_it() -> None:
    world = World()
    for name in ("n1", "n2"):
        world.add(node(name))
    world.add(node("n3"))
    world.change(NODES, Key("", "n3"), {"spec": {"taints": [{"key": "gpu", "effect": "NoSchedule"}]}})
    world.add(workload("DaemonSet", "agent"))
    controller = daemonset.controller()
    world.run(controller)
    assert sorted(daemonset.node_of(p) for p in world.pods()) == ["n1", "n2"]
    world.set_all()
    world.run(controller)
    status = world.objects[DAEMON_SETS, Key("default", "agent")]["status"]
    assert (status["desiredNumberScheduled"], status["numberReady"], status["numberAvailable"]) == (2, 2, 2)
    world.add(node("n4"))
    world.run(controller)
    assert "n4" in [daemonset.node_of(p) for p in world.pods()]
    world.change(NODES, Key("", "n1"), {"spec": {"taints": [{"key": "gpu", "effect": "NoSchedule"}]}})
    world.run(controller)
    assert "n1" not in [daemonset.node_of(p) for p in world.pods()]
    assert_at_rest(world, controller)


def test_a_daemon_set_replaces_one_pod_at_a_time() -> None:
    world = World()
    for name in ("n1", "n2"):
        world.add(node(name))
    world.add(workload("DaemonSet", "agent"))
    controller = daemonset.controller()
    world.run(controller)
    world.set_all()
    body = {"spec": {"template": {"spec": {"containers": [{"name": "main", "image": "app:2"}]}}}}
    world.change(DAEMON_SETS, Key("default", "agent"), body)
    world.run(controller)
    assert sorted(p["spec"]["containers"][0]["image"] for p in world.pods()) == ["app:1", "app:2"]
    world.set_all()
    world.run(controller)
    assert [p["spec"]["containers"][0]["image"] for p in world.pods()] == ["app:2", "app:2"]
