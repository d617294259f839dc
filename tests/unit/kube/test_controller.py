# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""The loop with a toy controller: each Widget wants a ConfigMap and says in its status how that went."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import pytest
from aiohttp import web

from kaito.kube.controller import Manager
from kaito.kube.manifest import Key, Manifest, owner_reference
from kaito.kube.plan import (
    Controller,
    Create,
    Delete,
    Event,
    Patch,
    Plan,
    Reader,
    RetryLater,
    Terminal,
    Watch,
    no_keys,
    owner_keys,
)
from kaito.kube.resource import CONFIG_MAPS, PODS, SECRETS, Resource
from tests.unit.kube.apiserver import ApiServer, refusal, running
from tests.unit.kube.waiting import background, until

WIDGETS = Resource("example.io", "v1", "widgets", "Widget")
GADGETS = Resource("example.io", "v1", "gadgets", "Gadget")
WIDGET_PLACE = "/apis/example.io/v1/widgets"
MAP_PLACE = "/api/v1/configmaps"
EVENT_PLACE = "/api/v1/events"
POD_PLACE = "/api/v1/pods"
WRITES = ("POST", "PUT", "PATCH", "DELETE")


@dataclass(frozen=True)
class Seen:
    widget: Manifest
    child: Manifest | None


def observe(reader: Reader, key: Key) -> Seen | None:
    widget = reader.get(WIDGETS, key.name, key.namespace)
    if widget is None:
        return None
    children = reader.owned_by(CONFIG_MAPS, widget["metadata"]["uid"])
    return Seen(widget, children[0] if children else None)


def child_of(widget: Manifest) -> Manifest:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": f"{widget['metadata']['name']}-map",
            "namespace": "default",
            "ownerReferences": [owner_reference(widget)],
        },
        "data": dict(widget.get("spec") or {}),
    }


def plan(seen: Seen, now: datetime) -> Plan:
    return Plan(apply=(child_of(seen.widget),), status={"ready": seen.child is not None})


CONTROLLER: Controller[Seen] = Controller(
    name="widgets",
    resource=WIDGETS,
    observe=observe,
    plan=plan,
    watches=(Watch(CONFIG_MAPS, owner_keys("Widget")),),
)


def widget(name: str, **spec: str) -> Manifest:
    return {
        "apiVersion": "example.io/v1",
        "kind": "Widget",
        "metadata": {"name": name, "namespace": "default"},
        "spec": spec,
    }


def planning(make: Callable[[Seen], Plan], **changes: Any) -> Controller[Seen]:
    return replace(CONTROLLER, plan=lambda seen, now: make(seen), **changes)


@asynccontextmanager
async def managed(*controllers: Controller[Seen]) -> AsyncIterator[tuple[ApiServer, Manager]]:
    async with running() as server, server.client() as client:
        await server.put(WIDGET_PLACE, widget("w", colour="red"))
        manager = Manager(client, controllers or (CONTROLLER,))
        async with background(manager.run()):
            async with asyncio.timeout(20):
                await manager.synced()
            yield server, manager


def children(server: ApiServer) -> dict[str, Any]:
    return {name: obj["data"] for name, obj in server.objects.get(MAP_PLACE, {}).items()}


def is_ready(server: ApiServer, name: str = "w") -> bool:
    return bool(server.objects[WIDGET_PLACE][name].get("status", {}).get("ready"))


async def settled(server: ApiServer, manager: Manager, *, for_s: float = 0.04) -> int:
    """The number of writes once none has come for a while."""
    writes = -1
    while writes != sum(server.count(verb) for verb in WRITES) or not manager.is_idle:
        writes = sum(server.count(verb) for verb in WRITES)
        await asyncio.sleep(for_s)
    return writes


async def test_what_is_wanted_comes_to_be_and_then_nothing_is_written() -> None:
    async with managed() as (server, manager):
        await until(lambda: is_ready(server))
        assert children(server) == {"w-map": {"colour": "red"}}
        # Child, status not ready (or ready already, as the answer to the apply is seen at once): three at most.
        assert await settled(server, manager) <= 3
        assert manager.stats["widgets"].writes == sum(server.count(verb) for verb in WRITES)


async def test_no_write_is_lost_from_the_count_while_others_are_on_their_way() -> None:
    def telling(seen: Seen) -> Plan:
        return replace(plan(seen, datetime.now(UTC)), events=(Event(seen.widget, "Seen", "It was seen."),))

    async with managed(planning(telling)) as (server, manager):
        for number in range(20):
            await server.put(WIDGET_PLACE, widget(f"w{number}"))
        await until(lambda: len(server.objects.get(EVENT_PLACE, {})) == 21)
        await settled(server, manager)
        assert manager.stats["widgets"].writes == sum(server.count(verb) for verb in WRITES)


async def test_a_restart_writes_nothing_when_all_is_as_wanted() -> None:
    async with managed() as (server, manager):
        await until(lambda: is_ready(server))
        before = await settled(server, manager)
        async with server.client() as client:
            second = Manager(client, [CONTROLLER])
            async with background(second.run()):
                await second.synced()
                await until(lambda: second.stats["widgets"].reconciles > 0)
                assert await settled(server, second) == before


async def test_a_changed_spec_a_dropped_field_and_drift_are_repaired() -> None:
    async with managed() as (server, manager):
        await until(lambda: is_ready(server))
        await settled(server, manager)
        current = server.objects[WIDGET_PLACE]["w"]
        await server.put(WIDGET_PLACE, {**current, "spec": {"colour": "blue", "size": "1"}})
        await until(lambda: children(server)["w-map"] == {"colour": "blue", "size": "1"})
        current = server.objects[WIDGET_PLACE]["w"]
        await server.put(WIDGET_PLACE, {**current, "spec": {"size": "1"}})
        await until(lambda: children(server)["w-map"] == {"size": "1"})
        child = server.objects[MAP_PLACE]["w-map"]
        await server.put(MAP_PLACE, {**child, "data": {"size": "2", "foreign": "stays"}})
        await until(lambda: children(server)["w-map"] == {"size": "1", "foreign": "stays"})
        await server.remove(MAP_PLACE, "w-map")
        await until(lambda: children(server) == {"w-map": {"size": "1"}})
        before = await settled(server, manager)
        await asyncio.sleep(0.1)
        assert sum(server.count(verb) for verb in WRITES) == before


async def test_a_server_that_writes_values_otherwise_is_not_asked_again_and_again() -> None:
    def normalised(seen: Seen) -> Plan:
        # Nulls vanish and an atomic map gets a default: what comes back is never what was sent.
        child = {**child_of(seen.widget), "data": {"list": [{"a": 1}]}}
        return Plan(apply=(child,), requeue_after_s=0.02)

    async with running() as server, server.client() as client:
        await server.put(WIDGET_PLACE, widget("w"))
        server.normalise = lambda obj: obj["data"]["list"][0].update(b=2) if "list" in obj.get("data", {}) else None
        manager = Manager(client, [planning(normalised)])
        async with background(manager.run()):
            await until(lambda: manager.stats["widgets"].reconciles > 5)
            assert server.count("PATCH") == 1
            child = server.objects[MAP_PLACE]["w-map"]
            await server.put(MAP_PLACE, {**child, "data": {"list": [{"a": 2, "b": 2}]}})
            await until(lambda: server.objects[MAP_PLACE]["w-map"]["data"]["list"][0]["a"] == 1)


async def test_an_apply_of_what_is_not_watched_is_sent_once_and_when_it_changes() -> None:
    def secretive(seen: Seen) -> Plan:
        child = {**child_of(seen.widget), "kind": "Secret"}
        return Plan(apply=(child,), requeue_after_s=0.02)

    async with managed(planning(secretive, known=(SECRETS,))) as (server, manager):
        await until(lambda: manager.stats["widgets"].reconciles > 5)
        assert server.count("PATCH") == 1
        await server.put(WIDGET_PLACE, {**server.objects[WIDGET_PLACE]["w"], "spec": {"colour": "blue"}})
        await until(lambda: server.objects["/api/v1/secrets"]["w-map"]["data"] == {"colour": "blue"})


async def test_creates_patches_and_deletes_that_are_done_already_are_not_sent() -> None:
    def many(seen: Seen) -> Plan:
        key = Key("default", "w")
        return Plan(
            patches=(Patch(WIDGETS, key, {"metadata": {"finalizers": ["example.io/f"]}}),),
            create=(Create(child_of(seen.widget)),),
            delete=(Delete(CONFIG_MAPS, Key("default", "old"), uid="uid-old"),),
            requeue_after_s=0.02,
        )

    async with running() as server, server.client() as client:
        old = {"name": "old", "namespace": "default", "uid": "uid-old"}
        await server.put(MAP_PLACE, {"apiVersion": "v1", "kind": "ConfigMap", "metadata": old})
        await server.put(WIDGET_PLACE, widget("w"))
        manager = Manager(client, [planning(many)])
        async with background(manager.run()):
            await until(lambda: manager.stats["widgets"].reconciles > 5)
            assert set(server.objects[MAP_PLACE]) == {"w-map"}
            assert server.objects[WIDGET_PLACE]["w"]["metadata"]["finalizers"] == ["example.io/f"]
            assert [server.count(verb) for verb in WRITES] == [1, 0, 1, 1]


async def test_what_others_did_first_is_no_error() -> None:
    def late(seen: Seen) -> Plan:
        return Plan(
            patches=(Patch(SECRETS, Key("default", "gone"), {"data": {}}),),
            create=(Create({**child_of(seen.widget), "kind": "Secret"}),),
            delete=(Delete(SECRETS, Key("default", "gone")),),
        )

    async with running() as server, server.client() as client:
        await server.put("/api/v1/secrets", {"metadata": {"name": "w-map", "namespace": "default"}})
        await server.put(WIDGET_PLACE, widget("w"))
        manager = Manager(client, [planning(late, known=(SECRETS,))])
        async with background(manager.run()):
            await until(lambda: manager.stats["widgets"].reconciles > 0)
            assert (manager.stats["widgets"].errors, manager.stats["widgets"].retries) == (0, 0)


async def test_a_conflict_is_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "kaito")
    async with running() as server, server.client() as client:
        await server.put(WIDGET_PLACE, widget("w"))
        server.answers.append(("PATCH", refusal(409, "Conflict")))
        manager = Manager(client, [CONTROLLER])
        async with background(manager.run()):
            await until(lambda: is_ready(server))
            assert (manager.stats["widgets"].errors, manager.stats["widgets"].retries) == (0, 1)
    assert "widgets default/w: no; again in" in caplog.text


async def test_a_dying_namespace_is_no_error_and_is_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "kaito")
    body = {"kind": "Status", "code": 403, "details": {"causes": [{"reason": "NamespaceTerminating"}]}}
    async with running() as server, server.client() as client:
        await server.put(WIDGET_PLACE, widget("w"))
        server.answers += [("PATCH", lambda request: web.json_response(body, status=403))] * 3
        manager = Manager(client, [CONTROLLER])
        async with background(manager.run()):
            await until(lambda: manager.stats["widgets"].reconciles > 0)
            await asyncio.sleep(0.05)
            stats = manager.stats["widgets"]
            assert (stats.reconciles, stats.errors, stats.retries) == (1, 0, 1)
    assert caplog.text == ""


@pytest.mark.parametrize(
    ("raised", "tries_again", "told"),
    [
        (RetryLater("the node is away"), True, "default/bad: the node is away; again in"),
        (Terminal("it never will"), False, "default/bad: it never will; not again until it changes"),
        (ValueError("boom"), True, "default/bad: a defect; again in"),
    ],
)
async def test_one_failing_key_stops_no_other(
    raised: Exception, tries_again: bool, told: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "kaito")
    attempts = 0

    def careful(reader: Reader, key: Key) -> Seen | None:
        nonlocal attempts
        if key.name == "bad":
            attempts += 1
            raise raised
        return observe(reader, key)

    async with managed(replace(CONTROLLER, observe=careful, workers=1)) as (server, _):
        await server.put(WIDGET_PLACE, widget("bad"))
        await server.put(WIDGET_PLACE, widget("good"))
        await until(lambda: "good" in server.objects[WIDGET_PLACE] and is_ready(server, "good"))
        await until(lambda: attempts > 2 if tries_again else attempts == 1)
        await asyncio.sleep(0.05)
        assert tries_again or attempts == 1
    assert told in caplog.text


async def test_reading_what_is_not_watched_is_told_as_a_defect(caplog: pytest.LogCaptureFixture) -> None:
    def nosy(reader: Reader, key: Key) -> Seen | None:
        reader.get(SECRETS, "x")
        return None

    async with managed(replace(CONTROLLER, observe=nosy)) as (_, manager):
        await until(lambda: manager.stats["widgets"].errors > 0)
    assert "secrets are read but not watched" in caplog.text


async def test_a_broken_watch_mapping_leaves_the_others_working(caplog: pytest.LogCaptureFixture) -> None:
    def broken(obj: Manifest) -> list[Key]:
        raise KeyError("spec")

    bad = replace(CONTROLLER, name="bad", watches=(Watch(CONFIG_MAPS, broken),), plan=lambda seen, now: Plan())
    async with managed(bad, CONTROLLER) as (server, _):
        await until(lambda: is_ready(server))
    assert "bad: the watch on ConfigMap cannot tell its keys" in caplog.text


async def test_controllers_share_the_caches_of_what_both_watch() -> None:
    other = replace(CONTROLLER, name="other", plan=lambda seen, now: Plan())
    async with managed(CONTROLLER, other) as (server, manager):
        await until(lambda: is_ready(server) and server.count("watch") == 2)
        assert server.count("list") == 2
        with pytest.raises(ValueError, match="'other'"):
            manager.add(other)


async def test_a_controller_may_come_and_go_while_the_manager_runs() -> None:
    async with managed(replace(CONTROLLER, name="first", plan=lambda seen, now: Plan())) as (server, manager):
        manager.add(replace(CONTROLLER, watches=(*CONTROLLER.watches, Watch(SECRETS, no_keys))))
        await until(lambda: is_ready(server) and server.count("watch") == 3)
        manager.remove("widgets")
        await until(lambda: not manager.stats.get("widgets"))
        await server.put(WIDGET_PLACE, widget("late"))
        await until(lambda: manager.stats["first"].reconciles > 2)
        assert "late-map" not in children(server)


async def test_a_replaced_controller_takes_over_the_caches_of_its_predecessor() -> None:
    async with managed() as (server, manager):
        await until(lambda: is_ready(server) and len(server.watches) == 2)
        manager.remove("widgets")
        manager.add(replace(CONTROLLER, plan=lambda seen, now: Plan(status={"ready": False})))
        await until(lambda: not is_ready(server))
        assert (server.count("list"), server.count("watch")) == (2, 2)


async def test_a_manager_that_was_stopped_may_run_again() -> None:
    async with running() as server, server.client() as client:
        manager = Manager(client, [CONTROLLER])
        async with background(manager.run()):
            await manager.synced()
        await server.put(WIDGET_PLACE, widget("w"))
        async with background(manager.run()):
            await until(lambda: "w" in server.objects[WIDGET_PLACE] and is_ready(server))


async def test_keys_come_back_as_soon_as_a_lost_server_does() -> None:
    async with managed() as (server, manager):
        await until(lambda: is_ready(server))
        await settled(server, manager)
        await server.kill()
        current = server.objects[WIDGET_PLACE]["w"]
        await server.put(WIDGET_PLACE, {**current, "spec": {"colour": "green"}})
        await asyncio.sleep(0.2)
        await server.start()
        await until(lambda: children(server)["w-map"] == {"colour": "green"})


async def test_events_are_counted_and_losing_them_fails_nothing() -> None:
    def talkative(seen: Seen) -> Plan:
        event = Event(seen.widget, "Painted", "It is red now.")
        return Plan(status={"ready": True}, events=(event,), requeue_after_s=0.02)

    async with managed(planning(talkative)) as (server, manager):
        await until(lambda: manager.stats["widgets"].reconciles > 4)
        (event,) = server.objects[EVENT_PLACE].values()
        assert (event["reason"], event["count"], event["source"]) == ("Painted", 1, {"component": "widgets"})
        assert event["involvedObject"]["name"] == "w"
        assert server.count("POST") == 1
        server.answers += [("POST", refusal(500, "InternalError"))] * 3
        await server.put(WIDGET_PLACE, widget("second"))
        await until(lambda: is_ready(server, "second"))
        assert manager.stats["widgets"].errors == 0


@pytest.mark.parametrize("verb", ["POST", "PATCH"])
async def test_a_manifest_that_is_refused_is_told_and_tried_again(verb: str) -> None:
    def refused(manifest: Manifest, said: str) -> Plan:
        return Plan(status={"said": f"{manifest['kind']} {said}"})

    def ordering(seen: Seen) -> Plan:
        child = child_of(seen.widget)
        changes: dict[str, Any] = {"apply": (child,)} if verb == "PATCH" else {"create": (Create(child),)}
        return Plan(**changes, status={"said": "made"}, refused=refused)

    async with running() as server, server.client() as client:
        server.answers += [(verb, refusal(422, "Invalid"))]
        await server.put(WIDGET_PLACE, widget("w"))
        manager = Manager(client, [planning(ordering)])
        seen: list[str] = []
        server.normalise = lambda obj: seen.append((obj.get("status") or {}).get("said", ""))
        async with background(manager.run()):
            await until(lambda: "made" in seen)
            assert manager.stats["widgets"].errors == 1
        assert [said for said in seen if said] == ["ConfigMap no", "made"]


async def test_a_kind_that_is_optional_may_be_missing_and_come_later() -> None:
    """The controller works meanwhile, and hears of the kind's objects once there are any."""

    def telling(seen: Seen) -> Plan:
        return Plan(status={"served": seen.child is not None})

    def looking(reader: Reader, key: Key) -> Seen | None:
        found = reader.get(WIDGETS, key.name, key.namespace)
        assert reader.list(GADGETS) == [] or reader.serves(GADGETS)
        return None if found is None else Seen(found, {} if reader.serves(GADGETS) else None)

    gadgets = Watch(GADGETS, lambda obj: [Key("default", "w")], optional=True)
    controller = replace(planning(telling), observe=looking, watches=(gadgets,))

    def told(server: ApiServer) -> Any:
        return server.objects[WIDGET_PLACE]["w"].get("status")

    async with running() as server, server.client() as client:
        server.answers += [("/apis/example.io/v1/gadgets", refusal(404, "NotFound"))] * 50
        await server.put(WIDGET_PLACE, widget("w"))
        manager = Manager(client, [controller])
        async with background(manager.run()):
            await until(lambda: told(server) == {"served": False})
            server.answers.clear()
            await server.put("/apis/example.io/v1/gadgets", {**widget("g"), "kind": "Gadget"})
            await until(lambda: told(server) == {"served": True})


async def test_of_what_is_watched_only_the_named_fields_are_kept() -> None:
    seen: list[Manifest] = []
    watch = Watch(PODS, lambda pod: seen.append(pod) or (), keeps=("spec.nodeName", "status.phase"))
    async with running() as server, server.client() as client:
        spec = {"nodeName": "n", "containers": [{"name": "c"}]}
        await server.put(POD_PLACE, {"metadata": {"name": "p", "namespace": "default"}, "spec": spec})
        manager = Manager(client, [replace(CONTROLLER, watches=(watch,))])
        async with background(manager.run()):
            await until(lambda: bool(seen))
    assert (seen[0]["metadata"]["name"], seen[0]["spec"], seen[0].get("status")) == ("p", {"nodeName": "n"}, None)


async def test_of_a_trimmed_resource_every_controller_sees_what_is_left() -> None:
    seen: list[Manifest] = []
    watch = Watch(PODS, lambda pod: seen.append(pod) or ())
    async with running() as server, server.client() as client:
        await server.put(POD_PLACE, {"metadata": {"name": "p", "namespace": "default"}, "spec": {"nodeName": "n"}})
        trims = {PODS: lambda pod: {**pod, "spec": {}}}
        manager = Manager(client, [replace(CONTROLLER, watches=(watch,))], trims=trims)
        async with background(manager.run()):
            await until(lambda: bool(seen))
    assert (seen[0]["metadata"]["name"], seen[0]["spec"]) == ("p", {})


async def test_a_change_of_what_is_trimmed_wakes_nobody() -> None:
    seen: list[Manifest] = []
    watch = Watch(PODS, lambda pod: seen.append(pod) or ())
    trims = {PODS: lambda pod: {**pod, "spec": {"nodeName": pod["spec"]["nodeName"]}}}

    def pod(node: str, hostname: str) -> Manifest:
        spec = {"nodeName": node, "hostname": hostname}
        meta = {"name": "p", "namespace": "default", "uid": "u"}
        return {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": spec}

    async with running() as server, server.client() as client:
        await server.put(POD_PLACE, pod("n", "a"))
        manager = Manager(client, [replace(CONTROLLER, watches=(watch,))], trims=trims)
        async with background(manager.run()):
            await until(lambda: bool(seen))
            seen.clear()
            await server.put(POD_PLACE, pod("n", "b"))
            await server.put(POD_PLACE, pod("m", "b"))
            await until(lambda: bool(seen))
    # A change wakes for the object as it was and as it is.
    assert [one["spec"]["nodeName"] for one in seen] == ["n", "m"]
