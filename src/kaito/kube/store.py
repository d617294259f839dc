# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""The objects of one resource in memory, indexed by namespace, owner, label, subject and node. Pure.

`metadata.managedFields` is the bulk of many objects, so it is taken off; of it, the field sets that our own field
managers applied are kept beside the objects (`applied`), for `kaito.kube.drift`.
Which object is newer is decided by resourceVersion, which Kubernetes defines as a decimal number that grows.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, MutableMapping, Sequence
from typing import Any

import msgspec

from kaito.kube.alike import Alike
from kaito.kube.manifest import Key, Manifest, controller_of, has_labels, key_of, labels_of
from kaito.kube.packed import Packed

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


class Index:
    """The keys of objects by something that they hold. It is filled when it is first asked, and kept up from then on:
    most stores are asked for one or two of the ways to find an object."""

    def __init__(self, entries: Callable[[Manifest], Iterable[Any]]) -> None:
        self._entries = entries
        self._keys: dict[Any, Key | set[Key]] | None = None
        """A set for each of a hundred thousand objects with an owner of their own takes more than the objects."""

    def find(self, entry: Any, objects: Callable[[], Iterable[tuple[Key, Manifest]]]) -> Collection[Key]:
        """The keys of the objects that hold it; `objects`: all there are."""
        if self._keys is None:
            self._keys = {}
            for key, obj in objects():
                self.add(key, obj)
        found = self._keys.get(entry, ())
        return (found,) if isinstance(found, Key) else found

    def add(self, key: Key, obj: Manifest) -> None:
        """An object is there."""
        if self._keys is None:
            return
        for entry in self._entries(obj):
            there = self._keys.setdefault(entry, key)
            if isinstance(there, set):
                there.add(key)
            elif there != key:
                self._keys[entry] = {there, key}

    def discard(self, key: Key, obj: Manifest) -> None:
        """An object, as it was added, is gone."""
        if self._keys is None:
            return
        for entry in self._entries(obj):
            there = self._keys.get(entry)
            if isinstance(there, set):
                there.discard(key)
            if not there or there == key:
                self._keys.pop(entry, None)


Held = tuple[Manifest, Sequence[tuple[str, str, FieldSet]]]
"""An object, and what our field managers applied to it: manager, subresource, fields."""


class Store:
    """Objects by key. What it returns is shared: never change it."""

    def __init__(self, managers: Iterable[str] = (), *, packed: bool = False) -> None:
        """`packed`: for many objects that are looked at one by one (`kaito.kube.packed`)."""
        self.managers = set(managers)
        """The field managers whose applied field sets are kept."""
        self._held: MutableMapping[Key, Held] = Packed() if packed else {}
        self._alike = None if packed else Alike()
        self._field_sets: dict[bytes, FieldSet] | None = None if packed else {}
        """Those that were applied, by their content: objects that one controller makes own the same fields."""
        self._by_namespace = Index(lambda obj: (key_of(obj).namespace,))
        self._by_owner = Index(_owner)
        self._by_subject = Index(_subject)
        self._by_node = Index(_node)
        self._by_label: dict[str, Index] = {}
        self._sorted: list[Key] | None = None

    def __len__(self) -> int:
        return len(self._held)

    def __contains__(self, key: Key) -> bool:
        return key in self._held

    def get(self, key: Key) -> Manifest | None:
        """The object, or None."""
        return self._held[key][0] if key in self._held else None

    def sorted_keys(self) -> list[Key]:
        """All keys, in order."""
        if self._sorted is None:
            self._sorted = sorted(self._held)
        return self._sorted

    def objects(self) -> Iterator[Manifest]:
        """All objects, one after the other, in the order of their keys; the store may change meanwhile."""
        for key in self.sorted_keys():
            if key in self._held:
                yield self._held[key][0]

    def select(self, namespace: str | None = None, labels: Mapping[str, str] | None = None) -> list[Manifest]:
        """The objects in a namespace (all, if None) that carry the labels, in the order of their keys."""
        if labels:
            smallest = min((self._find(self._label_index(name), value) for name, value in labels.items()), key=len)
        elif namespace is not None:
            smallest = self._find(self._by_namespace, namespace)
        else:
            return list(self.objects())
        found = (self._held[key][0] for key in sorted(smallest) if namespace is None or key.namespace == namespace)
        return [obj for obj in found if has_labels(obj, labels or {})]

    def owned_by(self, uid: str) -> list[Manifest]:
        """The objects whose controlling owner has the uid, in the order of their keys."""
        return self._all(self._find(self._by_owner, uid))

    def about(self, kind: str, key: Key) -> list[Manifest]:
        """The objects (Events) whose `involvedObject` is of this kind and name, in the order of their keys."""
        return self._all(self._find(self._by_subject, (kind, key)))

    def on_node(self, name: str) -> list[Manifest]:
        """The objects (pods) that are bound to the node, in the order of their keys."""
        return self._all(self._find(self._by_node, name))

    def applied(self, key: Key, manager: str, subresource: str = "") -> FieldSet | None:
        """The fields that the manager owns by server-side apply; None when it never applied."""
        applied = self._held[key][1] if key in self._held else ()
        return next((fields for *who, fields in applied if who == [manager, subresource]), None)

    def put(self, obj: Manifest) -> Manifest | None:
        """Keep the object (it is changed: managedFields go) in place of the one that is returned."""
        key = _interned(key_of(obj))
        applied = self._applied_by_ours(obj["metadata"].pop("managedFields", None) or ())
        if self._alike is not None:
            self._alike.share(obj)
        old = self.get(key)
        if old is None:
            self._sorted = None
        self._held[key] = (obj, applied)
        for index in self._indexes():
            if old is not None:
                index.discard(key, old)
            index.add(key, obj)
        return old

    def remove(self, key: Key) -> Manifest | None:
        """Forget the object; it is returned if it was there."""
        old = self.get(key)
        if old is not None:
            del self._held[key]
            self._sorted = None
            for index in self._indexes():
                index.discard(key, old)
        return old

    def _applied_by_ours(self, managed: Iterable[Manifest]) -> Sequence[tuple[str, str, FieldSet]]:
        return tuple(  # of most objects it is empty, and there is but one empty tuple
            (entry["manager"], entry.get("subresource", ""), self._shared(entry.get("fieldsV1") or {}))
            for entry in managed
            if entry.get("operation") == "Apply" and entry.get("manager") in self.managers
        )

    def _shared(self, fields: FieldSet) -> FieldSet:
        if self._field_sets is None:
            return fields
        if len(self._field_sets) >= _FIELD_SETS_MAX:
            self._field_sets.clear()
        return self._field_sets.setdefault(msgspec.json.encode(fields), fields)

    def _all(self, keys: Collection[Key]) -> list[Manifest]:
        return [self._held[key][0] for key in sorted(keys)]

    def _find(self, index: Index, entry: Any) -> Collection[Key]:
        return index.find(entry, lambda: ((key, held[0]) for key, held in self._held.items()))

    def _label_index(self, name: str) -> Index:
        if name not in self._by_label:
            self._by_label[name] = Index(lambda obj: filter(None, (labels_of(obj).get(name),)))
        return self._by_label[name]

    def _indexes(self) -> Iterable[Index]:
        return (self._by_namespace, self._by_owner, self._by_subject, self._by_node, *self._by_label.values())


def _interned(key: Key) -> Key:
    """The key with its namespace's one and only text."""
    return Key(sys.intern(key.namespace), key.name)


def _owner(obj: Manifest) -> Iterable[str]:
    owner = controller_of(obj)
    return () if owner is None else (owner["uid"],)


def _node(obj: Manifest) -> Iterable[str]:
    name = (obj.get("spec") or {}).get("nodeName")
    return (name,) if name else ()


def _subject(obj: Manifest) -> Iterable[tuple[str, Key]]:
    subject = obj.get("involvedObject")
    if not subject:
        return ()
    name = Key(subject.get("namespace") or "", subject.get("name") or "")
    return ((subject.get("kind") or "", name),)
