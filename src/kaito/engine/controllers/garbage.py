# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Garbage collection: objects go when their owners have gone.

One controller over every served resource. Its keys name an object of any kind (`token`), and `Graph` is the index from
owners to dependents, filled from the events that go by as the cache's own indexes are. When a kind comes or goes, make
a new controller: it learns everything again from its first list.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from kaito.engine.controllers.ownership import references_patch
from kaito.engine.controllers.pods import created_at
from kaito.kube.manifest import Key, Manifest, is_deleting, key_of
from kaito.kube.plan import Controller, Delete, Patch, Plan, Reader, Watch
from kaito.kube.resource import NAMESPACES, Resource

FOREGROUND = "foregroundDeletion"
ORPHAN = "orphan"
# An owner that was never seen may be on its way: two watches of two kinds do not run in step. So wait that long
UNSEEN_OWNER_S = 3.0
_LEAVES = frozenset({("", "events"), ("events.k8s.io", "events"), ("coordination.k8s.io", "leases")})
"""Resources that are many and own nothing. Events are not collected in Kubernetes either."""


@dataclass(frozen=True, slots=True)
class Dependent:
    """An object with owners, each with what became of it."""

    resource: Resource
    manifest: Manifest
    present: tuple[Manifest, ...]
    """References to owners that are there."""
    leaving: tuple[Manifest, ...]
    """References to owners that wait for their dependents (foreground deletion)."""
    absent: tuple[Manifest, ...]
    """References to owners that are gone."""
    unseen: tuple[Manifest, ...]
    """References to owners that nobody has seen yet."""


@dataclass(frozen=True, slots=True)
class Observed:
    """An object (None when it is gone), its state as a dependent, and what depends on it."""

    resource: Resource
    manifest: Manifest | None
    itself: Dependent | None
    dependents: tuple[Dependent, ...]


class Graph:
    """Who was seen and who depends on whom, by uid. One for each controller, never shared."""

    def __init__(self, resources: Sequence[Resource]) -> None:
        self.by_kind = {(r.api_version, r.kind): r for r in resources}
        self._by_token = {f"{r.plural}.{r.group}": r for r in resources}
        self._uids: dict[Key, str] = {}
        self._owners: dict[Key, tuple[str, ...]] = {}
        self._dependents: dict[str, set[Key]] = {}
        self._seen: dict[str, Key] = {}

    def token(self, resource: Resource, key: Key) -> Key:
        """A key that names an object of any resource."""
        return Key(key.namespace, f"{resource.plural}.{resource.group}|{key.name}")

    def parse(self, token: Key) -> tuple[Resource, Key] | None:
        """The resource and key of a token; None for a plain key."""
        kind, bar, name = token.name.partition("|")
        resource = self._by_token.get(kind)
        return (resource, Key(token.namespace, name)) if bar and resource else None

    def saw(self, resource: Resource) -> Callable[[Manifest], list[Key]]:
        """Keys for a Watch on the resource: the object itself, and its owners, which may wait for it."""

        def keys(obj: Manifest) -> list[Key]:
            token = self.token(resource, key_of(obj))
            is_new = token not in self._uids
            woken = self._learn(token, obj)
            if is_new and not obj["metadata"].get("ownerReferences") and not is_deleting(obj):
                return woken  # nothing can be due: most objects own nothing and are owned by nobody
            return [token, *woken]

        return keys

    def _learn(self, token: Key, obj: Manifest) -> list[Key]:
        uid = obj["metadata"].get("uid", "")
        owners = tuple(r["uid"] for r in obj["metadata"].get("ownerReferences") or [])
        self._uids[token] = uid
        self._seen[uid] = token
        former = [owner for owner in self._owners.get(token, ()) if owner not in owners]
        for owner in former:
            self._dependents.get(owner, set()).discard(token)
        if owners:
            self._owners[token] = owners
        else:
            self._owners.pop(token, None)
        for owner in owners:
            self._dependents.setdefault(owner, set()).add(token)
        return [self._seen[owner] for owner in (*owners, *former) if owner in self._seen]

    def uid_of(self, token: Key) -> str | None:
        """The uid under which the object was last seen."""
        return self._uids.get(token)

    def was_seen(self, uid: str) -> bool:
        """Whether an object of that uid was ever seen."""
        return uid in self._seen

    def dependents(self, uid: str) -> list[Key]:
        """Tokens of the objects that name this uid as an owner."""
        return sorted(self._dependents.get(uid, ()))

    def forget(self, token: Key) -> None:
        """The object is gone. That its uid was seen is remembered while something depends on it."""
        uid = self._uids.pop(token, None)
        for owner in self._owners.pop(token, ()):
            left = self._dependents.get(owner)
            if left is not None:
                left.discard(token)
                if not left:
                    del self._dependents[owner]
                    if self._seen.get(owner) not in self._uids:
                        self._seen.pop(owner, None)
        if uid is not None and not self._dependents.get(uid):
            self._seen.pop(uid, None)


def controller(resources: Sequence[Resource]) -> Controller[Observed]:
    """The garbage collector of everything in `resources`, which is all that is served, custom kinds included."""
    watched = [r for r in resources if (r.group, r.plural) not in _LEAVES]
    graph = Graph(watched)
    return Controller(
        name="garbage-collector",
        resource=NAMESPACES,
        observe=lambda reader, key: observe(reader, key, graph),
        plan=plan,
        watches=tuple(Watch(resource, graph.saw(resource), metadata_only=True) for resource in watched),
    )


def observe(reader: Reader, token: Key, graph: Graph) -> Observed | None:
    """The object that a token names, with owners and dependents as far as they matter; None when nothing does."""
    named = graph.parse(token)
    if named is None:
        return None
    resource, key = named
    manifest = reader.get(resource, key.name, key.namespace)
    uid = manifest["metadata"]["uid"] if manifest else graph.uid_of(token)
    if uid is None:
        return None
    dependents: tuple[Dependent, ...] = ()
    if manifest is None or _waits_for_dependents(manifest):
        found = (_dependent(reader, t, graph) for t in graph.dependents(uid))
        dependents = tuple(d for d in found if d is not None)
    if manifest is None and not dependents:
        # with dependents left it is looked at again: by their events, or because a write failed
        graph.forget(token)
    itself = _dependent(reader, token, graph) if manifest else None
    return Observed(resource, manifest, itself, dependents) if dependents or itself or manifest else None


def _finalizers(obj: Manifest) -> list[str]:
    return obj["metadata"].get("finalizers") or []


def _waits_for_dependents(obj: Manifest) -> bool:
    return is_deleting(obj) and (FOREGROUND in _finalizers(obj) or ORPHAN in _finalizers(obj))


def _dependent(reader: Reader, token: Key, graph: Graph) -> Dependent | None:
    """The object with its owners sorted by their fate; None when it is gone or has no owners."""
    named = graph.parse(token)
    if named is None:
        return None
    resource, key = named
    manifest = reader.get(resource, key.name, key.namespace)
    references = manifest["metadata"].get("ownerReferences") or [] if manifest else []
    if manifest is None or not references:
        return None
    sorted_out: dict[str, list[Manifest]] = {"present": [], "leaving": [], "absent": [], "unseen": []}
    for reference in references:
        sorted_out[_fate(reader, reference, key.namespace, graph)].append(reference)
    return Dependent(resource, manifest, *(tuple(sorted_out[fate]) for fate in sorted_out))


def _fate(
    reader: Reader, reference: Manifest, namespace: str, graph: Graph
) -> Literal["present", "leaving", "absent", "unseen"]:
    resource = graph.by_kind.get((reference["apiVersion"], reference["kind"]))
    if resource is None:
        same = [r for (api, kind), r in graph.by_kind.items() if _is_same_kind(api, kind, reference)]
        if not same:
            return "present"  # a kind that is not served: nobody can say that it is gone
        resource = same[0]
    if resource.namespaced and not namespace:
        return "present"  # a cluster-wide object cannot be owned by a namespaced one; left alone, as in Kubernetes
    owner = reader.get(resource, reference["name"], namespace if resource.namespaced else "")
    if owner is not None and owner["metadata"]["uid"] == reference["uid"]:
        waits = is_deleting(owner) and FOREGROUND in _finalizers(owner)
        return "leaving" if waits else "present"
    return "absent" if graph.was_seen(reference["uid"]) else "unseen"


def _is_same_kind(api_version: str, kind: str, reference: Manifest) -> bool:
    """The kind in another version of its group."""
    group, wanted = api_version.rpartition("/")[0], reference["apiVersion"].rpartition("/")[0]
    return bool(group) and group == wanted and kind == reference["kind"]


def plan(observed: Observed, now: datetime) -> Plan:
    """Deletes what has no owner left, takes dead references off the rest, ends foreground and orphan deletions."""
    parts = [_judge(d, now) for d in ([observed.itself] if observed.itself else [])]
    manifest = observed.manifest
    if manifest is None:
        parts += [_judge(d, now) for d in observed.dependents]
    elif is_deleting(manifest) and ORPHAN in _finalizers(manifest):
        parts.append(_orphan(observed.resource, manifest, observed.dependents))
    elif is_deleting(manifest) and FOREGROUND in _finalizers(manifest):
        parts.append(_foreground(observed.resource, manifest, observed.dependents))
    waits = [part.requeue_after_s for part in parts if part.requeue_after_s is not None]
    return Plan(
        patches=tuple(patch for part in parts for patch in part.patches),
        delete=tuple(delete for part in parts for delete in part.delete),
        requeue_after_s=min(waits) if waits else None,
    )


def _judge(dependent: Dependent, now: datetime) -> Plan:
    """What to do about one object with owners."""
    obj = dependent.manifest
    if is_deleting(obj):
        return Plan()
    gone = list(dependent.absent)
    wait_s = None
    if dependent.unseen:
        wait_s = UNSEEN_OWNER_S - (now - created_at(obj)).total_seconds()
        if wait_s <= 0:
            wait_s = None
            gone += dependent.unseen
    if not gone or wait_s is not None:
        return Plan(requeue_after_s=wait_s)
    if dependent.present or dependent.leaving:
        kept = [r for r in obj["metadata"]["ownerReferences"] if r not in gone]
        return Plan(patches=(references_patch(dependent.resource, obj, kept),))
    return Plan(delete=(_delete(dependent),))


def _delete(dependent: Dependent) -> Delete:
    """Deletes a dependent in the way that its own finalizers ask for."""
    obj = dependent.manifest
    wanted: Literal["Background", "Foreground", "Orphan"] = "Background"
    if ORPHAN in _finalizers(obj):
        wanted = "Orphan"
    elif FOREGROUND in _finalizers(obj):
        wanted = "Foreground"
    return Delete(dependent.resource, key_of(obj), obj["metadata"]["uid"], propagation=wanted)


def _without_finalizer(resource: Resource, obj: Manifest, finalizer: str) -> Patch:
    left = [name for name in _finalizers(obj) if name != finalizer]
    meta = {"finalizers": left or None, "resourceVersion": obj["metadata"]["resourceVersion"]}
    return Patch(resource, key_of(obj), {"metadata": meta})


def _orphan(resource: Resource, owner: Manifest, dependents: tuple[Dependent, ...]) -> Plan:
    """Every dependent loses its reference, then the owner may go."""
    uid = owner["metadata"]["uid"]
    patches = []
    for dependent in dependents:
        references = dependent.manifest["metadata"]["ownerReferences"]
        kept = [r for r in references if r["uid"] != uid]
        patches.append(references_patch(dependent.resource, dependent.manifest, kept))
    return Plan(patches=(*patches, _without_finalizer(resource, owner, ORPHAN)))


def _foreground(resource: Resource, owner: Manifest, dependents: tuple[Dependent, ...]) -> Plan:
    """Dependents go first (with theirs before them); the owner waits for those that block it."""
    uid = owner["metadata"]["uid"]
    going = [d for d in dependents if not d.present and not is_deleting(d.manifest)]
    delete = tuple(
        Delete(d.resource, key_of(d.manifest), d.manifest["metadata"]["uid"], propagation="Foreground") for d in going
    )
    shared = [d for d in dependents if d.present and not is_deleting(d.manifest)]
    patches = tuple(
        references_patch(
            d.resource, d.manifest, [r for r in d.manifest["metadata"]["ownerReferences"] if r["uid"] != uid]
        )
        for d in shared
    )
    blocking = [d for d in dependents if d not in shared and _blocks(d, uid)]
    if not blocking:
        patches = (*patches, _without_finalizer(resource, owner, FOREGROUND))
    return Plan(patches=patches, delete=delete)


def _blocks(dependent: Dependent, uid: str) -> bool:
    references = dependent.manifest["metadata"]["ownerReferences"]
    return any(r["uid"] == uid and r.get("blockOwnerDeletion") for r in references)
