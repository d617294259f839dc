# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""What a column of `kubectl get` is, and the parts that the cells of many kinds are made of.

Pure: each column is a name, a type, a priority (1 shows with `-o wide` only) and a function from object and time to the
cell. Which columns a kind has, after Kubernetes' own printers, is in `podcolumns.py`, `workloadcolumns.py`,
`networkcolumns.py` and `clustercolumns.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from kaito.kube.manifest import Manifest, parse_time

Cell = Callable[[Manifest, datetime], Any]


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a table."""

    name: str
    cell: Cell
    type: str = "string"
    priority: int = 0
    description: str = ""
    documents: str = ""
    """The field of the published schemas whose description is the column's, e.g. `core.v1.PodSpec.nodeName`."""
    format: str = ""


def duration(seconds: float) -> str:
    """A span as kubectl writes it: 5s, 3m20s, 7m, 3h5m, 2d4h, 12d, 1y30d."""
    total = int(seconds)
    if total < -1:
        return "<invalid>"
    if total < 0:
        return "0s"
    if total < 120:
        return f"{total}s"
    minutes = total // 60
    if minutes < 10:
        return _pair(minutes, "m", total % 60, "s")
    if minutes < 180:
        return f"{minutes}m"
    hours = minutes // 60
    if hours < 8:
        return _pair(hours, "h", minutes % 60, "m")
    if hours < 48:
        return f"{hours}h"
    days = hours // 24
    if hours < 192:
        return _pair(days, "d", hours % 24, "h")
    if days < 365 * 2:
        return f"{days}d"
    years = days // 365
    return _pair(years, "y", days % 365, "d") if years < 8 else f"{years}y"


def _pair(big: int, big_unit: str, small: int, small_unit: str) -> str:
    return f"{big}{big_unit}{small}{small_unit}" if small else f"{big}{big_unit}"


def since(stamp: str | None, now: datetime) -> str:
    """How long ago a time stamp was."""
    if not stamp:
        return "<unknown>"
    try:
        return duration((now - parse_time(stamp)).total_seconds())
    except (ValueError, TypeError):
        return "<unknown>"


def age(obj: Manifest, now: datetime) -> str:
    """How old the object is."""
    return since(obj["metadata"].get("creationTimestamp"), now)


def at(*path: str, default: Any = "") -> Cell:
    """The value at a path of keys; `default` where it is absent."""

    def cell(obj: Manifest, now: datetime) -> Any:
        value: Any = obj
        for key in path:
            value = value.get(key) if isinstance(value, dict) else None
        return default if value is None else value

    return cell


def count(*path: str) -> Cell:
    """How many entries the value at a path has."""
    find = at(*path, default=())
    return lambda obj, now: len(find(obj, now))


def ratio(have: Cell, wanted: Cell) -> Cell:
    """Two cells as `have/wanted`."""
    return lambda obj, now: f"{have(obj, now)}/{wanted(obj, now)}"


def joined(values: list[str] | tuple[str, ...]) -> str:
    """The values with commas, or a word that says there are none."""
    return ",".join(values) or "<none>"


def label_text(labels: dict[str, str] | None) -> str:
    """Labels as `a=b,c=d`, in order of their keys."""
    return joined([f"{key}={value}" for key, value in sorted((labels or {}).items())])


def selector_text(selector: Manifest | None) -> str:
    """A label selector as kubectl writes it."""
    if not selector or not (selector.get("matchLabels") or selector.get("matchExpressions")):
        return "<none>"
    parts = [f"{key}={value}" for key, value in sorted((selector.get("matchLabels") or {}).items())]
    for entry in selector.get("matchExpressions") or []:
        key, values = entry["key"], ",".join(entry.get("values") or [])
        form = {
            "In": f"{key} in ({values})",
            "NotIn": f"{key} notin ({values})",
            "Exists": key,
            "DoesNotExist": "!" + key,
        }
        parts.append(form.get(entry["operator"], key))
    return ",".join(parts)


def status(name: str, default: Any = 0) -> Cell:
    """A field of the object's status."""
    return at("status", name, default=default)


def first(items: list[Any], limit: int = 3) -> str:
    """The first few items, and how many more there are."""
    more = f" + {len(items) - limit} more..." if len(items) > limit else ""
    return joined([str(item) for item in items[:limit]]) + more


NAME = Column("Name", at("metadata", "name"))
AGE = Column("Age", age)
CREATED_AT = Column("Created At", at("metadata", "creationTimestamp"), "date")
OTHER_COLUMNS = (NAME, AGE)
"""What a kind shows that has no columns of its own."""
