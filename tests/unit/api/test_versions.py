# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Between v1alpha1 and v1beta1 nothing is lost."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kaito.api.versions import V1ALPHA1_INSTANCE_TYPE, UnservedVersion, converted, to_v1alpha1, to_v1beta1
from kaito.api.workspace import Workspace

# The same cases on every machine, however slow it is.
STEADY = settings(derandomize=True, database=None, max_examples=60)
WORDS = st.text(st.characters(codec="ascii", categories=["Ll", "Nd"]), min_size=1, max_size=8)
LABELS = st.dictionaries(WORDS, WORDS, max_size=3)
OPEN = st.dictionaries(WORDS, st.one_of(st.none(), st.integers(), WORDS, st.lists(WORDS), LABELS), max_size=3)


def part(required: dict[str, Any] | None = None, **optional: Any) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries(required or {}, optional=optional)


PRESET = part(
    {"name": WORDS},
    accessMode=st.sampled_from(["public", "private"]),
    presetOptions=part(image=WORDS, imagePullSecrets=st.lists(WORDS), modelAccessSecret=WORDS),
)
SOURCE = part(
    name=WORDS, urls=st.lists(WORDS), volumeSource=OPEN, image=WORDS, imagePullSecrets=st.lists(WORDS, max_size=2)
)
RESOURCE = part(
    {"labelSelector": part(matchLabels=LABELS)},
    count=st.integers(),
    instanceType=WORDS,
    preferredNodes=st.lists(WORDS, max_size=2),
    partition=part({"mode": st.sampled_from(["mig", "accelerator"])}, profile=WORDS, count=st.integers(1)),
)
INFERENCE = part(
    preset=PRESET,
    template=OPEN,
    config=WORDS,
    adapters=st.lists(part(source=SOURCE, strength=WORDS), max_size=2),
)
TUNING = part(
    {"input": SOURCE, "output": part(volumeSource=OPEN, image=WORDS, imagePushSecret=WORDS)},
    preset=PRESET,
    method=WORDS,
    config=WORDS,
)
STATUS = part(workerNodes=st.lists(WORDS), state=WORDS, targetNodeCount=st.integers(0))
WORKSPACES = part(
    {"kind": st.just("Workspace"), "metadata": OPEN},
    resource=RESOURCE,
    inference=INFERENCE,
    tuning=TUNING,
    status=STATUS,
)


@STEADY
@given(WORKSPACES)
def test_v1beta1_goes_to_v1alpha1_and_back_unchanged(parts: dict[str, Any]) -> None:
    ours = {"apiVersion": "kaito.sh/v1beta1", **parts}
    before = deepcopy(ours)
    old = to_v1alpha1(ours)
    assert old["apiVersion"] == "kaito.sh/v1alpha1"
    assert to_v1beta1(old) == ours == before


@STEADY
@given(WORKSPACES)
def test_v1alpha1_goes_to_v1beta1_with_its_default_and_back(parts: dict[str, Any]) -> None:
    old = {"apiVersion": "kaito.sh/v1alpha1", **parts}
    before = deepcopy(old)
    ours = to_v1beta1(old)
    assert old == before
    if "resource" in old:
        old["resource"].setdefault("instanceType", V1ALPHA1_INSTANCE_TYPE)
    assert to_v1alpha1(ours) == old
    assert to_v1beta1(to_v1alpha1(ours)) == ours


@STEADY
@given(WORKSPACES)
def test_the_models_hold_every_field_of_either_version(parts: dict[str, Any]) -> None:
    ours = {"apiVersion": "kaito.sh/v1beta1", **parts}
    assert Workspace.parse(ours).to_manifest() == ours


def test_only_v1alpha1_fills_an_instance_type_in() -> None:
    parts = {"kind": "Workspace", "resource": {"labelSelector": {}}}
    assert (
        to_v1beta1({"apiVersion": "kaito.sh/v1alpha1", **parts})["resource"]["instanceType"] == V1ALPHA1_INSTANCE_TYPE
    )
    assert "instanceType" not in to_v1beta1({"apiVersion": "kaito.sh/v1beta1", **parts})["resource"]


def test_nodes_of_ones_own_stay_so_when_v1alpha1_is_written_back() -> None:
    ours = {"apiVersion": "kaito.sh/v1beta1", "kind": "Workspace", "resource": {"labelSelector": {}}}
    old = converted(ours, "kaito.sh/v1alpha1")
    assert old["resource"]["instanceType"] == "", "no default is put in place of what is there"
    assert converted(old, "kaito.sh/v1beta1") == ours


def test_another_version_is_refused() -> None:
    with pytest.raises(UnservedVersion, match=r"'kaito\.sh/v2' of a Workspace is not served"):
        to_v1beta1({"apiVersion": "kaito.sh/v2"})
    with pytest.raises(UnservedVersion, match=r"'kaito\.sh/v2' of a Workspace is not served"):
        converted({"apiVersion": "kaito.sh/v1beta1"}, "kaito.sh/v2")
