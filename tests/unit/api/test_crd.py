# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""The generated CustomResourceDefinition: complete, structural, and the one that is shipped."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import kubernetes_validate
import pytest
import yaml

from kaito.api.crd import NotStructural, custom_resource_definitions, structural_schema, to_yaml, workspace_crd
from kaito.api.kinds import DEFINED, definition_name
from kaito.api.meta import ApiModel

SHIPPED = Path(__file__).parents[3] / "charts" / "kaito" / "crds" / "kaito.sh_workspaces.yaml"
CRD = workspace_crd()
OLD, NEW = CRD["spec"]["versions"]


def schema_of(version: dict[str, Any]) -> dict[str, Any]:
    schema: dict[str, Any] = version["schema"]["openAPIV3Schema"]
    return schema


def nodes(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    yield path, schema
    for name, part in schema.get("properties", {}).items():
        yield from nodes(part, f"{path}.{name}")
    for key in ("items", "additionalProperties"):
        if key in schema:
            yield from nodes(schema[key], f"{path}[]")


def field(version: dict[str, Any], path: str) -> dict[str, Any]:
    return dict(nodes(schema_of(version)))[path]


def test_the_shipped_file_is_what_the_models_say() -> None:
    assert SHIPPED.read_text() == to_yaml(custom_resource_definitions())
    assert list(yaml.safe_load_all(SHIPPED.read_text())) == [CRD]


def test_every_kind_that_is_defined_is_listed_without_its_models() -> None:
    names = [definition["metadata"]["name"] for definition in custom_resource_definitions()]
    assert names == [definition_name(kind) for kind in DEFINED]


def test_kubernetes_takes_it() -> None:
    kubernetes_validate.validate(CRD, "1.36", strict=True)


@pytest.mark.parametrize("version", [OLD, NEW], ids=lambda version: str(version["name"]))
def test_the_schema_is_structural(version: dict[str, Any]) -> None:
    for path, node in nodes(schema_of(version)):
        assert {"anyOf", "oneOf", "$ref", "const", "title"}.isdisjoint(node), path
        assert isinstance(node["type"], str), path
        assert not isinstance(node.get("default"), dict | list), path


@pytest.mark.parametrize("version", [OLD, NEW], ids=lambda version: str(version["name"]))
def test_every_field_says_what_it_is_for(version: dict[str, Any]) -> None:
    silent = [
        path
        for path, node in nodes(schema_of(version))
        if "description" not in node and not path.endswith("[]") and path != ".metadata"
    ]
    assert silent == []


def test_both_versions_have_the_same_fields_and_differ_in_one_default() -> None:
    old, new = dict(nodes(schema_of(OLD))), dict(nodes(schema_of(NEW)))
    assert set(old) == set(new)
    assert old[".resource.instanceType"]["default"] == "Standard_NC24ads_A100_v4"
    assert "default" not in new[".resource.instanceType"]
    leaves = [path for path in old if "properties" not in old[path] and path != ".resource.instanceType"]
    assert [path for path in leaves if old[path] != new[path]] == []


def test_names_versions_and_subresources() -> None:
    spec = CRD["spec"]
    assert CRD["metadata"]["name"] == "workspaces.kaito.sh"
    assert spec["names"]["shortNames"] == ["wk", "wks"]
    assert spec["names"]["categories"] == ["workspace"]
    assert [(v["name"], v["served"], v["storage"], v["subresources"]) for v in spec["versions"]] == [
        ("v1alpha1", True, False, {"status": {}}),
        ("v1beta1", True, True, {"status": {}}),
    ]


def test_columns_begin_with_those_that_users_look_for() -> None:
    old, new = ([column["name"] for column in version["additionalPrinterColumns"]] for version in (OLD, NEW))
    assert old == [
        "Instance",
        "ResourceReady",
        "InferenceReady",
        "WorkspaceReady",
        "JobStarted",
        "WorkspaceSucceeded",
        "Age",
    ]
    assert new == [*old[:-1], "TargetNodeCount", "State", "Age"]


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (".resource", {"required": ["labelSelector"]}),
        (".resource.count", {"type": "integer", "default": 1}),
        (".resource.labelSelector", {"type": "object", "x-kubernetes-map-type": "atomic"}),
        (".resource.partition.count", {"type": "integer", "minimum": 1}),
        (".inference.preset.accessMode", {"type": "string", "default": "public", "enum": ["public", "private"]}),
        (".inference.template", {"type": "object", "x-kubernetes-preserve-unknown-fields": True}),
        (".inference.adapters[].source.volumeSource", {"x-kubernetes-preserve-unknown-fields": True}),
        (".inference.adapters[].strength", {"type": "string"}),
        (".tuning", {"required": ["input", "output"]}),
        (".tuning.output.volumeSource", {"x-kubernetes-preserve-unknown-fields": True}),
        (".status.targetNodeCount", {"type": "integer", "format": "int32"}),
        (".status.performance.metrics[]", {"required": ["description", "value"]}),
    ],
)
def test_what_the_schema_says_of_a_field(path: str, expected: dict[str, Any]) -> None:
    node = field(NEW, path)
    assert {key: node.get(key) for key in expected} == expected


def test_no_root_field_is_required() -> None:
    assert "required" not in schema_of(NEW)


def test_a_constant_is_an_enum_of_one() -> None:
    class Fixed(ApiModel):
        """Something."""

        kind: Literal["one"]
        """Always one."""

    assert structural_schema(Fixed)["properties"]["kind"]["enum"] == ["one"]


def test_a_union_is_refused_with_the_field_named() -> None:
    class Either(ApiModel):
        """Something."""

        port: int | str
        """A number or a name."""

    with pytest.raises(NotStructural, match=r"Either\.port: a union"):
        structural_schema(Either)
