# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Sizes of a Deployment's ReplicaSets: rolling update, Recreate, scaling in proportion. Arithmetic only.

The rules are those of Kubernetes' deployment controller: never more than `replicas + maxSurge` pods, never fewer than
`replicas - maxUnavailable` available ones. `deployment.py` turns the sizes into patches.
"""

from __future__ import annotations

from dataclasses import dataclass

from kaito.engine.controllers.quantities import scaled
from kaito.kube.manifest import Manifest, annotations_of, is_deleting

DESIRED = "deployment.kubernetes.io/desired-replicas"
MAXIMUM = "deployment.kubernetes.io/max-replicas"

Sizes = dict[str, int]
"""ReplicaSet name → wanted `spec.replicas`, for those that should change."""


@dataclass(frozen=True, slots=True)
class Limits:
    """A Deployment's `replicas`, `maxSurge` and `maxUnavailable` as numbers."""

    replicas: int
    surge: int
    unavailable: int

    @property
    def maximum(self) -> int:
        """How many pods there may be at once."""
        return self.replicas + self.surge

    @property
    def min_available(self) -> int:
        """How many pods must stay available."""
        return self.replicas - self.unavailable


def limits(deployment: Manifest) -> Limits:
    """The limits of the spec. Surge and unavailable cannot both be 0: then one pod may be unavailable."""
    spec = deployment["spec"]
    replicas = spec.get("replicas", 1)
    strategy = spec.get("strategy") or {}
    if strategy.get("type") == "Recreate":
        return Limits(replicas, 0, replicas)
    rolling = strategy.get("rollingUpdate") or {}
    surge = scaled(rolling.get("maxSurge"), replicas, round_up=True, default="25%")
    unavailable = scaled(rolling.get("maxUnavailable"), replicas, round_up=False, default="25%")
    if surge == 0 and unavailable == 0:
        unavailable = 1
    return Limits(replicas, surge, min(unavailable, replicas))


def size(replica_set: Manifest | None) -> int:
    """The ReplicaSet's wanted pods; 0 for none."""
    return int(replica_set["spec"].get("replicas", 1)) if replica_set else 0


def available(replica_set: Manifest | None) -> int:
    """The ReplicaSet's available pods; 0 for none."""
    return int((replica_set.get("status") or {}).get("availableReplicas", 0)) if replica_set else 0


def oldest_first(replica_sets: tuple[Manifest, ...]) -> list[Manifest]:
    """The ReplicaSets by age."""
    return sorted(replica_sets, key=lambda rs: (rs["metadata"]["creationTimestamp"], rs["metadata"]["name"]))


def new_size(new: Manifest | None, old: tuple[Manifest, ...], bounds: Limits) -> int:
    """How large the newest ReplicaSet may be now."""
    have = size(new)
    if have >= bounds.replicas:
        return bounds.replicas
    room = bounds.maximum - have - sum(size(rs) for rs in old)
    return have + min(room, bounds.replicas - have) if room > 0 else have


def old_sizes(new: Manifest | None, old: tuple[Manifest, ...], bounds: Limits) -> Sizes:
    """Sizes of the older ReplicaSets: unhealthy pods go first, then as many healthy ones as may be missed."""
    total = sum(size(rs) for rs in old)
    spare = total + size(new) - bounds.min_available - (size(new) - available(new))
    if total == 0 or spare <= 0:
        return {}
    sizes = {rs["metadata"]["name"]: size(rs) for rs in old}
    for rs in oldest_first(old):
        unhealthy = min(spare, max(0, size(rs) - available(rs)))
        sizes[rs["metadata"]["name"]] -= unhealthy
        spare -= unhealthy
    missable = sum(available(rs) for rs in old) + available(new) - bounds.min_available
    for rs in oldest_first(old):
        name = rs["metadata"]["name"]
        going = max(0, min(sizes[name], missable))
        sizes[name] -= going
        missable -= going
    return _changed(old, sizes)


def _changed(replica_sets: tuple[Manifest, ...], sizes: Sizes) -> Sizes:
    before = {rs["metadata"]["name"]: size(rs) for rs in replica_sets}
    return {name: wanted for name, wanted in sizes.items() if before[name] != wanted}


def is_scaling(deployment: Manifest, replica_sets: tuple[Manifest, ...]) -> bool:
    """Whether `spec.replicas` was changed since the sizes were last decided."""
    wanted = str(deployment["spec"].get("replicas", 1))
    return any(size(rs) > 0 and annotations_of(rs).get(DESIRED, wanted) != wanted for rs in replica_sets)


def scaled_sizes(new: Manifest | None, old: tuple[Manifest, ...], bounds: Limits, *, rolling: bool) -> Sizes:
    """Sizes after a change of `spec.replicas`: the only ReplicaSet takes it all, several share in proportion."""
    every = (*old, new) if new else old
    active = [rs for rs in every if size(rs) > 0]
    if len(active) <= 1:
        latest = active or ([new] if new else oldest_first(old)[-1:])
        # named even if the size is right already: the patch's annotation says that the change was seen
        return {rs["metadata"]["name"]: bounds.replicas for rs in latest}
    if new and size(new) == bounds.replicas == available(new) and annotations_of(new).get(DESIRED) == str(size(new)):
        return _changed(old, {rs["metadata"]["name"]: 0 for rs in old})
    return _proportional(active, bounds) if rolling else {}


def _proportional(active: list[Manifest], bounds: Limits) -> Sizes:
    """Shares of what may be added (or must go) by size; the largest takes what rounding leaves."""
    allowed = bounds.maximum if bounds.replicas > 0 else 0
    rest = allowed - sum(size(rs) for rs in active)
    ordered = sorted(active, key=lambda rs: (-size(rs), rs["metadata"]["creationTimestamp"], rs["metadata"]["name"]))
    sizes: Sizes = {}
    for rs in ordered:
        before = int(annotations_of(rs).get(MAXIMUM) or bounds.maximum) or 1
        share = round(size(rs) * allowed / before) - size(rs)
        share = max(rest, min(share, 0)) if rest < 0 else min(rest, max(share, 0))
        sizes[rs["metadata"]["name"]] = size(rs) + share
        rest -= share
    first = ordered[0]["metadata"]["name"]
    sizes[first] = max(0, sizes[first] + rest)
    # every one is patched, changed or not, so that its annotation says that the change was seen
    return sizes


def surplus(deployment: Manifest, old: tuple[Manifest, ...]) -> list[Manifest]:
    """The oldest empty ReplicaSets beyond `revisionHistoryLimit`."""
    empty = [rs for rs in oldest_first(old) if _is_empty(rs)]
    limit = deployment["spec"].get("revisionHistoryLimit", 10)
    return empty[: max(0, len(old) - limit)] if len(old) > limit else []


def _is_empty(rs: Manifest) -> bool:
    state = rs.get("status") or {}
    seen = state.get("observedGeneration", 0) >= rs["metadata"].get("generation", 0)
    return size(rs) == 0 and state.get("replicas", 0) == 0 and seen and not is_deleting(rs)
