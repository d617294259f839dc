# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Equal parts of objects become one value; objects stay what they were."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from kaito.kube.alike import PARTS_MAX, Alike
from kaito.kube.manifest import Manifest

LEAVES = st.sampled_from((None, True, False, 0, 1, 1.0, 0.0, "", "a", "1", "long" * 30))
VALUES = st.recursive(
    LEAVES, lambda below: st.lists(below, max_size=3) | st.dictionaries(st.sampled_from("abc"), below), max_leaves=12
)


def pod(name: str, **spec: Any) -> Manifest:
    container = {"name": "main", "image": "server:1", "resources": {"requests": {"cpu": "100m"}}}
    meta = {"name": name, "labels": {"app": "x"}, "creationTimestamp": "2026-01-01T00:00:00Z"}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": {"containers": [container], **spec}}


def decoded(value: Manifest) -> Manifest:
    """The object as it comes off the wire: no part of it is another's."""
    found: Manifest = msgspec.json.decode(msgspec.json.encode(value))
    return found


@given(st.lists(st.dictionaries(st.sampled_from(("spec", "status", "data")), VALUES), max_size=4))
def test_objects_stay_what_they_were(objects: list[Manifest]) -> None:
    alike, wanted = Alike(), [msgspec.json.encode(obj) for obj in objects]
    for obj in (copies := deepcopy(objects)):
        alike.share(obj)
    assert [msgspec.json.encode(obj) for obj in copies] == wanted


def test_equal_parts_of_objects_that_differ_are_the_same() -> None:
    alike, one, two = Alike(), decoded(pod("a", nodeName="n")), decoded(pod("b", nodeName="m"))
    alike.share(one)
    alike.share(two)
    assert one["spec"] is not two["spec"]
    assert one["spec"]["containers"] is two["spec"]["containers"]
    assert one["metadata"]["labels"] is two["metadata"]["labels"]
    assert one["metadata"]["creationTimestamp"] is two["metadata"]["creationTimestamp"]
    assert one["metadata"]["name"] == "a" and two["metadata"]["name"] == "b"


def test_what_comes_again_and_again_outlives_what_comes_once() -> None:
    alike, first = Alike(), decoded(pod("first"))
    alike.share(first)
    for number in range(3 * PARTS_MAX):
        obj = decoded(pod(f"name-{number}", nodeName=f"node-{number}"))
        alike.share(obj)
        assert obj["spec"]["containers"] is first["spec"]["containers"]
    assert len(alike._parts) + len(alike._before) <= 2 * PARTS_MAX
