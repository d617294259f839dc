# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Protobuf request bodies, which typed clients such as `kubectl create deployment` send; answers are always JSON.

The envelope is `k8s\\0` and a runtime.Unknown message. What a field number means comes from Kubernetes' Go structs
(`gotypes.py`), what is in the field from the published schema. A field that neither knows is refused, never dropped.
Objects still go through the decoding of JSON bodies (`decode.py`). Pure.
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import msgspec

from kaito.engine.schema import builtin
from kaito.engine.schema.gotypes import GoStruct, is_zero, structs
from kaito.engine.schema.shape import Shape
from kaito.kube.manifest import Manifest, rfc3339

MAGIC: Final = b"k8s\x00"
MEDIA_TYPE: Final = "application/vnd.kubernetes.protobuf"

Raw = bytes | int | float
"""A value as the wire has it: a length-delimited piece, a varint or a double."""


class UnknownMessage(LookupError):
    """The body's kind, or a field in it, is not known; the text says which."""


def decode(body: bytes) -> Manifest:
    """The object in an enveloped body. Raises ValueError for what cannot be read, UnknownMessage for other kinds."""
    if not body.startswith(MAGIC):
        raise ValueError("the body is not in Kubernetes' protobuf envelope")
    envelope = dict(_fields(body[len(MAGIC) :]))
    about = dict(_fields(envelope.get(1, b"")))
    api_version, kind = _text(about.get(1, b"")), _text(about.get(2, b""))
    head: Manifest = {"apiVersion": api_version, "kind": kind}
    try:
        shape = builtin.posted_shape(api_version, kind)
    except KeyError:
        raise UnknownMessage(f'kind "{kind}" in version "{api_version}"') from None
    return {**head, **_message(envelope.get(2, b""), shape, _struct_of(shape))}


def _struct_of(shape: Shape) -> GoStruct:
    found = structs().get(shape.ref)
    if found is None:
        raise UnknownMessage(f"message {shape.name or shape.ref}")
    return found


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= len(data) or shift > 63:
            raise ValueError("the protobuf body ends in the middle of a number")
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return value, at
        shift += 7


def _fields(data: Raw) -> Iterator[tuple[int, Raw]]:
    """Field numbers and raw values of a message."""
    if not isinstance(data, bytes):
        raise ValueError("a protobuf message was expected, a number found")
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        wire, length = key & 7, 8
        if wire == 0:
            value, at = _varint(data, at)
            yield key >> 3, value
            continue
        if wire == 2:
            length, at = _varint(data, at)
        elif wire != 1:
            raise ValueError(f"protobuf wire type {wire} is not understood")
        if at + length > len(data):
            raise ValueError("the protobuf body is cut off")
        piece = data[at : at + length]
        yield key >> 3, piece if wire == 2 else struct.unpack("<d", piece)[0]
        at += length


def _message(data: Raw, shape: Shape, go_struct: GoStruct) -> Manifest:
    """A struct's fields under their JSON names; Go writes also those that were never set, which are left out here."""
    result: Manifest = {}
    for number, raw in _fields(data):
        if number in go_struct.inlined:
            result.update(_message(raw, shape, structs()[go_struct.inlined[number]]))
            continue
        name = go_struct.names.get(number)
        field = shape.field(name) if name is not None else None
        if name is None or field is None:
            raise UnknownMessage(f"field {number} of {shape.name}")
        if field.type == "array":
            result.setdefault(name, []).append(_value(raw, field.element))
        elif field.type == "object" and not field.properties and field.ref not in structs():
            key, value = _entry(raw, field.element)
            result.setdefault(name, {})[key] = value
        else:
            value = _value(raw, field)
            is_unset = name in go_struct.omitted and not field.properties and is_zero(value)
            if value is not None and not is_unset:
                result[name] = value
    return result


def _entry(raw: Raw, element: Shape) -> tuple[str, Any]:
    """One key and value of a map."""
    parts = dict(_fields(raw))
    value = parts.get(2, b"")
    if element.type == "array":  # a list inside a map is wrapped in a message of its own (authorization's ExtraValue)
        return _text(parts.get(1, b"")), [_value(item, element.element) for _, item in _fields(value)]
    return _text(parts.get(1, b"")), _value(value, element)


def _value(raw: Raw, shape: Shape) -> Any:
    """The JSON value; None for a time that is not set."""
    match shape.type:
        case "object" if shape.ref.endswith(".FieldsV1"):
            return _json(dict(_fields(raw)).get(1, b"{}"))
        case "object":
            return _message(raw, shape, _struct_of(shape))
        case "any":
            return _json(dict(_fields(raw)).get(1, b"null"))
        case "string":
            return base64.b64encode(_bytes(raw)).decode() if shape.format == "byte" else _text(raw)
        case "boolean":
            return bool(raw)
        case "integer":
            return _signed(raw)
        case "number":
            return raw
        case "quantity":
            return _text(dict(_fields(raw)).get(1, b"")) or "0"
        case "int-or-string":
            parts = dict(_fields(raw))
            return _text(parts.get(3, b"")) if parts.get(1) else _signed(parts.get(2, 0))
        case "time":
            return _time(raw, micro=shape.ref.endswith("MicroTime"))
    raise UnknownMessage(f"a value of type {shape.type}")


def _time(raw: Raw, *, micro: bool) -> str | None:
    parts = dict(_fields(raw))
    seconds, nanos = _signed(parts.get(1, 0)), _signed(parts.get(2, 0))
    if not parts:
        return None
    when = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds, microseconds=nanos // 1000)
    return when.strftime("%Y-%m-%dT%H:%M:%S.%fZ") if micro else rfc3339(when)


def _signed(raw: Raw) -> int:
    """A varint as the signed number that it stands for: negative ones are sent as 64 bits whatever their type."""
    if not isinstance(raw, int):
        raise ValueError("a number was expected in the protobuf body")
    return raw - (1 << 64) if raw >= 1 << 63 else raw


def _bytes(raw: Raw) -> bytes:
    if not isinstance(raw, bytes):
        raise ValueError("a text was expected in the protobuf body")
    return raw


def _text(raw: Raw) -> str:
    return _bytes(raw).decode()


def _json(raw: Raw) -> Any:
    try:
        return msgspec.json.decode(_bytes(raw) or b"null")
    except msgspec.DecodeError as error:
        raise ValueError(f"JSON inside the protobuf body: {error}") from None
