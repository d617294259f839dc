# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Which updates of a Workspace are admitted."""

from __future__ import annotations

from typing import Any

import pytest

from kaito.api.changes import admission_errors, update_errors
from kaito.api.rules import Policy
from kaito.api.workspace import Workspace

from .manifests import ADAPTER, GONE, INFERENCE, TUNING, changed

POLICY = Policy()
TEMPLATE = changed(INFERENCE, inference={"template": {"spec": {"containers": [{"name": "a"}]}}})


def paths(old: dict[str, Any], new: dict[str, Any], policy: Policy = POLICY) -> list[str]:
    return [error.path for error in update_errors(Workspace.parse(old), Workspace.parse(new), policy)]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (INFERENCE, INFERENCE),
        (INFERENCE, changed(INFERENCE, resource__count=1, inference__preset__presetOptions={})),
        (INFERENCE, changed(INFERENCE, inference__config="other", inference__adapters=[ADAPTER])),
        (changed(INFERENCE, inference__adapters=[ADAPTER]), INFERENCE),
        (INFERENCE, changed(INFERENCE, resource__preferredNodes=["a"])),
        (INFERENCE, changed(INFERENCE, metadata__annotations={"kaito.sh/enablelb": "True"})),
        (INFERENCE, changed(INFERENCE, resource__instanceType="Standard_NC6s_v3")),
        (changed(INFERENCE, resource__instanceType="Standard_NC6s_v3"), INFERENCE),
        (TEMPLATE, changed(TEMPLATE, inference__template={"spec": {"containers": [{"name": "b"}]}})),
        (TUNING, changed(TUNING, tuning__method="QLORA", tuning__config="mine")),
        (TUNING, changed(TUNING, tuning__input={"image": "registry.example.com/data:1"})),
        (TUNING, changed(TUNING, tuning__output={"volumeSource": {"emptyDir": {"medium": ""}}})),
    ],
)
def test_what_may_change_may_change(old: dict[str, Any], new: dict[str, Any]) -> None:
    assert paths(old, new) == []


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (INFERENCE, TUNING, ["inference", "tuning"]),
        (INFERENCE, changed(INFERENCE, inference=GONE), ["inference"]),
        (INFERENCE, changed(INFERENCE, tuning=TUNING["tuning"]), ["tuning"]),
        (INFERENCE, changed(INFERENCE, resource=GONE), ["resource"]),
        (INFERENCE, changed(INFERENCE, resource__count=2), ["resource.count"]),
        (
            INFERENCE,
            changed(INFERENCE, resource__labelSelector={"matchLabels": {"apps": "x"}}),
            ["resource.labelSelector"],
        ),
        (
            INFERENCE,
            changed(INFERENCE, resource__partition={"mode": "accelerator", "count": 1}),
            ["resource.partition"],
        ),
        (
            changed(INFERENCE, resource__instanceType="one"),
            changed(INFERENCE, resource__instanceType="two"),
            ["resource.instanceType"],
        ),
        (INFERENCE, changed(INFERENCE, inference__preset__name="phi-3"), ["inference.preset.name"]),
        (INFERENCE, changed(INFERENCE, inference__preset__accessMode="private"), ["inference.preset.accessMode"]),
        (
            INFERENCE,
            changed(INFERENCE, inference__preset__presetOptions={"modelAccessSecret": "hub"}),
            ["inference.preset.presetOptions"],
        ),
        (INFERENCE, TEMPLATE, ["inference.template", "inference.preset"]),
        (TUNING, changed(TUNING, tuning__preset__name="phi-3"), ["tuning.preset.name"]),
        (TUNING, changed(TUNING, tuning__method="lora"), ["tuning.method"]),
        (TUNING, changed(TUNING, tuning__input__name="data"), ["tuning.input.name"]),
        (INFERENCE, changed(INFERENCE, inference__config="My Config"), ["inference.config"]),
    ],
)
def test_what_must_stay_is_named(old: dict[str, Any], new: dict[str, Any], expected: list[str]) -> None:
    assert paths(old, new) == expected


@pytest.mark.parametrize(
    ("rule", "before", "after", "refused"),
    [
        ("forbidden", "", "one", True),
        ("forbidden", "one", "", False),
        ("forbidden", "one", "one", False),
        ("forbidden", "one", "two", True),
        ("required", "", "one", False),
        ("required", "", "", False),
        ("required", "one", "", True),
        ("required", "one", "two", True),
    ],
)
def test_the_instance_type_may_be_cleared_or_filled_in_as_the_nodes_are_made(
    rule: Any, before: str, after: str, refused: bool
) -> None:
    old, new = (changed(INFERENCE, resource__instanceType=value) for value in (before, after))
    assert paths(old, new, Policy(instance_type=rule)) == (["resource.instanceType"] if refused else [])


def test_a_value_that_stays_is_not_judged_again() -> None:
    strict = Policy(preset_problem=lambda name: "is gone", instance_type="required")
    old = changed(INFERENCE, inference__adapters=[{"source": {"name": "Bad Name"}}, ADAPTER], resource__count=0)
    new = changed(old, metadata__finalizers=[], status={"state": "Ready"})
    assert paths(old, new, strict) == []


def test_a_list_element_that_moves_is_not_judged_again_but_a_new_one_is() -> None:
    legacy: dict[str, Any] = {"source": {"name": "old", "urls": ["ftp://example.com/a"]}}
    old = changed(INFERENCE, inference__adapters=[ADAPTER, legacy])
    assert paths(old, changed(old, inference__adapters=[legacy])) == []
    fresh = changed(legacy, source__urls=["ftp://example.com/b"])
    assert paths(old, changed(old, inference__adapters=[ADAPTER, legacy, fresh])) == [
        "inference.adapters[2].source.urls[0]",
        "inference.adapters",
    ]


def test_a_field_of_a_wrong_type_is_an_error_of_the_new_manifest() -> None:
    errors = admission_errors(None, changed(INFERENCE, resource__count="2"), POLICY)
    assert [str(error) for error in errors] == ["resource.count: must be a valid integer"]


def test_an_unreadable_object_can_still_be_deleted_and_repaired() -> None:
    unreadable = changed(INFERENCE, resource__count="2")
    released = changed(unreadable, metadata__finalizers=[])
    assert admission_errors(unreadable, released, POLICY) == ()
    assert admission_errors(unreadable, INFERENCE, POLICY) == ()
    worse = changed(unreadable, inference__config=3)
    assert [error.path for error in admission_errors(unreadable, worse, POLICY)] == ["inference.config"]


def test_a_change_of_version_alone_is_no_change() -> None:
    old = changed(INFERENCE, resource__instanceType="Standard_NC6s_v3")
    assert admission_errors(old, changed(old, apiVersion="kaito.sh/v1alpha1"), POLICY) == ()
