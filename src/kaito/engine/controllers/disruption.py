# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""How many pods may be taken away at once: the status of PodDisruptionBudgets, which evictions go by.

One key is one namespace. The rules are those of Kubernetes' disruption controller: `maxUnavailable` and percentages
count what the pods' controllers want, a plain `minAvailable` counts the pods that are there.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from kaito.engine.controllers import pods as pod
from kaito.engine.controllers.quantities import scaled
from kaito.engine.controllers.selection import matches
from kaito.engine.controllers.status import stamped, status_patch
from kaito.kube.manifest import Key, Manifest, controller_of, is_deleting, labels_of
from kaito.kube.plan import Controller, Patch, Plan, Reader, Watch
from kaito.kube.resource import NAMESPACES, POD_DISRUPTION_BUDGETS, PODS, REPLICA_SETS, STATEFUL_SETS

_KEPT = ("disruptedPods",)


@dataclass(frozen=True, slots=True)
class Observed:
    """The budgets of a namespace, its pods, and how many pods each controller (by uid) wants."""

    budgets: tuple[Manifest, ...]
    pods: tuple[Manifest, ...]
    wanted: dict[str, int]


def controller() -> Controller[Observed]:
    """The disruption controller."""
    seen = (POD_DISRUPTION_BUDGETS, PODS, REPLICA_SETS, STATEFUL_SETS)
    return Controller(
        name="disruption-controller",
        resource=NAMESPACES,
        observe=observe,
        plan=plan,
        watches=tuple(Watch(resource, _namespace) for resource in seen),
    )


def _namespace(obj: Manifest) -> Iterable[Key]:
    return (Key("", obj["metadata"]["namespace"]),)


def observe(reader: Reader, key: Key) -> Observed | None:
    """The namespace's budgets and pods; None where there are no budgets."""
    budgets = tuple(reader.list(POD_DISRUPTION_BUDGETS, key.name))
    if not budgets:
        return None
    owners = [*reader.list(REPLICA_SETS, key.name), *reader.list(STATEFUL_SETS, key.name)]
    wanted = {owner["metadata"]["uid"]: int(owner["spec"].get("replicas", 1)) for owner in owners}
    return Observed(budgets, tuple(reader.list(PODS, key.name)), wanted)


def plan(observed: Observed, now: datetime) -> Plan:
    """The status of each budget."""
    patches: list[Patch] = []
    for budget in observed.budgets:
        selector = budget["spec"].get("selector")
        chosen = [p for p in observed.pods if matches(selector, labels_of(p)) and not pod.is_finished(p)]
        status = _status(budget, chosen, observed.wanted, now)
        patches += status_patch(POD_DISRUPTION_BUDGETS, budget, status, keep=_KEPT)
    return Plan(patches=tuple(patches))


def _status(budget: Manifest, chosen: list[Manifest], wanted: dict[str, int], now: datetime) -> Manifest:
    expected, desired = _expectation(budget["spec"], chosen, wanted)
    healthy = sum(1 for p in chosen if pod.is_ready(p) and not is_deleting(p))
    allowed = max(0, healthy - desired) if expected > 0 else 0
    generation = budget["metadata"].get("generation", 1)
    condition = {
        "type": "DisruptionAllowed",
        "status": "True" if allowed else "False",
        "observedGeneration": generation,
        "reason": "SufficientPods" if allowed else "InsufficientPods",
        "message": "",
    }
    current = (budget.get("status") or {}).get("conditions") or []
    return {
        "conditions": [stamped(condition, current, now)],
        "currentHealthy": healthy,
        "desiredHealthy": desired,
        "disruptionsAllowed": allowed,
        "expectedPods": expected,
        "observedGeneration": generation,
    }


def _expectation(spec: Manifest, chosen: list[Manifest], wanted: dict[str, int]) -> tuple[int, int]:
    """How many pods there should be, and how many of them must stay healthy."""
    least, most = spec.get("minAvailable"), spec.get("maxUnavailable")
    if most is not None:
        expected = _expected(chosen, wanted)
        return expected, max(0, expected - scaled(most, expected, round_up=True))
    if isinstance(least, str):
        expected = _expected(chosen, wanted)
        return expected, scaled(least, expected, round_up=True)
    return len(chosen), int(least if least is not None else 1)


def _expected(chosen: list[Manifest], wanted: dict[str, int]) -> int:
    """What the controllers of the pods want together; a pod without one counts for itself."""
    owners = {reference["uid"] for p in chosen if (reference := controller_of(p)) is not None}
    orphans = sum(1 for p in chosen if controller_of(p) is None)
    return orphans + sum(wanted.get(uid, 0) for uid in owners)
