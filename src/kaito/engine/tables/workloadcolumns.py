# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""The columns of what runs pods: Deployments and their like, Jobs, autoscalers, disruption budgets.

Pure. Pods themselves are in `podcolumns.py`.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from kaito.engine.tables.columns import (
    AGE,
    NAME,
    Column,
    at,
    count,
    duration,
    label_text,
    ratio,
    selector_text,
    since,
    status,
)
from kaito.kube.manifest import Manifest, is_true, parse_time

READY = "Number of the pod with ready state"
NAMES_OF_CONTAINERS = "Names of each container in the template."
IMAGES_OF_CONTAINERS = "Images referenced by each container in the template."


def _template(obj: Manifest, now: datetime) -> Manifest:
    for path in (("spec", "jobTemplate", "spec", "template"), ("spec", "template"), ("template",)):
        found: Manifest | None = at(*path, default=None)(obj, now)
        if found is not None:
            return found
    return {}


def _containers(obj: Manifest, now: datetime) -> list[Manifest]:
    found: list[Manifest] = (_template(obj, now).get("spec") or {}).get("containers") or []
    return found


def _names(obj: Manifest, now: datetime) -> str:
    return ",".join(container["name"] for container in _containers(obj, now))


def _images(obj: Manifest, now: datetime) -> str:
    return ",".join(container.get("image", "") for container in _containers(obj, now))


def _selector(obj: Manifest, now: datetime) -> str:
    selector = at("spec", "selector", default=None)(obj, now)
    if obj.get("kind") == "ReplicationController":
        return label_text(selector)
    return selector_text(selector)


def _replicas(obj: Manifest, now: datetime) -> int:
    value = at("spec", "replicas", default=1)(obj, now)
    return int(value)


CONTAINERS = Column("Containers", _names, priority=1, description=NAMES_OF_CONTAINERS)
IMAGES = Column("Images", _images, priority=1, description=IMAGES_OF_CONTAINERS)


def _last(documents: str) -> tuple[Column, ...]:
    """The columns that only `-o wide` shows, for kinds with a selector."""
    return (CONTAINERS, IMAGES, Column("Selector", _selector, priority=1, documents=documents))


def _counts(kind: str) -> tuple[Column, ...]:
    """Desired, Current and Ready of ReplicaSets and ReplicationControllers."""
    return (
        Column("Desired", _replicas, "integer", documents=f"{kind}Spec.replicas"),
        Column("Current", status("replicas"), "integer", documents=f"{kind}Status.replicas"),
        Column("Ready", status("readyReplicas"), "integer", documents=f"{kind}Status.readyReplicas"),
    )


def _job_status(obj: Manifest, now: datetime) -> str:
    for type_, shown in (("Complete", "Complete"), ("Failed", "Failed"), ("Suspended", "Suspended")):
        if is_true(obj, type_):
            return shown
    if obj["metadata"].get("deletionTimestamp"):
        return "Terminating"
    if is_true(obj, "FailureTarget"):
        return "FailureTarget"
    return "SuccessCriteriaMet" if is_true(obj, "SuccessCriteriaMet") else "Running"


def _job_completions(obj: Manifest, now: datetime) -> str:
    succeeded, completions = status("succeeded")(obj, now), obj["spec"].get("completions")
    if completions is not None:
        return f"{succeeded}/{completions}"
    parallelism = obj["spec"].get("parallelism", 0)
    return f"{succeeded}/1 of {parallelism}" if parallelism > 1 else f"{succeeded}/1"


def _job_duration(obj: Manifest, now: datetime) -> str:
    start, end = status("startTime", "")(obj, now), status("completionTime", "")(obj, now)
    if not start:
        return ""
    return duration(((parse_time(end) if end else now) - parse_time(start)).total_seconds())


def _last_schedule(obj: Manifest, now: datetime) -> str:
    return since(status("lastScheduleTime", None)(obj, now), now).replace("<unknown>", "<none>")


def _owner(obj: Manifest, now: datetime) -> str:
    for reference in obj["metadata"].get("ownerReferences") or []:
        if reference.get("controller"):
            group = reference["apiVersion"].partition("/")[0] if "/" in reference["apiVersion"] else ""
            kind = reference["kind"].lower()
            return f"{kind}.{group}/{reference['name']}" if group else f"{kind}/{reference['name']}"
    return "<none>"


def _scaled(obj: Manifest, now: datetime) -> str:
    target = obj["spec"]["scaleTargetRef"]
    return f"{target['kind']}/{target['name']}"


def _targets(obj: Manifest, now: datetime) -> str:
    """What the autoscaler aims at; nobody measures here, so what is there now is unknown."""
    wanted = obj["spec"].get("targetCPUUtilizationPercentage")
    shown = [f"cpu: <unknown>/{wanted}%"] if wanted is not None else []
    for metric in obj["spec"].get("metrics") or []:
        source = metric.get("resource") or metric.get("containerResource")
        target = (source or {}).get("target") or {}
        if source and "averageUtilization" in target:
            shown.append(f"{source['name']}: <unknown>/{target['averageUtilization']}%")
        else:
            shown.append("<unknown>")
    return ", ".join(shown) or "<none>"


def _budget(field: str) -> Any:
    return at("spec", field, default="N/A")


_HPA = "autoscaling.v2.HorizontalPodAutoscaler"

WORKLOAD_COLUMNS: dict[tuple[str, str], tuple[Column, ...]] = {
    ("", "podtemplates"): (
        NAME,
        Column("Containers", _names, description=NAMES_OF_CONTAINERS),
        Column("Images", _images, description=IMAGES_OF_CONTAINERS),
        Column(
            "Pod Labels",
            lambda o, n: label_text((_template(o, n).get("metadata") or {}).get("labels")),
            description="The labels for the pod template.",
        ),
    ),
    ("", "replicationcontrollers"): (
        NAME,
        *_counts("core.v1.ReplicationController"),
        AGE,
        *_last("core.v1.ReplicationControllerSpec.selector"),
    ),
    ("apps", "deployments"): (
        NAME,
        Column("Ready", ratio(status("readyReplicas"), _replicas), description=READY),
        Column("Up-to-date", status("updatedReplicas"), documents="apps.v1.DeploymentStatus.updatedReplicas"),
        Column("Available", status("availableReplicas"), documents="apps.v1.DeploymentStatus.availableReplicas"),
        AGE,
        *_last("apps.v1.DeploymentSpec.selector"),
    ),
    ("apps", "statefulsets"): (
        NAME,
        Column("Ready", ratio(status("readyReplicas"), _replicas), description=READY),
        AGE,
        CONTAINERS,
        IMAGES,
    ),
    ("apps", "replicasets"): (NAME, *_counts("apps.v1.ReplicaSet"), AGE, *_last("apps.v1.ReplicaSetSpec.selector")),
    ("apps", "daemonsets"): (
        NAME,
        *(
            Column(title, status(field), "integer", documents=f"apps.v1.DaemonSetStatus.{field}")
            for title, field in (
                ("Desired", "desiredNumberScheduled"),
                ("Current", "currentNumberScheduled"),
                ("Ready", "numberReady"),
                ("Up-to-date", "updatedNumberScheduled"),
                ("Available", "numberAvailable"),
            )
        ),
        Column(
            "Node Selector",
            lambda o, n: label_text(at("spec", "template", "spec", "nodeSelector", default={})(o, n)),
            documents="core.v1.PodSpec.nodeSelector",
        ),
        AGE,
        *_last("apps.v1.DaemonSetSpec.selector"),
    ),
    ("apps", "controllerrevisions"): (
        NAME,
        Column("Controller", _owner, description="Controller of the object"),
        Column("Revision", at("revision", default=0), documents="apps.v1.ControllerRevision.revision"),
        AGE,
    ),
    ("batch", "jobs"): (
        NAME,
        Column("Status", _job_status, description="Status of the job."),
        Column("Completions", _job_completions, documents="batch.v1.JobStatus.succeeded"),
        Column("Duration", _job_duration, description="Time required to complete the job."),
        AGE,
        *_last("batch.v1.JobSpec.selector"),
    ),
    ("batch", "cronjobs"): (
        NAME,
        Column("Schedule", at("spec", "schedule"), documents="batch.v1.CronJobSpec.schedule"),
        Column("Timezone", at("spec", "timeZone", default="<none>"), documents="batch.v1.CronJobSpec.timeZone"),
        Column(
            "Suspend",
            lambda o, n: str(bool(o["spec"].get("suspend"))),
            "boolean",
            documents="batch.v1.CronJobSpec.suspend",
        ),
        Column("Active", count("status", "active"), "integer", documents="batch.v1.CronJobStatus.active"),
        Column("Last Schedule", _last_schedule, documents="batch.v1.CronJobStatus.lastScheduleTime"),
        AGE,
        *_last("batch.v1.JobSpec.selector"),
    ),
    ("autoscaling", "horizontalpodautoscalers"): (
        NAME,
        Column("Reference", _scaled, documents=f"{_HPA}Spec.scaleTargetRef"),
        Column("Targets", _targets, documents=f"{_HPA}Spec.metrics"),
        Column("MinPods", at("spec", "minReplicas", default="<unset>"), documents=f"{_HPA}Spec.minReplicas"),
        Column("MaxPods", at("spec", "maxReplicas", default=0), documents=f"{_HPA}Spec.maxReplicas"),
        Column("Replicas", status("currentReplicas"), documents=f"{_HPA}Status.currentReplicas"),
        AGE,
    ),
    ("policy", "poddisruptionbudgets"): (
        NAME,
        Column(
            "Min Available",
            _budget("minAvailable"),
            description="The minimum number of pods that must be available.",
        ),
        Column(
            "Max Unavailable",
            _budget("maxUnavailable"),
            description="The maximum number of pods that may be unavailable.",
        ),
        Column(
            "Allowed Disruptions",
            status("disruptionsAllowed"),
            "integer",
            description="Calculated number of pods that may be disrupted at this time.",
        ),
        AGE,
    ),
}
