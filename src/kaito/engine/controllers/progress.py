# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""A Deployment's status: counts over its ReplicaSets, and the conditions Available and Progressing.

Reasons and messages are those of Kubernetes, which `kubectl rollout status` and `kubectl wait` read.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from kaito.engine.controllers.sizing import Limits, size
from kaito.engine.controllers.status import stamped, without_zeros
from kaito.kube.manifest import Manifest, condition_of, parse_time

COMPLETE = "NewReplicaSetAvailable"
TIMED_OUT = "ProgressDeadlineExceeded"
PAUSED = "DeploymentPaused"
# Kubernetes' way to say "no deadline": the largest 32 bit number
NO_DEADLINE = 2**31 - 1


def counts(
    deployment: Manifest, new: Manifest | None, old: tuple[Manifest, ...], *, collisions: int | None
) -> Manifest:
    """The status without its conditions."""
    every = (*old, new) if new else old
    total = {
        field: sum((rs.get("status") or {}).get(field) or 0 for rs in every)
        for field in ("replicas", "readyReplicas", "availableReplicas", "terminatingReplicas")
    }
    status = {
        **total,
        "observedGeneration": deployment["metadata"].get("generation", 0),
        "updatedReplicas": (new.get("status") or {}).get("replicas", 0) if new else 0,
        "unavailableReplicas": max(0, sum(size(rs) for rs in every) - total["availableReplicas"]),
        "collisionCount": collisions,
    }
    return without_zeros(status, "terminatingReplicas")


def is_complete(deployment: Manifest, status: Manifest) -> bool:
    """Whether the pods of the newest template, and only those, are all available."""
    wanted = deployment["spec"].get("replicas", 1)
    fields = ("updatedReplicas", "replicas", "availableReplicas")
    return all(status.get(field, 0) == wanted for field in fields)


def conditions(
    deployment: Manifest, status: Manifest, bounds: Limits, *, new_name: str, created: bool, now: datetime
) -> list[Manifest]:
    """Available and Progressing, with the times they had if they did not change.

    created: the ReplicaSet `new_name` is being created by this very plan.
    """
    current = (deployment.get("status") or {}).get("conditions") or []
    wanted = [_available(status, bounds)]
    progressing = _progressing(deployment, status, new_name=new_name, created=created, now=now)
    kept = [c for c in current if c["type"] not in ("Available", "Progressing")]
    stamps = [stamped(c, current, now, updates="lastUpdateTime") for c in wanted]
    if progressing is not None:
        stamps.append(_refreshed(deployment, status, progressing, now))
    return _in_order(current, [*stamps, *kept])


def _in_order(current: list[Manifest], wanted: list[Manifest]) -> list[Manifest]:
    """Conditions that were there before keep their places, so that a restart does not shuffle the list."""
    places = {c["type"]: place for place, c in enumerate(current)}
    return sorted(wanted, key=lambda c: places.get(c["type"], len(places)))


def _available(status: Manifest, bounds: Limits) -> Manifest:
    enough = status.get("availableReplicas", 0) >= bounds.min_available
    return {
        "type": "Available",
        "status": "True" if enough else "False",
        "reason": "MinimumReplicasAvailable" if enough else "MinimumReplicasUnavailable",
        "message": f"Deployment {'has' if enough else 'does not have'} minimum availability.",
    }


def _condition(status: str, reason: str, message: str) -> Manifest:
    return {"type": "Progressing", "status": status, "reason": reason, "message": message}


def _progressing(
    deployment: Manifest, status: Manifest, *, new_name: str, created: bool, now: datetime
) -> Manifest | None:
    """What Progressing should say; None removes it (no deadline), the old one keeps it."""
    if not has_deadline(deployment):
        return None
    old = condition_of(deployment, "Progressing")
    if deployment["spec"].get("paused"):
        if old is not None and old.get("reason") in (PAUSED, TIMED_OUT):
            return old
        return _condition("Unknown", PAUSED, "Deployment is paused")
    if created:
        return _condition("True", "NewReplicaSetCreated", f'Created new replica set "{new_name}"')
    if old is not None and old.get("reason") == COMPLETE and status.get("replicas") == status.get("updatedReplicas"):
        return old
    if is_complete(deployment, status):
        return _condition("True", COMPLETE, f'ReplicaSet "{new_name}" has successfully progressed.')
    if is_progressing(deployment, status):
        return _condition("True", "ReplicaSetUpdated", f'ReplicaSet "{new_name}" is progressing.')
    if old is not None and old.get("reason") == PAUSED:
        return _condition("Unknown", "DeploymentResumed", "Deployment is resumed")
    if old is None:
        return _condition("True", "FoundNewReplicaSet", f'Found new replica set "{new_name}"')
    if deadline_in_s(deployment, now) == 0.0:
        return _condition("False", TIMED_OUT, f'ReplicaSet "{new_name}" has timed out progressing.')
    return old


def is_progressing(deployment: Manifest, status: Manifest) -> bool:
    """Whether the rollout got further since the last status: that restarts the deadline."""
    old = deployment.get("status") or {}

    def outdated(counts_: Manifest) -> int:
        return int(counts_.get("replicas", 0)) - int(counts_.get("updatedReplicas", 0))

    grew = ("updatedReplicas", "readyReplicas", "availableReplicas")
    return outdated(status) < outdated(old) or any(status.get(f, 0) > old.get(f, 0) for f in grew)


def _refreshed(deployment: Manifest, status: Manifest, condition: Manifest, now: datetime) -> Manifest:
    """The condition with its times. Progress moves lastUpdateTime even where the words stay the same."""
    current = (deployment.get("status") or {}).get("conditions") or []
    bare = {key: value for key, value in condition.items() if not key.endswith("Time")}
    if bare["reason"] == "ReplicaSetUpdated" and is_progressing(deployment, status):
        fresh = stamped({**bare, "message": ""}, current, now, updates="lastUpdateTime")
        return {**fresh, "message": bare["message"]}
    return stamped(bare, current, now, updates="lastUpdateTime")


def has_deadline(deployment: Manifest) -> bool:
    """Whether a rollout that stands still is called failed one day."""
    return int(deployment["spec"].get("progressDeadlineSeconds") or NO_DEADLINE) != NO_DEADLINE


def deadline_in_s(deployment: Manifest, now: datetime) -> float | None:
    """Seconds until the rollout has stood still for too long; None when nobody waits for it."""
    old = condition_of(deployment, "Progressing")
    if not has_deadline(deployment) or deployment["spec"].get("paused") or old is None:
        return None
    if old.get("reason") == COMPLETE or not old.get("lastUpdateTime"):
        return None
    until = parse_time(old["lastUpdateTime"]) + timedelta(seconds=deployment["spec"]["progressDeadlineSeconds"])
    return max(0.0, (until - now).total_seconds())
