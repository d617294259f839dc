# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""The revision of a Workspace's spec: a ControllerRevision per content, and two annotations that point at it.

As KAITO has it, with a longer hash in the name (five hex digits collide) and annotations that are merged and written
once, not on every pass.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from kaito.api.meta import InvalidObject
from kaito.api.names import REVISION_ANNOTATION, REVISION_HASH_ANNOTATION, REVISION_NAME_LABEL
from kaito.api.workspace import Workspace
from kaito.kube.manifest import Manifest, annotations_of, key_of, owner_reference
from kaito.kube.plan import Create, Delete
from kaito.kube.resource import CONTROLLER_REVISIONS

SPEC_PARTS = ("resource", "inference", "tuning")
HASH_DIGITS, HASH_DIGITS_OF_KAITO = 10, 5
KEPT = 10
"""How many revisions stay, the current one included."""


@dataclass(frozen=True, slots=True)
class Revision:
    """The current revision and what it takes to record it."""

    hash: str
    number: int
    create: tuple[Create, ...]
    delete: tuple[Delete, ...]
    is_adopted: bool = False
    """KAITO recorded it, and the Workspace asks for the same since."""

    @property
    def annotations(self) -> dict[str, str]:
        """What the Workspace is to carry."""
        return {REVISION_HASH_ANNOTATION: self.hash, REVISION_ANNOTATION: str(self.number)}


def spec_hash(workspace: Manifest) -> str:
    """SHA-256 over the three spec parts, independent of the order of keys."""
    parts = (json.dumps(workspace.get(part), sort_keys=True, separators=(",", ":")) for part in SPEC_PARTS)
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def current_revision(workspace: Manifest, revisions: Sequence[Manifest]) -> Revision:
    """The revision of the spec as it stands: an existing one of the same content, else the next number."""
    digest = spec_hash(workspace)
    name = f"{workspace['metadata']['name']}-{digest[:HASH_DIGITS]}"
    existing = next((revision for revision in revisions if revision["metadata"]["name"] == name), None)
    if existing is not None:
        return Revision(digest, int(existing.get("revision", 1)), (), _surplus(revisions, name))
    latest = max(revisions, key=lambda revision: int(revision.get("revision", 0)), default=None)
    if latest is not None and _is_of_kaito(latest) and _asks_for_the_same(workspace, latest):
        number = int(latest.get("revision", 1))
        return Revision(digest, number, (), _surplus(revisions, latest["metadata"]["name"]), is_adopted=True)
    number = 1 + max((int(revision.get("revision", 0)) for revision in revisions), default=0)
    manifest = _manifest(workspace, name, digest, number)
    return Revision(digest, number, (Create(manifest),), _surplus(revisions, name))


def _is_of_kaito(revision: Manifest) -> bool:
    """Whether KAITO recorded it: its names end in five digits of the hash."""
    return len(revision["metadata"]["name"].rpartition("-")[2]) == HASH_DIGITS_OF_KAITO


def _asks_for_the_same(workspace: Manifest, revision: Manifest) -> bool:
    """Whether the recorded spec means what the Workspace's does, however either is written."""
    data = revision.get("data") or {}
    recorded = {key: value for key, value in workspace.items() if key not in (*SPEC_PARTS, "status")}
    recorded |= {part: data[part] for part in SPEC_PARTS if data.get(part) is not None}
    try:
        before, now = (Workspace.parse(one).model_dump(exclude_defaults=True) for one in (recorded, workspace))
    except InvalidObject:
        return False
    return all(_without_empty(before.get(part)) == _without_empty(now.get(part)) for part in SPEC_PARTS)


def _without_empty(value: Any) -> Any:
    """The value without what says nothing: Go writes fields out that nobody gave."""
    if not isinstance(value, dict):
        return value
    kept = {key: _without_empty(item) for key, item in value.items()}
    return {key: item for key, item in kept.items() if item not in (None, "", {}, [], ())}


def _manifest(workspace: Manifest, name: str, digest: str, number: int) -> Manifest:
    meta = workspace["metadata"]
    return {
        "apiVersion": CONTROLLER_REVISIONS.api_version,
        "kind": CONTROLLER_REVISIONS.kind,
        "metadata": {
            "name": name,
            "namespace": meta.get("namespace", ""),
            "labels": {REVISION_NAME_LABEL: meta["name"]},
            "annotations": {REVISION_HASH_ANNOTATION: digest},
            "ownerReferences": [owner_reference(workspace)],
        },
        "revision": number,
        "data": {part: workspace[part] for part in SPEC_PARTS if workspace.get(part) is not None},
    }


def _surplus(revisions: Sequence[Manifest], current: str) -> tuple[Delete, ...]:
    others = sorted((r for r in revisions if r["metadata"]["name"] != current), key=lambda r: int(r.get("revision", 0)))
    oldest = others[: max(0, len(others) - (KEPT - 1))]
    return tuple(Delete(CONTROLLER_REVISIONS, key_of(r), uid=r["metadata"].get("uid")) for r in oldest)


def missing_annotations(workspace: Manifest, revision: Revision) -> dict[str, str]:
    """Those annotations that the Workspace does not carry yet."""
    have = annotations_of(workspace)
    return {key: value for key, value in revision.annotations.items() if have.get(key) != value}
