# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Pods that nobody looks after: bound to a node that is gone, or on their way out without ever having had one."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from kaito.engine.controllers import pods as pod
from kaito.kube.manifest import Key, Manifest, condition_of, is_deleting, key_of, parse_time, rfc3339
from kaito.kube.plan import Controller, Delete, Patch, Plan, Reader, Watch
from kaito.kube.resource import NODES, PODS

# How long a node may be missing before its pods are given up (Kubernetes' quarantine), and how old a pod must be for
# its node to count as missing at all
QUARANTINE_S = 40.0
YOUNG_S = 20.0
DISRUPTED = "DisruptionTarget"
REASON = "DeletionByPodGC"


@dataclass(frozen=True, slots=True)
class Observed:
    """A pod that is bound, and whether its node exists."""

    pod: Manifest
    has_node: bool


def controller() -> Controller[Observed]:
    """The pod collector."""
    return Controller(
        name="pod-garbage-collector", resource=PODS, observe=observe, plan=plan, watches=(Watch(NODES, _nobody),)
    )


def _nobody(node: Manifest) -> list[Key]:
    return []


def observe(reader: Reader, key: Key) -> Observed | None:
    """The pod, if it may need collecting."""
    found = reader.get(PODS, key.name, key.namespace)
    if found is None:
        return None
    node = found["spec"].get("nodeName")
    return Observed(found, has_node=not node or reader.get(NODES, node) is not None)


def plan(observed: Observed, now: datetime) -> Plan:
    """Marks a pod whose node is missing, and deletes it at once when the node stays away."""
    p = observed.pod
    mark = condition_of(p, DISRUPTED)
    ours = mark is not None and mark.get("reason") == REASON and mark.get("status") == "True"
    if observed.has_node:
        if not p["spec"].get("nodeName") and is_deleting(p):
            return Plan(delete=(_at_once(p),))
        return Plan(patches=(_marked(p, "False", now),)) if ours else Plan()
    age_s = (now - pod.created_at(p)).total_seconds()
    if age_s < YOUNG_S:
        return Plan(requeue_after_s=YOUNG_S - age_s)
    if mark is None or not ours:
        return Plan(patches=(_marked(p, "True", now),), requeue_after_s=QUARANTINE_S)
    left_s = (parse_time(mark["lastTransitionTime"]) + timedelta(seconds=QUARANTINE_S) - now).total_seconds()
    return Plan(requeue_after_s=left_s) if left_s > 0 else Plan(delete=(_at_once(p),))


def _at_once(p: Manifest) -> Delete:
    return Delete(PODS, key_of(p), p["metadata"]["uid"], grace_period_s=0)


def _marked(p: Manifest, status: str, now: datetime) -> Patch:
    condition = {
        "type": DISRUPTED,
        "status": status,
        "reason": REASON,
        "message": "PodGC: node no longer exists" if status == "True" else "PodGC: node is back",
        "lastTransitionTime": rfc3339(now),
    }
    others = [c for c in (p.get("status") or {}).get("conditions") or [] if c["type"] != DISRUPTED]
    return Patch(PODS, key_of(p), {"status": {"conditions": [*others, condition]}}, subresource="status")
