# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Quotas and disruption budgets: what their status says about the pods and objects that there are."""

from __future__ import annotations

from typing import Any

import pytest

from kaito.engine.controllers import disruption, quota
from kaito.engine.controllers.usage import usage
from kaito.kube.manifest import Key, Manifest
from kaito.kube.resource import CONFIG_MAPS, POD_DISRUPTION_BUDGETS, RESOURCE_QUOTAS
from tests.unit.engine_controllers.builders import config_map, pod, workload
from tests.unit.engine_controllers.world import KNOWN, World, assert_at_rest

NAMESPACE = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "default"}}


def limit(*scopes: str, **hard: str) -> Manifest:
    names = {name.replace("__", "/").replace("_", "."): amount for name, amount in hard.items()}
    spec = {"hard": names, **({"scopes": list(scopes)} if scopes else {})}
    meta = {"name": "q", "namespace": "default"}
    return {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": meta, "spec": spec}


def used(world: World) -> dict[str, str]:
    world.run(quota.controller(KNOWN))
    assert_at_rest(world, quota.controller(KNOWN))
    found: dict[str, str] = world.objects[RESOURCE_QUOTAS, Key("default", "q")]["status"]["used"]
    return found


def test_what_is_used_follows_what_is_there() -> None:
    world = World()
    world.add(NAMESPACE)
    world.add(limit(configmaps="5", pods="2", requests_memory="1Gi", count__deployments_apps="3"))
    world.add(config_map("a"))
    world.add(pod("p", requests={"memory": "512Mi", "cpu": "1"}))
    assert used(world) == {"configmaps": "1", "pods": "1", "requests.memory": "512Mi", "count/deployments.apps": "0"}
    world.set_pod("p", "Succeeded")
    world.add(workload("Deployment"))
    world.remove(CONFIG_MAPS, Key("default", "a"))
    assert used(world) == {"configmaps": "0", "pods": "0", "requests.memory": "0", "count/deployments.apps": "1"}


def test_scopes_narrow_a_quota_to_some_pods() -> None:
    world = World()
    world.add(NAMESPACE)
    world.add(limit("NotBestEffort", "NotTerminating", pods="9"))
    world.add(pod("counted", requests={"cpu": "1"}))
    world.add(pod("best-effort"))
    world.add(pod("short", requests={"cpu": "1"}, activeDeadlineSeconds=5))
    assert used(world) == {"pods": "1"}


@pytest.mark.parametrize(
    ("group", "plural", "obj", "expected"),
    [
        ("", "configmaps", {}, {"configmaps": 1, "count/configmaps": 1}),
        ("apps", "deployments", {}, {"count/deployments.apps": 1}),
        (
            "",
            "services",
            {"spec": {"type": "NodePort", "ports": [{}, {}]}},
            {"services": 1, "count/services": 1, "services.nodeports": 2},
        ),
        (
            "",
            "persistentvolumeclaims",
            {"spec": {"storageClassName": "fast", "resources": {"requests": {"storage": "2Gi"}}}},
            {
                "persistentvolumeclaims": 1,
                "count/persistentvolumeclaims": 1,
                "requests.storage": 2 * 1024**3,
                "fast.storageclass.storage.k8s.io/requests.storage": 2 * 1024**3,
                "fast.storageclass.storage.k8s.io/persistentvolumeclaims": 1,
            },
        ),
    ],
)
def test_every_kind_uses_its_own(group: str, plural: str, obj: Manifest, expected: dict[str, Any]) -> None:
    assert usage(group, plural, obj) == expected


def budget(**spec: Any) -> Manifest:
    meta = {"name": "b", "namespace": "default"}
    selector = {"matchLabels": {"app": "web"}}
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": meta,
        "spec": {"selector": selector, **spec},
    }


@pytest.mark.parametrize(
    ("spec", "replicas", "ready", "expected"),
    [
        ({"minAvailable": 2}, 3, 3, (3, 2, 1)),
        ({"minAvailable": 2}, 3, 2, (2, 2, 0)),
        ({"minAvailable": "50%"}, 3, 3, (3, 2, 1)),
        ({"maxUnavailable": 1}, 3, 3, (3, 2, 1)),
        ({"maxUnavailable": 1}, 3, 2, (2, 2, 0)),
        ({"maxUnavailable": "100%"}, 3, 1, (1, 0, 1)),
        ({"minAvailable": 0}, 0, 0, (0, 0, 0)),
    ],
)
def test_a_budget_allows_what_is_healthy_beyond_what_must_be(
    spec: dict[str, Any], replicas: int, ready: int, expected: tuple[int, int, int]
) -> None:
    world = World()
    world.add(NAMESPACE)
    world.add(budget(**spec))
    owner = world.add(workload("ReplicaSet", replicas=replicas))
    reference = {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web", "uid": owner["metadata"]["uid"]}
    for number in range(replicas):
        made = pod(f"p{number}", labels={"app": "web"})
        made["metadata"]["ownerReferences"] = [{**reference, "controller": True}]
        world.add(made)
        world.set_pod(f"p{number}", ready=number < ready)
    world.run(disruption.controller())
    assert_at_rest(world, disruption.controller())
    status = world.objects[POD_DISRUPTION_BUDGETS, Key("default", "b")]["status"]
    found = (status["currentHealthy"], status["desiredHealthy"], status["disruptionsAllowed"])
    assert (found, status["expectedPods"]) == (expected, replicas)
    reason = status["conditions"][0]["reason"]
    assert reason == ("SufficientPods" if expected[2] else "InsufficientPods")
