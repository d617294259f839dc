# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""The entries of `metadata.managedFields`: read into owners, written back sorted and capped."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, Literal, NamedTuple

from kaito.engine.patching import fieldset
from kaito.engine.patching.fieldset import FieldSet
from kaito.kube.manifest import Manifest, parse_time, rfc3339

_MAX_UPDATE_MANAGERS: Final = 10
_ANCIENT: Final = "ancient-changes"


class Manager(NamedTuple):
    """Who owns fields. Applies are told apart by name and subresource, updates by version as well."""

    name: str
    operation: Literal["Apply", "Update"]
    version: str
    subresource: str

    @property
    def shown(self) -> str:
        """The manager as conflict messages name it."""
        text = f'"{self.name}"'
        if self.subresource:
            text += f' with subresource "{self.subresource}"'
        return f"{text} using {self.version}" if self.operation == "Update" else text


@dataclass(frozen=True, slots=True)
class Managed:
    """The fields that each manager owns, when it last changed them, and in which version it wrote."""

    fields: dict[Manager, FieldSet] = field(default_factory=dict)
    times: dict[Manager, datetime] = field(default_factory=dict)
    versions: dict[Manager, str] = field(default_factory=dict)

    def others(self, me: Manager) -> list[FieldSet]:
        """What everybody else owns."""
        return [owned for manager, owned in self.fields.items() if manager != me]


def read(obj: Manifest) -> Managed:
    """The owners that the object's managedFields name."""
    return _decoded((obj.get("metadata") or {}).get("managedFields") or [])


def read_requested(new: Manifest, live: Manifest) -> Managed:
    """The owners to start from when `new` is written over `live`: the request may edit or reset the entries."""
    requested = (new.get("metadata") or {}).get("managedFields")
    if requested is not None and (requested in ([], [{}])):
        return Managed()
    if requested and _is_valid(requested):
        return _decoded(requested)
    return read(live)


def _is_valid(entries: Any) -> bool:
    return isinstance(entries, list) and all(
        isinstance(entry, dict)
        and entry.get("operation") in ("Apply", "Update")
        and entry.get("fieldsType") == "FieldsV1"
        and isinstance(entry.get("fieldsV1"), dict)
        for entry in entries
    )


def _decoded(entries: list[Manifest]) -> Managed:
    out = Managed()
    for entry in entries:
        operation: Literal["Apply", "Update"] = "Apply" if entry.get("operation") == "Apply" else "Update"
        version = entry.get("apiVersion", "")
        manager = Manager(
            entry.get("manager", ""), operation, "" if operation == "Apply" else version, entry.get("subresource", "")
        )
        out.fields[manager] = entry.get("fieldsV1") or {}
        out.versions[manager] = version
        if entry.get("time"):
            out.times[manager] = parse_time(entry["time"])
    return out


def entries(owners: Managed) -> list[Manifest]:
    """The entries in the order in which Kubernetes stores them: applies first, then by time and name."""

    def order(manager: Manager) -> tuple[str, float, str, str, str]:
        moment = owners.times.get(manager)
        seconds = moment.replace(microsecond=0).timestamp() if moment else 0.0
        return (manager.operation, seconds, manager.name, owners.versions.get(manager, ""), manager.subresource)

    # Most objects have one owner, and many writes make such an object: nothing to sort.
    ordered = sorted(owners.fields, key=order) if len(owners.fields) > 1 else owners.fields
    return [_entry(manager, owners) for manager in ordered]


def _entry(manager: Manager, owners: Managed) -> Manifest:
    entry: Manifest = {
        "manager": manager.name,
        "operation": manager.operation,
        "apiVersion": owners.versions.get(manager, manager.version),
    }
    if manager in owners.times:
        entry["time"] = rfc3339(owners.times[manager])
    entry["fieldsType"] = "FieldsV1"
    entry["fieldsV1"] = owners.fields[manager]
    if manager.subresource:
        entry["subresource"] = manager.subresource
    return entry


def written(obj: Manifest, owners: Managed) -> Manifest:
    """The object with these owners."""
    return {**obj, "metadata": {**(obj.get("metadata") or {}), "managedFields": entries(owners)}}


def capped(owners: Managed) -> Managed:
    """The owners with the oldest updaters joined into one once there are more than ten."""
    updaters = [manager for manager in owners.fields if manager.operation == "Update"]
    if len(updaters) <= _MAX_UPDATE_MANAGERS:
        return owners
    start = datetime.min.replace(tzinfo=UTC)
    updaters.sort(key=lambda manager: (owners.times.get(manager, start), manager))
    out = Managed(dict(owners.fields), dict(owners.times), dict(owners.versions))
    surplus = len(updaters) - _MAX_UPDATE_MANAGERS
    for manager in updaters[: surplus + 1]:
        ancient = Manager(_ANCIENT, "Update", manager.version, "")
        joined = fieldset.union(out.fields.get(ancient, {}), out.fields.pop(manager))
        moment = out.times.pop(manager, None)
        out.fields[ancient] = joined
        out.versions[ancient] = manager.version
        if moment is not None:
            out.times[ancient] = moment
    return out
