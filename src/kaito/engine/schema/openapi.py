# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""OpenAPI documents: what `kubectl explain` and `kubectl apply --validate` read.

One v3 document per group and version, and the index that names them. Kinds come in as `ServedKind`s, so that built-in
and custom ones look alike. Schemas of built-in kinds are the published ones (`builtin.py`). A v2 document holds the
same in Swagger's form.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from kaito.engine.schema import builtin
from kaito.kube.manifest import Manifest

_COMPONENTS: Final = "#/components/schemas/"
_DEFINITIONS: Final = "#/$defs/"
_PATCH_TYPES: Final = (
    "application/apply-patch+yaml",
    "application/json-patch+json",
    "application/merge-patch+json",
)
_STRATEGIC: Final = "application/strategic-merge-patch+json"
_ANY_OBJECT: Final[Manifest] = {"type": "object"}
_STATUS: Final = "io.k8s.apimachinery.pkg.apis.meta.v1.Status"
_LIST_META: Final = "io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta"
_PARTIAL: Final = "io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions"


@dataclass(frozen=True, slots=True)
class ServedKind:
    """One kind in one version, as the document shows it."""

    group: str
    version: str
    kind: str
    plural: str
    namespaced: bool
    verbs: frozenset[str]
    schema: Manifest | None = None
    """The `openAPIV3Schema` of a custom kind; None for a built-in one."""
    subresources: tuple[str, ...] = ()

    @property
    def api_version(self) -> str:
        """What stands in a manifest's `apiVersion`."""
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def definition(self) -> str:
        """The name of the kind's schema in the document."""
        if self.schema is None:
            return builtin.definition_name(self.api_version, self.kind)
        reversed_group = ".".join(reversed(self.group.split(".")))
        return f"{reversed_group}.{self.version}.{self.kind}"

    @property
    def gvk(self) -> Manifest:
        """The mark that ties operations and schemas to the kind."""
        return {"group": self.group, "kind": self.kind, "version": self.version}


def group_path(group: str, version: str) -> str:
    """The document's place below `/openapi/v3/`."""
    return f"apis/{group}/{version}" if group else f"api/{version}"


def index(documents: Mapping[str, bytes]) -> Manifest:
    """The v3 index of encoded documents by `group_path`; the hash lets clients cache them for ever."""
    return {
        "paths": {
            path: {"serverRelativeURL": f"/openapi/v3/{path}?hash={hashlib.sha512(body).hexdigest().upper()}"}
            for path, body in sorted(documents.items())
        }
    }


def document(kinds: Sequence[ServedKind], *, release: str) -> Manifest:
    """The v3 document of the kinds of one group and version."""
    paths: Manifest = {}
    schemas: dict[str, Manifest] = {}
    for kind in kinds:
        paths.update(_paths(kind))
        _add_kind(kind, schemas)
    _add_definition(_STATUS, schemas)
    _add_definition(_PARTIAL, schemas)
    return {
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": release},
        "paths": paths,
        "components": {"schemas": schemas},
    }


def swagger(kinds: Iterable[ServedKind], *, release: str) -> Manifest:
    """The v2 document of all kinds: definitions, and paths with as much as old clients look at."""
    paths: Manifest = {}
    schemas: dict[str, Manifest] = {}
    for kind in kinds:
        for path, item in _paths(kind).items():
            paths[path] = {
                method: _swagger_operation(operation) for method, operation in item.items() if method != "parameters"
            }
        _add_kind(kind, schemas)
    definitions = _rebased(schemas, _COMPONENTS, "#/definitions/")
    info = {"title": "Kubernetes", "version": release}
    return {"swagger": "2.0", "info": info, "paths": paths, "definitions": definitions}


def _swagger_operation(operation: Manifest) -> Manifest:
    kept = {
        name: operation[name] for name in operation if name.startswith("x-") or name in ("operationId", "description")
    }
    parameters = [
        {"name": item["name"], "in": item["in"], "type": item["schema"]["type"], "uniqueItems": True}
        for item in operation.get("parameters", ())
    ]
    return {**kept, "parameters": parameters, "responses": {"200": {"description": "OK"}}}


def _add_kind(kind: ServedKind, schemas: dict[str, Manifest]) -> None:
    if kind.schema is None:
        _add_definition(kind.definition, schemas)
        items: Manifest = {"$ref": _COMPONENTS + kind.definition}
    else:
        _add_definition(builtin.OBJECT_META, schemas)
        schemas[kind.definition] = _custom(kind, kind.schema)
        items = {"$ref": _COMPONENTS + kind.definition}
    list_name = f"{kind.definition}List"
    if "list" in kind.verbs and list_name not in schemas:
        _add_definition(_LIST_META, schemas)
        schemas[list_name] = {
            "type": "object",
            "required": ["items"],
            "properties": {
                "apiVersion": {"type": "string"},
                "kind": {"type": "string"},
                "metadata": {"$ref": _COMPONENTS + _LIST_META},
                "items": {"type": "array", "items": items},
            },
            "x-kubernetes-group-version-kind": [{**kind.gvk, "kind": f"{kind.kind}List"}],
        }


def _custom(kind: ServedKind, schema: Manifest) -> Manifest:
    properties = {
        "apiVersion": {"type": "string", "description": _API_VERSION},
        "kind": {"type": "string", "description": _KIND},
        "metadata": {
            "description": "Standard object's metadata.",
            "allOf": [{"$ref": _COMPONENTS + builtin.OBJECT_META}],
        },
        **{
            name: below
            for name, below in (schema.get("properties") or {}).items()
            if name not in ("apiVersion", "kind", "metadata")
        },
    }
    return {**schema, "properties": properties, "x-kubernetes-group-version-kind": [kind.gvk]}


_API_VERSION: Final = "APIVersion defines the versioned schema of this representation of an object."
_KIND: Final = "Kind is a string value representing the REST resource this object represents."


def _add_definition(name: str, schemas: dict[str, Manifest]) -> None:
    """The definition and all that it refers to."""
    if name in schemas:
        return
    definition = builtin.definitions()[name]
    schemas[name] = _rebased(_plain_types(definition), _DEFINITIONS, _COMPONENTS)
    for below in _references(definition):
        _add_definition(below, schemas)


def _references(schema: Any) -> Iterable[str]:
    if isinstance(schema, dict):
        reference = schema.get("$ref")
        if isinstance(reference, str):
            yield reference.removeprefix(_DEFINITIONS)
        for value in schema.values():
            yield from _references(value)
    elif isinstance(schema, list):
        for value in schema:
            yield from _references(value)


def _plain_types(schema: Any) -> Any:
    """The schema as Kubernetes publishes it: one type each, not the nullable pairs of the packaged form."""
    if isinstance(schema, list):
        return [_plain_types(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    out = {key: _plain_types(value) for key, value in schema.items()}
    if isinstance(out.get("type"), list):
        out["type"] = next(name for name in out["type"] if name != "null")
    if (
        "enum" in out
        and isinstance(schema.get("description"), str)
        and schema["description"].startswith(("APIVersion", "Kind is"))
    ):
        del out["enum"]
    return out


def _rebased(schema: Any, old: str, new: str) -> Any:
    """The schema with its references moved; beside other keys a v3 reference stands in `allOf`."""
    if isinstance(schema, list):
        return [_rebased(item, old, new) for item in schema]
    if not isinstance(schema, dict):
        return schema
    out = {key: _rebased(value, old, new) for key, value in schema.items() if key != "$ref"}
    reference = schema.get("$ref")
    if isinstance(reference, str):
        moved = {"$ref": new + reference.removeprefix(old)}
        return {**out, "allOf": [moved]} if out and new == _COMPONENTS else {**out, **moved}
    return {**out, "$ref": _rebased(reference, old, new)} if "$ref" in schema else out


def _paths(kind: ServedKind) -> Manifest:
    root = f"/{group_path(kind.group, kind.version)}"
    base = f"{root}/namespaces/{{namespace}}/{kind.plural}" if kind.namespaced else f"{root}/{kind.plural}"
    methods = {"get": "list", "post": "create", "delete": "deletecollection"}
    paths: Manifest = {base: {method: _operation(kind, verb) for method, verb in methods.items() if verb in kind.verbs}}
    if kind.namespaced and "list" in kind.verbs:
        paths[f"{root}/{kind.plural}"] = {"get": _operation(kind, "list")}
    methods = {"get": "get", "put": "update", "patch": "patch", "delete": "delete"}
    item = {method: _operation(kind, verb) for method, verb in methods.items() if verb in kind.verbs}
    if item:
        paths[f"{base}/{{name}}"] = item
    for name in kind.subresources:
        verbs = {"get": "get", "put": "update", "patch": "patch"} if name in ("status", "scale") else {"get": "get"}
        paths[f"{base}/{{name}}/{name}"] = {method: _operation(kind, verb) for method, verb in verbs.items()}
    return {path: item for path, item in paths.items() if item}


_ACTIONS: Final = {"create": "post", "update": "put", "deletecollection": "deletecollection"}
_WRITES: Final = {
    "create": ("dryRun", "fieldManager", "fieldValidation"),
    "update": ("dryRun", "fieldManager", "fieldValidation"),
    "patch": ("dryRun", "fieldManager", "fieldValidation", "force"),
    "delete": ("dryRun", "gracePeriodSeconds", "propagationPolicy"),
    "list": ("continue", "fieldSelector", "labelSelector", "limit", "resourceVersion", "watch"),
}
_PARAMETER_TYPES: Final = {"force": "boolean", "watch": "boolean", "limit": "integer", "gracePeriodSeconds": "integer"}


def _operation(kind: ServedKind, verb: str) -> Manifest:
    operation: Manifest = {
        "x-kubernetes-action": _ACTIONS.get(verb, verb),
        "x-kubernetes-group-version-kind": kind.gvk,
        "parameters": [
            {"name": name, "in": "query", "schema": {"type": _PARAMETER_TYPES.get(name, "string"), "uniqueItems": True}}
            for name in _WRITES.get(verb, ())
        ],
        "responses": {"200": {"description": "OK", "content": _content(kind, verb)}},
    }
    schema = {"$ref": _COMPONENTS + kind.definition}
    if verb in ("create", "update"):
        operation["requestBody"] = {"content": {"*/*": {"schema": schema}}}
    elif verb == "patch":
        types = (*_PATCH_TYPES, _STRATEGIC) if kind.schema is None else _PATCH_TYPES
        operation["requestBody"] = {"content": {type_: {"schema": _ANY_OBJECT} for type_ in types}}
    return operation


def _content(kind: ServedKind, verb: str) -> Manifest:
    name = {"list": f"{kind.definition}List", "delete": _STATUS, "deletecollection": _STATUS}.get(verb, kind.definition)
    return {"application/json": {"schema": {"$ref": _COMPONENTS + name}}}
