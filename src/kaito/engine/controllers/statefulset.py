# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""StatefulSets: pods with fixed names, started and stopped in order, each with claims of its own.

`ordinals.py` makes the pods and claims; here is the order of things: what to create, to delete, to replace.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from kaito.engine.controllers import ordinals, revisions
from kaito.engine.controllers import pods as pod
from kaito.engine.controllers.ordinals import Identity
from kaito.engine.controllers.ownership import Claimed, claim
from kaito.engine.controllers.quantities import scaled
from kaito.engine.controllers.status import status_patch, without_zeros
from kaito.kube.manifest import Key, Manifest, is_deleting, key_of, labels_of
from kaito.kube.plan import Controller, Create, Delete, Event, Plan, Reader, Watch, owner_keys
from kaito.kube.resource import CONTROLLER_REVISIONS, PERSISTENT_VOLUME_CLAIMS, PODS, STATEFUL_SETS


@dataclass(frozen=True, slots=True)
class Observed:
    """A StatefulSet, its pods by ordinal, its revisions, and the claims of its pods."""

    stateful_set: Manifest
    claimed: Claimed
    revisions: tuple[Manifest, ...]
    claims: dict[str, Manifest]


def controller() -> Controller[Observed]:
    """The StatefulSet controller."""
    return Controller(
        name="statefulset-controller",
        resource=STATEFUL_SETS,
        observe=observe,
        plan=plan,
        watches=(
            Watch(PODS, owner_keys("StatefulSet")),
            Watch(CONTROLLER_REVISIONS, owner_keys("StatefulSet")),
            Watch(PERSISTENT_VOLUME_CLAIMS, owner_keys("StatefulSet")),
        ),
    )


def observe(reader: Reader, key: Key) -> Observed | None:
    """The StatefulSet with what belongs to it; None when it is gone."""
    stateful_set = reader.get(STATEFUL_SETS, key.name, key.namespace)
    if stateful_set is None:
        return None
    claimed = claim(reader, PODS, stateful_set, stateful_set["spec"].get("selector"))
    members = tuple(p for p in claimed.objects if ordinals.ordinal_of(stateful_set, p) is not None)
    known = {ordinals.ordinal_of(stateful_set, p) or 0 for p in members} | set(ordinals.wanted(stateful_set))
    names = [ordinals.claim_name(stateful_set, t, n) for t in ordinals.templates(stateful_set) for n in known]
    found = ((name, reader.get(PERSISTENT_VOLUME_CLAIMS, name, key.namespace)) for name in names)
    history = reader.owned_by(CONTROLLER_REVISIONS, stateful_set["metadata"]["uid"])
    return Observed(
        stateful_set=stateful_set,
        claimed=Claimed(members, claimed.patches),
        revisions=tuple(history),
        claims={name: obj for name, obj in found if obj is not None},
    )


@dataclass(frozen=True, slots=True)
class Step:
    """What one round does about pods and claims."""

    create: tuple[Create, ...] = ()
    delete: tuple[Manifest, ...] = ()


def plan(observed: Observed, now: datetime) -> Plan:
    """One round: pods created, deleted or replaced as the order allows, and the status."""
    stateful_set = observed.stateful_set
    if is_deleting(stateful_set):
        return Plan(
            patches=status_patch(STATEFUL_SETS, stateful_set, _status(observed, _current_revision(observed), now))
        )
    history = revisions.history(stateful_set, observed.revisions, revisions.HASH_LABEL)
    step = _step(observed, history, now)
    status = _status(observed, history.name, now)
    in_use = {history.name, status.get("currentRevision", "")}
    in_use |= {labels_of(p).get(revisions.REVISION_LABEL, "") for p in observed.claimed.objects}
    limit = stateful_set["spec"].get("revisionHistoryLimit", 10)
    return Plan(
        patches=(
            *observed.claimed.patches,
            *history.patches,
            *ordinals.retention_patches(stateful_set, observed.claims, observed.claimed.objects),
            *status_patch(STATEFUL_SETS, stateful_set, status),
        ),
        create=(*history.create, *step.create),
        refused=pod.creation_refused(stateful_set),
        delete=(
            *(Delete(PODS, key_of(p), p["metadata"]["uid"]) for p in step.delete),
            *revisions.surplus(observed.revisions, in_use, limit),
        ),
        events=_events(stateful_set, step),
        requeue_after_s=pod.next_available_in_s(list(observed.claimed.objects), _min_ready_s(stateful_set), now),
    )


def _current_revision(observed: Observed) -> str:
    """The revision that the status calls the newest: for an owner that is on its way out."""
    return str((observed.stateful_set.get("status") or {}).get("updateRevision", ""))


def _min_ready_s(stateful_set: Manifest) -> int:
    return int(stateful_set["spec"].get("minReadySeconds", 0))


def _by_ordinal(observed: Observed) -> dict[int, Manifest]:
    pairs = ((ordinals.ordinal_of(observed.stateful_set, p), p) for p in observed.claimed.objects)
    return {ordinal: p for ordinal, p in sorted(pairs, key=lambda pair: pair[0] or 0) if ordinal is not None}


def _is_healthy(p: Manifest, stateful_set: Manifest, now: datetime) -> bool:
    return _is_running(p, stateful_set, now) and not is_deleting(p)


def _is_running(p: Manifest, stateful_set: Manifest, now: datetime) -> bool:
    return pod.phase(p) == "Running" and pod.is_available(p, _min_ready_s(stateful_set), now)


def _step(observed: Observed, history: revisions.History, now: datetime) -> Step:
    """Start what is missing, then stop what is too much, then replace what is outdated."""
    stateful_set = observed.stateful_set
    ordered = stateful_set["spec"].get("podManagementPolicy", "OrderedReady") == "OrderedReady"
    present, wanted = _by_ordinal(observed), list(ordinals.wanted(stateful_set))
    started, blocked = _start(observed, history, now, ordered=ordered)
    if blocked:
        return started
    stopped = _stop(present, wanted, stateful_set, now, ordered=ordered)
    if stopped is not None:
        return Step(started.create, (*started.delete, *stopped))
    return Step(started.create, (*started.delete, *_replace(observed, present, history, now)))


def _start(observed: Observed, history: revisions.History, now: datetime, *, ordered: bool) -> tuple[Step, bool]:
    """Creates missing pods and removes finished ones; True when an ordered set has to wait for one of them."""
    stateful_set, present = observed.stateful_set, _by_ordinal(observed)
    create: list[Create] = []
    delete: list[Manifest] = []
    for ordinal in ordinals.wanted(stateful_set):
        p = present.get(ordinal)
        if p is None:
            create += _pod_with_claims(observed, history, ordinal)
        elif pod.is_finished(p) and not is_deleting(p):
            delete.append(p)
        else:
            create += _missing_claims(observed, ordinal)
            if not ordered or _is_healthy(p, stateful_set, now):
                continue
        if ordered:
            return Step(tuple(create), tuple(delete)), True
    return Step(tuple(create), tuple(delete)), bool(create or delete) and ordered


def _stop(
    present: dict[int, Manifest], wanted: list[int], stateful_set: Manifest, now: datetime, *, ordered: bool
) -> tuple[Manifest, ...] | None:
    """Pods beyond the wanted ordinals to delete now, highest first; None when there are none at all."""
    condemned = [present[ordinal] for ordinal in sorted(present, reverse=True) if ordinal not in wanted]
    if not condemned:
        return None
    if not ordered:
        return tuple(p for p in condemned if not is_deleting(p))
    first, rest = condemned[0], condemned[1:]
    if is_deleting(first):
        return ()
    # an unhealthy pod below keeps a healthy one above alive, so that the set does not shrink under a failure
    unhealthy = [p for p in rest if not _is_healthy(p, stateful_set, now)]
    if unhealthy and _is_healthy(first, stateful_set, now):
        return ()
    return (first,)


def _replace(
    observed: Observed, present: dict[int, Manifest], history: revisions.History, now: datetime
) -> tuple[Manifest, ...]:
    """Outdated pods to delete now, highest ordinal first, at most `maxUnavailable` of them away at a time."""
    stateful_set = observed.stateful_set
    strategy = stateful_set["spec"].get("updateStrategy") or {}
    if strategy.get("type", "RollingUpdate") != "RollingUpdate":
        return ()
    rolling = strategy.get("rollingUpdate") or {}
    wanted = list(ordinals.wanted(stateful_set))
    most = max(1, scaled(rolling.get("maxUnavailable"), len(wanted), round_up=True, default=1))
    low = ordinals.start(stateful_set) + rolling.get("partition", 0)
    away = sum(1 for n in wanted if n not in present or not _is_healthy(present[n], stateful_set, now))
    chosen: list[Manifest] = []
    for ordinal in sorted((n for n in wanted if n >= low and n in present), reverse=True):
        p = present[ordinal]
        if labels_of(p).get(revisions.REVISION_LABEL) == history.name or is_deleting(p):
            continue
        healthy = _is_healthy(p, stateful_set, now)
        # an outdated pod that is broken anyway is replaced without waiting for it
        if healthy and away >= most:
            break
        chosen.append(p)
        away += healthy
        if len(chosen) >= most:
            break
    return tuple(chosen)


def _pod_with_claims(observed: Observed, history: revisions.History, ordinal: int) -> list[Create]:
    stateful_set = observed.stateful_set
    identity = _identity(observed, history, ordinal)
    return [*_missing_claims(observed, ordinal), Create(ordinals.stateful_pod(stateful_set, identity))]


def _missing_claims(observed: Observed, ordinal: int) -> list[Create]:
    wanted = ordinals.claims(observed.stateful_set, ordinal)
    return [Create(c) for c in wanted if c["metadata"]["name"] not in observed.claims]


def _identity(observed: Observed, history: revisions.History, ordinal: int) -> Identity:
    """The revision for a new pod: below the partition the old one, if it is still known."""
    stateful_set = observed.stateful_set
    strategy = stateful_set["spec"].get("updateStrategy") or {}
    partition = (strategy.get("rollingUpdate") or {}).get("partition", 0)
    current = (stateful_set.get("status") or {}).get("currentRevision")
    if strategy.get("type") == "RollingUpdate" and ordinal < ordinals.start(stateful_set) + partition:
        for revision in observed.revisions:
            if revision["metadata"]["name"] == current:
                return Identity(ordinal, revision["metadata"]["name"], revisions.template_of(revision))
    return Identity(ordinal, history.name, stateful_set["spec"]["template"])


def _status(observed: Observed, update: str, now: datetime) -> Manifest:
    """The counts; the current revision becomes the update revision when every pod has it and is ready."""
    stateful_set = observed.stateful_set
    before = stateful_set.get("status") or {}
    current = before.get("currentRevision") or update
    members = observed.claimed.objects
    staying = [p for p in members if not is_deleting(p)]
    made = [labels_of(p).get(revisions.REVISION_LABEL) for p in staying]
    ready = [p for p in members if pod.phase(p) == "Running" and pod.is_ready(p)]
    updated = made.count(update)
    rolls = (stateful_set["spec"].get("updateStrategy") or {}).get("type", "RollingUpdate") == "RollingUpdate"
    if rolls and updated == len(members) == len(ready):
        current = update
    status = {
        "replicas": len(members),
        "readyReplicas": len(ready),
        "availableReplicas": sum(_is_running(p, stateful_set, now) for p in members),
        "currentReplicas": made.count(current),
        "updatedReplicas": updated,
        "currentRevision": current,
        "updateRevision": update,
        "collisionCount": before.get("collisionCount") or 0,
        "observedGeneration": stateful_set["metadata"].get("generation", 0),
        "conditions": before.get("conditions"),
    }
    return without_zeros(status, "replicas", "availableReplicas", "collisionCount")


def _events(stateful_set: Manifest, step: Step) -> tuple[Event, ...]:
    name = stateful_set["metadata"]["name"]
    created = []
    for made in step.create:
        what = made.manifest["metadata"]["name"]
        if made.manifest["kind"] == "Pod":
            created.append(f"create Pod {what} in StatefulSet {name} successful")
        else:
            created.append(f"create Claim {what} in StatefulSet {name} success")
    deleted = [f"delete Pod {p['metadata']['name']} in StatefulSet {name} successful" for p in step.delete]
    return (
        *(Event(stateful_set, "SuccessfulCreate", text) for text in created),
        *(Event(stateful_set, "SuccessfulDelete", text) for text in deleted),
    )
