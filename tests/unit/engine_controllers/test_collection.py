# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Garbage collection and namespaces."""

from __future__ import annotations

from typing import Any

import pytest

from kaito.engine.controllers import garbage, namespace
from kaito.kube.manifest import Key, Manifest
from kaito.kube.plan import Controller
from kaito.kube.resource import CONFIG_MAPS, NAMESPACES, PODS, SECRETS, SERVICE_ACCOUNTS, Resource
from tests.unit.engine_controllers.builders import config_map
from tests.unit.engine_controllers.world import KNOWN, World, assert_at_rest

WIDGETS = Resource("example.com", "v1", "widgets", "Widget")


def collector() -> Controller[Any]:
    return garbage.controller((*KNOWN, WIDGETS))


def key(name: str) -> Key:
    return Key("default", name)


def owned() -> tuple[World, Controller[Any]]:
    """A world with ConfigMaps: `child` of `owner`, `both` of `owner` and `second`. The collector has seen them."""
    world, controller = World(), collector()
    owner, second = world.add(config_map("owner")), world.add(config_map("second"))
    world.add(config_map("child", owner))
    world.add(config_map("both", owner, second))
    world.run(controller)
    return world, controller


def test_nothing_goes_while_owners_are_there() -> None:
    world, controller = owned()
    assert world.names(CONFIG_MAPS) == ["both", "child", "owner", "second"]
    assert_at_rest(world, controller)


def test_dependents_go_with_their_last_owner() -> None:
    world, controller = owned()
    run_with(world, controller, lambda: world.delete(CONFIG_MAPS, key("owner")))
    assert world.names(CONFIG_MAPS) == ["both", "second"]
    both = world.objects[CONFIG_MAPS, key("both")]
    assert [r["name"] for r in both["metadata"]["ownerReferences"]] == ["second"]
    run_with(world, controller, lambda: world.delete(CONFIG_MAPS, key("second")))
    assert not world.names(CONFIG_MAPS)


def run_with(world: World, controller: Controller[Any], change: Any) -> None:
    """Make a change while the controller listens, then let it work."""
    hook = Resource("test", "v1", "hooks", "Hook")
    done: list[bool] = []

    def observe(reader: Any, token: Key) -> None:
        if not done:
            done.append(True)
            change()

    world.objects[hook, Key("", "x")] = {"metadata": {"name": "x", "resourceVersion": "0"}}
    world.run(Controller(name="hook", resource=hook, observe=observe, plan=lambda o, now: None), controller)  # type: ignore[arg-type, return-value]
    del world.objects[hook, Key("", "x")]


def test_orphaning_takes_the_reference_off() -> None:
    world, controller = owned()
    run_with(world, controller, lambda: world.delete(CONFIG_MAPS, key("owner"), propagation="Orphan"))
    assert world.names(CONFIG_MAPS) == ["both", "child", "second"]
    assert not world.objects[CONFIG_MAPS, key("child")]["metadata"].get("ownerReferences")


def test_foreground_deletion_takes_blocking_dependents_first() -> None:
    world, controller = World(), collector()
    owner = world.add(config_map("owner"))
    child = config_map("child", owner, finalizers=["example.com/hold"])
    child["metadata"]["ownerReferences"][0]["blockOwnerDeletion"] = True
    world.add(child)
    run_with(world, controller, lambda: world.delete(CONFIG_MAPS, key("owner"), propagation="Foreground"))
    assert world.names(CONFIG_MAPS) == ["child", "owner"]
    assert world.objects[CONFIG_MAPS, key("child")]["metadata"]["deletionTimestamp"]
    body = {"metadata": {"finalizers": None}}
    run_with(world, controller, lambda: world.change(CONFIG_MAPS, key("child"), body))
    assert not world.names(CONFIG_MAPS)


@pytest.mark.parametrize("name", ["never", "owner"])
def test_a_reference_to_nobody_is_dead_after_a_moment(name: str) -> None:
    world, controller = World(), collector()
    world.add(config_map("owner"))
    stranger: Manifest = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "uid": "nobody"}}
    world.add(config_map("lost", stranger))
    world.run(controller)
    assert "lost" in world.names(CONFIG_MAPS)
    world.later(garbage.UNSEEN_OWNER_S)
    world.run(controller)
    assert "lost" not in world.names(CONFIG_MAPS)


def test_a_reference_to_a_kind_that_is_not_served_is_left_alone() -> None:
    world, controller = World(), collector()
    foreign: Manifest = {"apiVersion": "other.io/v1", "kind": "Gadget", "metadata": {"name": "g", "uid": "g"}}
    world.add(config_map("child", foreign))
    world.later(60)
    world.run(controller)
    assert world.names(CONFIG_MAPS) == ["child"]


def test_custom_kinds_own_and_are_owned_in_any_version() -> None:
    world, controller = World(known=(*KNOWN, WIDGETS)), collector()
    widget = world.add(
        {"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": "w", "namespace": "default"}}
    )
    older = {**widget, "apiVersion": "example.com/v1alpha1"}
    world.add(config_map("child", older))
    world.run(controller)
    run_with(world, controller, lambda: world.delete(WIDGETS, key("w")))
    assert not world.names(CONFIG_MAPS)


def test_a_failed_write_is_tried_again() -> None:
    world, controller = owned()
    token = Key("default", "configmaps.|owner")
    world.run(controller)
    world.remove(CONFIG_MAPS, key("owner"))
    for _ in range(2):
        observed = controller.observe(world, token)
        assert observed is not None
        assert len(controller.plan(observed, world.now).delete) == 1


def space(name: str = "team") -> Manifest:
    spec = {"finalizers": ["kubernetes"]}
    return {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": name},
        "spec": spec,
        "status": {"phase": "Active"},
    }


def test_a_new_namespace_gets_an_account_and_the_authority() -> None:
    world, controller = World(), namespace.furnisher("PEM")
    world.add(space())
    world.run(controller)
    assert world.names(SERVICE_ACCOUNTS) == ["default"]
    [root] = world.list(CONFIG_MAPS, "team")
    assert (root["metadata"]["name"], root["data"]) == ("kube-root-ca.crt", {"ca.crt": "PEM"})
    world.change(CONFIG_MAPS, Key("team", "kube-root-ca.crt"), {"data": {"ca.crt": "old"}})
    world.remove(SERVICE_ACCOUNTS, Key("team", "default"))
    world.run(controller)
    assert world.names(SERVICE_ACCOUNTS) == ["default"]
    assert world.list(CONFIG_MAPS, "team")[0]["data"] == {"ca.crt": "PEM"}
    assert_at_rest(world, controller)


def test_a_namespace_that_goes_is_emptied_first() -> None:
    world, controller = World(), namespace.emptier(KNOWN)
    world.add(space())
    for name, finalizers in (("plain", None), ("held", ["example.com/hold"])):
        world.add(config_map(name, namespace="team", **({"finalizers": finalizers} if finalizers else {})))
    world.add({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s", "namespace": "team"}})
    world.delete(NAMESPACES, Key("", "team"))
    world.run(controller)
    assert not world.names(SECRETS)
    assert world.names(CONFIG_MAPS) == ["held"]
    world.run(controller)
    status = world.objects[NAMESPACES, Key("", "team")]["status"]
    assert status["phase"] == "Terminating"
    said = {c["type"]: (c["status"], c["reason"]) for c in status["conditions"]}
    assert said["NamespaceContentRemaining"] == ("True", "SomeResourcesRemain")
    assert said["NamespaceFinalizersRemaining"] == ("True", "SomeFinalizersRemain")
    world.change(CONFIG_MAPS, Key("team", "held"), {"metadata": {"finalizers": None}})
    world.run(controller)
    assert not world.names(NAMESPACES)


def test_a_namespace_that_stays_is_left_alone() -> None:
    world = World()
    world.add(space())
    assert_at_rest(world, namespace.emptier(KNOWN))
    assert PODS not in {resource for resource, _ in world.objects}
