# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Node life cycle: nodes that fell silent, taints that say so, pods that leave such nodes.

A node is heard through its Lease, or through the heartbeat in its status; one that was never heard gets the same time
from its creation. Nodes are judged from the start of this engine at the earliest: being switched off is no silence.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial

from kaito.engine.controllers import pods as pod
from kaito.engine.controllers.selection import tolerated_for_s
from kaito.kube.manifest import Key, Manifest, condition_of, is_deleting, key_of, parse_time, rfc3339
from kaito.kube.plan import Controller, Delete, Event, Patch, Plan, Reader, Watch
from kaito.kube.resource import LEASES, NODES, PODS

LEASE_NAMESPACE = "kube-node-lease"
# Kubernetes' --node-monitor-grace-period
GRACE_S = 50.0
NOT_READY = "node.kubernetes.io/not-ready"
UNREACHABLE = "node.kubernetes.io/unreachable"
UNSCHEDULABLE = "node.kubernetes.io/unschedulable"
_PRESSURES = {
    "MemoryPressure": "node.kubernetes.io/memory-pressure",
    "DiskPressure": "node.kubernetes.io/disk-pressure",
    "PIDPressure": "node.kubernetes.io/pid-pressure",
    "NetworkUnavailable": "node.kubernetes.io/network-unavailable",
}
OURS = frozenset({NOT_READY, UNREACHABLE, UNSCHEDULABLE, *_PRESSURES.values()})
"""The taints that this controller sets and removes; all others are the user's."""


@dataclass(frozen=True, slots=True)
class Observed:
    """A node, when it was last heard, and its pods if it is in trouble."""

    node: Manifest
    heard: datetime
    pods: tuple[Manifest, ...]


def controller(started: datetime) -> Controller[Observed]:
    """The node life cycle controller of an engine that started then."""
    return Controller(
        name="node-controller",
        resource=NODES,
        observe=partial(observe, started=started),
        plan=plan,
        watches=(Watch(LEASES, lease_keys), Watch(PODS, pod_keys)),
    )


def lease_keys(lease: Manifest) -> list[Key]:
    """The node that a Lease speaks for."""
    meta = lease["metadata"]
    return [Key("", meta["name"])] if meta["namespace"] == LEASE_NAMESPACE else []


def pod_keys(p: Manifest) -> list[Key]:
    """The node of a pod that could have to leave."""
    name = p["spec"].get("nodeName")
    return [Key("", name)] if name and pod.is_active(p) else []


def observe(reader: Reader, key: Key, *, started: datetime) -> Observed | None:
    """The node; None when it is gone."""
    node = reader.get(NODES, key.name)
    if node is None:
        return None
    lease = reader.get(LEASES, key.name, LEASE_NAMESPACE)
    is_fine = not _has_no_execute(node) and _ready_status(node) == "True"
    on_it = [] if is_fine else [p for p in reader.list(PODS) if p["spec"].get("nodeName") == key.name]
    return Observed(node, max(started, _heard(node, lease)), tuple(on_it))


def _heard(node: Manifest, lease: Manifest | None) -> datetime:
    moments = [pod.created_at(node)]
    ready = condition_of(node, "Ready") or {}
    renewed = ((lease or {}).get("spec") or {}).get("renewTime")
    moments += [parse_time(text) for text in (renewed, ready.get("lastHeartbeatTime")) if text]
    return max(moments)


def _ready_status(node: Manifest) -> str:
    return str((condition_of(node, "Ready") or {}).get("status", ""))


def _has_no_execute(node: Manifest) -> bool:
    return any(taint["effect"] == "NoExecute" for taint in node["spec"].get("taints") or [])


def condition_taints(node: Manifest) -> list[Manifest]:
    """The taints that follow from the node's conditions and from `spec.unschedulable`."""
    ready = _ready_status(node)
    taints = []
    if ready == "Unknown":
        taints += [_taint(UNREACHABLE, "NoSchedule"), _taint(UNREACHABLE, "NoExecute")]
    elif ready == "False":
        taints += [_taint(NOT_READY, "NoSchedule"), _taint(NOT_READY, "NoExecute")]
    elif ready != "True":
        taints.append(_taint(NOT_READY, "NoSchedule"))
    if node["spec"].get("unschedulable"):
        taints.append(_taint(UNSCHEDULABLE, "NoSchedule"))
    for kind, key in _PRESSURES.items():
        if (condition_of(node, kind) or {}).get("status") == "True":
            taints.append(_taint(key, "NoSchedule"))
    return taints


def _taint(key: str, effect: str) -> Manifest:
    return {"key": key, "effect": effect}


def effective_taints(node: Manifest) -> list[Manifest]:
    """The node's taints, with those that its conditions demand and that may not have been written yet."""
    written = [t for t in node["spec"].get("taints") or [] if t["key"] not in OURS]
    return [*condition_taints(node), *written]


def plan(observed: Observed, now: datetime) -> Plan:
    """The node's condition, its taints, and what they mean for its pods."""
    node = observed.node
    if is_deleting(node):
        return Plan()
    silent_s = (now - observed.heard).total_seconds()
    ready = _ready_status(node)
    lost = silent_s > GRACE_S and ready != "Unknown"
    if lost:
        return Plan(
            patches=(_unknown(node, observed.heard, now),),
            events=(Event(node, "NodeNotReady", f"Node {node['metadata']['name']} status is now: NodeNotReady"),),
        )
    evictions, next_s = _evictions(observed, now)
    return Plan(
        patches=(*_taint_patch(node, now), *_not_ready_pods(observed, now)),
        delete=evictions,
        events=tuple(
            Event(p, "TaintManagerEviction", f"Marking for deletion Pod {key_of(p)}")
            for p in observed.pods
            if any(d.key == key_of(p) for d in evictions)
        ),
        requeue_after_s=_soonest(next_s, GRACE_S - silent_s + 1.0 if ready != "Unknown" else None),
    )


def _soonest(*waits: float | None) -> float | None:
    known = [wait for wait in waits if wait is not None]
    return max(0.1, min(known)) if known else None


def _unknown(node: Manifest, heard: datetime, now: datetime) -> Patch:
    """Ready Unknown: the node has not been heard for the grace period."""
    conditions = (node.get("status") or {}).get("conditions") or []
    old = condition_of(node, "Ready")
    never = old is None
    condition = {
        "type": "Ready",
        "status": "Unknown",
        "reason": "NodeStatusNeverUpdated" if never else "NodeStatusUnknown",
        "message": "Kubelet never posted node status." if never else "Kubelet stopped posting node status.",
        "lastHeartbeatTime": (old or {}).get("lastHeartbeatTime") or rfc3339(heard),
        "lastTransitionTime": rfc3339(now),
    }
    others = [c for c in conditions if c["type"] != "Ready"]
    return Patch(
        NODES,
        key_of(node),
        {
            "metadata": {"resourceVersion": node["metadata"]["resourceVersion"]},
            "status": {"conditions": [*others, condition]},
        },
        subresource="status",
    )


def _taint_patch(node: Manifest, now: datetime) -> tuple[Patch, ...]:
    """Makes our taints what the conditions say and leaves all others."""
    have = node["spec"].get("taints") or []
    wanted = {(t["key"], t["effect"]) for t in condition_taints(node)}
    kept = [t for t in have if t["key"] not in OURS or (t["key"], t["effect"]) in wanted]
    present = {(t["key"], t["effect"]) for t in kept}
    added = [_stamped(t, now) for t in condition_taints(node) if (t["key"], t["effect"]) not in present]
    if not added and len(kept) == len(have):
        return ()
    body = {
        "metadata": {"resourceVersion": node["metadata"]["resourceVersion"]},
        "spec": {"taints": [*kept, *added] or None},
    }
    return (Patch(NODES, key_of(node), body),)


def _stamped(taint: Manifest, now: datetime) -> Manifest:
    return {**taint, "timeAdded": rfc3339(now)}


def _not_ready_pods(observed: Observed, now: datetime) -> list[Patch]:
    """Pods of a node that is silent are not ready either: nobody should be sent there."""
    if _ready_status(observed.node) != "Unknown":
        return []
    patches = []
    for p in observed.pods:
        conditions = (p.get("status") or {}).get("conditions") or []
        if not pod.is_ready(p):
            continue
        changed = [
            {**c, "status": "False", "lastTransitionTime": rfc3339(now)} if c["type"] == "Ready" else c
            for c in conditions
        ]
        patches.append(Patch(PODS, key_of(p), {"status": {"conditions": changed}}, subresource="status"))
    return patches


def _evictions(observed: Observed, now: datetime) -> tuple[tuple[Delete, ...], float | None]:
    """Pods that do not (or no longer) tolerate a NoExecute taint, and when the next one has to go."""
    taints = [t for t in observed.node["spec"].get("taints") or [] if t["effect"] == "NoExecute"]
    doomed: list[Delete] = []
    waits: list[float] = []
    for p in observed.pods:
        if not pod.is_active(p):
            continue
        left_s = min((_left_s(p, taint, now) for taint in taints), default=float("inf"))
        if left_s <= 0:
            doomed.append(Delete(PODS, key_of(p), p["metadata"]["uid"]))
        elif left_s != float("inf"):
            waits.append(left_s)
    return tuple(doomed), min(waits) if waits else None


def _left_s(p: Manifest, taint: Manifest, now: datetime) -> float:
    """How long the pod may still stay under the taint."""
    allowed_s = tolerated_for_s(p["spec"].get("tolerations") or [], taint)
    if allowed_s is None:
        return float("inf")
    since = parse_time(taint["timeAdded"]) if taint.get("timeAdded") else now
    return (since + timedelta(seconds=allowed_s) - now).total_seconds()
