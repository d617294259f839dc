# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""More important pods get the room of less important ones."""

from __future__ import annotations

from typing import Any

import pytest

from kaito.engine.controllers import scheduler
from kaito.kube.manifest import Key, Manifest, condition_of, is_deleting
from kaito.kube.resource import PODS
from tests.unit.engine_controllers.builders import node, pod
from tests.unit.engine_controllers.test_cluster import bound
from tests.unit.engine_controllers.world import World, assert_at_rest


def cluster(*names: str) -> World:
    world = World()
    for name in names:
        world.add(node(name))
    return world


def there(world: World, name: str, priority: int, cpu: str = "2", where: str = "a", **spec: Any) -> None:
    world.add(pod(name, requests={"cpu": cpu}, priority=priority, nodeName=where, **spec))
    world.set_pod(name)


def leaving(world: World) -> set[str]:
    return {p["metadata"]["name"] for p in world.pods() if is_deleting(p)}


def found(world: World, name: str) -> Manifest:
    return world.objects[PODS, Key("default", name)]


def test_a_pod_without_room_gets_that_of_a_less_important_one() -> None:
    world = cluster("a")
    there(world, "low", 1)
    there(world, "high", 100)
    world.add(pod("new", requests={"cpu": "2"}, priority=10))
    world.run(scheduler.controller())
    assert leaving(world) == {"low"}
    assert found(world, "new")["status"]["nominatedNodeName"] == "a"
    told = condition_of(found(world, "low"), "DisruptionTarget")
    assert told is not None
    assert told["reason"] == "PreemptionByScheduler"
    assert "Preempted" in [event.reason for event in world.events]
    assert_at_rest(world, scheduler.controller())
    world.remove(PODS, Key("default", "low"))
    world.run(scheduler.controller())
    assert bound(world) == {"high": "a", "new": "a"}


@pytest.mark.parametrize("spec", [{"priority": 10, "preemptionPolicy": "Never"}, {"priority": 1}, {}])
def test_who_is_not_more_important_or_does_not_want_to_waits(spec: Manifest) -> None:
    world = cluster("a")
    there(world, "low", 1, "4")
    world.add(pod("new", requests={"cpu": "2"}, **spec))
    world.run(scheduler.controller())
    assert not leaving(world)
    assert "nominatedNodeName" not in found(world, "new")["status"]


def test_nobody_leaves_where_it_does_not_help() -> None:
    world = cluster("a")
    there(world, "low", 1)
    world.add(pod("large", requests={"cpu": "5"}, priority=10))
    world.add(pod("picky", requests={"cpu": "4"}, priority=10, nodeSelector={"disk": "ssd"}))
    world.run(scheduler.controller())
    assert not leaving(world)


def test_the_fewest_and_least_important_leave() -> None:
    world = cluster("a", "b", "c")
    there(world, "a1", 5, "4", "a")
    there(world, "b1", 1, "2", "b")
    there(world, "b2", 1, "2", "b")
    there(world, "c1", 1, "4", "c")
    world.add(pod("new", requests={"cpu": "3"}, priority=10))
    world.run(scheduler.controller())
    assert leaving(world) == {"c1"}


def test_on_a_node_the_more_important_are_spared() -> None:
    world = cluster("a")
    for name, priority in (("one", 3), ("two", 1), ("three", 2)):
        there(world, name, priority, "1")
    world.add(pod("new", requests={"cpu": "2"}, priority=10))
    world.run(scheduler.controller())
    assert leaving(world) == {"two"}


def test_two_pods_do_not_send_the_same_one_away_twice() -> None:
    world = cluster("a", "b")
    there(world, "one", 1, "4", "a")
    there(world, "two", 1, "4", "b")
    for name in ("p", "q"):
        world.add(pod(name, requests={"cpu": "4"}, priority=10))
    world.run(scheduler.controller())
    assert leaving(world) == {"one", "two"}
    assert {found(world, name)["status"]["nominatedNodeName"] for name in ("p", "q")} == {"a", "b"}


def test_the_room_that_becomes_free_is_kept_for_who_it_was_made_for() -> None:
    world = cluster("a")
    there(world, "one", 1, "2")
    there(world, "two", 1, "2")
    world.add(pod("new", requests={"cpu": "4"}, priority=10))
    world.run(scheduler.controller())
    assert leaving(world) == {"one", "two"}
    world.remove(PODS, Key("default", "one"))
    world.add(pod("quick", requests={"cpu": "1"}, priority=5))
    world.run(scheduler.controller())
    assert bound(world) == {"two": "a", "new": None, "quick": None}
    world.remove(PODS, Key("default", "two"))
    world.run(scheduler.controller())
    assert bound(world)["new"] == "a"
