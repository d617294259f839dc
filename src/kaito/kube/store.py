# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""The objects of one resource in memory, indexed by namespace, owner, label, subject and node. Pure.

`metadata.managedFields` is the bulk of many objects, so it is taken off; of it, the field sets that our own field
managers applied are kept beside the objects (`applied`), for `kaito.kube.drift`.
Which object is newer is decided by resourceVersion, which Kubernetes defines as a decimal number that grows.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from kaito.kube.manifest import Key, Manifest, controller_of, has_labels, key_of, labels_of

_FIELD_SETS_MAX = 1024
FieldSet = dict[str, Any]
"""A `fieldsV1` tree: `f:<field>`, `k:<keys>`, `v:<value>`, `.`."""


def version_of(obj: Manifest) -> int:
    """The object's resourceVersion as a number; 0 when it has none, or one that is no number."""
    return version_number(obj["metadata"].get("resourceVersion", ""))


def version_number(text: str) -> int:
    """A resourceVersion as a number; 0 when it is none."""
    return int(text) if text.isdigit() else 0


def applied_by(managed: Iterable[Manifest], manager: str, subresource: str = "") -> FieldSet | None:
    """The field set that a manager applied, from `metadata.managedFields`; None when there is none."""
    for entry in managed:
        if (
            entry.get("operation") == "Apply"
            and entry.get("manager") == manager
            and entry.get("subresource", "") == subresource
        ):
            found: FieldSet = entry.get("fieldsV1") or {}
            return found
    return None


class Store:
    """Objects by key. What it returns is shared: never change it."""

    def __init__(self, managers: Iterable[str] = ()) -> None:
        self.managers = set(managers)
        """The field managers whose applied field sets are kept."""
        self._objects: dict[Key, Manifest] = {}
        self._applied: dict[Key, dict[tuple[str, str], FieldSet]] = {}
        self._field_sets: dict[bytes, FieldSet] = {}
        """Those in `_applied` by their content: objects that one controller makes own the same fields."""
        self._by_namespace: dict[str, set[Key]] = {}
        self._by_owner: dict[str, set[Key]] = {}
        self._by_label: dict[tuple[str, str], set[Key]] = {}
        self._by_subject: dict[tuple[str, Key], set[Key]] = {}
        self._by_node: dict[str, set[Key]] = {}
        self._sorted: list[Key] | None = None

    def __len__(self) -> int:
        return len(self._objects)

    def get(self, key: Key) -> Manifest | None:
        """The object, or None."""
        return self._objects.get(key)

    def sorted_keys(self) -> list[Key]:
        """All keys, in order."""
        if self._sorted is None:
            self._sorted = sorted(self._objects)
        return self._sorted

    def select(self, namespace: str | None = None, labels: Mapping[str, str] | None = None) -> list[Manifest]:
        """The objects in a namespace (all, if None) that carry the labels, in the order of their keys."""
        if namespace is None and not labels:
            return [self._objects[key] for key in self.sorted_keys()]
        candidates = [self._by_label.get(item, set()) for item in (labels or {}).items()]
        if namespace is not None:
            candidates.append(self._by_namespace.get(namespace, set()))
        smallest = min(candidates, key=len)
        found = (self._objects[key] for key in sorted(smallest) if namespace is None or key.namespace == namespace)
        return [obj for obj in found if has_labels(obj, labels or {})]

    def owned_by(self, uid: str) -> list[Manifest]:
        """The objects whose controlling owner has the uid, in the order of their keys."""
        return [self._objects[key] for key in sorted(self._by_owner.get(uid, ()))]

    def about(self, kind: str, key: Key) -> list[Manifest]:
        """The objects (Events) whose `involvedObject` is of this kind and name, in the order of their keys."""
        return [self._objects[found] for found in sorted(self._by_subject.get((kind, key), ()))]

    def on_node(self, name: str) -> list[Manifest]:
        """The objects (pods) that are bound to the node, in the order of their keys."""
        return [self._objects[key] for key in sorted(self._by_node.get(name, ()))]

    def applied(self, key: Key, manager: str, subresource: str = "") -> FieldSet | None:
        """The fields that the manager owns by server-side apply; None when it never applied."""
        return self._applied.get(key, {}).get((manager, subresource))

    def put(self, obj: Manifest) -> Manifest | None:
        """Keep the object (it is changed: managedFields go) in place of the one that is returned."""
        key = key_of(obj)
        self._keep_applied(key, obj["metadata"].pop("managedFields", None) or ())
        old = self._objects.get(key)
        if old is not None:
            self._unindex(key, old)
        else:
            self._sorted = None
        self._objects[key] = obj
        for index, entry in self._entries(obj):
            index.setdefault(entry, set()).add(key)
        return old

    def remove(self, key: Key) -> Manifest | None:
        """Forget the object; it is returned if it was there."""
        old = self._objects.pop(key, None)
        if old is not None:
            self._unindex(key, old)
            self._applied.pop(key, None)
            self._sorted = None
        return old

    def _keep_applied(self, key: Key, managed: Iterable[Manifest]) -> None:
        ours = {
            (entry["manager"], entry.get("subresource", "")): self._shared(entry.get("fieldsV1") or {})
            for entry in managed
            if entry.get("operation") == "Apply" and entry.get("manager") in self.managers
        }
        if ours:
            self._applied[key] = ours
        else:
            self._applied.pop(key, None)

    def _shared(self, fields: FieldSet) -> FieldSet:
        if len(self._field_sets) >= _FIELD_SETS_MAX:
            self._field_sets.clear()
        return self._field_sets.setdefault(msgspec.json.encode(fields), fields)

    def _entries(self, obj: Manifest) -> Iterable[tuple[dict[Any, set[Key]], Any]]:
        yield self._by_namespace, key_of(obj).namespace
        owner = controller_of(obj)
        if owner is not None:
            yield self._by_owner, owner["uid"]
        for item in labels_of(obj).items():
            yield self._by_label, item
        node = (obj.get("spec") or {}).get("nodeName")
        if node:
            yield self._by_node, node
        subject = obj.get("involvedObject")
        if subject:
            name = Key(subject.get("namespace") or "", subject.get("name") or "")
            yield self._by_subject, (subject.get("kind") or "", name)

    def _unindex(self, key: Key, obj: Manifest) -> None:
        for index, entry in self._entries(obj):
            keys = index.get(entry)
            if keys is not None:
                keys.discard(key)
                if not keys:
                    del index[entry]
