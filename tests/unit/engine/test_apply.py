# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Server-side apply and the owners of fields."""

from __future__ import annotations

from copy import deepcopy
from datetime import UTC, datetime
from typing import Any

import pytest

from kaito.engine.patching.apply import ApplyConflict, ApplyError, apply, track_update
from kaito.engine.schema import builtin
from kaito.engine.schema import structural as schema
from kaito.kube.manifest import Manifest

NOW = datetime(2026, 1, 1, tzinfo=UTC)
LATER = datetime(2026, 1, 2, tzinfo=UTC)
CONFIG_MAP = builtin.shape_of("v1", "ConfigMap")
DEPLOYMENT = builtin.shape_of("apps/v1", "Deployment")


def config_map(**data: str) -> Manifest:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": data}


def deployment(*containers: Manifest, **spec: Any) -> Manifest:
    template = {"metadata": {"labels": {"app": "d"}}, "spec": {"containers": list(containers)}}
    selector = {"matchLabels": {"app": "d"}}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "d"},
        "spec": {"selector": selector, "template": template, **spec},
    }


def owned(obj: Manifest, manager: str) -> Any:
    return next(entry["fieldsV1"] for entry in obj["metadata"]["managedFields"] if entry["manager"] == manager)


def test_applying_the_same_again_changes_nothing_not_even_the_time() -> None:
    first = apply(None, config_map(k="1"), CONFIG_MAP, manager="one", now=NOW)
    assert apply(first, config_map(k="1"), CONFIG_MAP, manager="one", now=LATER) == first
    assert owned(first, "one") == {"f:data": {"f:k": {}}}


def test_a_field_that_nobody_owns_any_more_goes() -> None:
    first = apply(None, config_map(k="1", m="1"), CONFIG_MAP, manager="one", now=NOW)
    second = apply(first, config_map(k="1"), CONFIG_MAP, manager="one", now=LATER)
    assert second["data"] == {"k": "1"}
    assert second["metadata"]["name"] == "a"


def test_a_field_that_another_manager_shares_stays() -> None:
    first = apply(None, config_map(k="1", m="1"), CONFIG_MAP, manager="one", now=NOW)
    shared = apply(first, config_map(m="1"), CONFIG_MAP, manager="two", now=NOW)
    left = apply(shared, config_map(k="1"), CONFIG_MAP, manager="one", now=LATER)
    assert left["data"] == {"k": "1", "m": "1"}


def test_a_conflict_names_every_field_and_its_owner() -> None:
    first = apply(None, config_map(k="1", m="1"), CONFIG_MAP, manager="one", now=NOW)
    with pytest.raises(ApplyConflict) as raised:
        apply(first, config_map(k="2", m="2"), CONFIG_MAP, manager="two", now=NOW)
    assert str(raised.value) == 'Apply failed with 2 conflicts: conflicts with "one":\n- .data.k\n- .data.m'
    assert raised.value.causes[0] == {
        "reason": "FieldManagerConflict",
        "message": 'conflict with "one"',
        "field": ".data.k",
    }


def test_force_takes_the_field_over() -> None:
    first = apply(None, config_map(k="1", m="1"), CONFIG_MAP, manager="one", now=NOW)
    forced = apply(first, config_map(k="2"), CONFIG_MAP, manager="two", now=NOW, force=True)
    assert forced["data"] == {"k": "2", "m": "1"}
    assert owned(forced, "one") == {"f:data": {"f:m": {}}}


def test_an_update_takes_what_it_changed() -> None:
    first = apply(None, config_map(k="1", m="1"), CONFIG_MAP, manager="one", now=NOW)
    changed = {**first, "data": {"k": "2", "m": "1", "new": "x"}}
    fields = track_update(first, changed, CONFIG_MAP, manager="kubectl", now=LATER)
    assert [(entry["manager"], entry["operation"], entry["fieldsV1"]) for entry in fields] == [
        ("one", "Apply", {"f:data": {"f:m": {}}}),
        ("kubectl", "Update", {"f:data": {"f:k": {}, "f:new": {}}}),
    ]


def test_a_conflict_with_an_update_names_the_version() -> None:
    created = config_map(k="1")
    fields = track_update(None, created, CONFIG_MAP, manager="kubectl", now=NOW, zero=builtin.zero("ConfigMap"))
    live = {**created, "metadata": {"name": "a", "managedFields": fields}}
    with pytest.raises(ApplyConflict, match=r'conflict with "kubectl" using v1: \.data\.k'):
        apply(live, config_map(k="2"), CONFIG_MAP, manager="one", now=NOW)


def test_containers_are_merged_by_name_and_defaults_of_a_dropped_one_go_with_it() -> None:
    one = apply(
        None, deployment({"name": "a", "image": "i"}, {"name": "b", "image": "i"}), DEPLOYMENT, manager="one", now=NOW
    )
    defaulted = deepcopy(one)
    for container in defaulted["spec"]["template"]["spec"]["containers"]:
        container["imagePullPolicy"] = "Always"
    two = apply(defaulted, deployment({"name": "side", "image": "s"}), DEPLOYMENT, manager="two", now=NOW)
    three = apply(two, deployment({"name": "a", "image": "i"}), DEPLOYMENT, manager="one", now=NOW)
    names = [container["name"] for container in three["spec"]["template"]["spec"]["containers"]]
    assert names == ["a", "side"]
    assert three["spec"]["template"]["spec"]["containers"][0]["imagePullPolicy"] == "Always"


def test_ports_are_told_apart_by_number_and_protocol_with_its_default() -> None:
    ports = [{"containerPort": 80}, {"containerPort": 80, "protocol": "UDP"}]
    applied = apply(None, deployment({"name": "a", "image": "i", "ports": ports}), DEPLOYMENT, manager="one", now=NOW)
    keys = owned(applied, "one")["f:spec"]["f:template"]["f:spec"]["f:containers"]['k:{"name":"a"}']["f:ports"]
    assert sorted(keys) == ['k:{"containerPort":80,"protocol":"TCP"}', 'k:{"containerPort":80,"protocol":"UDP"}']


def test_the_order_of_a_keyed_list_follows_the_applier_around_foreign_items() -> None:
    def env(*names: str) -> Manifest:
        return deployment({"name": "a", "image": "i", "env": [{"name": name, "value": name} for name in names]})

    first = apply(None, env("X", "Y"), DEPLOYMENT, manager="one", now=NOW)
    second = apply(first, env("Z"), DEPLOYMENT, manager="two", now=NOW)
    third = apply(second, env("Y", "X"), DEPLOYMENT, manager="one", now=NOW)
    assert [item["name"] for item in third["spec"]["template"]["spec"]["containers"][0]["env"]] == ["Y", "Z", "X"]


@pytest.mark.parametrize(
    ("container", "message"),
    [
        ({"name": "a", "imag": "i"}, '.spec.template.spec.containers[name="a"].imag: field not declared in schema'),
        ({"name": "a", "image": 5}, '.spec.template.spec.containers[name="a"].image: expected string, got'),
    ],
)
def test_what_the_schema_does_not_allow_cannot_be_applied(container: Manifest, message: str) -> None:
    with pytest.raises(ApplyError) as raised:
        apply(None, deployment(container), DEPLOYMENT, manager="one", now=NOW)
    assert message in str(raised.value)
    assert str(raised.value).startswith("failed to create typed patch object (/d; apps/v1, Kind=Deployment): ")


def test_an_object_that_nobody_tracked_belongs_to_before_first_apply() -> None:
    applied = apply(config_map(k="1"), config_map(k="2"), CONFIG_MAP, manager="one", now=NOW, force=True)
    assert owned(applied, "before-first-apply") == {"f:data": {}}


def test_status_is_owned_by_subresource_and_left_alone_by_the_main_resource() -> None:
    shape = schema.shape_of(
        {
            "type": "object",
            "properties": {
                "spec": {"type": "object", "properties": {"size": {"type": "integer"}}},
                "status": {"type": "object", "properties": {"phase": {"type": "string"}}},
            },
        }
    )
    base: Manifest = {"apiVersion": "x.y/v1", "kind": "G", "metadata": {"name": "g"}}
    main = apply(
        None, {**base, "spec": {"size": 1}, "status": {"phase": "No"}}, shape, manager="m", now=NOW, reset=[("status",)]
    )
    assert "status" not in main
    done = apply(main, {**base, "status": {"phase": "Up"}}, shape, manager="c", now=NOW, subresource="status")
    assert done["status"] == {"phase": "Up"}
    entry = next(item for item in done["metadata"]["managedFields"] if item["manager"] == "c")
    assert entry["subresource"] == "status"


def test_the_eleventh_updater_sends_the_oldest_into_ancient_changes() -> None:
    live = config_map()
    for number in range(12):
        changed = {**live, "data": {**live["data"], f"k{number}": "1"}}
        moment = NOW.replace(day=number + 1)
        fields = track_update(live, changed, CONFIG_MAP, manager=f"m{number:02}", now=moment)
        live = {**changed, "metadata": {"name": "a", "managedFields": fields}}
    names = [entry["manager"] for entry in live["metadata"]["managedFields"]]
    assert len(names) == 10
    assert "ancient-changes" in names
