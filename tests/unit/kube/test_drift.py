# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from typing import Any

import pytest

from kaito.kube.drift import is_in_sync, is_noop_merge, projected

PORTS_OWNED = {
    "f:spec": {
        "f:replicas": {},
        "f:ports": {'k:{"port":80,"protocol":"TCP"}': {".": {}, "f:port": {}, "f:name": {}}},
        "f:args": {},
        "f:selector": {},
    },
    "f:metadata": {"f:labels": {"f:app": {}}, "f:finalizers": {'v:"kaito.sh/f"': {}}},
}
WANTED: dict[str, Any] = {
    "apiVersion": "v1",
    "kind": "Thing",
    "metadata": {"name": "a", "namespace": "n", "labels": {"app": "x"}, "finalizers": ["kaito.sh/f"]},
    "spec": {"replicas": 1, "ports": [{"port": 80, "name": "http"}], "args": ["a", "b"], "selector": {"s": "1"}},
}


def live(**spec: Any) -> dict[str, Any]:
    """The object as the server has it: defaults filled in, others' labels, finalizers and ports beside ours."""
    return {
        "apiVersion": "v1",
        "kind": "Thing",
        "metadata": {
            "name": "a",
            "namespace": "n",
            "uid": "u",
            "labels": {"app": "x", "other": "y"},
            "finalizers": ["other.io/f", "kaito.sh/f"],
        },
        "spec": {
            "replicas": 1,
            "ports": [{"port": 81, "protocol": "TCP"}, {"port": 80, "protocol": "TCP", "name": "http"}],
            "args": ["a", "b"],
            "selector": {"s": "1"},
            "defaulted": True,
            **spec,
        },
        "status": {"phase": "Fine"},
    }


def test_defaults_and_what_others_own_are_no_drift() -> None:
    assert is_in_sync(WANTED, live(), PORTS_OWNED)


@pytest.mark.parametrize(
    ("what", "spec"),
    [
        ("a scalar was changed", {"replicas": 2}),
        ("an atomic list has more", {"args": ["a", "b", "c"]}),
        ("an atomic list has another order", {"args": ["b", "a"]}),
        ("an atomic map has more", {"selector": {"s": "1", "t": "2"}}),
        ("our list item was changed", {"ports": [{"port": 80, "protocol": "TCP", "name": "other"}]}),
        ("our list item was taken away", {"ports": [{"port": 81, "protocol": "TCP"}]}),
        ("a type is another", {"replicas": "1"}),
    ],
)
def test_what_somebody_else_did_to_ours_is_drift(what: str, spec: dict[str, Any]) -> None:
    assert not is_in_sync(WANTED, live(**spec), PORTS_OWNED), what


def without(manifest: dict[str, Any], section: str, field: str) -> dict[str, Any]:
    return {**manifest, section: {key: value for key, value in manifest[section].items() if key != field}}


@pytest.mark.parametrize(
    "wanted",
    [
        without(WANTED, "spec", "replicas"),
        without(WANTED, "spec", "ports"),
        without(WANTED, "metadata", "labels"),
        {**WANTED, "metadata": {**WANTED["metadata"], "finalizers": []}},
        {**WANTED, "spec": {**WANTED["spec"], "ports": [{"port": 81}]}},
    ],
    ids=["a field", "a list", "a map", "an item of a set", "an item of a keyed list"],
)
def test_what_we_own_and_want_no_more_must_be_sent(wanted: dict[str, Any]) -> None:
    assert not is_in_sync(wanted, live(), PORTS_OWNED)


def test_what_we_want_anew_must_be_sent() -> None:
    assert not is_in_sync({**WANTED, "spec": {**WANTED["spec"], "paused": True}}, live(), PORTS_OWNED)


def test_a_null_in_a_manifest_asks_for_nothing() -> None:
    wanted = {**WANTED, "metadata": {**WANTED["metadata"], "creationTimestamp": None}}
    assert is_in_sync(wanted, live(), PORTS_OWNED)


def test_a_status_is_compared_by_what_its_manager_owns() -> None:
    owned: dict[str, Any] = {
        "f:status": {"f:conditions": {'k:{"type":"Ready"}': {".": {}, "f:type": {}, "f:status": {}}}}
    }
    has = {"status": {"conditions": [{"type": "Scheduled", "status": "True"}, {"type": "Ready", "status": "True"}]}}
    assert is_in_sync({"status": {"conditions": [{"type": "Ready", "status": "True"}]}}, has, owned)
    assert not is_in_sync({"status": {"conditions": [{"type": "Ready", "status": "False"}]}}, has, owned)


@pytest.mark.parametrize(
    ("patch", "is_noop"),
    [
        ({"spec": {"replicas": 1}}, True),
        ({"spec": {"replicas": 2}}, False),
        ({"spec": {"absent": None}}, True),
        ({"spec": {"replicas": None}}, False),
        ({"metadata": {"resourceVersion": "7", "labels": {"app": "x"}}}, True),
        ({"metadata": {"resourceVersion": "7", "finalizers": None}}, False),
        ({"metadata": {"annotations": {"a": "b"}}}, False),
        ({"spec": {"args": ["a"]}}, False),
    ],
)
def test_a_merge_patch_that_changes_nothing_is_known(patch: dict[str, Any], is_noop: bool) -> None:
    assert is_noop_merge(live(), patch) is is_noop


def test_a_projection_keeps_what_the_server_made_of_our_fields_only() -> None:
    wanted = {"spec": {"cpu": "0.5", "args": ["a"], "never": 1}}
    assert projected({"spec": {"cpu": "500m", "args": ["a", "b"], "x": 1}}, wanted) == {
        "spec": {"cpu": "500m", "args": ["a", "b"]}
    }
