# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""The plan for one claim: its stages in order, what ends it, and what becomes of what it leaves. Pure and total.

launching.py  the machine          joining.py  the node, and that it is usable
ending.py     and away again       budget.py   whether there may be one
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime, timedelta

from kaito.api import nodeclaims as names
from kaito.kube.manifest import Key, Manifest, is_true
from kaito.kube.plan import Delete, Event, Patch, Plan
from kaito.provisioner import ending, instances
from kaito.provisioner.budget import granted, limits, standing
from kaito.provisioner.claim import Attempt, Claim, Condition, Replaced, conditions
from kaito.provisioner.ending import Ending, end
from kaito.provisioner.instances import Instance
from kaito.provisioner.joining import gpus_missing, initialize, promised, register
from kaito.provisioner.launching import Stage, annotated, explained, launch
from kaito.provisioner.observe import Observed
from kaito.provisioner.settings import Settings, Timing

KEPT_REASONS = frozenset({
    names.REASON_QUOTA, names.REASON_UNAUTHORISED, names.REASON_BUDGET, names.REASON_REJECTED, names.REASON_NAME_TAKEN,
    names.REASON_NO_TYPE, names.REASON_IMPOSSIBLE, names.REASON_PRICE,
})  # fmt: skip
"""Claims that wait for a person are not given up: another claim would wait just so."""
LOOK_S, UNLISTED_S = 1.0, 5.0


def plan(observed: Observed, settings: Settings, now: datetime) -> Plan:
    """What to do for the name now."""
    if observed.claim is None:
        return _of_nobody(observed, now)
    if observed.claim.deleted is not None:
        return _finish(observed, settings, now)
    if not observed.claim.has_finalizer:
        return _begin(observed.claim, now)
    if observed.claim.attempt is not None and observed.claim.live_attempt is None:
        return _replace(observed, settings, now)
    return _advance(observed, settings, now)


def _begin(claim: Claim, now: datetime) -> Plan:
    """Nothing is asked of the cloud before the claim cannot go away unnoticed."""
    meta = claim.manifest["metadata"]
    finalizers = [*(meta.get("finalizers") or ()), names.TERMINATION_FINALIZER]
    body = {"metadata": {"resourceVersion": meta["resourceVersion"], "finalizers": finalizers}}
    return Plan(patches=(Patch(claim.resource, Key("", claim.name), body),))


def _advance(observed: Observed, settings: Settings, now: datetime) -> Plan:
    claim, sight = observed.claim, observed.sight
    assert claim is not None
    instance = sight.instance
    if instance is not None and instance.state == "failed":
        return _give_up(claim, _failure(instance), count=claim.replaced.count, now=now)
    if _is_lost(observed, instance):
        return _lost(observed, instance, now)
    if instance is None and claim.reached(names.LAUNCHED):
        return Plan(requeue_after_s=max(LOOK_S, _left(observed.fleet.settles_at(claim.uid, claim.created), now) or 0.0))
    if observed.strangers and instance is None:
        return _behind_strangers(observed, now)
    if not sight.listed and instance is None:
        reason, text = (
            explained(sight.trouble, None) if sight.trouble else (names.REASON_WAITING, "The cloud is looked at.")
        )
        told = _told(claim, [Stage((Condition(names.LAUNCHED, "Unknown", reason, text),))], now)
        return replace(told, requeue_after_s=UNLISTED_S)
    first_stage = launch(
        claim, instance, sight.outcome, observed.fleet,
        grant=granted(observed.budget, claim.uid), room=standing(settings, observed.budget),
        needs_price=limits(settings, observed.budget).dollars is not None, now=now,
    )  # fmt: skip
    stages = [first_stage]
    if first_stage.done and instance is not None:
        stages.append(register(claim, observed.nodes, instance, claim.replaced.why))
        node = observed.node
        if stages[-1].done and node is not None:
            stages.append(_usable(claim, node, observed, instance))
    return _limited(observed, stages, settings, now)


def _usable(claim: Claim, node: Manifest, observed: Observed, instance: Instance) -> Stage:
    if claim.reached(names.INITIALIZED):
        return Stage((Condition(names.INITIALIZED, "True"),), done=True)
    return initialize(claim, node, observed.fleet.market, instance)


def _limited(observed: Observed, stages: list[Stage], settings: Settings, now: datetime) -> Plan:
    """The stages, unless one takes too long or the claim's time is over."""
    claim, timing = observed.claim, settings.timing
    assert claim is not None
    if claim.expires is not None and now >= claim.expires:
        text = f"The claim is older than its expireAfter, {claim.spec['expireAfter']}."
        return _deleted(claim, Event(claim.manifest, names.EVENT_EXPIRED, text), _told(claim, stages, now))
    node = observed.node
    if node is not None and node["metadata"].get("deletionTimestamp"):
        text = f"Node {node['metadata']['name']} was deleted: the claim goes with it."
        return _deleted(claim, Event(claim.manifest, names.REASON_INSTANCE_LOST, text), _told(claim, stages, now))
    stage = stages[-1]
    condition = stage.conditions[-1]
    deadline = _deadline(claim, condition, timing, now)
    drift = _drift(observed, stages)
    if condition.type == names.INITIALIZED and condition.reason == names.REASON_GPUS_MISSING:
        return _blind(observed, stages, settings, now)
    if deadline is not None and now >= deadline:
        return _timed_out(claim, stages, condition, now)
    told = _told(claim, [*stages, *drift], now)
    waits = [s for s in (told.requeue_after_s, *(_left(deadline, now), _left(claim.expires, now))) if s is not None]
    return replace(told, requeue_after_s=min(waits, default=None))


def _left(moment: datetime | None, now: datetime) -> float | None:
    return None if moment is None or moment <= now else (moment - now).total_seconds()


def _deadline(claim: Claim, condition: Condition, timing: Timing, now: datetime) -> datetime | None:
    """Until when the stage that is under way may take."""
    if condition.status == "True" or condition.reason in KEPT_REASONS:
        return None
    # A stage that was reached and is lost again begins now.
    since = now if claim.reached(condition.type) else claim.since(condition.type) or claim.created
    if condition.type == names.LAUNCHED:
        return since + timedelta(seconds=timing.launch_s)
    if condition.type == names.REGISTERED and claim.reached(names.LAUNCHED):
        return max(since, claim.since(names.LAUNCHED) or since) + timedelta(seconds=timing.registration_s)
    return None


def _timed_out(claim: Claim, stages: list[Stage], condition: Condition, now: datetime) -> Plan:
    is_launch = condition.type == names.LAUNCHED
    reason = names.REASON_LAUNCH_TIMEOUT if is_launch else names.REASON_REGISTRATION_TIMEOUT
    what = "No machine was found" if is_launch else "The machine did not become a node"
    text = f"{what} in time: the claim is deleted. {condition.message}"
    failed = replace(
        stages[-1], conditions=(replace(condition, status="False", reason=reason, message=text),), calls=()
    )
    return _deleted(claim, Event(claim.manifest, reason, text, "Warning"), _told(claim, [*stages[:-1], failed], now))


def _deleted(claim: Claim, event: Event, told: Plan) -> Plan:
    doomed = Delete(claim.resource, Key("", claim.name), uid=claim.uid)
    return replace(told, patches=(), delete=(doomed,), events=(event,), calls=(), requeue_after_s=None)


def _blind(observed: Observed, stages: list[Stage], settings: Settings, now: datetime) -> Plan:
    """A node that does not show its GPUs: replaced when it had its time, as often as the budget allows."""
    claim, node, instance = observed.claim, observed.node, observed.sight.instance
    assert claim is not None and node is not None and instance is not None
    since = claim.since(names.REGISTERED) if claim.reached(names.REGISTERED) else None
    deadline = None if since is None else since + timedelta(seconds=settings.timing.gpus_s)
    if deadline is None or now < deadline:
        told = _told(claim, stages, now)
        return replace(told, requeue_after_s=_left(deadline, now))
    why = (
        f"{gpus_missing(node, promised(observed.fleet.market, instance))} after {settings.timing.gpus_s / 60:g} minutes"
    )
    if claim.replaced.count < settings.gpu_replacements and claim.attempt is not None:
        return _give_up(claim, why, count=claim.replaced.count + 1, now=now)
    count = claim.replaced.count
    replaced = f"; replaced {count} time{'s' if count > 1 else ''} for that" if count else ""
    text = f"{why}{replaced}: see the device plugin's pods on the node."
    failed = Stage((Condition(names.INITIALIZED, "False", names.REASON_GPUS_MISSING, text),))
    return _told(claim, [*stages[:-1], failed], now)


def _failure(instance: Instance) -> str:
    return f"{instance.id} failed: {instance.note or 'the cloud says no more'}"


def _give_up(claim: Claim, why: str, *, count: int, now: datetime) -> Plan:
    """Note that the machine of the present attempt is to go. From then on it does, whoever plans."""
    number = claim.attempt.number if claim.attempt is not None else 0
    if number == 0:  # made by another provisioner: ours has to be able to tell it from the next one
        number = 1
    notes: dict[str, str | None] = {
        names.REPLACED_ANNOTATION: str(Replaced(number, count, " ".join(why.split())[:300]))
    }
    if claim.attempt is None:
        notes[names.ATTEMPT_ANNOTATION] = str(Attempt(1, "-", "", "on-demand"))
    event = Event(claim.manifest, names.REASON_LAUNCH_FAILED, f"The machine is given up: {why}.", "Warning")
    return Plan(patches=(annotated(claim, notes),), events=(event,))


def _replace(observed: Observed, settings: Settings, now: datetime) -> Plan:
    """The machine of the attempt goes; when it is gone, the next one is asked for."""
    claim = observed.claim
    assert claim is not None
    if not observed.sight.listed:
        return Plan(requeue_after_s=LOOK_S)
    since = claim.since(names.LAUNCHED) or claim.created
    step = end(observed, settings.timing, max(since, claim.created), now)
    if step.done:
        return _advance_anew(observed, settings, now)
    reason, text = explained(observed.sight.outcome.error if observed.sight.outcome else None, claim.attempt)
    if reason == names.REASON_WAITING:
        text = f"The machine is replaced: {claim.replaced.why}."
    stage = Stage((Condition(names.LAUNCHED, "Unknown", reason, text),))
    return _with(_told(claim, [stage, Stage(step.conditions)], now), step)


def _advance_anew(observed: Observed, settings: Settings, now: datetime) -> Plan:
    """Launch as if there had never been a machine."""
    claim = observed.claim
    assert claim is not None
    stage = launch(
        claim, None, observed.sight.outcome, observed.fleet,
        grant=granted(observed.budget, claim.uid), room=standing(settings, observed.budget),
        needs_price=limits(settings, observed.budget).dollars is not None, now=now,
    )  # fmt: skip
    return _limited(observed, [stage], settings, now)


def _is_lost(observed: Observed, instance: Instance | None) -> bool:
    """Whether the claim had a machine that is not there any more."""
    claim = observed.claim
    assert claim is not None
    if instance is not None:
        return instance.state in ("gone", "stopping")
    return claim.reached(names.LAUNCHED) and observed.fleet.is_absent(claim.name, claim.uid, claim.created)


def _lost(observed: Observed, instance: Instance | None, now: datetime) -> Plan:
    """As with Karpenter, a claim whose machine is gone goes too; a node that is still ready is believed first."""
    claim = observed.claim
    assert claim is not None
    if any(is_true(node, "Ready") for node in observed.nodes):
        return Plan(requeue_after_s=10.0)
    note = f": {instance.note}" if instance is not None and instance.note else ""
    text = f"The machine of {claim.name} is gone{note}."
    stage = Stage((Condition(names.LAUNCHED, "False", names.REASON_INSTANCE_LOST, text),))
    return _deleted(
        claim, Event(claim.manifest, names.REASON_INSTANCE_LOST, text, "Warning"), _told(claim, [stage], now)
    )


def _behind_strangers(observed: Observed, now: datetime) -> Plan:
    """A machine of an earlier claim of the same name is in the way, and is taken out of it."""
    claim = observed.claim
    assert claim is not None
    kinds = (names.NODE_CLAIMS, names.MACHINES)
    calls = tuple(instances.Delete(one, orphan_of=kinds) for one in observed.strangers if one.state != "stopping")
    text = f"{observed.strangers[0].id}, the machine of an earlier claim of this name, is being deleted."
    told = _told(claim, [Stage((Condition(names.LAUNCHED, "Unknown", names.REASON_WAITING, text),))], now)
    return replace(told, calls=calls, requeue_after_s=ending.RETRY_DELETE_S)


def _finish(observed: Observed, settings: Settings, now: datetime) -> Plan:
    claim = observed.claim
    assert claim is not None and claim.deleted is not None
    if not claim.has_finalizer:
        return Plan()
    if not observed.sight.listed and (claim.attempt is not None or claim.status.get("providerID")):
        return Plan(requeue_after_s=LOOK_S)
    step = end(observed, settings.timing, claim.deleted, now)
    if step.done and granted(observed.budget, claim.uid) is None:
        meta = claim.manifest["metadata"]
        left = [one for one in meta["finalizers"] if one != names.TERMINATION_FINALIZER]
        body = {"metadata": {"resourceVersion": meta["resourceVersion"], "finalizers": left or None}}
        return Plan(patches=(Patch(claim.resource, Key("", claim.name), body),))
    kept = [_present(claim, type_) for type_ in (names.LAUNCHED, names.REGISTERED, names.INITIALIZED)]
    return _with(_told(claim, [Stage((*kept, *step.conditions))], now), step)


def _present(claim: Claim, type_: str) -> Condition:
    found = claim.condition(type_) or {}
    return Condition(
        type_, found.get("status", "Unknown"), found.get("reason", names.REASON_WAITING), found.get("message", "")
    )


def _of_nobody(observed: Observed, now: datetime) -> Plan:
    step = ending.end_orphans(observed, now)
    events = tuple(
        Event(node, names.EVENT_ORPHAN, f"The claim {observed.name} of this node is gone, and so is its machine.")
        for node in observed.nodes
        if any(patch.key.name == node["metadata"]["name"] for patch in step.patches)
    )
    return _with(Plan(events=events), step)


def _with(told: Plan, step: Ending) -> Plan:
    """The plan with the next step of an ending."""
    return replace(
        told,
        patches=(*told.patches, *step.patches),
        create=(*told.create, *step.create),
        delete=(*told.delete, *step.delete),
        calls=step.calls,
        requeue_after_s=step.again_s,
    )


def _drift(observed: Observed, stages: Iterable[Stage]) -> list[Stage]:
    """Whether the machine is still what would be made today."""
    claim, instance = observed.claim, observed.sight.instance
    if claim is None or instance is None or not claim.reached(names.READY) or claim.attempt is None:
        return []
    offer = observed.fleet.market.named(instance.instance_type, instance.zone, instance.capacity_type)
    if offer is not None and offer not in observed.fleet.market.matching(claim.wish):
        text = f"the machine, {offer}, is not what the claim asks for"
        return [Stage((Condition(names.DRIFTED, "True", names.REASON_REQUIREMENTS_DRIFTED, text),))]
    return []


def _told(claim: Claim, stages: list[Stage], now: datetime) -> Plan:
    """The stages' parts as one plan, and the claim's whole status."""
    wanted = [condition for stage in stages for condition in stage.conditions]
    for type_ in (names.LAUNCHED, names.REGISTERED, names.INITIALIZED):
        if all(condition.type != type_ for condition in wanted):
            wanted.append(Condition(type_, "Unknown", names.REASON_WAITING, "object is awaiting reconciliation"))
    order = {type_: place for place, type_ in enumerate((names.LAUNCHED, names.REGISTERED, names.INITIALIZED))}
    wanted.sort(key=lambda condition: order.get(condition.type, len(order)))
    kept = ("providerID", "nodeName", "imageID", "capacity", "allocatable")
    status: Manifest = {key: claim.status[key] for key in kept if key in claim.status}
    if wanted[0].status != "True":
        status = {}
    for stage in stages:
        status.update(stage.status)
    return Plan(
        patches=tuple(patch for stage in stages for patch in stage.patches),
        calls=tuple(call for stage in stages for call in stage.calls),
        events=tuple(event for stage in stages for event in stage.events),
        status={**status, "conditions": conditions(claim, wanted, now)},
        requeue_after_s=next((stage.again_s for stage in stages if stage.again_s is not None), None),
    )
