# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Jobs: pods that run to an end, counted exactly once.

Every pod carries a finalizer. An ended pod is first written down in `status.uncountedTerminatedPods`, then loses the
finalizer, then moves into the counts: whatever is interrupted in between, no pod is counted twice or forgotten.
`tally.py` does the counting and says when a Job is over; here pods are created and removed.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice

from kaito.engine.controllers import indexes, tally
from kaito.engine.controllers import pods as pod
from kaito.engine.controllers.replicaset import by_deletion_order
from kaito.engine.controllers.status import status_patch
from kaito.engine.controllers.tally import Tally
from kaito.kube.manifest import Key, Manifest, controller_of, is_deleting, is_true, key_of, labels_of, parse_time
from kaito.kube.plan import Controller, Create, Delete, Event, Patch, Plan, Reader, Watch
from kaito.kube.resource import JOBS, PODS

JOB_NAME_LABEL = "batch.kubernetes.io/job-name"
# Kubernetes' waits before a failed pod is replaced: 10 s, doubled by each failure, at most 10 minutes
FIRST_BACKOFF_S = 10.0
MOST_BACKOFF_S = 600.0


@dataclass(frozen=True, slots=True)
class Observed:
    """A Job (None when it is gone and only pods with its finalizer are left) and its pods."""

    job: Manifest | None
    pods: tuple[Manifest, ...]


def controller() -> Controller[Observed]:
    """The Job controller."""
    return Controller(
        name="job-controller", resource=JOBS, observe=observe, plan=plan, watches=(Watch(PODS, job_keys),)
    )


def job_keys(obj: Manifest) -> list[Key]:
    """The Job that a pod belongs to, or belonged to before it was orphaned with our finalizer on it."""
    owner = controller_of(obj)
    if owner is not None and owner["kind"] == "Job":
        return [Key(obj["metadata"]["namespace"], owner["name"])]
    name = labels_of(obj).get(JOB_NAME_LABEL)
    return [Key(obj["metadata"]["namespace"], name)] if name and tally.is_tracked(obj) else []


def observe(reader: Reader, key: Key) -> Observed | None:
    """The Job with its pods; without a Job, the pods that still wait for it."""
    job = reader.get(JOBS, key.name, key.namespace)
    named = reader.list(PODS, key.namespace, labels={JOB_NAME_LABEL: key.name})
    uid = job["metadata"]["uid"] if job else None
    owned = reader.owned_by(PODS, uid) if uid else []
    known = {p["metadata"]["name"] for p in owned}
    left = [p for p in named if p["metadata"]["name"] not in known and tally.is_tracked(p)]
    if job is None or left:
        # pods of a former Job of this name are let go first
        return Observed(None, tuple(left)) if left else None
    return Observed(job, tuple(sorted(owned, key=lambda p: p["metadata"]["name"])))


def plan(observed: Observed, now: datetime) -> Plan:
    """One step of the Job: count, decide whether it is over, create or remove pods."""
    job = observed.job
    if job is None or is_deleting(job):
        return Plan(patches=tuple(_untracked(p) for p in observed.pods if tally.is_tracked(p)))
    if is_true(job, "Complete") or is_true(job, "Failed"):
        return _after(job, observed.pods, now)
    counted = tally.count(job, observed.pods)
    verdict = tally.verdict(job, observed.pods, counted, now)
    suspended = bool(job["spec"].get("suspend")) and verdict is None
    stop = verdict is not None or suspended
    going = _surplus(job, counted, stop=stop)
    wait = None if stop else _backoff_s(job, observed.pods, counted, now)
    create = () if stop or wait or going else _missing(job, observed.pods, counted)
    status = tally.status(job, counted, verdict, suspended=suspended, now=now)
    return Plan(
        patches=(
            *status_patch(JOBS, job, status, conditional=True),
            *(
                _untracked(p)
                for p in observed.pods
                if p["metadata"]["uid"] in tally.written_down(job) and tally.is_tracked(p)
            ),
        ),
        create=create,
        refused=pod.creation_refused(job),
        delete=tuple(Delete(PODS, key_of(p), p["metadata"]["uid"]) for p in going),
        events=_events(job, status, create, going),
        requeue_after_s=_requeue(job, wait, now),
    )


def _untracked(p: Manifest) -> Patch:
    """Takes our finalizer off a pod."""
    left = [name for name in p["metadata"].get("finalizers") or [] if name != tally.FINALIZER]
    meta = {"finalizers": left or None, "resourceVersion": p["metadata"]["resourceVersion"]}
    return Patch(PODS, key_of(p), {"metadata": meta})


def _after(job: Manifest, pods: tuple[Manifest, ...], now: datetime) -> Plan:
    """A Job that is over: pods are let go, and the Job itself after `ttlSecondsAfterFinished`."""
    patches = tuple(_untracked(p) for p in pods if tally.is_tracked(p))
    running = tuple(Delete(PODS, key_of(p), p["metadata"]["uid"]) for p in pods if pod.is_active(p))
    ttl = job["spec"].get("ttlSecondsAfterFinished")
    if ttl is None:
        return Plan(patches=patches, delete=running)
    left_s = (tally.finished_at(job) + timedelta(seconds=ttl) - now).total_seconds()
    if left_s > 0:
        return Plan(patches=patches, delete=running, requeue_after_s=left_s)
    doomed = Delete(JOBS, key_of(job), job["metadata"]["uid"], propagation="Foreground")
    return Plan(patches=patches, delete=(*running, doomed))


def _wanted(job: Manifest, counted: Tally) -> int:
    """How many pods should run."""
    parallelism = int(job["spec"].get("parallelism", 1))
    completions = job["spec"].get("completions")
    if completions is None:
        return len(counted.active) if counted.all_succeeded else parallelism
    return max(0, min(parallelism, int(completions) - counted.all_succeeded))


def _surplus(job: Manifest, counted: Tally, *, stop: bool) -> list[Manifest]:
    active = list(counted.active)
    if stop:
        return active
    double = indexes.duplicates(job, counted)
    if double:
        return double
    return by_deletion_order(active)[: max(0, len(active) - _wanted(job, counted))]


def _missing(job: Manifest, pods: tuple[Manifest, ...], counted: Tally) -> tuple[Create, ...]:
    """The pods to create, under names that no pod of the Job has or had."""
    count = _wanted(job, counted) - len(counted.active)
    if job["spec"].get("podReplacementPolicy") == "Failed":
        count -= counted.terminating
    if count <= 0:
        return ()
    taken = {p["metadata"]["name"] for p in pods}
    meta = job["metadata"]
    seed = (meta["uid"], str(counted.all_succeeded + counted.all_failed))
    if indexes.is_indexed(job):
        free = islice(indexes.free(job, counted), count)
        return tuple(Create(indexes.indexed_pod(job, index, seed=seed, taken=taken)) for index in free)
    prefix = f"{meta['name']}-"
    fresh = (name for name in pod.generated_names(prefix, *seed) if name not in taken)
    return tuple(
        Create(
            pod.pod_from_template(
                job["spec"]["template"], job, name=name, generate_name=prefix, finalizers=(tally.FINALIZER,)
            )
        )
        for name in islice(fresh, count)
    )


def _backoff_s(job: Manifest, pods: tuple[Manifest, ...], counted: Tally, now: datetime) -> float | None:
    """Seconds until a failed pod may be replaced; None when nothing has failed lately."""
    failures = [tally.ended_at(p) for p in pods if pod.phase(p) == "Failed"]
    successes = [tally.ended_at(p) for p in pods if pod.phase(p) == "Succeeded"]
    if not failures or (successes and max(successes) > max(failures)):
        return None
    in_a_row = sum(1 for moment in failures if not successes or moment > max(successes))
    delay_s = min(MOST_BACKOFF_S, FIRST_BACKOFF_S * 2 ** min(in_a_row - 1, 10))
    left_s = (max(failures) + timedelta(seconds=delay_s) - now).total_seconds()
    return left_s if left_s > 0 else None


def _requeue(job: Manifest, wait_s: float | None, now: datetime) -> float | None:
    """The earlier of the backoff's end and the deadline."""
    waits = [wait_s] if wait_s else []
    limit, start = job["spec"].get("activeDeadlineSeconds"), (job.get("status") or {}).get("startTime")
    if limit is not None:
        since = parse_time(start) if start else now
        waits.append(max(0.1, (since + timedelta(seconds=limit) - now).total_seconds()))
    return min(waits) if waits else None


def _events(job: Manifest, status: Manifest, create: tuple[Create, ...], going: list[Manifest]) -> tuple[Event, ...]:
    created = [Event(job, "SuccessfulCreate", f"Created pod: {c.manifest['metadata']['name']}") for c in create]
    deleted = [Event(job, "SuccessfulDelete", f"Deleted pod: {p['metadata']['name']}") for p in going]
    return (*created, *deleted, *_condition_events(job, status))


def _condition_events(job: Manifest, status: Manifest) -> list[Event]:
    events = []
    before = {(c["type"], c["status"]) for c in (job.get("status") or {}).get("conditions") or []}
    for condition in status.get("conditions") or []:
        if (condition["type"], condition["status"]) in before:
            continue
        match condition["type"], condition["status"]:
            case "Complete", "True":
                events.append(Event(job, "Completed", "Job completed"))
            case "Failed", "True":
                events.append(Event(job, condition["reason"], condition["message"], type="Warning"))
            case "Suspended", "True":
                events.append(Event(job, "Suspended", "Job suspended"))
            case "Suspended", "False":
                events.append(Event(job, "Resumed", "Job resumed"))
    return events
