# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""What a Workspace's status says: conditions, state and node figures, from verdicts about its parts.

Knows the words (`kaito.api.names`) and which condition follows from which; the verdicts are found in `plan.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from kaito.api import names
from kaito.kube.manifest import Manifest, condition_of, merged_conditions, rfc3339
from kaito.kube.plan import Event
from kaito.operator.faults.fault import Diagnosis, sentences, short
from kaito.operator.provisioners.wish import Verdict
from kaito.operator.workspace.timeline import Sighting, timeline

MAX_EVIDENCE_BYTES = 1024
"""Of status.failure.evidence, which has more room than a condition."""


@dataclass(frozen=True, slots=True)
class Report:
    """All that is to be told about a Workspace."""

    workload: Verdict
    """Whether the model is served (or the tuning job runs)."""
    nodes: Verdict | None = None
    """Whether its nodes are there; None when a problem was found before they were looked at."""
    claims: Verdict | None = None
    """Whether the nodes that were ordered for it have come; None where none are ordered."""
    is_failure: bool = False
    """The workload is not merely on its way: something must be done."""
    is_tuning: bool = False
    stage: Literal["Pending", "Running", "Succeeded", "Failed"] = "Pending"
    """How far a tuning is."""
    tuning: Manifest | None = None
    """What `status.tuning` says."""
    performance: Manifest | None = None
    """What `status.performance` says."""
    benchmark: Verdict | None = None
    """Whether the model server could measure itself; None where it is not to, or has not yet."""
    worker_nodes: tuple[str, ...] = ()
    target: int | None = None
    sighting: Sighting = field(default_factory=Sighting)
    """What the steps of the timeline are told from."""


def status(workspace: Manifest, report: Report, now: datetime) -> Manifest:
    """The whole status."""
    old = workspace.get("status") or {}
    conditions = [_condition(workspace, type_, verdict) for type_, verdict in _verdicts(report)]
    fresh: Manifest = {
        "conditions": merged_conditions(old.get("conditions") or [], conditions, now),
        "state": _state(old.get("state") or "", report),
        "workerNodes": list(report.worker_nodes),
    }
    if report.target is not None:
        fresh["targetNodeCount"] = report.target
    if report.tuning:
        fresh["tuning"] = report.tuning
    if report.performance:
        fresh["performance"] = report.performance
    steps = timeline(workspace, report.sighting, now)
    if steps:
        fresh["timeline"] = steps
    cause = _cause(report)
    if cause is not None:
        fresh["failure"] = _failure(old.get("failure") or {}, cause, now)
    return fresh


def _cause(report: Report) -> Diagnosis | None:
    """The fault that the whole comes from: what stands lowest first."""
    for verdict in (report.claims, report.nodes, report.workload):
        if verdict is not None and not verdict.ok and verdict.diagnosis is not None:
            return verdict.diagnosis
    return None


def _failure(before: Manifest, cause: Diagnosis, now: datetime) -> Manifest:
    since = before.get("since") if before.get("reason") == cause.reason else None
    return {
        "reason": cause.reason,
        "evidence": short(sentences(f"{cause.lead}{cause.evidence}"), MAX_EVIDENCE_BYTES),
        "nextStep": cause.step,
        "since": since or rfc3339(now),
    }


def deleting_status(workspace: Manifest, now: datetime, waits_for: str = "") -> Manifest:
    """The status as it was, with the condition that says that it is being deleted, and what the deletion waits for."""
    old = workspace.get("status") or {}
    before = [c for c in old.get("conditions") or [] if c.get("type") != names.WORKSPACE_DELETING]
    said = f"The Workspace is being deleted with all that belongs to it.{waits_for}"
    verdict = Verdict(True, names.REASON_DELETED, said)
    conditions = [*before, _condition(workspace, names.WORKSPACE_DELETING, verdict)]
    return {**old, "conditions": merged_conditions(old.get("conditions") or [], conditions, now)}


def _verdicts(report: Report) -> list[tuple[str, Verdict]]:
    resources = _resources(report)
    workload = report.workload
    if workload.ok and not resources.ok and not report.is_tuning:
        workload = Verdict(False, names.REASON_INFERENCE_PENDING, f"The pods are ready, but: {resources.message}")
    verdicts = [] if report.nodes is None else [(names.NODES_READY, report.nodes)]
    if report.claims is not None:
        verdicts.insert(0, (names.NODE_CLAIM_READY, report.claims))
    verdicts.append((names.RESOURCE_READY, resources))
    verdicts.append((names.JOB_STARTED if report.is_tuning else names.INFERENCE_READY, workload))
    is_done = report.stage == "Succeeded" if report.is_tuning else workload.ok
    if is_done:
        whole = Verdict(True, names.REASON_SUCCEEDED, workload.message)
    else:
        whole = Verdict(False, names.REASON_FAILED if report.is_failure else names.REASON_PENDING, workload.message)
    if report.benchmark is not None:
        verdicts.append((names.BENCHMARK_COMPLETED, report.benchmark))
    return [*verdicts, (names.WORKSPACE_READY, whole), (names.WORKSPACE_SUCCEEDED, whole)]


def _resources(report: Report) -> Verdict:
    if report.nodes is None:
        return Verdict(False, report.workload.reason, f"Nothing was created. {report.workload.message}")
    if report.claims is not None and not report.claims.ok:
        return report.claims
    if report.nodes.ok:
        return Verdict(True, names.REASON_RESOURCE_READY, "The nodes that the Workspace needs are ready.")
    return report.nodes


def _condition(workspace: Manifest, type_: str, verdict: Verdict) -> Manifest:
    return {
        "type": type_,
        "status": "True" if verdict.ok else "False",
        "reason": verdict.reason,
        "message": short(verdict.message),
        "observedGeneration": workspace["metadata"].get("generation", 1),
    }


def _state(before: str, report: Report) -> str:
    if report.is_tuning:
        return "Failed" if report.is_failure else report.stage
    if report.workload.ok and report.nodes is not None and report.nodes.ok:
        return "Ready"
    return "NotReady" if before in ("Ready", "NotReady") else "Pending"


def events(workspace: Manifest, fresh: Manifest) -> tuple[Event, ...]:
    """What changed between the status there is and the fresh one and is worth an event: nodes, serving, failures."""
    after = {"status": fresh}
    found = []
    if _turned(workspace, after, names.NODES_READY):
        found.append(_event(workspace, names.EVENT_NODES_READY, after, names.NODES_READY))
    if _turned(workspace, after, names.INFERENCE_READY):
        found.append(_event(workspace, names.EVENT_SERVING, after, names.INFERENCE_READY))
    if _turned(workspace, after, names.JOB_STARTED):
        found.append(_event(workspace, names.EVENT_TUNING_STARTED, after, names.JOB_STARTED))
    if fresh.get("state") == "Succeeded" and _turned(workspace, after, names.WORKSPACE_SUCCEEDED):
        found.append(_event(workspace, names.EVENT_TUNED, after, names.WORKSPACE_SUCCEEDED))
    measured, before = (condition_of(obj, names.BENCHMARK_COMPLETED) or {} for obj in (after, workspace))
    if measured.get("status") == "False" and before.get("status") != "False":
        found.append(Event(workspace, names.EVENT_BENCHMARK_FAILED, measured["message"], "Warning"))
    whole = condition_of(after, names.WORKSPACE_READY)
    failure, known = fresh.get("failure") or {}, (workspace.get("status") or {}).get("failure") or {}
    if failure and whole is not None:
        if failure["reason"] != known.get("reason"):
            said = f"{failure['evidence']} {failure['nextStep']}".strip()
            found.append(Event(workspace, failure["reason"], said, "Warning"))
    elif whole is not None and whole["reason"] == names.REASON_FAILED:
        for type_ in (names.INFERENCE_READY, names.JOB_STARTED):
            condition, old = condition_of(after, type_), condition_of(workspace, type_)
            if condition is not None and (old is None or old.get("reason") != condition["reason"]):
                found.append(Event(workspace, condition["reason"], condition["message"], "Warning"))
    return tuple(found)


def _turned(before: Manifest, after: Manifest, type_: str) -> bool:
    old, new = condition_of(before, type_), condition_of(after, type_)
    was = old is not None and old.get("status") == "True"
    return not was and new is not None and new["status"] == "True"


def _event(workspace: Manifest, reason: str, after: Manifest, type_: str) -> Event:
    condition = condition_of(after, type_) or {}
    return Event(workspace, reason, condition.get("message", ""))
