# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""What a StatefulSet makes for each ordinal: a pod with a fixed name and host name, and its claims.

Knows nothing of the order in which they come and go; that is `statefulset.py`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from kaito.engine.controllers import pods as pod
from kaito.engine.controllers.ownership import references_patch
from kaito.engine.controllers.revisions import REVISION_LABEL
from kaito.kube.manifest import Manifest, is_deleting, owner_reference
from kaito.kube.plan import Patch
from kaito.kube.resource import PERSISTENT_VOLUME_CLAIMS

POD_NAME_LABEL = "statefulset.kubernetes.io/pod-name"
POD_INDEX_LABEL = "apps.kubernetes.io/pod-index"


@dataclass(frozen=True, slots=True)
class Identity:
    """Which pod of the set, and which revision of the template it is made from."""

    ordinal: int
    revision: str
    template: Manifest


def start(stateful_set: Manifest) -> int:
    """The first ordinal."""
    return int((stateful_set["spec"].get("ordinals") or {}).get("start", 0))


def wanted(stateful_set: Manifest) -> range:
    """The ordinals that should exist."""
    first = start(stateful_set)
    return range(first, first + int(stateful_set["spec"].get("replicas", 1)))


def ordinal_of(stateful_set: Manifest, p: Manifest) -> int | None:
    """The ordinal in a pod's name; None when the pod is not named after the set."""
    name, _, number = p["metadata"]["name"].rpartition("-")
    return int(number) if name == stateful_set["metadata"]["name"] and number.isdigit() else None


def templates(stateful_set: Manifest) -> list[str]:
    """The names of the claim templates."""
    return [t["metadata"]["name"] for t in stateful_set["spec"].get("volumeClaimTemplates") or []]


def pod_name(stateful_set: Manifest, ordinal: int) -> str:
    """`<set>-<ordinal>`."""
    return f"{stateful_set['metadata']['name']}-{ordinal}"


def claim_name(stateful_set: Manifest, template: str, ordinal: int) -> str:
    """`<template>-<set>-<ordinal>`."""
    return f"{template}-{pod_name(stateful_set, ordinal)}"


def stateful_pod(stateful_set: Manifest, identity: Identity) -> Manifest:
    """The pod of an ordinal: its host name is its name, and its claims take the place of volumes of their names."""
    name = pod_name(stateful_set, identity.ordinal)
    made = pod.pod_from_template(
        identity.template,
        stateful_set,
        name=name,
        generate_name=f"{stateful_set['metadata']['name']}-",
        labels={
            REVISION_LABEL: identity.revision,
            POD_NAME_LABEL: name,
            POD_INDEX_LABEL: str(identity.ordinal),
        },
    )
    spec = made["spec"]
    spec["hostname"] = name
    if stateful_set["spec"].get("serviceName"):
        spec["subdomain"] = stateful_set["spec"]["serviceName"]
    own = templates(stateful_set)
    if own:
        others = [volume for volume in spec.get("volumes") or [] if volume["name"] not in own]
        spec["volumes"] = [*(_volume(stateful_set, t, identity.ordinal) for t in own), *others]
    return made


def _volume(stateful_set: Manifest, template: str, ordinal: int) -> Manifest:
    return {"name": template, "persistentVolumeClaim": {"claimName": claim_name(stateful_set, template, ordinal)}}


def claims(stateful_set: Manifest, ordinal: int) -> list[Manifest]:
    """The claims of an ordinal. They outlive the pod; the retention policy says whether they outlive the set."""
    labels = stateful_set["spec"]["selector"].get("matchLabels") or {}
    made = []
    for template in stateful_set["spec"].get("volumeClaimTemplates") or []:
        meta = template["metadata"]
        owned = {"ownerReferences": [owner_reference(stateful_set)]} if _goes_with_set(stateful_set) else {}
        made.append(
            {
                "apiVersion": "v1",
                "kind": "PersistentVolumeClaim",
                "metadata": {
                    "name": claim_name(stateful_set, meta["name"], ordinal),
                    "namespace": stateful_set["metadata"]["namespace"],
                    "labels": {**(meta.get("labels") or {}), **labels},
                    **({"annotations": meta["annotations"]} if meta.get("annotations") else {}),
                    **owned,
                },
                "spec": template["spec"],
            }
        )
    return made


def _policy(stateful_set: Manifest, when: str) -> str:
    return str((stateful_set["spec"].get("persistentVolumeClaimRetentionPolicy") or {}).get(when, "Retain"))


def _goes_with_set(stateful_set: Manifest) -> bool:
    return _policy(stateful_set, "whenDeleted") == "Delete"


def retention_patches(
    stateful_set: Manifest, existing: dict[str, Manifest], members: Iterable[Manifest]
) -> tuple[Patch, ...]:
    """Owner references that make claims vanish with the set (`whenDeleted`) or with a surplus pod (`whenScaled`)."""
    present = {ordinal_of(stateful_set, p): p for p in members}
    staying = wanted(stateful_set)
    patches: list[Patch] = []
    for ordinal in sorted({*staying, *(n for n in present if n is not None)}):
        surplus = present.get(ordinal) if ordinal not in staying else None
        for template in templates(stateful_set):
            claim = existing.get(claim_name(stateful_set, template, ordinal))
            if claim is not None and not is_deleting(claim):
                patches += _retention(stateful_set, claim, present.get(ordinal), surplus)
    return tuple(patches)


def _retention(
    stateful_set: Manifest, claim: Manifest, member: Manifest | None, surplus: Manifest | None
) -> list[Patch]:
    before = claim["metadata"].get("ownerReferences") or []
    ours = {stateful_set["metadata"]["uid"], *([member["metadata"]["uid"]] if member else [])}
    references = [reference for reference in before if reference["uid"] not in ours]
    if surplus is not None and _policy(stateful_set, "whenScaled") == "Delete":
        references.append(owner_reference(surplus))
    elif _goes_with_set(stateful_set):
        references.append(owner_reference(stateful_set))
    return [references_patch(PERSISTENT_VOLUME_CLAIMS, claim, references)] if references != before else []
