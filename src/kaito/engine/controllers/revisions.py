# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""ControllerRevisions: the history of pod templates that StatefulSets and DaemonSets keep.

A revision holds the template as a patch, in the form that `kubectl rollout history` and `undo` read. Its name is the
hash of its content, so going back to an old template finds the old revision, which then becomes the newest.
"""

from __future__ import annotations

from dataclasses import dataclass

from kaito.engine.controllers.pods import content_hash
from kaito.kube.manifest import Key, Manifest, key_of, labels_of, owner_reference
from kaito.kube.plan import Create, Delete, Patch
from kaito.kube.resource import CONTROLLER_REVISIONS

HASH_LABEL = "controller.kubernetes.io/hash"
"""On a ControllerRevision."""
REVISION_LABEL = "controller-revision-hash"
"""On a pod: which revision it was made from."""


@dataclass(frozen=True, slots=True)
class History:
    """The revision that the owner's template is, and what must be written for it."""

    name: str
    number: int
    create: tuple[Create, ...] = ()
    patches: tuple[Patch, ...] = ()


def template_data(owner: Manifest) -> Manifest:
    """The owner's template as a strategic merge patch of the owner."""
    return {"spec": {"template": {**owner["spec"]["template"], "$patch": "replace"}}}


def template_of(revision: Manifest) -> Manifest:
    """The pod template that a revision keeps."""
    kept = revision["data"]["spec"]["template"]
    return {key: value for key, value in kept.items() if key != "$patch"}


def history(owner: Manifest, revisions: tuple[Manifest, ...], hash_label: str) -> History:
    """The owner's current revision: the newest if its content is the same, an older one made newest, or a new one.

    hash_label: the label under which the revision carries its hash.
    """
    data = template_data(owner)
    ordered = sorted(revisions, key=lambda revision: (revision["revision"], key_of(revision)))
    newest = ordered[-1]["revision"] if ordered else 0
    same = [revision for revision in ordered if revision["data"] == data]
    if same and same[-1]["revision"] == newest:
        return History(same[-1]["metadata"]["name"], newest)
    number = newest + 1
    if same:
        found = same[-1]
        patch = Patch(CONTROLLER_REVISIONS, key_of(found), {"revision": number})
        return History(found["metadata"]["name"], number, patches=(patch,))
    collisions = (owner.get("status") or {}).get("collisionCount") or 0
    digest = content_hash(data, collisions)
    manifest: Manifest = {
        "apiVersion": "apps/v1",
        "kind": "ControllerRevision",
        "metadata": {
            "name": f"{owner['metadata']['name']}-{digest}",
            "namespace": owner["metadata"]["namespace"],
            "labels": {**labels_of(owner["spec"]["template"]), hash_label: digest},
            "ownerReferences": [owner_reference(owner)],
        },
        "data": data,
        "revision": number,
    }
    return History(manifest["metadata"]["name"], number, create=(Create(manifest),))


def surplus(revisions: tuple[Manifest, ...], in_use: set[str], limit: int) -> tuple[Delete, ...]:
    """The oldest revisions beyond `revisionHistoryLimit` that no pod and no status names."""
    idle = [r for r in revisions if r["metadata"]["name"] not in in_use]
    idle.sort(key=lambda revision: (revision["revision"], key_of(revision)))
    doomed = idle[: max(0, len(idle) - limit)]
    return tuple(
        Delete(CONTROLLER_REVISIONS, Key(*key_of(revision)), revision["metadata"]["uid"]) for revision in doomed
    )
