# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Taking a machine away: the node is closed and emptied, the machine deleted, and then, surely, gone. Pure.

The same for a claim that is deleted, for a machine that is given up while its claim stays, and for a node without one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from kaito.api import nodeclaims as names
from kaito.kube.manifest import Manifest, annotations_of, is_deleting, is_true, key_of, labels_of
from kaito.kube.plan import Create, Delete, Patch
from kaito.kube.resource import NODES
from kaito.provisioner import instances
from kaito.provisioner.claim import Claim, Condition, duration_s, moment
from kaito.provisioner.draining import drain
from kaito.provisioner.instances import Instance
from kaito.provisioner.observe import Observed, Workload
from kaito.provisioner.settings import Timing

DISRUPTED = {"key": names.DISRUPTED_TAINT, "effect": "NoSchedule"}
LOOK_AGAIN_S = 1.0
RETRY_DELETE_S = 20.0


@dataclass(frozen=True, slots=True)
class Ending:
    """How far it is."""

    patches: tuple[Patch, ...] = ()
    create: tuple[Create, ...] = ()
    delete: tuple[Delete, ...] = ()
    calls: tuple[instances.Delete, ...] = ()
    conditions: tuple[Condition, ...] = ()
    again_s: float | None = None
    done: bool = False
    """Machine and nodes are gone."""


def deadline_of(claim: Claim) -> datetime | None:
    """When the pods of a claim that is being deleted are removed by force."""
    noted = moment(annotations_of(claim.manifest).get(names.TERMINATION_TIME_ANNOTATION))
    grace_s = duration_s(claim.spec.get("terminationGracePeriod"))
    if noted is None and grace_s is not None and claim.deleted is not None:
        return claim.deleted + timedelta(seconds=grace_s)
    return noted


def end(observed: Observed, timing: Timing, since: datetime, now: datetime) -> Ending:
    """The next step for a claim whose machine is to go, since when it is."""
    claim = observed.claim
    assert claim is not None
    instance = observed.sight.instance
    if instance is not None and instance.state == "gone":
        instance = None
    absent = observed.fleet.is_absent(claim.name, claim.uid, since)
    if observed.nodes and not absent:
        step = _empty(claim, observed.nodes, observed.work, timing, is_lost=instance is None, now=now)
        if not step.done:
            return step
        conditions = step.conditions
    else:
        conditions = _emptied() if claim.reached(names.REGISTERED) or claim.condition(names.DRAINED) else ()
    if not absent and claim.attempt is None and instance is None and not claim.status.get("providerID"):
        absent = True  # the cloud was never asked
    if not absent:
        return _remove(observed, instance, conditions, since, now)
    return _forget_nodes(observed.nodes, conditions)


def _emptied() -> tuple[Condition, ...]:
    return Condition(names.DRAINED, "True"), Condition(names.VOLUMES_DETACHED, "True")


def _empty(claim: Claim, nodes: Sequence[Manifest], work: Workload, timing: Timing, *, is_lost: bool,
           now: datetime) -> Ending:  # fmt: skip
    """Close the nodes and empty them; `done` when that is so."""
    patches = tuple(patch for node in nodes for patch in _closed(node))
    doomed = tuple(
        Delete(NODES, key_of(node), uid=node["metadata"]["uid"])
        for node in nodes
        if claim.deleted is not None and not is_deleting(node) and _has_finalizer(node)
    )
    if is_lost and not any(is_true(node, "Ready") for node in nodes):
        return Ending(
            patches, delete=doomed, conditions=_emptied(), done=not patches and not doomed, again_s=LOOK_AGAIN_S
        )
    deadline = deadline_of(claim)
    is_over = deadline is not None and now >= deadline
    step = drain(work.pods, work.disruption_budgets, deadline=deadline, stuck_s=timing.stuck_pod_s, now=now)
    if patches or doomed or (step.waits_for and not is_over):
        waits = Condition(
            names.DRAINED, "Unknown", names.REASON_DRAINING, step.waits_for or "The node is being closed."
        )
        return Ending(patches, step.evictions, (*doomed, *step.deletions), conditions=(waits,), again_s=LOOK_AGAIN_S)
    drained = Condition(names.DRAINED, "True")
    if step.waits_for:
        drained = Condition(names.DRAINED, "False", names.REASON_GRACE_ELAPSED, step.waits_for)
    return _detached(claim, work, drained, timing, is_over=is_over, now=now)


def _detached(
    claim: Claim, work: Workload, drained: Condition, timing: Timing, *, is_over: bool, now: datetime
) -> Ending:
    if not work.attachments:
        return Ending(conditions=(drained, Condition(names.VOLUMES_DETACHED, "True")), done=True)
    text = f"{len(work.attachments)} volume attachments are left"
    since = claim.since(names.VOLUMES_DETACHED) or now
    if is_over or now - since >= timedelta(seconds=timing.detach_s):
        detached = Condition(names.VOLUMES_DETACHED, "False", names.REASON_GRACE_ELAPSED, text)
        return Ending(conditions=(drained, detached), done=True)
    detached = Condition(names.VOLUMES_DETACHED, "Unknown", names.REASON_DETACHING, text)
    return Ending(conditions=(drained, detached), again_s=LOOK_AGAIN_S)


def _closed(node: Manifest) -> list[Patch]:
    """The taint that keeps new pods away, and the label that keeps load balancers away."""
    taints = list((node.get("spec") or {}).get("taints") or ())
    body: Manifest = {}
    if not any(taint.get("key") == names.DISRUPTED_TAINT for taint in taints):
        body["spec"] = {"taints": [*taints, DISRUPTED]}
        body["metadata"] = {"resourceVersion": node["metadata"]["resourceVersion"]}
    if names.EXCLUDE_BALANCER_LABEL not in labels_of(node):
        body.setdefault("metadata", {})["labels"] = {names.EXCLUDE_BALANCER_LABEL: "karpenter"}
    return [Patch(NODES, key_of(node), body)] if body else []


def _remove(observed: Observed, instance: Instance | None, conditions: tuple[Condition, ...], since: datetime,
            now: datetime) -> Ending:  # fmt: skip
    """Have the machine deleted, or wait until it is certain that there is none."""
    claim = observed.claim
    assert claim is not None
    if instance is None:
        left_s = (observed.fleet.settles_at(claim.uid, since) - now).total_seconds()
        text = "It is made sure that there is no machine." + _trouble(observed)
        terminating = Condition(names.INSTANCE_TERMINATING, "Unknown", names.REASON_WAITING, text)
        return Ending(conditions=(*conditions, terminating), again_s=max(1.0, left_s))
    terminating = Condition(
        names.INSTANCE_TERMINATING, "True", message=f"{instance.id} is being deleted.{_trouble(observed)}"
    )
    calls = (instances.Delete(instance),) if instance.state != "stopping" else ()
    return Ending(calls=calls, conditions=(*conditions, terminating), again_s=RETRY_DELETE_S)


def _trouble(observed: Observed) -> str:
    return f" The cloud cannot be asked: {observed.sight.trouble}" if observed.sight.trouble is not None else ""


def _has_finalizer(node: Manifest) -> bool:
    return names.TERMINATION_FINALIZER in (node["metadata"].get("finalizers") or ())


def _forget_nodes(nodes: Sequence[Manifest], conditions: tuple[Condition, ...]) -> Ending:
    """The machine is gone: so is its node."""
    if not nodes:
        return Ending(conditions=conditions, done=True)
    patches, doomed = [], []
    for node in nodes:
        if _has_finalizer(node):
            left = [one for one in node["metadata"]["finalizers"] if one != names.TERMINATION_FINALIZER]
            meta = {"resourceVersion": node["metadata"]["resourceVersion"], "finalizers": left or None}
            patches.append(Patch(NODES, key_of(node), {"metadata": meta}))
        if not is_deleting(node):
            doomed.append(Delete(NODES, key_of(node), uid=node["metadata"]["uid"]))
    return Ending(tuple(patches), delete=tuple(doomed), conditions=conditions, again_s=LOOK_AGAIN_S)


def end_orphans(observed: Observed, now: datetime) -> Ending:
    """For a name without a claim: machines of nobody are deleted, and nodes whose machine is gone forgotten."""
    kinds = (names.NODE_CLAIMS, names.MACHINES)
    calls = tuple(instances.Delete(one, orphan_of=kinds) for one in observed.strangers if one.state != "stopping")
    if observed.strangers:
        return Ending(calls=calls, again_s=RETRY_DELETE_S)
    lost = [node for node in observed.nodes if not is_true(node, "Ready") or is_deleting(node)]
    return _forget_nodes(lost, ()) if lost and observed.sight.listed else Ending()
