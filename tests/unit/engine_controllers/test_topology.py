# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Pods placed by what they want of each other: affinity, anti-affinity, spreading."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from kaito.engine.controllers import scheduler
from kaito.kube.manifest import Key, Manifest
from kaito.kube.resource import NODES, PODS
from tests.unit.engine_controllers.builders import node, pod
from tests.unit.engine_controllers.test_cluster import bound, refusal
from tests.unit.engine_controllers.world import World, assert_at_rest

HOST, ZONE = "kubernetes.io/hostname", "topology.kubernetes.io/zone"


def cluster(*zones: str) -> World:
    """Nodes a, b, c, … in these zones; "" has none."""
    world = World()
    world.add({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "default", "labels": {"team": "x"}}})
    for name, zone in zip("abcdefgh", zones, strict=False):
        world.add(node(name, labels={HOST: name, **({ZONE: zone} if zone else {})}))
    return world


def near(app: str, topology: str = HOST, **more: Any) -> Manifest:
    """A term that means the pods of an app."""
    return {"labelSelector": {"matchLabels": {"app": app}}, "topologyKey": topology, **more}


def required(kind: str, *terms: Manifest) -> Manifest:
    return {"affinity": {kind: {"requiredDuringSchedulingIgnoredDuringExecution": list(terms)}}}


def preferred(kind: str, term: Manifest, weight: int = 100) -> Manifest:
    wishes = [{"weight": weight, "podAffinityTerm": term}]
    return {"affinity": {kind: {"preferredDuringSchedulingIgnoredDuringExecution": wishes}}}


def spread(app: str, topology: str = ZONE, *, skew: int = 1, when: str = "DoNotSchedule", **more: Any) -> Manifest:
    rule = {"maxSkew": skew, "topologyKey": topology, "whenUnsatisfiable": when}
    return {"topologySpreadConstraints": [{**rule, "labelSelector": {"matchLabels": {"app": app}}, **more}]}


def run(world: World) -> dict[str, str | None]:
    world.run(scheduler.controller())
    return bound(world)


def test_pods_that_keep_apart_get_a_node_each_and_the_last_one_says_why_it_has_none() -> None:
    world = cluster("1", "1")
    for name in ("p", "q", "r"):
        world.add(pod(name, labels={"app": "db"}, **required("podAntiAffinity", near("db"))))
    placed = run(world)
    assert {placed["p"], placed["q"]} == {"a", "b"}
    assert refusal(world, "r") == "0/2 nodes are available: 2 node(s) didn't match pod anti-affinity rules."
    assert_at_rest(world, scheduler.controller())
    world.set_pod("p", "Succeeded")
    assert run(world)["r"] == placed["p"]


def test_a_pod_stays_away_from_one_that_does_not_want_it() -> None:
    world = cluster("1", "2")
    world.add(pod("lonely", nodeName="a", **required("podAntiAffinity", near("web", ZONE))))
    world.add(pod("web", labels={"app": "web"}))
    world.add(pod("other", labels={"app": "other"}, nodeSelector={HOST: "a"}))
    assert run(world) == {"lonely": "a", "web": "b", "other": "a"}
    world.add(pod("web2", labels={"app": "web"}, nodeSelector={HOST: "a"}))
    run(world)
    assert "1 node(s) didn't satisfy existing pods anti-affinity rules" in refusal(world, "web2")


def test_a_pod_goes_where_its_neighbour_is() -> None:
    world = cluster("1", "2", "2")
    world.add(pod("cache", labels={"app": "cache"}, nodeName="b"))
    for name in ("p", "q"):
        world.add(pod(name, **required("podAffinity", near("cache", ZONE)), requests={"cpu": "3"}))
    placed = run(world)
    assert {placed["p"], placed["q"]} == {"b", "c"}


def test_without_its_neighbour_a_pod_waits() -> None:
    world = cluster("1")
    world.add(pod("p", **required("podAffinity", near("cache"))))
    run(world)
    assert refusal(world, "p") == "0/1 nodes are available: 1 node(s) didn't match pod affinity rules."
    world.add(pod("cache", labels={"app": "cache"}))
    assert run(world) == {"p": "a", "cache": "a"}


def test_the_first_of_pods_that_want_each_other_may_be_anywhere() -> None:
    world = cluster("", "1", "2")
    for name in ("p", "q", "r"):
        world.add(pod(name, labels={"app": "ring"}, **required("podAffinity", near("ring", ZONE))))
    places = set(run(world).values())
    assert len(places) == 1
    assert "a" not in places, "a node without the label is no place"


@pytest.mark.parametrize(
    ("more", "is_placed"),
    [
        ({}, False),
        ({"namespaces": ["other"]}, True),
        ({"namespaceSelector": {}}, True),
        ({"namespaceSelector": {"matchLabels": {"team": "y"}}}, True),
        ({"namespaceSelector": {"matchLabels": {"team": "x"}}}, False),
    ],
)
def test_neighbours_are_looked_for_in_the_namespaces_that_are_named(more: Manifest, is_placed: bool) -> None:
    world = cluster("1")
    world.add({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "other", "labels": {"team": "y"}}})
    cache = pod("cache", labels={"app": "cache"}, nodeName="a")
    cache["metadata"]["namespace"] = "other"
    world.add(cache)
    world.add(pod("p", **required("podAffinity", near("cache", **more))))
    assert (run(world)["p"] == "a") is is_placed


def test_a_label_key_of_the_pod_narrows_the_term() -> None:
    world = cluster("1")
    world.add(pod("old", labels={"app": "web", "hash": "1"}, nodeName="a"))
    term = near("web", matchLabelKeys=["hash"])
    world.add(pod("p", labels={"app": "web", "hash": "2"}, **required("podAntiAffinity", term)))
    assert run(world)["p"] == "a"


def test_preferences_decide_between_nodes_and_no_more() -> None:
    world = cluster("1", "2")
    world.add(pod("cache", labels={"app": "cache"}, nodeName="b"))
    world.add(pod("near", **preferred("podAffinity", near("cache"))))
    world.add(pod("away", **preferred("podAntiAffinity", near("cache"))))
    world.add(pod("bound", nodeSelector={HOST: "b"}, **preferred("podAntiAffinity", near("cache"))))
    assert run(world) == {"cache": "b", "near": "b", "away": "a", "bound": "b"}


def test_a_preferred_node_is_taken_when_it_has_room() -> None:
    world = cluster("1", "2")
    wish = {"weight": 1, "preference": {"matchExpressions": [{"key": ZONE, "operator": "In", "values": ["2"]}]}}
    affinity = {"affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [wish]}}}
    for name in ("p", "q"):
        world.add(pod(name, requests={"cpu": "3"}, **affinity))
    assert run(world) == {"p": "b", "q": "a"}


@pytest.mark.parametrize("skew", [1, 2])
def test_no_zone_gets_more_than_the_skew_above_another(skew: int) -> None:
    world = cluster("1", "1", "1", "2")
    for number in range(6):
        world.add(pod(f"p{number}", labels={"app": "web"}, requests={"cpu": "1"}, **spread("web", skew=skew)))
    zones = Counter("2" if place == "d" else "1" for place in run(world).values())
    assert abs(zones["1"] - zones["2"]) <= skew


def test_a_zone_that_is_full_keeps_the_others_waiting() -> None:
    world = cluster("1", "2")
    world.change(NODES, Key("", "b"), {"status": {"allocatable": {"cpu": "1", "memory": "8Gi", "pods": "20"}}})
    for number in range(4):
        world.add(pod(f"p{number}", labels={"app": "web"}, requests={"cpu": "1"}, **spread("web")))
    placed = run(world)
    assert Counter(placed.values()) == {"a": 2, "b": 1, None: 1}
    name = next(name for name, place in placed.items() if place is None)
    why = "1 Insufficient cpu, 1 node(s) didn't match pod topology spread constraints"
    assert refusal(world, name) == f"0/2 nodes are available: {why}."


def test_a_node_without_the_label_is_no_place() -> None:
    world = cluster("")
    world.add(pod("p", labels={"app": "web"}, **spread("web")))
    run(world)
    why = "1 node(s) didn't match pod topology spread constraints (missing required label)"
    assert refusal(world, "p") == f"0/1 nodes are available: {why}."


def test_a_skew_that_may_be_ignored_is_a_wish() -> None:
    world = cluster("1", "2")
    world.add(pod("there", labels={"app": "web"}, nodeName="a"))
    world.add(pod("big", nodeName="b", requests={"cpu": "2"}))
    world.add(pod("p", labels={"app": "web"}, **spread("web", when="ScheduleAnyway")))
    world.add(pod("q", labels={"app": "web"}, nodeSelector={HOST: "a"}, **spread("web", when="ScheduleAnyway")))
    placed = run(world)
    assert (placed["p"], placed["q"]) == ("b", "a")


def test_pods_on_their_way_out_do_not_count_for_the_spread() -> None:
    world = cluster("1", "2")
    world.add(pod("old", labels={"app": "web"}, nodeName="a"))
    world.delete(PODS, Key("default", "old"))
    world.add(pod("p", labels={"app": "web"}, nodeSelector={HOST: "a"}, **spread("web", nodeAffinityPolicy="Ignore")))
    assert run(world)["p"] == "a"


def test_fewer_zones_than_asked_for_hold_the_least_at_none() -> None:
    world = cluster("1", "2")
    for number in range(4):
        world.add(pod(f"p{number}", labels={"app": "web"}, **spread("web", minDomains=3)))
    assert Counter(run(world).values()) == {"a": 1, "b": 1, None: 2}


def test_many_pods_with_wishes_are_placed_in_several_rounds() -> None:
    world = cluster("1", "2")
    for name in ("a", "b"):
        world.change(NODES, Key("", name), {"status": {"allocatable": {"cpu": "99", "pods": "500"}}})
    count = scheduler.RULED_AT_ONCE + 5
    for number in range(count):
        world.add(pod(f"p{number}", labels={"app": "web"}, **spread("web")))
    world.run(scheduler.controller(), rounds=2000)
    world.run(scheduler.controller(), rounds=2000)
    sizes = Counter(bound(world).values())
    assert abs(sizes["a"] - sizes["b"]) <= 1
    assert sizes["a"] + sizes["b"] == count
