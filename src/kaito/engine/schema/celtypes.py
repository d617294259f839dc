# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""The types that expressions are checked against, made from a structural schema.

The CEL library knows the types of protocol buffers, so an object of a schema becomes a message type that is only
declared and never filled. Source of the mapping: "Validation rules" in Kubernetes' documentation of
CustomResourceDefinitions, and `SchemaDeclType` of k8s.io/apiserver/pkg/cel/common.

What a protocol buffer cannot say, a list of lists or a map of lists below a field, is of any type there.
"""

from __future__ import annotations

import ctypes
import re
import sys
from datetime import datetime, timedelta
from functools import cache
from importlib import import_module
from typing import Any, Final

from kaito.kube.manifest import Manifest

QUANTITY, URL, SEMVER, FORMAT = ("kubernetes.Quantity", "kubernetes.URL", "kubernetes.Semver", "kubernetes.NamedFormat")
IP, CIDR = "net.IP", "net.CIDR"
PROBLEMS: Final = "kubernetes.Problems"
"""What a format's `validate` gives; in Kubernetes an optional list, of which this has `hasValue` and `value`."""
OPAQUE: Final = (QUANTITY, URL, SEMVER, FORMAT, PROBLEMS, IP, CIDR)
"""Kubernetes' own types, of which nothing but the name is known."""
Opaque = dict[str, str]
"""A value of one of them while it is evaluated: its type's name and its canonical text."""

_SCALARS: Final = {"boolean": "BOOL", "integer": "INT", "number": "DOUBLE", "string": "STRING"}
_FORMATS: Final = {"byte": "BYTES", "date": "TIMESTAMP", "date-time": "TIMESTAMP", "duration": "DURATION"}
_FIELD_TYPES: Final = {"BOOL": 8, "INT": 3, "DOUBLE": 1, "STRING": 9, "BYTES": 12}
"""By the numbers of `FieldDescriptorProto.Type`."""
_MESSAGE: Final = 11
_RESERVED_NUMBERS: Final = 1_000
"""How many numbers of fields protocol buffers keep for themselves, from 19000 on."""
_WELL_KNOWN: Final = {"DYN": "Value", "TIMESTAMP": "Timestamp", "DURATION": "Duration"}
_PACKAGE: Final = "schema"
_RESERVED: Final = frozenset(
    {
        *("as", "break", "const", "continue", "else", "false", "for", "function", "if", "import", "in", "let", "loop"),
        *("namespace", "null", "package", "return", "true", "var", "void", "while"),
    }
)
_MARKS: Final = {"__": "__underscores__", ".": "__dot__", "-": "__dash__", "/": "__slash__"}
_MARK: Final = re.compile(r"__|[.\-/]")
_NAME: Final = re.compile(r"[A-Za-z_]\w*", re.ASCII)
_TEXT: Final[Manifest] = {"type": "string"}
_OBJECT_META: Final[Manifest] = {"type": "object", "properties": {"name": _TEXT, "generateName": _TEXT}}


def escaped(name: str) -> str | None:
    """The property's name inside expressions; None when they cannot name it."""
    if name in _RESERVED:
        return f"__{name}__"
    found = _MARK.sub(lambda match: _MARKS[match.group()], name)
    return found if _NAME.fullmatch(found) else None


def text_of(value: Opaque, kind: str) -> str:
    """The canonical text of a value of the kind. Raises ValueError for a value of another."""
    if not isinstance(value, dict) or kind not in value:
        raise ValueError("no such overload")
    return value[kind]


@cache
def library() -> Any:
    """The CEL library, loaded with the first expression: the engine starts without it.

    Version 0.1.3 gives `None` away without counting the reference (`CelValueToPyObject` in its py_cel_value.cc), so
    Python before 3.12 ends with `none_dealloc` after some thousand null values. From 3.12 on None is never freed, and
    here it is made so for 3.11: one reference more than all the null values of a process. Remove it with Python 3.11.
    """
    if sys.version_info < (3, 12):
        ctypes.c_ssize_t.from_address(id(None)).value += 1 << 60
    return import_module("cel_expr_python.cel")


@cache
def proto(name: str) -> Any:
    """A module of the well-known protocol buffers, loaded as late."""
    return import_module(f"google.protobuf.{name}_pb2")


def timestamp(moment: datetime) -> Any:
    """A moment as the library takes it."""
    made = proto("timestamp").Timestamp()
    made.FromDatetime(moment)
    return made


def duration(length: timedelta) -> Any:
    """A length of time as the library takes it."""
    made = proto("duration").Duration()
    made.FromTimedelta(length)
    return made


def kind_of(schema: Any) -> str:
    """The CEL type of a schema's values: a name of `cel.Type`, or OBJECT; empty when expressions cannot see them."""
    if not isinstance(schema, dict):
        return ""
    if schema.get("x-kubernetes-int-or-string"):
        return "DYN"
    kind = schema.get("type")
    if kind == "array":
        return "LIST" if kind_of(schema.get("items")) else ""
    if kind == "object":
        rest = schema.get("additionalProperties")
        if rest is None:
            return "OBJECT"
        return "MAP" if kind_of(rest) else ""
    if kind == "string" and schema.get("format") in _FORMATS:
        return _FORMATS[schema["format"]]
    return _SCALARS.get(kind or "", "")


class Types:
    """The types of one schema, in a pool of descriptors that an environment of the CEL library takes."""

    def __init__(self, schema: Manifest, *, is_resource: bool = False) -> None:
        self._file = proto("descriptor").FileDescriptorProto(name="schema.proto", package=_PACKAGE)
        self._file.dependency.extend(f"google/protobuf/{name}.proto" for name in ("struct", "timestamp", "duration"))
        self.type = self._type(schema, is_resource=is_resource)
        """The type of the schema itself, for the variable `self`."""
        self.pool = _pool()
        self.pool.AddSerializedFile(self._file.SerializeToString())

    def _type(self, schema: Manifest, *, is_resource: bool = False) -> Any:
        kinds, kind = library().Type, kind_of(schema) or "DYN"
        if kind == "OBJECT":
            return kinds(self._message(schema, is_resource=is_resource))
        if kind == "LIST":
            return kinds.List(self._type(schema["items"]))
        if kind == "MAP":
            return kinds.Map(kinds.STRING, self._type(schema["additionalProperties"]))
        return getattr(kinds, kind)

    def _message(self, schema: Manifest, *, is_resource: bool = False) -> str:
        """Declare an object's type; its full name."""
        name = f"T{len(self._file.message_type)}"
        message = self._file.message_type.add(name=name)
        properties = dict(schema.get("properties") or {})
        if is_resource or schema.get("x-kubernetes-embedded-resource"):
            properties = {**properties, "apiVersion": _TEXT, "kind": _TEXT, "metadata": _OBJECT_META}
        for wanted, below in properties.items():
            shown = escaped(wanted)
            if shown and kind_of(below):
                self._field(message, shown, below)
        return f"{_PACKAGE}.{name}"

    def _field(self, message: Any, name: str, schema: Manifest) -> None:
        kind = kind_of(schema)
        number = len(message.field) + 1
        number += _RESERVED_NUMBERS if number >= 19_000 else 0
        field = message.field.add(name=name, json_name=name, number=number, label=1)
        if kind == "LIST":
            field.label = 3
            self._fill(field, schema["items"])
        elif kind == "MAP" and all(entry.name != f"{_camel(name)}Entry" for entry in message.nested_type):
            field.label, field.type = 3, _MESSAGE
            entry = message.nested_type.add(name=f"{_camel(name)}Entry")
            entry.options.map_entry = True
            entry.field.add(name="key", number=1, label=1, type=_FIELD_TYPES["STRING"])
            self._fill(entry.field.add(name="value", number=2, label=1), schema["additionalProperties"])
            field.type_name = f".{_PACKAGE}.{message.name}.{entry.name}"
        else:
            self._fill(field, schema)

    def _fill(self, field: Any, schema: Manifest) -> None:
        """Set the type of a field, or of a list's or map's values."""
        kind = kind_of(schema)
        if kind in _FIELD_TYPES:
            field.type = _FIELD_TYPES[kind]
            return
        field.type = _MESSAGE
        if kind == "OBJECT":
            field.type_name = f".{self._message(schema)}"
        else:
            field.type_name = f".google.protobuf.{_WELL_KNOWN.get(kind, 'Value')}"


def _camel(name: str) -> str:
    """The name of a map's entry as a protocol buffer wants it for a field."""
    return "".join(part[:1].upper() + part[1:] for part in name.split("_"))


def _pool() -> Any:
    pool = import_module("google.protobuf.descriptor_pool").DescriptorPool()
    for name in ("struct", "timestamp", "duration"):
        pool.AddSerializedFile(proto(name).DESCRIPTOR.serialized_pb)
    for package in ("kubernetes", "net"):
        file = proto("descriptor").FileDescriptorProto(name=f"{package}.proto", package=package)
        for name in OPAQUE:
            if name.startswith(f"{package}."):
                file.message_type.add(name=name.removeprefix(f"{package}."))
        pool.AddSerializedFile(file.SerializeToString())
    return pool


@cache
def untyped_pool() -> Any:
    """A pool with Kubernetes' own types alone, for expressions about values of any type."""
    return _pool()
