# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Structural schemas of custom resources: pruning and defaulting. Validation is in `schema_validation.py`.

A schema is the dict under `openAPIV3Schema`; `Structure` is what was read out of it, once for all objects of the kind.
Objects are changed in place, as the server decodes them anew for every request. Rules are those of
apiextensions-apiserver's pruning and defaulting packages.
"""

from __future__ import annotations

from typing import Any, Final

from kaito.engine.schema import builtin
from kaito.engine.schema.shape import Shape
from kaito.kube.manifest import Manifest, tree_copy

_META: Final = frozenset(("apiVersion", "kind", "metadata"))
_PRESERVES: Final = "x-kubernetes-preserve-unknown-fields"
_EMBEDDED: Final = "x-kubernetes-embedded-resource"
_OPEN: Final[Manifest] = {_PRESERVES: True}
_TEXT: Final = Shape({"type": "string"})


def shape_of(schema: Manifest) -> Shape:
    """The shape of the kind's objects: the schema, with the metadata that every kind has. Keep it: it caches."""
    return Shape(schema).with_fields(apiVersion=_TEXT, kind=_TEXT, metadata=builtin.object_meta())


class Structure:
    """One part of a schema, read once; the parts below are read when an object first has a value there.

    A walk costs as much as the object is large, however large the schema is.
    """

    __slots__ = (
        "_below", "_defaults", "_instead", "_is_closed", "_is_root", "_items", "_keeps_null", "_others", "_properties",
    )  # fmt: skip

    def __init__(self, schema: Manifest, *, is_root: bool = True) -> None:
        """`is_root`: apiVersion, kind and metadata are left alone, as in embedded resources."""
        self._is_root = is_root or bool(schema.get(_EMBEDDED))
        self._properties: Manifest = schema.get("properties") or {}
        self._below: dict[str, Structure] = {}
        additional = schema.get("additionalProperties")
        self._others = _read(additional) if isinstance(additional, dict) else None
        """For the fields that have no schema of their own."""
        self._is_closed = not self._others and not additional and not schema.get(_PRESERVES)
        """Whether fields without a schema are dropped."""
        items = schema.get("items")
        self._items = _read(items) if isinstance(items, dict) else None
        self._defaults = tuple(
            (name, below["default"])
            for name, below in self._properties.items()
            if isinstance(below, dict) and "default" in below and not (self._is_root and name in _META)
        )
        is_nullable = bool(schema.get("nullable")) or not schema
        self._instead = (schema["default"],) if "default" in schema and not is_nullable else ()
        """What stands in for a null that is not allowed; nothing where there is no default."""
        self._keeps_null = is_nullable or bool(schema.get(_PRESERVES) and "type" not in schema)
        """Whether a field that is null stays so."""

    def _child(self, name: str) -> Structure | None:
        """The part for a field; None where its value is not looked at."""
        found = self._below.get(name)
        if found is not None:
            return found
        if self._is_root and name in _META:
            return None
        if name in self._properties:
            found = self._below[name] = _read(self._properties[name])
            return found
        return self._others

    def prune(self, obj: Manifest) -> list[str]:
        """Drop what the schema does not know. Returns the paths of what was dropped."""
        return sorted(self._prune(obj))

    def _prune(self, value: Any) -> list[str]:
        """The paths of what was dropped, from here on."""
        if isinstance(value, list):
            items = self._items
            if items is None:
                return []
            return [f"[{index}]{_dotted(path)}" for index, item in enumerate(value) for path in items._prune(item)]
        if not isinstance(value, dict):
            return []
        dropped: list[str] = []
        unknown: list[str] = []
        for name, item in value.items():
            below = self._child(name)
            if below is not None:
                if isinstance(item, dict | list):
                    dropped += [f"{name}{_dotted(path)}" for path in below._prune(item)]
            elif self._is_closed and not (self._is_root and name in _META):
                unknown.append(name)
        for name in unknown:
            del value[name]
        return dropped + unknown

    def fill(self, value: Any) -> None:
        """Fill in defaults. A null where null is not allowed counts as absent."""
        if isinstance(value, list):
            self._fill_items(value)
        elif isinstance(value, dict):
            self._fill_object(value)

    def _fill_object(self, value: Manifest) -> None:
        nulls: list[str] = []
        for name, item in value.items():
            if item is None:
                nulls.append(name)
            elif isinstance(item, dict | list):
                below = self._child(name)
                if below is not None:
                    below.fill(item)
        for name in nulls:
            self._fill_null(value, name)
        for name, default in self._defaults:
            if name not in value:
                value[name] = filled = tree_copy(default)
                if below := self._child(name):
                    below.fill(filled)

    def _fill_null(self, value: Manifest, name: str) -> None:
        below = self._child(name)
        if below is None or below._keeps_null:
            return
        del value[name]
        if below._instead and name not in self._properties:  # a declared field is filled in as if it had been absent
            value[name] = tree_copy(below._instead[0])
            below.fill(value[name])

    def _fill_items(self, items: list[Any]) -> None:
        below = self._items
        if below is None:
            return
        for index, item in enumerate(items):
            if item is None and below._instead:
                items[index] = tree_copy(below._instead[0])
            below.fill(items[index])


def _read(schema: Any) -> Structure:
    return Structure(schema if isinstance(schema, dict) else _OPEN, is_root=False)


def _dotted(path: str) -> str:
    return path if path.startswith("[") else f".{path}"


def prune(obj: Manifest, schema: Manifest) -> list[str]:
    """Drop from one object what the schema does not know, in place. Returns the paths of what was dropped."""
    return Structure(schema).prune(obj)


def apply_defaults(obj: Manifest, schema: Manifest) -> None:
    """Fill the schema's defaults into one object, in place."""
    Structure(schema).fill(obj)
