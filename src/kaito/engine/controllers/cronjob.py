# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""CronJobs: a Job whenever the schedule says so, and no more finished ones than asked for.

What was started is read off the Jobs themselves (each names its scheduled time), so a Job that could not be made is due
still, and one that was made is never made twice: its name is the CronJob's with the minute. Schedules are read by
`kaito.engine.schema.cron`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from kaito.engine.controllers.pods import created_at
from kaito.engine.controllers.status import status_patch
from kaito.engine.schema import cron
from kaito.kube.manifest import Key, Manifest, is_deleting, is_true, key_of, owner_reference, parse_time, rfc3339
from kaito.kube.plan import Controller, Create, Delete, Event, Plan, Reader, Watch, owner_keys
from kaito.kube.resource import CRON_JOBS, JOBS

SCHEDULED_AT = "batch.kubernetes.io/cronjob-scheduled-timestamp"
LATE_S = 0.1
"""How long after its time a Job is made: a moment, so that the clock is surely past it."""


@dataclass(frozen=True, slots=True)
class Observed:
    """A CronJob and its Jobs, oldest first."""

    cron_job: Manifest
    jobs: tuple[Manifest, ...]


def controller() -> Controller[Observed]:
    """The CronJob controller."""
    return Controller(
        name="cronjob-controller",
        resource=CRON_JOBS,
        observe=observe,
        plan=plan,
        watches=(Watch(JOBS, owner_keys("CronJob")),),
    )


def observe(reader: Reader, key: Key) -> Observed | None:
    """The CronJob with its Jobs; None when it is gone."""
    found = reader.get(CRON_JOBS, key.name, key.namespace)
    if found is None:
        return None
    jobs = reader.owned_by(JOBS, found["metadata"]["uid"])
    return Observed(found, tuple(sorted(jobs, key=lambda job: (created_at(job), job["metadata"]["name"]))))


def plan(observed: Observed, now: datetime) -> Plan:
    """One step: what is running and when it last started, what is due, what is too old to keep."""
    cron_job = observed.cron_job
    if is_deleting(cron_job):
        return Plan()
    spec = cron_job["spec"]
    old = _too_old(spec, observed.jobs)
    status = _status(cron_job, observed.jobs)
    base = Plan(
        patches=status_patch(CRON_JOBS, cron_job, status),
        delete=tuple(_delete(job) for job in old),
        events=(*_ended(cron_job, observed.jobs), *(_deleted(cron_job, job) for job in old)),
    )
    if spec.get("suspend"):
        return base
    try:
        schedule = cron.parse(spec["schedule"], spec.get("timeZone"))
    except ValueError as error:
        text = f"unparseable schedule: {spec['schedule']} : {error}"
        return _with(base, events=(Event(cron_job, "UnparseableSchedule", text, type="Warning"),))
    return _start(observed, status, base, schedule=schedule, now=now)


def _start(observed: Observed, status: Manifest, base: Plan, *, schedule: cron.Schedule, now: datetime) -> Plan:
    """Make the Job that is due, as far as the concurrency policy lets it."""
    cron_job, spec = observed.cron_job, observed.cron_job["spec"]
    due = schedule.latest(_since(cron_job, status, now), now)
    coming = schedule.after(now)
    base = _with(base, requeue_after_s=(coming - now).total_seconds() + LATE_S if coming else None)
    if due is None:
        return base
    active = [job for job in observed.jobs if not _is_over(job)]
    policy = spec.get("concurrencyPolicy", "Allow")
    if active and policy == "Forbid":
        text = "Not starting job because prior execution is running and concurrency policy is Forbid"
        return _with(base, events=(Event(cron_job, "JobAlreadyActive", text),))
    job = _job(cron_job, due, schedule)
    replaced = active if policy == "Replace" else []
    return _with(
        base,
        create=(Create(job),),
        delete=tuple(_delete(found) for found in replaced),
        events=(
            *(_deleted(cron_job, found) for found in replaced),
            Event(cron_job, "SuccessfulCreate", f"Created job {job['metadata']['name']}"),
        ),
    )


def _with(
    base: Plan,
    *,
    create: tuple[Create, ...] = (),
    delete: tuple[Delete, ...] = (),
    events: tuple[Event, ...] = (),
    requeue_after_s: float | None = None,
) -> Plan:
    return Plan(
        patches=base.patches,
        create=create,
        delete=(*base.delete, *delete),
        events=(*base.events, *events),
        requeue_after_s=base.requeue_after_s if requeue_after_s is None else requeue_after_s,
    )


def _since(cron_job: Manifest, status: Manifest, now: datetime) -> datetime:
    """The moment from which on a time of the schedule counts as missed."""
    last = status.get("lastScheduleTime")
    since = parse_time(last) if last else created_at(cron_job)
    deadline_s = cron_job["spec"].get("startingDeadlineSeconds")
    return since if deadline_s is None else max(since, now - timedelta(seconds=deadline_s))


def _is_over(job: Manifest) -> bool:
    return is_true(job, "Complete") or is_true(job, "Failed")


def _status(cron_job: Manifest, jobs: Sequence[Manifest]) -> Manifest:
    status = {key: value for key, value in (cron_job.get("status") or {}).items() if key != "active"}
    active = [_reference(job) for job in jobs if not _is_over(job) and not is_deleting(job)]
    started = [at for job in jobs if (at := job["metadata"].get("annotations", {}).get(SCHEDULED_AT))]
    succeeded = [at for job in jobs if is_true(job, "Complete") and (at := job["status"].get("completionTime"))]
    if active:
        status["active"] = active
    for name, moments in (("lastScheduleTime", started), ("lastSuccessfulTime", succeeded)):
        known = [parse_time(text) for text in (*moments, status.get(name)) if text]
        if known:
            status[name] = rfc3339(max(known))
    return status


def _reference(job: Manifest) -> Manifest:
    meta = job["metadata"]
    names = {"namespace": meta["namespace"], "name": meta["name"], "uid": meta["uid"]}
    return {"kind": "Job", "apiVersion": "batch/v1", **names}


def _ended(cron_job: Manifest, jobs: Sequence[Manifest]) -> list[Event]:
    """An event for each Job that was active at the last look and is over now."""
    known = {item["uid"] for item in (cron_job.get("status") or {}).get("active") or []}
    over = [job for job in jobs if job["metadata"]["uid"] in known and _is_over(job)]
    return [Event(cron_job, "SawCompletedJob", _saw(job)) for job in over]


def _saw(job: Manifest) -> str:
    kind = "Complete" if is_true(job, "Complete") else "Failed"
    return f"Saw completed job: {job['metadata']['name']}, condition: {kind}"


def _too_old(spec: Manifest, jobs: Sequence[Manifest]) -> list[Manifest]:
    """The finished Jobs beyond the limits, the oldest."""
    found: list[Manifest] = []
    for kind, name, usual in (("Complete", "successfulJobsHistoryLimit", 3), ("Failed", "failedJobsHistoryLimit", 1)):
        over = [job for job in jobs if is_true(job, kind) and not is_deleting(job)]
        found += over[: max(0, len(over) - int(spec.get(name, usual)))]
    return found


def _delete(job: Manifest) -> Delete:
    return Delete(JOBS, key_of(job), job["metadata"]["uid"])


def _deleted(cron_job: Manifest, job: Manifest) -> Event:
    return Event(cron_job, "SuccessfulDelete", f"Deleted job {job['metadata']['name']}")


def _job(cron_job: Manifest, due: datetime, schedule: cron.Schedule) -> Manifest:
    meta, template = cron_job["metadata"], cron_job["spec"]["jobTemplate"]
    given = template.get("metadata") or {}
    at = due.astimezone(schedule.zone).isoformat().replace("+00:00", "Z")
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": f"{meta['name']}-{int(due.timestamp()) // 60}",
            "namespace": meta["namespace"],
            "labels": dict(given.get("labels") or {}),
            "annotations": {**(given.get("annotations") or {}), SCHEDULED_AT: at},
            "ownerReferences": [owner_reference(cron_job)],
        },
        "spec": template["spec"],
    }
