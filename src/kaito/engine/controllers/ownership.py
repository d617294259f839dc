# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Which objects belong to a controller: those it owns, and orphans that its selector finds.

Adoption makes `kubectl delete --cascade=orphan` followed by a new owner work; release frees an object whose labels were
changed away from the selector.
"""

from __future__ import annotations

from dataclasses import dataclass

from kaito.engine.controllers.selection import matches
from kaito.kube.manifest import Manifest, controller_of, is_deleting, key_of, labels_of, owner_reference
from kaito.kube.plan import Patch, Reader
from kaito.kube.resource import Resource


@dataclass(frozen=True, slots=True)
class Claimed:
    """The objects that belong to an owner, and the patches that make it so."""

    objects: tuple[Manifest, ...]
    patches: tuple[Patch, ...] = ()


def claim(reader: Reader, resource: Resource, owner: Manifest, selector: Manifest | None) -> Claimed:
    """The owner's objects of a resource, sorted by name, orphans that match included.

    An owner that is being deleted adopts nothing.
    """
    kept: list[Manifest] = []
    released: list[Patch] = []
    for obj in reader.owned_by(resource, owner["metadata"]["uid"]):
        if matches(selector, labels_of(obj)):
            kept.append(obj)
        else:
            released.append(_release(resource, obj, owner))
    orphans = [] if is_deleting(owner) else _orphans(reader, resource, owner, selector)
    return Claimed(
        objects=tuple(sorted([*kept, *orphans], key=lambda obj: obj["metadata"]["name"])),
        patches=(*released, *(_adopt(resource, obj, owner) for obj in orphans)),
    )


def _orphans(reader: Reader, resource: Resource, owner: Manifest, selector: Manifest | None) -> list[Manifest]:
    if not selector:
        return []
    found = reader.list(resource, owner["metadata"]["namespace"], labels=selector.get("matchLabels") or {})
    return [
        obj
        for obj in found
        if "ownerReferences" not in obj["metadata"] or controller_of(obj) is None
        if not is_deleting(obj) and matches(selector, labels_of(obj))
    ]


def _adopt(resource: Resource, obj: Manifest, owner: Manifest) -> Patch:
    return references_patch(resource, obj, [*(obj["metadata"].get("ownerReferences") or []), owner_reference(owner)])


def _release(resource: Resource, obj: Manifest, owner: Manifest) -> Patch:
    uid = owner["metadata"]["uid"]
    kept = [reference for reference in obj["metadata"].get("ownerReferences") or [] if reference["uid"] != uid]
    return references_patch(resource, obj, kept)


def references_patch(resource: Resource, obj: Manifest, references: list[Manifest]) -> Patch:
    """Sets the object's owner references, provided that it is still the object that was seen."""
    meta = {"uid": obj["metadata"]["uid"], "ownerReferences": references or None}
    if version := obj["metadata"].get("resourceVersion"):
        meta["resourceVersion"] = version
    return Patch(resource, key_of(obj), {"metadata": meta})
