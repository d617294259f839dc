# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""The priority of a new pod, from the PriorityClass that it names or from the one that stands for all others.

As Kubernetes' admission plugin Priority (source of words: plugin/pkg/admission/priority).
"""

from __future__ import annotations

from typing import Final

from kaito.engine.kinds import Kind
from kaito.engine.objects.registry import Registry
from kaito.engine.wire.status import forbidden
from kaito.kube.manifest import Manifest

SYSTEM_CLASSES: Final = {
    "system-cluster-critical": (
        2_000_000_000,
        "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary.",
    ),
    "system-node-critical": (
        2_000_001_000,
        "Used for system critical pods that must not be moved from their current node.",
    ),
}
"""The classes that every cluster has: value and description."""
_COLLECTION: Final = "scheduling.k8s.io/priorityclasses"
_PREEMPTS: Final = "PreemptLowerPriority"


def with_priority(registry: Registry, kind: Kind, obj: Manifest) -> Manifest:
    """The new pod with its priority; any other object as it is. Raises StatusError 403."""
    if kind.collection != "/pods":
        return obj
    spec, pod_name = obj["spec"], obj["metadata"].get("name", "")
    found = _class_of(registry, kind, pod_name, spec.get("priorityClassName") or "")
    priority = int(found["value"]) if found else 0
    policy = (found or {}).get("preemptionPolicy") or _PREEMPTS
    for field, own, computed, kind_of in (
        ("priority", spec.get("priority"), priority, "integer"),
        ("PreemptionPolicy", spec.get("preemptionPolicy"), policy, "string"),
    ):
        if own is not None and own != computed:
            where = "must not be provided in pod spec; priority admission controller computed"
            why = f"the {kind_of} value of {field} ({own}) {where} {computed} from the given PriorityClass name"
            raise forbidden(kind, pod_name, why)
    named = {"priorityClassName": found["metadata"]["name"]} if found else {}
    return {**obj, "spec": {**spec, **named, "priority": priority, "preemptionPolicy": policy}}


def _class_of(registry: Registry, kind: Kind, pod_name: str, name: str) -> Manifest | None:
    """The class that counts for the pod; None when it names none and there is none for all. Raises StatusError."""
    if name:
        found = registry.object("scheduling.k8s.io", "priorityclasses", name)
        if found is None:
            raise forbidden(kind, pod_name, f"no PriorityClass with name {name} was found")
        return found
    if registry.store.count(_COLLECTION) <= len(SYSTEM_CLASSES):
        return None
    for_all = [one for one in registry.objects("scheduling.k8s.io", "priorityclasses") if one.get("globalDefault")]
    return min(for_all, key=lambda one: int(one["value"]), default=None)
