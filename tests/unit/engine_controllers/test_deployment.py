# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""ReplicaSets and Deployments."""

from __future__ import annotations

from typing import Any

import pytest

from kaito.engine.controllers import deployment, replicaset
from kaito.kube.manifest import Key, Manifest, condition_of
from kaito.kube.resource import DEPLOYMENTS, PODS, REPLICA_SETS
from tests.unit.engine_controllers.builders import workload
from tests.unit.engine_controllers.world import World, assert_at_rest

WEB = Key("default", "web")


def started(**spec: Any) -> World:
    """A world with a Deployment `web` whose pods are all ready."""
    world = World()
    world.add(workload("Deployment", **{"replicas": 2, "progressDeadlineSeconds": 600, **spec}))
    settle(world)
    return world


def run(world: World) -> None:
    world.run(replicaset.controller(), deployment.controller())


def settle(world: World) -> None:
    """Run, making pods ready, until nothing moves."""
    for _ in range(40):
        before = world.writes
        run(world)
        world.set_all()
        if world.writes == before:
            return
    raise AssertionError("does not settle")


def web(world: World) -> Manifest:
    return world.objects[DEPLOYMENTS, WEB]


def images(world: World) -> list[str]:
    return sorted(p["spec"]["containers"][0]["image"] for p in world.pods())


def set_image(world: World, image: str) -> None:
    containers = [{"name": "main", "image": image}]
    world.change(DEPLOYMENTS, WEB, {"spec": {"template": {"spec": {"containers": containers}}}})


def test_a_replica_set_makes_its_pods_and_then_rests() -> None:
    world = World()
    world.add(workload("ReplicaSet", replicas=3))
    world.run(replicaset.controller())
    assert len(world.pods()) == 3
    assert all(name.startswith("web-") and len(name) == 9 for name in world.names())
    status = world.objects[REPLICA_SETS, WEB]["status"]
    expected = {"replicas": 3, "fullyLabeledReplicas": 3, "terminatingReplicas": 0, "observedGeneration": 1}
    assert status == expected
    assert_at_rest(world, replicaset.controller())


def test_the_same_cache_asks_for_the_same_pods() -> None:
    world = World()
    world.add(workload("ReplicaSet", replicas=3))
    observed = replicaset.observe(world, WEB)
    assert observed is not None
    first, second = (replicaset.plan(observed, world.now) for _ in range(2))
    assert first.create == second.create
    assert len({c.manifest["metadata"]["name"] for c in first.create}) == 3


def test_a_deleted_pod_is_replaced_under_another_name() -> None:
    world = World()
    world.add(workload("ReplicaSet", replicas=2))
    world.run(replicaset.controller())
    victim = world.names()[0]
    world.delete(PODS, Key("default", victim))
    world.run(replicaset.controller())
    assert len(world.pods()) == 2
    assert victim not in world.names()


def test_scaling_down_takes_pods_that_are_not_ready_first() -> None:
    world = World()
    world.add(workload("ReplicaSet", replicas=3))
    world.run(replicaset.controller())
    keep = world.names()[1]
    world.set_pod(keep)
    world.change(REPLICA_SETS, WEB, {"spec": {"replicas": 1}})
    world.run(replicaset.controller())
    assert world.names() == [keep]


def test_min_ready_seconds_delays_availability() -> None:
    world = World()
    world.add(workload("ReplicaSet", replicas=1, minReadySeconds=10))
    world.run(replicaset.controller())
    world.set_all()
    observed = replicaset.observe(world, WEB)
    assert observed is not None
    assert replicaset.plan(observed, world.now).requeue_after_s == 10
    assert "availableReplicas" not in replicaset.status(observed, world.now)
    world.later(10)
    assert replicaset.status(observed, world.now)["availableReplicas"] == 1


def test_orphans_are_adopted_and_changed_labels_let_go() -> None:
    world = World()
    world.add(workload("ReplicaSet", replicas=1))
    orphan = workload("ReplicaSet")["spec"]["template"]
    world.add(
        {
            "apiVersion": "v1",
            "kind": "Pod",
            **orphan,
            "metadata": {**orphan["metadata"], "name": "mine", "namespace": "default"},
        }
    )
    world.run(replicaset.controller())
    assert world.names() == ["mine"]
    world.change(PODS, Key("default", "mine"), {"metadata": {"labels": {"app": "other"}}})
    world.run(replicaset.controller())
    assert len(world.pods()) == 2
    assert not world.objects[PODS, Key("default", "mine")]["metadata"].get("ownerReferences")


def test_a_deployment_comes_up_through_a_replica_set() -> None:
    world = World()
    world.add(workload("Deployment", replicas=2, progressDeadlineSeconds=600))
    run(world)
    [rs] = world.list(REPLICA_SETS)
    digest = rs["metadata"]["labels"]["pod-template-hash"]
    assert rs["metadata"]["name"] == f"web-{digest}"
    assert rs["spec"]["selector"]["matchLabels"] == {"app": "web", "pod-template-hash": digest}
    annotations = rs["metadata"]["annotations"]
    assert annotations == {
        "deployment.kubernetes.io/desired-replicas": "2",
        "deployment.kubernetes.io/max-replicas": "3",
        "deployment.kubernetes.io/revision": "1",
    }
    status = dict(web(world)["status"])
    available = condition_of(web(world), "Available")
    assert available is not None and available["reason"] == "MinimumReplicasUnavailable"
    assert status["replicas"] == status["unavailableReplicas"] == status["updatedReplicas"] == 2
    assert web(world)["metadata"]["annotations"] == {"deployment.kubernetes.io/revision": "1"}
    assert any(e.reason == "ScalingReplicaSet" and e.message.endswith("from 0 to 2") for e in world.events)


def test_a_finished_rollout_is_available_and_at_rest() -> None:
    world = started()
    reasons = {c["type"]: (c["status"], c["reason"]) for c in web(world)["status"]["conditions"]}
    assert reasons == {
        "Available": ("True", "MinimumReplicasAvailable"),
        "Progressing": ("True", "NewReplicaSetAvailable"),
    }
    assert_at_rest(world, replicaset.controller(), deployment.controller())


def test_a_rolling_update_never_has_too_many_or_too_few_pods() -> None:
    world = started(replicas=4)
    set_image(world, "app:2")
    for _ in range(40):
        run(world)
        ready = [p for p in world.pods() if p.get("status", {}).get("phase") == "Running"]
        assert len(world.pods()) <= 5
        assert len(ready) >= 3
        waiting = [p for p in world.pods() if p not in ready]
        if not waiting:
            break
        world.set_pod(waiting[0]["metadata"]["name"])
    assert images(world) == ["app:2"] * 4
    sizes = {
        rs["metadata"]["annotations"][deployment.REVISION]: rs["spec"]["replicas"] for rs in world.list(REPLICA_SETS)
    }
    assert sizes == {"1": 0, "2": 4}


def test_recreate_waits_for_the_last_old_pod() -> None:
    world = started(strategy={"type": "Recreate"})
    for p in world.pods():
        world.change(PODS, Key("default", p["metadata"]["name"]), {"spec": {"nodeName": "n1"}})
    set_image(world, "app:2")
    run(world)
    assert images(world) == ["app:1", "app:1"]
    assert all(p["metadata"].get("deletionTimestamp") for p in world.pods())
    for p in world.pods():
        world.remove(PODS, Key("default", p["metadata"]["name"]))
    run(world)
    assert images(world) == ["app:2", "app:2"]


def test_going_back_takes_the_old_replica_set_as_a_new_revision() -> None:
    world = started()
    set_image(world, "app:2")
    settle(world)
    set_image(world, "app:1")
    settle(world)
    assert len(world.list(REPLICA_SETS)) == 2
    assert web(world)["metadata"]["annotations"][deployment.REVISION] == "3"
    [live] = [rs for rs in world.list(REPLICA_SETS) if rs["spec"]["replicas"]]
    assert live["metadata"]["annotations"][deployment.REVISION_HISTORY] == "1"
    assert images(world) == ["app:1", "app:1"]


def test_a_paused_deployment_scales_but_does_not_roll() -> None:
    world = started()
    world.change(DEPLOYMENTS, WEB, {"spec": {"paused": True, "replicas": 3}})
    set_image(world, "app:2")
    settle(world)
    assert images(world) == ["app:1"] * 3
    progressing = condition_of(web(world), "Progressing")
    assert progressing is not None and progressing["reason"] == "DeploymentPaused"
    world.change(DEPLOYMENTS, WEB, {"spec": {"paused": None}})
    settle(world)
    assert images(world) == ["app:2"] * 3


def test_scaling_in_the_middle_of_a_rollout_shares_the_change() -> None:
    world = started(replicas=10)
    set_image(world, "app:2")
    run(world)
    world.change(DEPLOYMENTS, WEB, {"spec": {"replicas": 15}})
    run(world)
    sizes = sorted(rs["spec"]["replicas"] for rs in world.list(REPLICA_SETS))
    assert sum(sizes) <= 15 + 4
    assert sizes[0] > 5
    settle(world)
    assert images(world) == ["app:2"] * 15


def test_a_rollout_that_stands_still_is_called_so() -> None:
    world = World()
    world.add(workload("Deployment", replicas=1, progressDeadlineSeconds=60))
    run(world)
    world.later(61)
    run(world)
    progressing = condition_of(web(world), "Progressing")
    assert progressing is not None
    assert (progressing["status"], progressing["reason"]) == ("False", "ProgressDeadlineExceeded")


def test_old_replica_sets_beyond_the_limit_go() -> None:
    world = started(revisionHistoryLimit=1)
    for n in (2, 3, 4):
        world.later(1)
        set_image(world, f"app:{n}")
        settle(world)
    assert len(world.list(REPLICA_SETS)) == 2


def test_a_foreign_replica_set_of_our_name_is_avoided() -> None:
    world = World()
    manifest = world.add(workload("Deployment", replicas=1))
    foreign = workload("ReplicaSet", deployment.new_name(manifest), replicas=0)
    world.add(foreign)
    settle(world)
    assert web(world)["status"]["collisionCount"] == 1
    assert len(world.pods()) == 1


def test_a_deployment_that_is_being_deleted_makes_nothing() -> None:
    world = World()
    world.add(workload("Deployment", replicas=1))
    world.delete(DEPLOYMENTS, WEB, propagation="Foreground")
    run(world)
    assert not world.list(REPLICA_SETS)


@pytest.mark.parametrize("replicas", [0, 1, 7])
def test_a_deployment_settles_for_any_size(replicas: int) -> None:
    world = started(replicas=replicas)
    assert len(world.pods()) == replicas
    set_image(world, "app:2")
    settle(world)
    assert images(world) == ["app:2"] * replicas
