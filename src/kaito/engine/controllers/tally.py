# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Counting a Job's pods, and saying when the Job is over. Pure; `job.py` acts on it.

Conditions, reasons and messages are those of Kubernetes 1.36: SuccessCriteriaMet and FailureTarget announce the end,
Complete and Failed follow once no pod is left running.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from kaito.engine.controllers import failurepolicy, indexes
from kaito.engine.controllers import pods as pod
from kaito.engine.controllers.status import stamped, without_zeros
from kaito.kube.manifest import Manifest, condition_of, is_deleting, is_true, parse_time, rfc3339

FINALIZER = indexes.TRACKING


@dataclass(frozen=True, slots=True)
class Tally:
    """What there is to count, now."""

    active: tuple[Manifest, ...]
    terminating: int
    succeeded: int
    """In the counts, those that move there now included."""
    failed: int
    waiting_succeeded: tuple[str, ...]
    """Uids of ended pods that are written down but not in the counts."""
    waiting_failed: tuple[str, ...]
    completed_indexes: frozenset[int]

    @property
    def all_succeeded(self) -> int:
        """Succeeded pods, counted or about to be."""
        return self.succeeded + len(self.waiting_succeeded)

    @property
    def all_failed(self) -> int:
        """Failed pods, counted or about to be."""
        return self.failed + len(self.waiting_failed)

    @property
    def is_settled(self) -> bool:
        """Whether nothing runs and nothing waits to be counted."""
        return not (self.active or self.terminating or self.waiting_succeeded or self.waiting_failed)


@dataclass(frozen=True, slots=True)
class Verdict:
    """How the Job ends."""

    success: bool
    reason: str
    message: str


COMPLETED = Verdict(True, "CompletionsReached", "Reached expected number of succeeded pods")
TOO_MANY_FAILURES = Verdict(False, "BackoffLimitExceeded", "Job has reached the specified backoff limit")
TOO_LATE = Verdict(False, "DeadlineExceeded", "Job was active longer than specified deadline")


def is_tracked(p: Manifest) -> bool:
    """Whether the pod carries our finalizer: it may still have to be counted."""
    return FINALIZER in (p["metadata"].get("finalizers") or [])


def written_down(job: Manifest) -> set[str]:
    """Uids in the stored status that wait to be counted: their pods may lose the finalizer."""
    waiting = (job.get("status") or {}).get("uncountedTerminatedPods") or {}
    return {*(waiting.get("succeeded") or []), *(waiting.get("failed") or [])}


def _has_failed(job: Manifest, p: Manifest) -> bool:
    """Failed, or on its way out without having succeeded (unless the Job waits for real failures)."""
    if pod.phase(p) == "Failed":
        return True
    only_failed = job["spec"].get("podReplacementPolicy") == "Failed"
    return is_deleting(p) and pod.phase(p) != "Succeeded" and not only_failed


def count(job: Manifest, pods: tuple[Manifest, ...]) -> Tally:
    """The tally: pods without finalizer move from the waiting list into the counts, newly ended ones onto the list."""
    status = job.get("status") or {}
    waiting = status.get("uncountedTerminatedPods") or {}
    tracked = {p["metadata"]["uid"]: p for p in pods if is_tracked(p)}
    listed = {name: list(waiting.get(name) or []) for name in ("succeeded", "failed")}
    done = {name: sum(uid not in tracked for uid in uids) for name, uids in listed.items()}
    kept = {name: [uid for uid in uids if uid in tracked] for name, uids in listed.items()}
    known = {*listed["succeeded"], *listed["failed"]}
    for uid, p in tracked.items():
        if uid not in known and pod.phase(p) == "Succeeded":
            kept["succeeded"].append(uid)
        elif uid not in known and _has_failed(job, p) and failurepolicy.action(job, p) != "Ignore":
            kept["failed"].append(uid)
    completed = indexes.completed(job, [p for p in pods if pod.phase(p) == "Succeeded"])
    succeeded = int(status.get("succeeded", 0)) + done["succeeded"]
    if indexes.is_indexed(job):
        kept["succeeded"] = [uid for uid in kept["succeeded"] if indexes.index_of(tracked[uid]) is not None]
        succeeded = len(completed) - len(kept["succeeded"])
    return Tally(
        active=tuple(p for p in pods if pod.is_active(p)),
        terminating=sum(is_deleting(p) and not pod.is_finished(p) for p in pods),
        succeeded=max(0, succeeded),
        failed=int(status.get("failed", 0)) + done["failed"],
        waiting_succeeded=tuple(kept["succeeded"]),
        waiting_failed=tuple(kept["failed"]),
        completed_indexes=completed,
    )


def verdict(job: Manifest, pods: tuple[Manifest, ...], counted: Tally, now: datetime) -> Verdict | None:
    """How the Job ends, or None while it goes on. What was announced stands."""
    announced = _announced(job)
    if announced is not None:
        return announced
    fatal = failurepolicy.fatal(job, pods)
    if fatal:
        return Verdict(False, "PodFailurePolicy", fatal)
    spec = job["spec"]
    limit = int(spec.get("backoffLimit", 6))
    if counted.all_failed > limit or _restarts_exceed(spec, counted, limit):
        return TOO_MANY_FAILURES
    if _is_late(job, now):
        return TOO_LATE
    matched = indexes.matched_rule(job, counted.completed_indexes)
    if matched is not None:
        return Verdict(True, "SuccessPolicy", f"Matched rules at index {matched}")
    completions = spec.get("completions")
    if completions is None:
        return COMPLETED if counted.all_succeeded and not counted.active else None
    return COMPLETED if counted.all_succeeded >= int(completions) else None


def _announced(job: Manifest) -> Verdict | None:
    for kind, success in (("SuccessCriteriaMet", True), ("FailureTarget", False)):
        condition = condition_of(job, kind)
        if condition is not None and condition["status"] == "True":
            return Verdict(success, condition.get("reason", ""), condition.get("message", ""))
    return None


def _restarts_exceed(spec: Manifest, counted: Tally, limit: int) -> bool:
    """With restartPolicy OnFailure containers restart in place; their restarts count as failures."""
    if (spec["template"]["spec"]).get("restartPolicy") != "OnFailure":
        return False
    total = 0
    for p in counted.active:
        state = p.get("status") or {}
        containers = [*(state.get("initContainerStatuses") or []), *(state.get("containerStatuses") or [])]
        total += sum(c.get("restartCount", 0) for c in containers)
    return total > 0 if limit == 0 else total >= limit


def _is_late(job: Manifest, now: datetime) -> bool:
    limit, start = job["spec"].get("activeDeadlineSeconds"), (job.get("status") or {}).get("startTime")
    if limit is None or start is None or job["spec"].get("suspend"):
        return False
    return now >= parse_time(start) + timedelta(seconds=limit)


def status(job: Manifest, counted: Tally, end: Verdict | None, *, suspended: bool, now: datetime) -> Manifest:
    """The whole status of the Job."""
    before = job.get("status") or {}
    final = end is not None and counted.is_settled
    waiting = {"succeeded": list(counted.waiting_succeeded), "failed": list(counted.waiting_failed)}
    start = before.get("startTime")
    if suspended:
        start = None
    elif start is None or (is_true(job, "Suspended")):
        start = rfc3339(now)
    made: Manifest = {
        "active": len(counted.active),
        "ready": sum(pod.is_ready(p) for p in counted.active),
        "terminating": counted.terminating,
        "succeeded": counted.succeeded,
        "failed": counted.failed,
        "startTime": start,
        "completionTime": rfc3339(now) if final and end is not None and end.success else None,
        "completedIndexes": indexes.ranges(counted.completed_indexes) if indexes.is_indexed(job) else None,
        "uncountedTerminatedPods": {name: uids for name, uids in waiting.items() if uids},
        "conditions": _conditions(job, end, final=final, suspended=suspended, now=now),
    }
    return without_zeros(made, "ready", "terminating", "uncountedTerminatedPods")


def _conditions(job: Manifest, end: Verdict | None, *, final: bool, suspended: bool, now: datetime) -> list[Manifest]:
    current = (job.get("status") or {}).get("conditions") or []
    wanted = []
    if suspended:
        wanted.append(_condition("Suspended", "True", "JobSuspended", "Job suspended"))
    elif condition_of(job, "Suspended") is not None:
        wanted.append(_condition("Suspended", "False", "JobResumed", "Job resumed"))
    if end is not None:
        announcement, conclusion = ("SuccessCriteriaMet", "Complete") if end.success else ("FailureTarget", "Failed")
        wanted.append(_condition(announcement, "True", end.reason, end.message))
        if final:
            wanted.append(_condition(conclusion, "True", end.reason, end.message))
    return [stamped(condition, current, now, updates="lastProbeTime") for condition in wanted]


def _condition(type_: str, status_: str, reason: str, message: str) -> Manifest:
    return {"type": type_, "status": status_, "reason": reason, "message": message}


def ended_at(p: Manifest) -> datetime:
    """When the pod's last container ended; failing that, when it was seen to be not ready, or was created."""
    ends = [
        (c.get("state") or {}).get("terminated", {}).get("finishedAt")
        for c in (p.get("status") or {}).get("containerStatuses") or []
    ]
    known = [parse_time(moment) for moment in ends if moment]
    if known:
        return max(known)
    ready = condition_of(p, "Ready")
    if ready is not None and ready.get("lastTransitionTime") and ready.get("status") != "True":
        return parse_time(ready["lastTransitionTime"])
    return pod.created_at(p)


def finished_at(job: Manifest) -> datetime:
    """When the Job became Complete or Failed."""
    for kind in ("Complete", "Failed"):
        condition = condition_of(job, kind)
        if condition is not None and condition["status"] == "True":
            return parse_time(condition["lastTransitionTime"])
    return pod.created_at(job)
