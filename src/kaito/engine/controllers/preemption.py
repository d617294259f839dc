# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Which pods leave a node so that a more important one fits: as few and as unimportant ones as can be.

Pure. As in kube-scheduler (plugin DefaultPreemption), but that only room is won: a pod that another pod's wishes keep
away stays away. PodDisruptionBudgets, which kube-scheduler looks at where it has a choice, are not looked at.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal

from kaito.engine.controllers import pods as pod
from kaito.engine.controllers.capacity import Load, requests_of, short_of
from kaito.kube.manifest import Manifest, is_deleting, key_of


@dataclass(frozen=True, slots=True)
class Eviction:
    """A node, and the pods that have to leave it."""

    node: str
    victims: tuple[Manifest, ...]


def priority_of(p: Manifest) -> int:
    """The pod's priority; 0 when it has none."""
    return int(p["spec"].get("priority") or 0)


def may_preempt(p: Manifest) -> bool:
    """Whether the pod may send others away."""
    return bool(p["spec"].get("preemptionPolicy", "PreemptLowerPriority") != "Never")


def waits_for_leaving(p: Manifest, there: Iterable[Manifest]) -> bool:
    """Whether pods that were sent away for this one, from the node that it is to get, are still on their way out."""
    return any(is_deleting(other) and priority_of(other) < priority_of(p) for other in there)


def eviction_for(
    p: Manifest, nodes: Iterable[str], there: Mapping[str, Sequence[Manifest]], room: Mapping[str, Load]
) -> Eviction | None:
    """The least harm by which the pod gets room on one of the nodes; None when there is no way."""
    found = []
    for name in nodes:
        victims = _victims(p, there.get(name) or (), room[name])
        if victims:
            priorities = [priority_of(victim) for victim in victims]
            found.append((max(priorities), len(victims), sum(priorities), name, victims))
    if not found:
        return None
    *_, node, chosen = min(found, key=lambda entry: entry[:4])
    return Eviction(node, chosen)


def _victims(p: Manifest, there: Sequence[Manifest], load: Load) -> tuple[Manifest, ...]:
    """Those of the less important pods on a node without whose leaving there is no room; none when it does not help."""
    lower = [other for other in there if priority_of(other) < priority_of(p)]
    left = Load(load.allocatable, dict(load.taken))
    wanted = requests_of(p)
    for other in lower:
        remove(left, other)
    if not lower or short_of(left, wanted):
        return ()
    victims = []
    # The most important and the oldest are spared first; those that leave anyway need not be.
    for other in sorted(lower, key=lambda o: (is_deleting(o), -priority_of(o), pod.created_at(o), key_of(o))):
        left.add(requests_of(other))
        if short_of(left, wanted):
            remove(left, other)
            victims.append(other)
    return tuple(victims)


def remove(load: Load, p: Manifest) -> None:
    """The pod's room becomes free."""
    for name, amount in requests_of(p).items():
        load.taken[name] = load.taken.get(name, Decimal(0)) - amount
