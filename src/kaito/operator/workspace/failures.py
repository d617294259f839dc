# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Why a workload is not ready: its pods and the events about them, read from the most to the least telling sign.

What a container itself said in its termination message (`contracts.Failure`) wins; then the signs in KAITO's order:
out of memory, image, start, crash loop, eviction, scheduling; then what only events tell. Here is where to look; what
the words mean, and what helps, is in the table (`kaito.operator.faults`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from pydantic import ValidationError

from kaito.api import names
from kaito.api.contracts import Failure
from kaito.kube.manifest import Manifest, condition_of, is_deleting
from kaito.operator.faults.fault import Diagnosis, sentences
from kaito.operator.faults.table import found
from kaito.operator.faults.tuning import REASONS as TUNING_REASONS
from kaito.operator.workspace.containers import (
    claim_names,
    has_started,
    statuses,
    terminations,
    text_of,
    told_about,
    waiting,
    when,
)

Events = Sequence[Manifest]

IMAGE_REASONS = frozenset(
    {
        "ImagePullBackOff",
        "ErrImagePull",
        "InvalidImageName",
        "ErrImageNeverPull",
        "ImageInspectError",
        "RegistryUnavailable",
    }
)
START_REASONS = frozenset(
    {
        "CreateContainerConfigError",
        "PreCreateHookError",
        "CreateContainerError",
        "PreStartHookError",
        "RunContainerError",
        "StartError",
        "PostStartHookError",
    }
)
MOUNT_REASONS = frozenset(
    {"FailedMount", "FailedAttachVolume", "FailedMapVolume", "FailedCreatePodSandBox", "FailedCreatePodContainer"}
)

_REASON = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,99}")
"""What may be a condition's reason; the text comes from a container, so it is not trusted to be one."""
_BACK_OFF = re.compile(r'Back-off pulling image "[^"]*"(: (?:ErrImagePull: )?)?')
"""What a kubelet says before it says why; the reason says it already, and a condition has little room."""
_CREATE_FAILED = re.compile(r"create (?:Pod \S+ in|Claim \S+ for Pod \S+ in) StatefulSet \S+ failed error: ")

RESTARTS_OF_A_LOOP = 2
KILLED = (137, 143)
"""Exit codes of a container that was ended from outside: SIGKILL and SIGTERM."""
OWN_WORDS = frozenset(
    {
        names.REASON_ADAPTER,
        names.REASON_ARTIFACT_INVALID,
        names.REASON_ARTIFACT_NOT_FOUND,
        names.REASON_ARTIFACT_UNAUTHORIZED,
        names.REASON_ARTIFACT_UNAVAILABLE,
        names.REASON_DISK_FULL,
    }
)
"""Reasons that our runtime gives only where it knows for sure; the words of the message add nothing to them."""
FAILURES_OF_A_PROBE = 6
"""So often readiness may fail while a template's server starts; KAITO's period makes that a minute."""


def cause_of(pods: Sequence[Manifest], events: Events = ()) -> Diagnosis | None:
    """The most telling cause among the pods, or None when none of them says anything."""
    living = [pod for pod in pods if not is_deleting(pod)]
    for sign in _SIGNS:
        for pod in living:
            cause = sign(pod, events)
            if cause is not None:
                return cause
    return next((cause for pod in pods if (cause := _disrupted(pod)) is not None), None)


def refusal_of(stateful_set: Manifest, events: Events) -> Diagnosis | None:
    """Why the StatefulSet cannot make its pods, as its events tell."""
    told = [event for event in told_about(stateful_set, events) if event.get("reason") == "FailedCreate"]
    return found("api", _CREATE_FAILED.sub("", text_of(told[-1])), lead="Pods are refused: ") if told else None


def _last_words(pod: Manifest, events: Events) -> Diagnosis | None:
    for status, terminated in terminations(pod):
        failure = _failure(terminated.get("message") or "")
        if failure is None:
            continue
        if failure.reason in TUNING_REASONS:
            said, step = sentences(failure.message), sentences(failure.next_step)
            return Diagnosis(failure.reason, failure.reason, said, step)
        class_ = failure.reason if _REASON.fullmatch(failure.reason) else names.REASON_ENGINE_FAILED
        cause = found("log", sentences(failure.message), **_names(pod, status))
        is_precise = class_ in OWN_WORDS or cause.reason == names.REASON_ENGINE_FAILED
        precise = class_ if is_precise else cause.reason
        return Diagnosis(precise, class_, sentences(failure.message), sentences(failure.next_step))
    return None


def _failure(text: str) -> Failure | None:
    """The Failure that a termination message holds: all of it, or its last line (logs may precede it)."""
    for candidate in (text, text.strip().rpartition("\n")[2]):
        try:
            return Failure.model_validate_json(candidate)
        except ValidationError:
            continue
    return None


def _out_of_memory(pod: Manifest, events: Events) -> Diagnosis | None:
    for status, terminated in terminations(pod):
        if terminated.get("reason") == "OOMKilled":
            said = f"Container {status['name']} of pod {pod['metadata']['name']} was killed for using too much memory"
            return found("end", "OOMKilled", seen=said, **_names(pod, status))
    return None


def _image(pod: Manifest, events: Events) -> Diagnosis | None:
    for status, state in waiting(pod, IMAGE_REASONS):
        told = told_about(pod, events)
        said = _BACK_OFF.sub("", state.get("message") or "").strip()
        pulls = [text_of(event) for event in told if "Failed to pull image" in text_of(event)]
        said = said or (pulls[-1] if pulls else f"{state['reason']} for image {status.get('image', '')}")
        secrets = [text_of(event) for event in told if event.get("reason") == "FailedToRetrieveImagePullSecret"]
        if secrets:
            said = f"{secrets[-1].partition(';')[0]}: {said}"
        return found("image", f"{said} {state['reason']}", seen=said, **_names(pod, status))
    return None


def _start(pod: Manifest, events: Events) -> Diagnosis | None:
    for status, state in waiting(pod, START_REASONS):
        said = state.get("message") or state["reason"]
        return found("start", said, lead=f"Container {status['name']} cannot start: ", **_names(pod, status))
    return None


def _probe(pod: Manifest, events: Events) -> Diagnosis | None:
    """A container that was ended because a probe failed."""
    told = [event for event in told_about(pod, events) if event.get("reason") == "Unhealthy"]
    for status, terminated in terminations(pod):
        if terminated.get("exitCode") not in KILLED or not status.get("restartCount"):
            continue
        for event in reversed(told):
            if "Startup probe" in text_of(event) or "Liveness probe" in text_of(event):
                return found("probe", text_of(event), lead=_container(status), **_names(pod, status))
    return None


def _init_failed(pod: Manifest, events: Events) -> Diagnosis | None:
    for status, terminated in terminations(pod, "initContainerStatuses"):
        if _loops(status):
            said = f"Init container {status['name']} keeps ending with exit code {terminated.get('exitCode')}"
            last = _last_line(terminated)
            known = found("log", last, seen=f"{said}: {last}", **_names(pod, status)) if last else None
            if known is not None and known.reason != names.REASON_ENGINE_FAILED:
                return known.told_as(names.REASON_CRASH_LOOP)
            return found("end", f"{said}{': ' + last if last else ''}", **_names(pod, status))
    return None


def _crash_loop(pod: Manifest, events: Events) -> Diagnosis | None:
    for status, terminated in terminations(pod):
        if _loops(status):
            last = _last_line(terminated)
            said = f"{_container(status)}keeps ending with exit code {terminated.get('exitCode')}"
            said = f"{said}{': ' + last if last else ''}"
            known = found("log", last, seen=said, **_names(pod, status))
            if last and known.reason != names.REASON_ENGINE_FAILED:
                return known.told_as(names.REASON_CRASH_LOOP)
            return found("end", said, **_names(pod, status))
    return None


def _loops(status: Manifest) -> bool:
    state = (status.get("state") or {}).get("waiting") or {}
    # Between two ends it runs for a while: that is no reason to call it well again.
    return bool(state.get("reason") == "CrashLoopBackOff" or status.get("restartCount", 0) >= RESTARTS_OF_A_LOOP)


def _last_line(terminated: Manifest) -> str:
    return str(terminated.get("message") or "").strip().rpartition("\n")[2].strip().rstrip(".")


def _evicted(pod: Manifest, events: Events) -> Diagnosis | None:
    status = pod.get("status") or {}
    if status.get("phase") != "Failed" or not status.get("reason"):
        return None
    said = status.get("message") or "no cause given"
    lead = f"Pod {pod['metadata']['name']} was evicted: "
    return found("eviction", f"{said} {status['reason']}", seen=said, lead=lead, **_names(pod))


def _disrupted(pod: Manifest) -> Diagnosis | None:
    """A pod that is about to go, or is going, for a cause outside of it."""
    target = condition_of(pod, "DisruptionTarget") or {}
    if target.get("status") != "True":
        return None
    said = target.get("message") or target.get("reason") or "no cause given"
    lead = f"Pod {pod['metadata']['name']} is being removed: "
    return found("eviction", f"{said} {target.get('reason')}", seen=said, lead=lead, **_names(pod))


def _unschedulable(pod: Manifest, events: Events) -> Diagnosis | None:
    scheduled = condition_of(pod, "PodScheduled") or {}
    if scheduled.get("status") != "False" or scheduled.get("reason") != "Unschedulable":
        return None
    stuck = _storage(pod, events)
    if stuck is not None:
        return stuck
    said = scheduled.get("message") or "no node fits"
    return found("scheduling", said, lead=f"No node takes pod {pod['metadata']['name']}: ", **_names(pod))


def _storage(pod: Manifest, events: Events) -> Diagnosis | None:
    if has_started(pod):
        return None
    claims = set(claim_names(pod))
    told = [
        event
        for event in sorted(events, key=when)
        if (about := event.get("involvedObject") or {}).get("kind") == "PersistentVolumeClaim"
        and about.get("name") in claims
    ]
    if not told:
        return None
    lead = f"PersistentVolumeClaim {told[-1]['involvedObject']['name']} is not bound: "
    return found("storage", text_of(told[-1]), lead=lead, **_names(pod))


def _mount(pod: Manifest, events: Events) -> Diagnosis | None:
    if has_started(pod):
        return None
    told = [event for event in told_about(pod, events) if event.get("reason") in MOUNT_REASONS]
    if not told:
        return None
    lead = f"Pod {pod['metadata']['name']} cannot start: "
    return found("mount", f"{text_of(told[-1])} {told[-1]['reason']}", seen=text_of(told[-1]), lead=lead, **_names(pod))


def _not_answering(pod: Manifest, events: Events) -> Diagnosis | None:
    """A server that was up and fails its readiness probe."""
    for status in statuses(pod, "containerStatuses"):
        if status.get("ready") or not status.get("started") or not (status.get("state") or {}).get("running"):
            continue
        least = 1 if _has_startup_probe(pod, status["name"]) else FAILURES_OF_A_PROBE
        for event in told_about(pod, events):
            if "Readiness probe" in text_of(event) and int(event.get("count") or 1) >= least:
                return found("probe", text_of(event), lead=_container(status), **_names(pod, status))
    return None


def _has_startup_probe(pod: Manifest, name: str) -> bool:
    containers = (pod.get("spec") or {}).get("containers") or []
    return any(container.get("name") == name and container.get("startupProbe") for container in containers)


def _container(status: Manifest) -> str:
    return f"Container {status['name']} "


def _names(pod: Manifest, status: Manifest | None = None) -> dict[str, str]:
    return {"pod": pod["metadata"]["name"]} | ({"container": status["name"]} if status else {})


_SIGNS: tuple[Callable[[Manifest, Events], Diagnosis | None], ...] = (
    _last_words,
    _out_of_memory,
    _image,
    _start,
    _probe,
    _init_failed,
    _crash_loop,
    _evicted,
    _unschedulable,
    _storage,
    _mount,
    _not_answering,
)
