# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Structural schemas of custom resources: pruning and defaulting. Validation is in `schema_validation.py`.

A schema is the dict under `openAPIV3Schema`. Functions change the object in place, as the server decodes it anew for
every request. Rules are those of apiextensions-apiserver's pruning and defaulting packages.
"""

from __future__ import annotations

from typing import Any, Final

from kaito.engine.schema import builtin
from kaito.engine.schema.shape import Shape
from kaito.kube.manifest import Manifest, tree_copy

_META: Final = ("apiVersion", "kind", "metadata")
_PRESERVES: Final = "x-kubernetes-preserve-unknown-fields"
_EMBEDDED: Final = "x-kubernetes-embedded-resource"
_TEXT: Final = Shape({"type": "string"})


def shape_of(schema: Manifest) -> Shape:
    """The shape of the kind's objects: the schema, with the metadata that every kind has. Keep it: it caches."""
    return Shape(schema).with_fields(apiVersion=_TEXT, kind=_TEXT, metadata=builtin.object_meta())


def prune(obj: Manifest, schema: Manifest) -> list[str]:
    """Drop what the schema does not know, in place. Returns the paths of what was dropped.

    apiVersion, kind and metadata are left alone at the root and in embedded resources.
    """
    dropped: list[str] = []
    _prune_object(obj, schema, "", dropped, is_root=True)
    return sorted(dropped)


def _prune(value: Any, schema: Any, path: str, dropped: list[str]) -> None:
    if not isinstance(schema, dict):
        return
    if isinstance(value, list):
        items = schema.get("items")
        if isinstance(items, dict):
            for index, item in enumerate(value):
                _prune(item, items, f"{path}[{index}]", dropped)
    elif isinstance(value, dict):
        _prune_object(value, schema, path, dropped, is_root=bool(schema.get(_EMBEDDED)))


def _prune_object(value: Manifest, schema: Manifest, path: str, dropped: list[str], *, is_root: bool) -> None:
    properties = schema.get("properties") or {}
    additional = schema.get("additionalProperties")
    for name in list(value):
        if is_root and name in _META:
            continue
        at = f"{path}.{name}" if path else name
        if name in properties:
            _prune(value[name], properties[name], at, dropped)
        elif isinstance(additional, dict):
            _prune(value[name], additional, at, dropped)
        elif not additional and not schema.get(_PRESERVES):
            del value[name]
            dropped.append(at)


def apply_defaults(obj: Manifest, schema: Manifest) -> None:
    """Fill in defaults, in place. A null where null is not allowed counts as absent."""
    _default(obj, schema, is_root=True)


def _default(value: Any, schema: Any, *, is_root: bool = False) -> None:
    if not isinstance(schema, dict):
        return
    if isinstance(value, list):
        _default_items(value, schema.get("items"))
    elif isinstance(value, dict):
        properties = schema.get("properties") or {}
        for name, below in properties.items():
            if is_root and name in _META:
                continue
            _default_field(value, name, below)
        additional = schema.get("additionalProperties")
        if isinstance(additional, dict):
            for name in list(value):
                if name not in properties:
                    _default_field(value, name, additional)


def _default_field(parent: Manifest, name: str, schema: Manifest) -> None:
    if name in parent and parent[name] is None and not schema.get("nullable") and schema:
        if schema.get(_PRESERVES) and "type" not in schema:
            return
        del parent[name]
    if "default" in schema and name not in parent:
        parent[name] = tree_copy(schema["default"])
    if name in parent:
        _default(parent[name], schema, is_root=bool(schema.get(_EMBEDDED)))


def _default_items(items: list[Any], schema: Any) -> None:
    if not isinstance(schema, dict):
        return
    for index, item in enumerate(items):
        if item is None and "default" in schema and not schema.get("nullable"):
            items[index] = tree_copy(schema["default"])
        _default(items[index], schema)
