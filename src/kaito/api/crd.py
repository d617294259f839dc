# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Our models as CustomResourceDefinitions: pydantic's JSON schema cut down to what Kubernetes calls structural.

`python -m kaito.api.crd` prints what `charts/kaito/crds/` holds; a test compares the two. Rules that span fields are
not in the schema but in `kaito.api.rules`, so that they are said once.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

import yaml

from kaito.api.meta import WORKSPACES, WORKSPACES_V1ALPHA1, ApiModel
from kaito.api.names import INFERENCE_READY, JOB_STARTED, RESOURCE_READY, WORKSPACE_READY, WORKSPACE_SUCCEEDED
from kaito.api.versions import V1ALPHA1_INSTANCE_TYPE
from kaito.api.workspace import Workspace
from kaito.kube.manifest import Manifest
from kaito.kube.resource import Resource

# Keywords that mean the same in a structural schema and in pydantic's; all others are dropped or translated.
_SAME: Final = ("type", "format", "pattern", "minimum", "maximum", "minLength", "maxLength", "enum", "required")


class NotStructural(ValueError):
    """A model whose schema a CustomResourceDefinition cannot say; the text names the field."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column of `kubectl get`."""

    name: str
    path: str
    type: str = "string"

    def manifest(self) -> Manifest:
        """As it stands in `additionalPrinterColumns`."""
        return {"jsonPath": self.path, "name": self.name, "type": self.type}


def _condition(name: str) -> Column:
    return Column(name, f'.status.conditions[?(@.type=="{name}")].status')


_FIRST: Final = (
    Column("Instance", ".resource.instanceType"),
    _condition(RESOURCE_READY),
    _condition(INFERENCE_READY),
    _condition(WORKSPACE_READY),
    _condition(JOB_STARTED),
    _condition(WORKSPACE_SUCCEEDED),
)
_LAST: Final = (Column("Age", ".metadata.creationTimestamp", "date"),)
WORKSPACE_COLUMNS_V1ALPHA1: Final = (*_FIRST, *_LAST)
WORKSPACE_COLUMNS: Final = (
    *_FIRST,
    Column("TargetNodeCount", ".status.targetNodeCount", "integer"),
    Column("State", ".status.state"),
    *_LAST,
)


def custom_resource_definitions() -> tuple[Manifest, ...]:
    """All our CustomResourceDefinitions."""
    return (workspace_crd(),)


def workspace_crd() -> Manifest:
    """The CustomResourceDefinition of Workspace in both its versions.

    The versions have the same fields, so that an API server that only rewrites apiVersion between them loses nothing.
    Who converts is not said here: whoever serves the webhook registers it, and installing this again leaves it so.
    """
    schema = root_schema(Workspace)
    old = root_schema(Workspace)
    old["properties"]["resource"]["properties"]["instanceType"]["default"] = V1ALPHA1_INSTANCE_TYPE
    return _crd(
        WORKSPACES,
        short_names=("wk", "wks"),
        category="workspace",
        versions=(
            _version(WORKSPACES_V1ALPHA1, old, columns=WORKSPACE_COLUMNS_V1ALPHA1, storage=False),
            _version(WORKSPACES, schema, columns=WORKSPACE_COLUMNS, storage=True),
        ),
    )


def root_schema(model: type[ApiModel]) -> Manifest:
    """The structural schema of a kind; what the API server itself sees to (apiVersion, kind, metadata) is left open."""
    schema = structural_schema(model)
    properties = schema["properties"]
    for name in ("apiVersion", "kind"):
        properties[name] = {"description": properties[name]["description"], "type": "string"}
    properties["metadata"] = {"type": "object"}
    return schema


def structural_schema(model: type[ApiModel]) -> Manifest:
    """The model's schema with references put in place, nulls and titles dropped, and defaults for scalars only.

    Raises NotStructural for what Kubernetes does not take, a union above all.
    """
    schema = model.model_json_schema(by_alias=True)
    return _structural(schema, schema.get("$defs", {}), path=model.__name__)


def to_yaml(manifests: Iterable[Manifest]) -> str:
    """The manifests as one YAML text, the same on every call."""
    header = (
        "# SPDX-FileCopyrightText: The kaito authors\n# SPDX-License-Identifier: Apache-2.0\n"
        "# Generated from the models: python -m kaito.api.crd\n"
    )
    return header + yaml.dump_all(manifests, Dumper=PlainDumper, sort_keys=False, width=120, allow_unicode=True)


class PlainDumper(yaml.SafeDumper):
    """Writes equal parts out each time instead of referring to the first."""

    def ignore_aliases(self, data: object) -> bool:
        return True


def _crd(
    resource: Resource, *, short_names: tuple[str, ...], category: str, versions: tuple[Manifest, ...]
) -> Manifest:
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{resource.plural}.{resource.group}"},
        "spec": {
            "group": resource.group,
            "names": {
                "categories": [category],
                "kind": resource.kind,
                "listKind": f"{resource.kind}List",
                "plural": resource.plural,
                "shortNames": list(short_names),
                "singular": resource.kind.lower(),
            },
            "scope": "Namespaced" if resource.namespaced else "Cluster",
            "versions": list(versions),
        },
    }


def _version(resource: Resource, schema: Manifest, *, columns: tuple[Column, ...], storage: bool) -> Manifest:
    return {
        "additionalPrinterColumns": [column.manifest() for column in columns],
        "name": resource.version,
        "schema": {"openAPIV3Schema": schema},
        "served": True,
        "storage": storage,
        "subresources": {"status": {}},
    }


def _structural(node: Manifest, definitions: Manifest, *, path: str) -> Manifest:
    node = _without_null(_resolved(node, definitions), definitions, path=path)
    schema: Manifest = {}
    if "description" in node:
        schema["description"] = " ".join(node["description"].split())
    if _is_scalar_default(node.get("default")):
        schema["default"] = node["default"]
    if "const" in node:
        schema["enum"] = [node["const"]]
    schema |= {key: node[key] for key in _SAME if key in node}
    schema |= {key: value for key, value in node.items() if key.startswith("x-kubernetes-")}
    if "items" in node:
        schema["items"] = _structural(node["items"], definitions, path=f"{path}[]")
    if "properties" in node:
        parts = node["properties"].items()
        schema["properties"] = {name: _structural(part, definitions, path=f"{path}.{name}") for name, part in parts}
    values = node.get("additionalProperties")
    if isinstance(values, dict):
        schema["additionalProperties"] = _structural(values, definitions, path=f"{path}.*")
    if "type" not in schema:
        raise NotStructural(f"{path}: a field must have one type")
    return schema


def _resolved(node: Manifest, definitions: Manifest) -> Manifest:
    """The node with its reference replaced by what it means; what the node itself says wins."""
    reference = node.get("$ref")
    if reference is None:
        return node
    beside = {key: value for key, value in node.items() if key != "$ref"}
    return {**definitions[reference.removeprefix("#/$defs/")], **beside}


def _without_null(node: Manifest, definitions: Manifest, *, path: str) -> Manifest:
    """An optional field's node as that of its value: in Kubernetes a field is absent, not null."""
    arms = node.get("anyOf")
    if arms is None:
        return node
    real = [arm for arm in arms if arm.get("type") != "null"]
    if len(real) != 1:
        raise NotStructural(f"{path}: a union of types has no structural schema")
    beside = {key: value for key, value in node.items() if key != "anyOf"}
    return {**_resolved(real[0], definitions), **beside}


def _is_scalar_default(value: Any) -> bool:
    """Whether a default belongs into the schema: an empty one only says that the field may be absent, and one of a list
    or map would make the API server add the field to every object."""
    return isinstance(value, str | int | float) and value != ""


if __name__ == "__main__":
    sys.stdout.write(to_yaml(custom_resource_definitions()))
