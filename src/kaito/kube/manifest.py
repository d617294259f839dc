# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Reading plain dict manifests, the form in which we keep every Kubernetes object.

Pure and small: keys, owners, labels, conditions. Nothing here knows a particular kind.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

# A Kubernetes object as JSON has it. Kubernetes owns the schema, so the type is open (house style, "Types").
Manifest = dict[str, Any]
PARTS = ("spec", "status")


class Key(NamedTuple):
    """Names one object of a kind; the namespace is empty for cluster-scoped kinds."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}" if self.namespace else self.name


def tree_copy(value: Any) -> Any:
    """A copy of a JSON value down to its leaves, several times as fast as `copy.deepcopy`."""
    if isinstance(value, dict):
        return {key: tree_copy(item) if isinstance(item, dict | list) else item for key, item in value.items()}
    if isinstance(value, list):
        return [tree_copy(item) if isinstance(item, dict | list) else item for item in value]
    return value


def key_of(obj: Manifest) -> Key:
    """The object's namespace and name."""
    meta = obj["metadata"]
    return Key(meta.get("namespace", ""), meta["name"])


def labels_of(obj: Manifest) -> dict[str, str]:
    """The object's labels, empty when it has none."""
    return obj.get("metadata", {}).get("labels") or {}


def annotations_of(obj: Manifest) -> dict[str, str]:
    """The object's annotations, empty when it has none."""
    return obj.get("metadata", {}).get("annotations") or {}


def is_deleting(obj: Manifest) -> bool:
    """Whether deletion was asked for (finalizers or a grace period may still hold the object)."""
    return bool(obj["metadata"].get("deletionTimestamp"))


def owner_reference(owner: Manifest, *, controller: bool = True) -> Manifest:
    """An ownerReferences entry that points at `owner`, which must have been read from a server (it has a uid)."""
    return {
        "apiVersion": owner["apiVersion"],
        "kind": owner["kind"],
        "name": owner["metadata"]["name"],
        "uid": owner["metadata"]["uid"],
        "controller": controller,
        "blockOwnerDeletion": True,
    }


def controller_of(obj: Manifest) -> Manifest | None:
    """The ownerReferences entry of the controlling owner, if there is one."""
    for reference in obj["metadata"].get("ownerReferences") or []:
        if reference.get("controller"):
            found: Manifest = reference
            return found
    return None


def has_labels(obj: Manifest, wanted: Mapping[str, str]) -> bool:
    """Whether the object carries all of the labels."""
    have = labels_of(obj)
    return all(have.get(key) == value for key, value in wanted.items())


def condition_of(obj: Manifest, type_: str) -> Manifest | None:
    """The condition of that type in the object's status."""
    for condition in (obj.get("status") or {}).get("conditions") or []:
        if condition.get("type") == type_:
            found: Manifest = condition
            return found
    return None


def is_true(obj: Manifest, type_: str) -> bool:
    """Whether the object has the condition with status True."""
    condition = condition_of(obj, type_)
    return condition is not None and condition.get("status") == "True"


def merged_conditions(current: Iterable[Manifest], wanted: Iterable[Manifest], now: datetime) -> list[Manifest]:
    """`wanted` with lastTransitionTime kept from `current` where the status did not change, else set to `now`.

    Types that are not wanted any more are dropped; the order is that of `wanted`.
    """
    before = {condition["type"]: condition for condition in current}
    merged = []
    for condition in wanted:
        old = before.get(condition["type"])
        same = old is not None and old.get("status") == condition["status"]
        since = old["lastTransitionTime"] if same and old and old.get("lastTransitionTime") else rfc3339(now)
        merged.append({**condition, "lastTransitionTime": since})
    return merged


def only(paths: Iterable[str]) -> Callable[[Manifest], Manifest]:
    """Makes of an object its identity, its metadata and these fields of its `spec` and `status`, as `spec.nodeName`."""
    fields = {part: tuple(path.partition(".")[2] for path in paths if path.startswith(f"{part}.")) for part in PARTS}

    def kept(obj: Manifest) -> Manifest:
        found: Manifest = {key: obj[key] for key in ("apiVersion", "kind", "metadata") if key in obj}
        for part, names in fields.items():
            whole = obj.get(part) or {}
            if some := {name: whole[name] for name in names if name in whole}:
                found[part] = some
        return found

    return kept


def rfc3339(moment: datetime) -> str:
    """The moment as Kubernetes writes times: UTC, whole seconds, a Z."""
    # isoformat takes a fifth of strftime's time, and an API server writes several times for each object.
    utc = moment if moment.tzinfo is UTC else moment.astimezone(UTC)
    return f"{utc.isoformat(timespec='seconds')[:19]}Z"


def parse_time(text: str) -> datetime:
    """The moment that an RFC 3339 text names. Raises ValueError on anything else."""
    return datetime.fromisoformat(text)
