# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Decoding of built-in kinds: what Kubernetes' Go structs do to a JSON document.

Unknown fields and nulls are dropped, and zero values where Go leaves them out; quantities are written canonically, and
a value of the wrong JSON type is refused in the words of Go's decoder (a 400, unlike the 422 of validation).
"""

from __future__ import annotations

import base64
import binascii
import re
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Final

from kaito.engine.schema import builtin
from kaito.engine.schema.gotypes import NOT_A_STRUCT, is_zero, structs
from kaito.engine.schema.quantity import QuantityError, canonical
from kaito.engine.schema.shape import Shape
from kaito.kube.manifest import Manifest

_INT_LIMITS: Final = {"int32": 2**31, "int64": 2**63}
_RFC3339: Final = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)")


class DecodeError(ValueError):
    """A value cannot be decoded; the text is what Go's decoder says."""


def decode(manifest: Manifest, api_version: str, kind: str) -> list[str]:
    """Decode in place: drops unknown fields and nulls. Returns the unknown fields' paths.

    Raises DecodeError on a wrong type and KeyError for a kind that is not built in.
    """
    return _Decoder().run(manifest, builtin.shape_of(api_version, kind))


def decode_metadata(metadata: Any) -> list[str]:
    """The same for the `metadata` of any kind. Returns unknown fields' paths from `metadata` on."""
    decoder = _Decoder()
    shape = builtin.object_meta()
    return [f"metadata.{path}" for path in decoder.run(metadata, shape)]


class _Wrong(Exception):
    """A value of the wrong type, on its way up to the root: gathers the names that the message shows."""

    def __init__(self, value: Any, shape: Shape) -> None:
        self.value, self.shape = value, shape
        self.struct = ""
        """The innermost struct around the value."""
        self.fields: list[str] = []
        """The names of struct fields down to the value; indexes and keys of maps are not among them."""

    def words(self) -> str:
        """What Go's decoder says."""
        found = _json_type(self.value)
        if found == "number" and self.shape.type == "integer":
            found = f"number {self.value}"
        field = f"{self.struct.rpartition('.')[2]}.{'.'.join(self.fields)}"
        return f"json: cannot unmarshal {found} into Go struct field {field} of type {_go_type(self.shape)}"


class _Decoder:
    """One run: collects unknown fields. Every body passes here, so a scalar that is fine costs a look at its type."""

    def __init__(self) -> None:
        self._unknown: list[str] = []

    def run(self, manifest: Any, shape: Shape) -> list[str]:
        if not isinstance(manifest, dict):
            raise DecodeError(f"json: cannot unmarshal {_json_type(manifest)} into Go value of type {shape.name}")
        try:
            self._object(manifest, shape, "")
        except _Wrong as wrong:
            wrong.struct = wrong.struct or shape.name
            raise DecodeError(wrong.words()) from None
        return self._unknown

    def _value(self, value: Any, shape: Shape, path: str) -> Any:
        """The decoded value. `path` has indexes and keys, as unknown fields are told."""
        match shape.type:
            case "any":
                return value
            case "object":
                if not isinstance(value, dict):
                    raise _Wrong(value, shape)
                return self._object(value, shape, path)
            case "array":
                if not isinstance(value, list):
                    raise _Wrong(value, shape)
                element = shape.element
                return [
                    None
                    if item is None and element.is_scalar
                    else self._value({} if item is None else item, element, f"{path}[{at}]")
                    for at, item in enumerate(value)
                ]
            case _:
                return _scalar(value, shape)

    def _object(self, value: Manifest, shape: Shape, path: str) -> Manifest:
        go_struct = structs().get(shape.ref, NOT_A_STRUCT)
        for name, item in list(value.items()):
            below = shape.child(name)
            if below is None:
                self._unknown.append(f"{path}.{name}" if path else name)
                del value[name]
            elif item is None:
                if below.type != "any":
                    del value[name]
                    if not shape.properties and below.type == "string":
                        value[name] = ""  # a Go map keeps the key with the zero value
            else:
                if type(item) is not below.plain:
                    try:
                        item = value[name] = self._value(item, below, f"{path}.{name}" if path else name)
                    except _Wrong as wrong:
                        if shape.properties:
                            wrong.struct = wrong.struct or shape.name
                            wrong.fields.insert(0, name)
                        raise
                if not item and name in go_struct.omitted and not below.properties and is_zero(item):
                    del value[name]
        if path:  # what an empty object holds at its root is the kind's own business (`builtin.zero`)
            for name in go_struct.values:
                value.setdefault(name, {})
        return value


def _scalar(value: Any, shape: Shape) -> Any:
    kind = type(value)
    match shape.type:
        case "string" if kind is str:
            return _checked_bytes(value) if shape.format == "byte" else value
        case "boolean" if kind is bool:
            return value
        case "integer" if kind is int and -_limit(shape) <= value < _limit(shape):
            return value
        case "integer" if kind is float and value.is_integer():
            return int(value)
        case "number" if kind in (int, float):
            return value
        case "int-or-string" if kind in (int, str):
            return value
        case "quantity" if kind in (int, float, str):
            return _quantity(value)
        case "time" if kind is str:
            return _canonical_time(value, is_micro=shape.ref.endswith("MicroTime"))
    raise _Wrong(value, shape)


def _limit(shape: Shape) -> int:
    return _INT_LIMITS.get(shape.format, 2**63)


def _quantity(value: Any) -> str:
    try:
        return canonical(value)
    except QuantityError as error:
        raise DecodeError(str(error)) from None


def _checked_bytes(text: str) -> str:
    try:
        base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        bad = re.search(r"[^A-Za-z0-9+/\r\n]", text)
        at = bad.start() if bad else len(text) - len(text) % 4
        raise DecodeError(f"illegal base64 data at input byte {at}") from None
    return text


@lru_cache(maxsize=4096)  # an update brings the times of the creation and of each owner with it
def _canonical_time(text: str, *, is_micro: bool) -> str:
    """The time in UTC, to the second or microsecond, as Go writes it back. Raises DecodeError."""
    if _RFC3339.fullmatch(text):
        try:
            moment = datetime.fromisoformat(text.upper()).astimezone(UTC)
        except (ValueError, OverflowError):
            raise DecodeError(f'parsing time "{text}": value out of range') from None
        return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ" if is_micro else "%Y-%m-%dT%H:%M:%SZ")
    layout = "2006-01-02T15:04:05Z07:00"
    raise DecodeError(f'parsing time "{text}" as "{layout}": cannot parse "{text}" as "2006"')


def _json_type(value: Any) -> str:
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int | float):
        return "number"
    if isinstance(value, str):
        return "string"
    return "array" if isinstance(value, list) else "object"


def _go_type(shape: Shape) -> str:
    match shape.type:
        case "integer":
            return shape.format or "int64"
        case "boolean":
            return "bool"
        case "number":
            return "float64"
        case "string":
            return "[]uint8" if shape.format == "byte" else "string"
        case "array":
            return f"[]{_go_type(shape.element)}"
        case "object" if not shape.properties and not shape.name:
            return f"map[string]{_go_type(shape.element)}"
        case _:
            return shape.name or "string"
