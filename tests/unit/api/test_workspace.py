# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Reading Workspaces from manifests and writing them back."""

from __future__ import annotations

from typing import Any

import pytest

from kaito.api.meta import FieldError, InvalidObject
from kaito.api.workspace import Workspace


def manifest(**parts: Any) -> dict[str, Any]:
    base = {"apiVersion": "kaito.sh/v1beta1", "kind": "Workspace", "metadata": {"name": "demo", "namespace": "default"}}
    return base | parts


FULL = manifest(
    resource={
        "count": 2,
        "instanceType": "Standard_NC24ads_A100_v4",
        "labelSelector": {"matchLabels": {"apps": "phi-3", "kaito.sh/workspace": "demo"}},
        "partition": {"mode": "mig", "profile": "3g.40gb"},
    },
    inference={
        "preset": {"name": "phi-4", "presetOptions": {"modelAccessSecret": "hub"}},
        "config": "settings",
        "adapters": [
            {"source": {"name": "poet", "volumeSource": {"emptyDir": {"sizeLimit": None}}}, "strength": "0.5"}
        ],
    },
    status={
        "workerNodes": ["a"],
        "targetNodeCount": 2,
        "conditions": [
            {
                "type": "InferenceReady",
                "status": "True",
                "reason": "Ready",
                "message": "",
                "lastTransitionTime": "2026-01-01T00:00:00Z",
            }
        ],
        "performance": {"metrics": {"peakTokensPerMinute": {"description": "stress", "value": "12"}}},
    },
)


def test_a_manifest_comes_back_as_it_was() -> None:
    assert Workspace.parse(FULL).to_manifest() == FULL


def test_what_the_models_do_not_know_is_ignored_but_templates_are_kept_whole() -> None:
    template = {"spec": {"containers": [{"name": "a", "novel": {"x": [1, None]}}]}}
    workspace = Workspace.parse(manifest(inference={"template": template, "novel": 1}, novel=2))
    assert workspace.to_manifest() == manifest(inference={"template": template})


def test_a_null_is_an_absent_field() -> None:
    workspace = Workspace.parse(manifest(resource=None, inference={"preset": {"name": "phi-4"}, "template": None}))
    assert workspace.resource is None
    assert workspace.to_manifest() == manifest(inference={"preset": {"name": "phi-4"}})


def test_every_field_of_a_wrong_type_is_named() -> None:
    wrong = manifest(
        resource={"count": "3"},
        inference={"preset": {"name": 3}, "adapters": [{"strength": 1.0}, {"source": {"urls": "x"}}]},
        tuning=[],
    )
    with pytest.raises(InvalidObject) as raised:
        Workspace.parse(wrong)
    assert [(error.path, error.value) for error in raised.value.errors] == [
        ("resource.count", "3"),
        ("resource.labelSelector", None),
        ("inference.preset.name", 3),
        ("inference.adapters[0].strength", 1.0),
        ("inference.adapters[1].source.urls", "x"),
        ("tuning", []),
    ]
    assert "resource.count: must be a valid integer; resource.labelSelector: is required" in str(raised.value)
    assert "source.urls: must be a list" in str(raised.value)


@pytest.mark.parametrize("version", [None, "kaito.sh/v1", "v1"])
def test_a_version_that_is_not_served_is_refused_with_those_that_are(version: str | None) -> None:
    with pytest.raises(InvalidObject, match=r"write kaito.sh/v1beta1 or kaito.sh/v1alpha1") as raised:
        Workspace.parse(manifest(apiVersion=version))
    assert raised.value.errors[0].path == "apiVersion"


def test_reserved_labels_select_no_nodes() -> None:
    resource = Workspace.parse(FULL).resource
    assert resource is not None
    assert resource.node_labels() == {"apps": "phi-3"}


@pytest.mark.parametrize(
    ("annotation", "default", "runtime"),
    [
        (None, "vllm", "vllm"),
        (None, "transformers", "transformers"),
        ("transformers", "vllm", "transformers"),
        ("vllm", "transformers", "vllm"),
        ("other", "transformers", "vllm"),
    ],
)
def test_the_runtime_is_what_the_annotation_says(annotation: str | None, default: Any, runtime: str) -> None:
    annotations = {} if annotation is None else {"kaito.sh/runtime": annotation}
    workspace = Workspace.parse(manifest(metadata={"name": "demo", "annotations": annotations}))
    assert workspace.runtime(default) == runtime


def test_a_field_error_reads_as_a_sentence() -> None:
    assert str(FieldError("resource.count", 0, "must be at least 1")) == "resource.count: must be at least 1"


def test_equal_manifests_are_equal_whether_defaults_are_written_out_or_not() -> None:
    resource: dict[str, Any] = {"labelSelector": {}}
    assert Workspace.parse(manifest(resource=resource)) == Workspace.parse(manifest(resource=resource | {"count": 1}))
