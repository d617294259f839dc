# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""What a schema says about the form of values: types, and how lists and maps merge.

One tree of `Shape`s serves decoding, strategic merge and server-side apply. It is built while it is walked, so that a
kind costs nothing until it is used. The reading of the `x-kubernetes-*` marks follows structured-merge-diff's
schemaconv. Where the schemas come from is the business of `builtin.py` (Kubernetes' kinds) and `schema.py` (CRDs).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, Final

from kaito.kube.manifest import Manifest

Resolve = Callable[[str], Manifest]
"""Turns a `$ref` into the schema it names; raises KeyError."""

_MARKS: Final = (
    "x-kubernetes-list-type",
    "x-kubernetes-list-map-keys",
    "x-kubernetes-map-type",
    "x-kubernetes-patch-strategy",
    "x-kubernetes-patch-merge-key",
)
# Key fields that Kubernetes defaults; the published schemas leave these defaults out.
_KEY_DEFAULTS: Final[Mapping[str, Any]] = {"protocol": "TCP"}
_ZEROS: Final[Mapping[str, Any]] = {"string": "", "integer": 0}
_PLAIN: Final[Mapping[str, type]] = {"string": str, "boolean": bool}
_SCALARS: Final = {
    "Quantity": "quantity",
    "IntOrString": "int-or-string",
    "Time": "time",
    "MicroTime": "time",
}


class Shape:
    """The form of one value. Immutable to its users; children are built on first use."""

    __slots__ = (
        "_children",
        "_element",
        "_is_embedded",
        "_resolve",
        "_schema",
        "atomic",
        "format",
        "is_keyed",
        "is_map",
        "is_scalar",
        "is_set",
        "keys",
        "merge_key",
        "name",
        "nullable",
        "open",
        "plain",
        "preserves",
        "properties",
        "ref",
        "strategies",
        "takes_others",
        "type",
    )

    def __init__(self, schema: Manifest, resolve: Resolve | None = None) -> None:
        marks: dict[str, Any] = {mark: schema[mark] for mark in _MARKS if mark in schema}
        self.name = ""
        """The Go type as error messages name it, e.g. `v1.PodSpec`."""
        self.ref = ""
        """The full name of its definition, e.g. `io.k8s.api.core.v1.PodSpec`."""
        while "$ref" in schema and resolve is not None:
            self.ref = str(schema["$ref"]).rpartition("/")[2]
            self.name = _go_name(self.ref)
            schema = resolve(schema["$ref"])
            marks = {**{mark: schema[mark] for mark in _MARKS if mark in schema}, **marks}
        self._schema = schema
        self._resolve = resolve
        self._children: dict[str, Shape] = {}
        self._element: Shape | None = None
        self.properties: Mapping[str, Manifest] = schema.get("properties") or {}
        self.format: str = schema.get("format", "")
        self.nullable = bool(schema.get("nullable"))
        self.type = self._type_of(schema)
        """object, array, string, integer, number, boolean, or one of: any, quantity, int-or-string, time, json."""
        self.plain: type | None = None if self.format == "byte" else _PLAIN.get(self.type)
        """The Python type whose values are all fine as they are; None where they have to be looked at."""
        self.is_scalar = self.type not in ("object", "array", "any")
        """Whether values of this shape have no inner fields."""
        self.preserves = bool(schema.get("x-kubernetes-preserve-unknown-fields"))
        self.open = self.type == "object" and (
            self.preserves or (not self.properties and "additionalProperties" not in schema)
        )
        """Takes any field that it does not declare."""
        self.takes_others = self.type == "any" or self.open or bool(schema.get("additionalProperties"))
        """Whether a map may have keys that are not declared."""
        self._is_embedded = bool(schema.get("x-kubernetes-embedded-resource"))
        self._read_marks(marks)
        self.is_map = not self.atomic and not self.is_scalar
        """Whether a dict of this shape is owned and merged field by field."""
        self.is_keyed = bool(self.keys or self.is_set)
        """Whether a list of this shape is owned and merged item by item."""

    def _type_of(self, schema: Manifest) -> str:
        if schema.get("x-kubernetes-int-or-string"):
            return "int-or-string"
        known = _SCALARS.get(self.name.rpartition(".")[2])
        if known:
            return known
        declared = schema.get("type")
        if isinstance(declared, list):
            declared = next((name for name in declared if name != "null"), None)
        if declared is None:
            return "object" if self.properties else "any"
        return str(declared)

    def _read_marks(self, marks: Mapping[str, Any]) -> None:
        strategies = tuple(str(marks.get("x-kubernetes-patch-strategy", "")).split(","))
        self.strategies = frozenset(filter(None, strategies))
        self.merge_key: str = marks.get("x-kubernetes-patch-merge-key", "")
        self.keys: tuple[str, ...] = ()
        self.is_set = False
        list_type = marks.get("x-kubernetes-list-type")
        if self.type == "array":
            if list_type == "map":
                self.keys = tuple(marks.get("x-kubernetes-list-map-keys") or ())
            elif list_type == "set":
                self.is_set = True
            elif list_type is None and "merge" in self.strategies:
                self.keys = (self.merge_key,) if self.merge_key else ()
                self.is_set = not self.merge_key
            self.atomic = not self.keys and not self.is_set
        else:
            self.atomic = marks.get("x-kubernetes-map-type") == "atomic" or self.strategies == {"replace"}

    def with_fields(self, **fields: Shape) -> Shape:
        """This shape, with fields that its schema does not say."""
        self._children.update(fields)
        return self

    @property
    def element(self) -> Shape:
        """The shape of a list's items, or of a map's undeclared values."""
        if self._element is None:
            schema = self._schema.get("items" if self.type == "array" else "additionalProperties")
            self._element = Shape(schema, self._resolve) if isinstance(schema, dict) and schema else UNTYPED
        return self._element

    def field(self, name: str) -> Shape | None:
        """The shape of a declared field."""
        found = self._children.get(name)
        if found is None and name in self.properties:
            found = self._children[name] = Shape(self.properties[name], self._resolve)
        return found

    def child(self, name: str) -> Shape | None:
        """The shape of what stands at a key of a map: declared, or any when the map is open; None if not allowed."""
        found = self._children.get(name)
        if found is not None:
            return found
        if name in self.properties:
            return self.field(name)
        if self._is_embedded and name in ("apiVersion", "kind", "metadata"):
            return UNTYPED
        return self.element if self.takes_others else None

    def default_of(self, key: str) -> Any:
        """The default of one of the list's key fields; None when it has none."""
        field = self.element.field(key)
        if field is None:
            return None
        default = field._schema.get("default")
        if default is not None or self._resolve is None:
            return default
        # Kubernetes publishes the zero value as the default of every required field of its own kinds.
        is_required = key in (self.element._schema.get("required") or ())
        return _KEY_DEFAULTS.get(key, _ZEROS.get(field.type) if is_required else None)

    def key_of(self, item: Any) -> str | None:
        """The path element of an item in a set or keyed list, as fieldsV1 writes it; None when a key is missing."""
        if self.is_set:
            return "v:" + compact(item)
        if not isinstance(item, dict):
            return None
        found = {}
        for key in self.keys:
            value = item.get(key)
            if value is None:
                value = self.default_of(key)
            if value is None:
                return None
            found[key] = value
        return "k:" + compact(found)


def compact(value: Any) -> str:
    """JSON without spaces and with sorted keys."""
    return json.dumps(value, separators=(",", ":"), sort_keys=True, ensure_ascii=False)


def _go_name(ref: str) -> str:
    parts = ref.split(".")
    return ".".join(parts[-2:])


UNTYPED: Final = Shape({})
"""Anything goes: maps merge, lists are replaced."""
