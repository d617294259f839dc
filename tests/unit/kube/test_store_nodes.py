# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""The index of what is bound to a node."""

from __future__ import annotations

from kaito.kube.manifest import Key, Manifest
from kaito.kube.store import Store


def pod(name: str, node: str | None, version: int = 1) -> Manifest:
    spec = {"nodeName": node} if node else {}
    return {"metadata": {"name": name, "namespace": "n", "resourceVersion": str(version)}, "spec": spec}


def test_pods_are_found_by_their_node_as_they_come_move_and_go() -> None:
    store = Store()
    store.put(pod("b", "x"))
    store.put(pod("a", "x"))
    store.put(pod("c", None))
    assert [found["metadata"]["name"] for found in store.on_node("x")] == ["a", "b"]
    store.put(pod("c", "y", 2))
    store.remove(Key("n", "a"))
    assert [found["metadata"]["name"] for found in store.on_node("x")] == ["b"]
    assert [found["metadata"]["name"] for found in store.on_node("y")] == ["c"]
    assert store.on_node("nowhere") == []
