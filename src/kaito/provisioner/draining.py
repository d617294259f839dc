# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Emptying a node: which pods are asked to leave now, and what is still waited for. Pure.

Pods leave by the eviction API, so PodDisruptionBudgets are kept; those that have no room are not asked again and again.
The order is Karpenter's: ordinary pods, then those of DaemonSets, then the critical ones. Not asked at all are static
pods, finished ones, and those that tolerate the taint of a node that goes, such as device plugins.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from kaito.api import nodeclaims as names
from kaito.kube.manifest import Manifest, annotations_of, controller_of, is_deleting, key_of, labels_of
from kaito.kube.plan import Create, Delete
from kaito.kube.resource import PODS
from kaito.provisioner.claim import moment

CRITICAL = ("system-cluster-critical", "system-node-critical")
DEFAULT_GRACE_S = 30


@dataclass(frozen=True, slots=True)
class Drain:
    """What to do now."""

    evictions: tuple[Create, ...] = ()
    deletions: tuple[Delete, ...] = ()
    waits_for: str = ""
    """Empty when the node is empty."""


def drain(pods: Iterable[Manifest], budgets: Sequence[Manifest], *, deadline: datetime | None, stuck_s: float,
          now: datetime) -> Drain:  # fmt: skip
    """The next step. `deadline`: when pods are removed by force; `stuck_s`: how long after its own grace period a pod
    that does not go still counts."""
    here = [pod for pod in pods if _counts(pod, now, stuck_s)]
    if not here:
        return Drain()
    forced = tuple(_forced(pod, deadline, now) for pod in here if deadline is not None and _is_due(pod, deadline, now))
    first = min(_rank(pod) for pod in here)
    group = [pod for pod in here if _rank(pod) == first and not is_deleting(pod)]
    evictions, held = [], []
    room = {id(budget): int((budget.get("status") or {}).get("disruptionsAllowed") or 0) for budget in budgets}
    for pod in group:
        why = _held(pod, budgets, room)
        if why:
            held.append(f"{key_of(pod)} ({why})")
        else:
            evictions.append(_eviction(pod))
    left = f"{len(here)} pod{'s' if len(here) > 1 else ''} left"
    return Drain(tuple(evictions), forced, f"{left}; held up: {', '.join(held[:3])}" if held else left)


def _counts(pod: Manifest, now: datetime, stuck_s: float) -> bool:
    if (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed"):
        return False
    owner = controller_of(pod)
    if owner is not None and owner.get("kind") == "Node":
        return False
    if any(_tolerates(one) for one in (pod.get("spec") or {}).get("tolerations") or ()):
        return False
    gone_by = moment(pod["metadata"].get("deletionTimestamp"))
    return gone_by is None or now < gone_by + timedelta(seconds=stuck_s)


def _tolerates(toleration: Manifest) -> bool:
    """Whether it is about the taint of a node that goes."""
    if toleration.get("effect") not in (None, "", "NoSchedule"):
        return False
    key = toleration.get("key")
    if toleration.get("operator") == "Exists":
        return not key or key == names.DISRUPTED_TAINT
    return bool(key == names.DISRUPTED_TAINT and not toleration.get("value"))


def _rank(pod: Manifest) -> tuple[bool, bool]:
    owner = controller_of(pod)
    is_daemon = owner is not None and owner.get("kind") == "DaemonSet"
    return (pod.get("spec") or {}).get("priorityClassName") in CRITICAL, is_daemon


def _held(pod: Manifest, budgets: Sequence[Manifest], room: dict[int, int]) -> str:
    """What keeps the pod; the room that it takes is counted off when nothing does."""
    if annotations_of(pod).get(names.DO_NOT_DISRUPT_ANNOTATION) == "true":
        return names.DO_NOT_DISRUPT_ANNOTATION
    mine = [budget for budget in budgets if _covers(budget, pod)]
    for budget in mine:
        if room[id(budget)] <= 0:
            return f"PodDisruptionBudget {budget['metadata']['name']}"
    for budget in mine:
        room[id(budget)] -= 1
    return ""


def _covers(budget: Manifest, pod: Manifest) -> bool:
    if key_of(budget).namespace != key_of(pod).namespace:
        return False
    selector = (budget.get("spec") or {}).get("selector")
    if selector is None:
        return False
    labels = labels_of(pod)
    wanted = selector.get("matchLabels") or {}
    terms = selector.get("matchExpressions") or ()
    return all(labels.get(k) == v for k, v in wanted.items()) and all(_holds(term, labels) for term in terms)


def _holds(term: Manifest, labels: dict[str, str]) -> bool:
    value, values = labels.get(str(term.get("key"))), term.get("values") or ()
    match term.get("operator"):
        case "In":
            return value in values
        case "NotIn":
            return value not in values
        case "Exists":
            return value is not None
        case "DoesNotExist":
            return value is None
    return False


def _eviction(pod: Manifest) -> Create:
    key = key_of(pod)
    meta = {"name": key.name, "namespace": key.namespace}
    options = {"preconditions": {"uid": pod["metadata"]["uid"]}}
    manifest = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": meta, "deleteOptions": options}
    return Create(manifest, subresource=(PODS, key, "eviction"))


def _is_due(pod: Manifest, deadline: datetime, now: datetime) -> bool:
    """Whether the pod has to be told now to have its whole grace period before the deadline."""
    ends = moment(pod["metadata"].get("deletionTimestamp"))
    if ends is not None:
        return ends > deadline
    grace_s = (pod.get("spec") or {}).get("terminationGracePeriodSeconds")
    return now >= deadline - timedelta(seconds=DEFAULT_GRACE_S if grace_s is None else grace_s)


def _forced(pod: Manifest, deadline: datetime, now: datetime) -> Delete:
    left_s = max(1, int((deadline - now).total_seconds()))
    return Delete(PODS, key_of(pod), uid=pod["metadata"]["uid"], grace_period_s=left_s)
