# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from typing import Any

import pytest

from kaito.kube.manifest import Key, Manifest
from kaito.kube.store import Store


def pod(name: str, namespace: str = "n", *, owner: str = "", **labels: str) -> Manifest:
    meta: dict[str, Any] = {"name": name, "namespace": namespace, "labels": labels}
    if owner:
        meta["ownerReferences"] = [{"uid": owner, "controller": True}]
    return {"metadata": meta}


def names(found: list[Manifest]) -> list[str]:
    return [obj["metadata"]["name"] for obj in found]


PACKED = pytest.mark.parametrize("packed", [False, True], ids=["plain", "packed"])


@PACKED
def test_objects_are_found_by_namespace_owner_and_labels_in_order(packed: bool) -> None:
    store = Store(packed=packed)
    for obj in (pod("c", app="x"), pod("a", owner="u", app="x"), pod("b", "m", owner="u"), pod("d", "m", app="x")):
        store.put(obj)
    assert names(store.select()) == ["b", "d", "a", "c"]
    assert names(store.select("n")) == ["a", "c"]
    assert names(store.select(labels={"app": "x"})) == ["d", "a", "c"]
    assert names(store.select("n", {"app": "x"})) == ["a", "c"]
    assert names(store.select("n", {"app": "y"})) == []
    assert names(store.owned_by("u")) == ["b", "a"]


@PACKED
def test_a_replaced_or_removed_object_leaves_no_trace_in_the_indexes(packed: bool) -> None:
    store = Store(packed=packed)
    store.put(pod("a", owner="u", app="x"))
    store.put(pod("a", owner="v", app="y"))
    assert (names(store.owned_by("u")), names(store.select(labels={"app": "x"}))) == ([], [])
    assert names(store.owned_by("v")) == ["a"]
    assert store.remove(Key("n", "a")) is not None
    assert store.remove(Key("n", "a")) is None
    assert (names(store.select()), names(store.owned_by("v")), names(store.select(labels={"app": "y"}))) == ([], [], [])


@PACKED
def test_managed_fields_are_taken_off_but_what_our_managers_applied_is_known(packed: bool) -> None:
    store = Store(["ours"], packed=packed)
    obj = pod("a")
    obj["metadata"]["managedFields"] = [
        {"manager": "ours", "operation": "Apply", "fieldsV1": {"f:spec": {}}},
        {"manager": "ours", "operation": "Apply", "subresource": "status", "fieldsV1": {"f:status": {}}},
        {"manager": "ours", "operation": "Update", "fieldsV1": {"f:x": {}}},
        {"manager": "others", "operation": "Apply", "fieldsV1": {"f:y": {}}},
    ]
    store.put(obj)
    key = Key("n", "a")
    assert "managedFields" not in obj["metadata"]
    assert store.applied(key, "ours") == {"f:spec": {}}
    assert store.applied(key, "ours", "status") == {"f:status": {}}
    assert store.applied(key, "others") is None
    store.put(pod("a"))
    assert store.applied(key, "ours") is None


def test_what_many_objects_own_alike_is_kept_once() -> None:
    store = Store(["ours"])
    for name in ("a", "b"):
        obj = pod(name)
        obj["metadata"]["managedFields"] = [{"manager": "ours", "operation": "Apply", "fieldsV1": {"f:spec": {}}}]
        store.put(obj)
    assert store.applied(Key("n", "a"), "ours") is store.applied(Key("n", "b"), "ours")


@PACKED
def test_an_index_that_is_asked_for_late_knows_what_came_before(packed: bool) -> None:
    store = Store(packed=packed)
    store.put(pod("a", owner="u", app="x"))
    assert names(store.owned_by("u")) == ["a"]
    store.put(pod("b", owner="u", app="x"))
    store.put(pod("c", owner="u"))
    store.remove(Key("n", "a"))
    assert names(store.owned_by("u")) == ["b", "c"]
    assert names(store.select(labels={"app": "x"})) == ["b"]
    store.remove(Key("n", "c"))
    store.remove(Key("n", "b"))
    assert (names(store.owned_by("u")), len(store)) == ([], 0)


@PACKED
def test_a_store_may_change_while_it_is_gone_through(packed: bool) -> None:
    store = Store(packed=packed)
    for name in ("a", "b", "c"):
        store.put(pod(name))
    seen = []
    for obj in store.objects():
        seen.append(obj)
        store.remove(Key("n", "b"))
        store.put(pod("d"))
    assert names(seen) == ["a", "c"]
