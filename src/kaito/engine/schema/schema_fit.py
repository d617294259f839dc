# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Whether an object surely fits its structural schema: a yes or "look closer", without the words.

Nearly every object that is written fits. `schema_validation` says what is wrong and where, and takes four times as long
to find nothing; so it is asked only about an object that is not taken here. `Fit` must never take what validation
refuses; what it cannot tell at a glance it leaves to validation.
"""

from __future__ import annotations

from typing import Any, Final

from kaito.engine.schema import schema_validation as validation
from kaito.kube.manifest import Manifest

_TYPES: Final[dict[str, frozenset[type]]] = {
    "string": frozenset((str,)),
    "boolean": frozenset((bool,)),
    "integer": frozenset((int,)),
    "number": frozenset((int, float)),
    "array": frozenset((list,)),
    "object": frozenset((dict,)),
}
_INT_OR_STRING: Final = frozenset((int, str))
_COMBINATIONS: Final = ("allOf", "anyOf", "oneOf", "not")
_LIMITS: Final = (
    "maxLength", "minLength", "pattern", "minimum", "maximum", "multipleOf",
    "minItems", "maxItems", "uniqueItems", "minProperties", "maxProperties",
)  # fmt: skip
_HERE: Final = "value"
"""Stands for the path, which only words would need; empty would mean the root."""


class Fit:
    """One part of a schema, read once; the parts below are read when an object first has a value there."""

    __slots__ = (
        "_below", "_has_combinations", "_has_limits", "_has_list_type", "_is_embedded", "_is_root", "_items",
        "_nullable", "_others", "_properties", "_required", "_schema", "_types",
    )  # fmt: skip

    def __init__(self, schema: Manifest, *, is_root: bool = True) -> None:
        self._schema, self._is_root = schema, is_root
        self._nullable = bool(schema.get("nullable"))
        self._types = _types_of(schema)
        self._required: tuple[str, ...] = tuple(schema.get("required") or ())
        self._properties: Manifest = schema.get("properties") or {}
        self._below: dict[str, Fit | None] = {}
        self._others = _read(schema.get("additionalProperties"))
        items = schema.get("items")
        self._items = Fit(items, is_root=False) if isinstance(items, dict) else None
        self._has_limits = any(name in schema for name in (*_LIMITS, "format", "enum"))
        self._has_combinations = any(schema.get(name) is not None for name in _COMBINATIONS)
        self._has_list_type = "x-kubernetes-list-type" in schema
        self._is_embedded = bool(schema.get("x-kubernetes-embedded-resource"))

    def takes(self, value: Any) -> bool:
        """Whether validation would surely find nothing, rules (`x-kubernetes-validations`) apart."""
        if value is None:
            return self._nullable
        if self._types is not None and type(value) not in self._types:
            return False
        if self._has_limits and not self._is_within_limits(value):
            return False
        if self._has_combinations and (self._is_root or validation.combination_errors(value, self._schema, _HERE)):
            return False
        if isinstance(value, dict):
            return self._takes_fields(value)
        if isinstance(value, list):
            if self._has_list_type and validation.list_type_errors(value, self._schema, _HERE):
                return False
            return self._items is None or all(map(self._items.takes, value))
        return True

    def _is_within_limits(self, value: Any) -> bool:
        schema = self._schema
        if "enum" in schema and value not in schema["enum"]:
            return False
        return not (validation.format_error(value, schema, _HERE) or validation.limit_errors(value, schema, _HERE))

    def _takes_fields(self, value: Manifest) -> bool:
        for name in self._required:
            if name not in value:
                return False
        if self._is_embedded and not (value.get("apiVersion") and value.get("kind")):
            return False
        known = self._below
        for name, item in value.items():
            below = known[name] if name in known else self._child(name)
            if below is not None and not below.takes(item):
                return False
        return True

    def _child(self, name: str) -> Fit | None:
        """The part for a field; None where any value is fine."""
        if self._is_root and name in validation.TYPE_META:
            return None
        if name not in self._properties:
            return self._others
        found = self._below[name] = _read(self._properties[name])
        return found


def _read(schema: Any) -> Fit | None:
    return Fit(schema, is_root=False) if isinstance(schema, dict) and schema else None


def _types_of(schema: Manifest) -> frozenset[type] | None:
    """The types that the values may have; None for any."""
    if schema.get("x-kubernetes-int-or-string"):
        return _INT_OR_STRING
    wanted = schema.get("type")
    return _TYPES.get(wanted, frozenset()) if wanted else None
