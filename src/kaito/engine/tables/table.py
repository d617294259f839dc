# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""kubectl's view of objects: the `Table` form of an object or a list.

Pure: the time comes in. What a column is stands in `columns.py`; a custom kind's columns come from its definition's
`additionalPrinterColumns`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

import msgspec

from kaito.engine.kinds import Kind
from kaito.engine.schema import builtin
from kaito.engine.tables.clustercolumns import API_COLUMNS, CORE_COLUMNS, STORAGE_COLUMNS
from kaito.engine.tables.columns import OTHER_COLUMNS, Column, age, since
from kaito.engine.tables.jsonpath import JsonPathError, compile_path
from kaito.engine.tables.networkcolumns import NETWORK_COLUMNS
from kaito.engine.tables.podcolumns import POD_COLUMNS
from kaito.engine.tables.workloadcolumns import WORKLOAD_COLUMNS
from kaito.kube.manifest import Manifest

NAME_TEXT = (
    "Name must be unique within a namespace. Is required when creating resources, although some resources may allow "
    "a client to request the generation of an appropriate name automatically. Name is primarily intended for creation "
    "idempotence and configuration definition. Cannot be updated. "
    "More info: https://kubernetes.io/docs/concepts/overview/working-with-objects/names#names"
)
AGE_TEXT = (
    "CreationTimestamp is a timestamp representing the server time when this object was created. It is not guaranteed "
    "to be set in happens-before order across separate operations. Clients may not set this value. It is represented "
    "in RFC3339 form and is in UTC.\n\nPopulated by the system. Read-only. Null for lists. More info: "
    "https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#metadata"
)

BUILT_IN_COLUMNS = {
    ("", "pods"): POD_COLUMNS,
    **WORKLOAD_COLUMNS,
    **NETWORK_COLUMNS,
    **CORE_COLUMNS,
    **STORAGE_COLUMNS,
    **API_COLUMNS,
}

IncludeObject = Literal["None", "Metadata", "Object"]


@dataclass(frozen=True, slots=True)
class View:
    """The columns of a kind and how to fill them."""

    columns: tuple[Manifest, ...]
    cells: Callable[[Manifest, datetime], list[Any]]


def view_of(kind: Kind) -> View:
    """How objects of the kind are shown."""
    if kind.is_custom:
        return _custom_view(kind.version_spec.get("additionalPrinterColumns") or [])
    key = (kind.group, kind.plural)
    if key == ("events.k8s.io", "events"):
        key = ("", "events")
    columns = BUILT_IN_COLUMNS.get(key, OTHER_COLUMNS)
    return View(tuple(_definition(column) for column in columns), _filler(columns))


def _definition(column: Column) -> Manifest:
    text = {"Name": NAME_TEXT, "Age": AGE_TEXT, "Created At": AGE_TEXT}.get(column.name, column.description)
    if column.documents:
        definition, _, field = column.documents.rpartition(".")
        text = builtin.field_description(f"io.k8s.api.{definition}", field)
    return {
        "name": column.name,
        "type": column.type,
        "format": "name" if column.name == "Name" else column.format,
        "description": text,
        "priority": column.priority,
    }


def _filler(columns: Sequence[Column]) -> Callable[[Manifest, datetime], list[Any]]:
    def cells(obj: Manifest, now: datetime) -> list[Any]:
        return [column.cell(obj, now) for column in columns]

    return cells


def _custom_view(printer_columns: list[Manifest]) -> View:
    name = {"name": "Name", "type": "string", "format": "name", "description": NAME_TEXT, "priority": 0}
    if not printer_columns:
        stamp = {"name": "Age", "type": "date", "format": "", "priority": 0, "description": AGE_TEXT}
        return View((name, stamp), lambda obj, now: [obj["metadata"]["name"], age(obj, now)])
    definitions, readers = [name], []
    for column in printer_columns:
        path = str(column.get("jsonPath", ""))
        definitions.append(
            {
                "name": column["name"],
                "type": column["type"],
                "format": column.get("format", ""),
                "description": column.get("description")
                or f"Custom resource definition column (in JSONPath format): {path}",
                "priority": column.get("priority", 0),
            }
        )
        readers.append(_reader(path, column["type"]))

    def cells(obj: Manifest, now: datetime) -> list[Any]:
        return [obj["metadata"]["name"], *(read(obj, now) for read in readers)]

    return View(tuple(definitions), cells)


def _reader(path: str, type_: str) -> Callable[[Manifest, datetime], Any]:
    try:
        find = compile_path(path)
    except JsonPathError:
        return lambda obj, now: None

    def read(obj: Manifest, now: datetime) -> Any:
        values = find(obj)
        if not values or values[0] is None:
            return None
        if type_ == "string" and len(values) > 1:
            return ",".join(_text(value) for value in values)
        return _typed(values[0], type_, now)

    return read


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


def _typed(value: Any, type_: str, now: datetime) -> Any:
    """The value as the column's type, None where it is something else."""
    if type_ == "integer":
        return int(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
    if type_ == "number":
        return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
    if type_ == "boolean":
        return value if isinstance(value, bool) else None
    if type_ == "date":
        return since(value, now) if isinstance(value, str) else None
    return _text(value)


def table(
    view: View,
    objects: Iterable[Manifest],
    meta: Manifest,
    *,
    now: datetime,
    include: IncludeObject = "Metadata",
    with_columns: bool = True,
    version: str = "v1",
) -> Manifest:
    """The Table of the objects; `with_columns` is off for all but a watch's first event."""
    rows = []
    for obj in objects:
        row: Manifest = {"cells": view.cells(obj, now)}
        if include == "Object":
            row["object"] = obj
        elif include == "Metadata":
            row["object"] = partial(obj)
        rows.append(row)
    body: Manifest = {"kind": "Table", "apiVersion": f"meta.k8s.io/{version}", "metadata": meta}
    return {**body, "columnDefinitions": list(view.columns) if with_columns else None, "rows": rows}


def partial(obj: Manifest, version: str = "v1") -> Manifest:
    """The object's metadata alone, as PartialObjectMetadata."""
    return {"kind": "PartialObjectMetadata", "apiVersion": f"meta.k8s.io/{version}", "metadata": obj["metadata"]}


class _WithMetadata(msgspec.Struct):
    metadata: msgspec.Raw


_METADATA = msgspec.json.Decoder(_WithMetadata)


def encoded_partial(value: bytes, version: str = "v1") -> bytes:
    """The same of an encoded object, encoded: its metadata are passed on as they are."""
    metadata = bytes(_METADATA.decode(value).metadata)
    return b'{"kind":"PartialObjectMetadata","apiVersion":"meta.k8s.io/%s","metadata":%s}' % (
        version.encode(),
        metadata,
    )
