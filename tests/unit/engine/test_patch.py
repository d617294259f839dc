# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""JSON patch, merge patch, strategic merge patch."""

from __future__ import annotations

from typing import Any

import pytest

from kaito.engine.patching.patch import PatchError, json_patch, merge_patch, strategic_merge_patch
from kaito.engine.schema import builtin

DOCUMENT = {"a": {"b": 1}, "l": [1, 2, 3], "s/t": "x"}


@pytest.mark.parametrize(
    ("operation", "expected"),
    [
        ({"op": "add", "path": "/a/c", "value": 2}, {**DOCUMENT, "a": {"b": 1, "c": 2}}),
        ({"op": "add", "path": "/l/1", "value": 9}, {**DOCUMENT, "l": [1, 9, 2, 3]}),
        ({"op": "add", "path": "/l/-", "value": 4}, {**DOCUMENT, "l": [1, 2, 3, 4]}),
        ({"op": "remove", "path": "/l/0"}, {**DOCUMENT, "l": [2, 3]}),
        ({"op": "replace", "path": "/s~1t", "value": "y"}, {**DOCUMENT, "s/t": "y"}),
        ({"op": "move", "from": "/a/b", "path": "/m"}, {"a": {}, "l": [1, 2, 3], "s/t": "x", "m": 1}),
        ({"op": "copy", "from": "/l", "path": "/a/b"}, {**DOCUMENT, "a": {"b": [1, 2, 3]}}),
        ({"op": "test", "path": "/a/b", "value": 1}, DOCUMENT),
    ],
)
def test_a_json_patch_operation(operation: dict[str, Any], expected: dict[str, Any]) -> None:
    before = repr(DOCUMENT)
    assert json_patch(DOCUMENT, [operation]) == expected
    assert repr(DOCUMENT) == before


@pytest.mark.parametrize(
    "operation",
    [
        {"op": "test", "path": "/a/b", "value": 2},
        {"op": "remove", "path": "/none"},
        {"op": "replace", "path": "/l/9", "value": 1},
        {"op": "add", "path": "/none/deep", "value": 1},
        {"op": "add", "path": "/l/9", "value": 1},
        {"op": "frobnicate", "path": "/a"},
        {"op": "add", "path": "/a"},
    ],
)
def test_a_json_patch_that_cannot_be_carried_out_is_unprocessable(operation: dict[str, Any]) -> None:
    with pytest.raises(PatchError) as raised:
        json_patch(DOCUMENT, [operation])
    assert (raised.value.status, raised.value.reason) == (422, "Invalid")


def test_a_json_patch_must_be_a_list() -> None:
    with pytest.raises(PatchError, match="cannot unmarshal object into Go value of type") as raised:
        json_patch(DOCUMENT, {"op": "add"})
    assert raised.value.status == 400


def test_copies_of_copies_are_refused_before_they_fill_the_memory() -> None:
    growing = [{"op": "copy", "from": "/a", "path": f"/a/{number}"} for number in range(60)]
    with pytest.raises(PatchError) as raised:
        json_patch(DOCUMENT, growing)
    assert raised.value.status == 422


def test_too_many_operations_are_refused() -> None:
    with pytest.raises(PatchError) as raised:
        json_patch(DOCUMENT, [{"op": "test", "path": "/a/b", "value": 1}] * 10_001)
    assert raised.value.status == 413


@pytest.mark.parametrize(
    ("document", "patch", "expected"),
    [
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
        ({"a": {"b": 1}}, {"a": {"c": 2}}, {"a": {"b": 1, "c": 2}}),
        ({"a": [1]}, {"a": [2]}, {"a": [2]}),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
        ({"a": "b"}, {"a": {"c": None}}, {"a": {}}),
    ],
)
def test_a_merge_patch(document: dict[str, Any], patch: Any, expected: Any) -> None:
    assert merge_patch(document, patch) == expected


def test_a_merge_patch_that_is_no_map_is_a_bad_request() -> None:
    with pytest.raises(PatchError, match="cannot unmarshal array into Go value of type map") as raised:
        merge_patch({"a": "b"}, ["c"])
    assert raised.value.status == 400


POD = {
    "spec": {
        "containers": [{"name": "a", "image": "1", "env": [{"name": "X", "value": "1"}]}, {"name": "b", "image": "1"}],
        "volumes": [{"name": "v", "emptyDir": {}}],
        "nodeSelector": {"x": "1"},
    },
    "metadata": {"finalizers": ["one/f", "two/f"]},
}


def strategic(patch: dict[str, Any]) -> dict[str, Any]:
    return strategic_merge_patch(POD, patch, builtin.shape_of("v1", "Pod"))


def test_items_merge_by_their_key() -> None:
    patched = strategic({"spec": {"containers": [{"name": "b", "image": "2"}, {"name": "c", "image": "3"}]}})
    assert [(item["name"], item["image"]) for item in patched["spec"]["containers"]] == [
        ("a", "1"),
        ("b", "2"),
        ("c", "3"),
    ]


def test_an_item_is_deleted_by_its_key() -> None:
    patched = strategic({"spec": {"containers": [{"name": "a", "$patch": "delete"}]}})
    assert [item["name"] for item in patched["spec"]["containers"]] == ["b"]


def test_a_list_or_a_map_is_replaced_on_request() -> None:
    patched = strategic({"spec": {"containers": [{"$patch": "replace"}, {"name": "z", "image": "1"}]}})
    assert patched["spec"]["containers"] == [{"name": "z", "image": "1"}]
    patched = strategic({"spec": {"nodeSelector": {"$patch": "replace", "y": "2"}}})
    assert patched["spec"]["nodeSelector"] == {"y": "2"}


def test_retained_keys_replace_a_volume_source() -> None:
    volume = {"name": "v", "$retainKeys": ["name", "configMap"], "configMap": {"name": "c"}}
    assert strategic({"spec": {"volumes": [volume]}})["spec"]["volumes"] == [{"name": "v", "configMap": {"name": "c"}}]


def test_primitive_lists_merge_and_lose_items() -> None:
    added = strategic({"metadata": {"finalizers": ["three/f", "one/f"]}})
    assert added["metadata"]["finalizers"] == ["three/f", "one/f", "two/f"]
    dropped = strategic({"metadata": {"$deleteFromPrimitiveList/finalizers": ["one/f"]}})
    assert dropped["metadata"]["finalizers"] == ["two/f"]


def test_new_items_stand_where_the_patch_has_them_before_those_of_the_server() -> None:
    patched = strategic({"spec": {"containers": [{"name": "z", "image": "9"}]}})
    assert [item["name"] for item in patched["spec"]["containers"]] == ["z", "a", "b"]


def test_the_wanted_order_is_kept_around_items_of_the_server() -> None:
    order = [{"name": "c"}, {"name": "a"}]
    patch = {"spec": {"$setElementOrder/containers": order, "containers": [{"name": "c", "image": "3"}]}}
    assert [item["name"] for item in strategic(patch)["spec"]["containers"]] == ["c", "a", "b"]


def test_an_item_without_its_key_is_a_bad_request() -> None:
    with pytest.raises(PatchError, match="does not contain declared merge key: name") as raised:
        strategic({"spec": {"containers": [{"image": "2"}]}})
    assert raised.value.status == 400


@pytest.mark.parametrize(
    ("patch", "report"),
    [
        ({"spec": {"$retainKeys": None}}, "invalid patch format of retainKeys"),
        ({"spec": {"$setElementOrder/containers": 1}}, "invalid patch format of setElementOrder list"),
        ({"metadata": {"$deleteFromPrimitiveList/finalizers": "a"}}, "invalid patch format of primitive list"),
        ({"metadata": {"finalizers": [{"a": 1}]}}, "invalid patch format of primitive list"),
    ],
)
def test_a_directive_of_the_wrong_form_is_a_bad_request(patch: dict[str, Any], report: str) -> None:
    with pytest.raises(PatchError, match=report) as refused:
        strategic(patch)
    assert refused.value.status == 400
