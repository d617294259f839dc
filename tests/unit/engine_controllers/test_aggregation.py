# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Aggregated ClusterRoles."""

from __future__ import annotations

from typing import Any

from kaito.engine.controllers import aggregation
from kaito.kube.manifest import Key, Manifest
from kaito.kube.resource import CLUSTER_ROLES
from tests.unit.engine_controllers.world import World, assert_at_rest

PODS = {"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}
NODES = {"apiGroups": [""], "resources": ["nodes"], "verbs": ["get"]}


def role(name: str, *rules: Manifest, labels: Manifest | None = None, **more: Any) -> Manifest:
    meta = {"name": name, "labels": labels or {}}
    return {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRole",
        "metadata": meta,
        "rules": rules,
        **more,
    }


def rules(world: World) -> list[Manifest]:
    found: list[Manifest] = world.objects[CLUSTER_ROLES, Key("", "all")]["rules"]
    return found


def test_it_holds_the_rules_of_the_chosen_roles_and_follows_them() -> None:
    world = World()
    selectors = {"clusterRoleSelectors": [{"matchLabels": {"part": "yes"}}]}
    world.add(role("all", aggregationRule=selectors))
    world.add(role("b", PODS, NODES, labels={"part": "yes"}))
    world.add(role("a", NODES, labels={"part": "yes"}))
    world.add(role("other", PODS))
    world.run(aggregation.controller())
    assert rules(world) == [NODES, PODS]
    assert_at_rest(world, aggregation.controller())
    world.change(CLUSTER_ROLES, Key("", "b"), {"metadata": {"labels": {"part": None}}})
    world.run(aggregation.controller())
    assert rules(world) == [NODES]
