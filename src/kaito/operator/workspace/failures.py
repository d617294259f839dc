# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Why a workload is not ready: its pods, read from the most to the least telling sign.

What a container itself said in its termination message (`contracts.Failure`) wins; then the signs in KAITO's order:
out of memory, image, start, crash loop, eviction, scheduling. Without any, what is being waited for.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from pydantic import ValidationError

from kaito.api import names
from kaito.api.contracts import Failure
from kaito.kube.manifest import Manifest, condition_of, is_deleting
from kaito.operator.workspace.status import MAX_MESSAGE_BYTES, short

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
        "PostStartHookError",
    }
)


_REASON = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,99}")
"""What may be a condition's reason; the text comes from a container, so it is not trusted to be one."""

_BACK_OFF = re.compile(r'Back-off pulling image "[^"]*": (?:ErrImagePull: )?')
"""What a kubelet says before it says why; the reason says it already, and a condition has little room."""

RESTARTS_OF_A_LOOP = 2


@dataclass(frozen=True, slots=True)
class Cause:
    """Why a workload is not ready, as a reason of `names` and a sentence."""

    reason: str
    message: str
    is_failure: bool = True
    """False: all is well so far, it only takes time."""


def cause_of(pods: Sequence[Manifest]) -> Cause | None:
    """The most telling cause among the pods, or None when none of them says anything."""
    living = [pod for pod in pods if not is_deleting(pod)]
    for sign in _SIGNS:
        for pod in living:
            found = sign(pod)
            if found is not None:
                return found
    return None


def progress_of(pods: Sequence[Manifest], wanted: int) -> Cause:
    """What a workload without failures is waiting for.

    Says no time: a message that ticks would be a write each tick.
    """
    living = [pod for pod in pods if not is_deleting(pod)]
    if len(living) < wanted:
        return _pending(f"Waiting for pods: {len(living)} of {wanted} exist.")
    for pod in living:
        waiting = _waiting_for(pod)
        if waiting:
            return _pending(waiting)
    return _pending("The pods are ready; waiting for the StatefulSet to report it.")


def _waiting_for(pod: Manifest) -> str:
    name = pod["metadata"]["name"]
    ready = condition_of(pod, "Ready")
    if ready is not None and ready.get("status") == "True":
        return ""
    if _runs(pod, "containerStatuses"):
        for _, terminated in _terminations(pod):
            code = terminated.get("exitCode")
            return f"Pod {name} ended with exit code {code}, runs again and loads the model."
        return f"Pod {name} runs and loads the model; it is ready once {_health(pod)} answers."
    if _runs(pod, "initContainerStatuses"):
        return f"Pod {name} prepares files before the model server starts."
    if not (pod.get("spec") or {}).get("nodeName"):
        return f"Pod {name} waits for a node."
    return f"Pod {name} is being started."


def _runs(pod: Manifest, field: str) -> bool:
    return any((status.get("state") or {}).get("running") is not None for status in _statuses(pod, field))


def _health(pod: Manifest) -> str:
    for container in (pod.get("spec") or {}).get("containers") or []:
        probe = container.get("readinessProbe") or {}
        if probe.get("httpGet"):
            return str(probe["httpGet"].get("path") or "/")
    return "it"


def _pending(message: str) -> Cause:
    return Cause(names.REASON_INFERENCE_PENDING, message, is_failure=False)


def _statuses(pod: Manifest, *fields: str) -> Iterator[Manifest]:
    status = pod.get("status") or {}
    for field in fields or ("initContainerStatuses", "containerStatuses"):
        yield from status.get(field) or []


def _terminations(pod: Manifest) -> Iterator[tuple[Manifest, Manifest]]:
    """Container status and how it last ended in error; containers that are ready (again) are not asked."""
    for status in _statuses(pod):
        if status.get("ready"):
            continue
        for state in ("state", "lastState"):
            terminated = (status.get(state) or {}).get("terminated")
            if terminated and terminated.get("exitCode") != 0:
                yield status, terminated


def _waiting(pod: Manifest, reasons: Iterable[str]) -> Iterator[tuple[Manifest, Manifest]]:
    for status in _statuses(pod):
        waiting = (status.get("state") or {}).get("waiting")
        if waiting and waiting.get("reason") in reasons:
            yield status, waiting


def _last_words(pod: Manifest) -> Cause | None:
    for _, terminated in _terminations(pod):
        failure = _failure(terminated.get("message") or "")
        if failure is not None:
            reason = failure.reason if _REASON.fullmatch(failure.reason) else names.REASON_ENGINE_FAILED
            step = _sentences(failure.next_step)
            room = MAX_MESSAGE_BYTES - len(f"… {step}".encode())
            return Cause(reason, f"{short(_sentences(failure.message), room)} {step}".strip())
    return None


def _failure(text: str) -> Failure | None:
    """The Failure that a termination message holds: all of it, or its last line (logs may precede it)."""
    for candidate in (text, text.strip().rpartition("\n")[2]):
        try:
            return Failure.model_validate_json(candidate)
        except ValidationError:
            continue
    return None


def _out_of_memory(pod: Manifest) -> Cause | None:
    for status, terminated in _terminations(pod):
        if terminated.get("reason") == "OOMKilled":
            return Cause(
                names.REASON_OOM_KILLED,
                f"Container {status['name']} of pod {pod['metadata']['name']} was killed for using too much memory. "
                "Use a smaller model or a node with more memory.",
            )
    return None


def _image(pod: Manifest) -> Cause | None:
    for status, waiting in _waiting(pod, IMAGE_REASONS):
        said = waiting.get("message") or f"{waiting['reason']} for image {status.get('image', '')}"
        return Cause(names.REASON_IMAGE_PULL, _sentences(_BACK_OFF.sub("", said)))
    return None


def _start(pod: Manifest) -> Cause | None:
    for status, waiting in _waiting(pod, START_REASONS):
        said = waiting.get("message") or waiting["reason"]
        return Cause(names.REASON_CONTAINER_START, f"Container {status['name']} cannot start: {said}")
    return None


def _crash_loop(pod: Manifest) -> Cause | None:
    for status, terminated in _terminations(pod):
        waiting = (status.get("state") or {}).get("waiting") or {}
        # Between two ends it runs for a while: that is no reason to call it well again.
        if waiting.get("reason") == "CrashLoopBackOff" or status.get("restartCount", 0) >= RESTARTS_OF_A_LOOP:
            said = _last_line(terminated)
            return Cause(
                names.REASON_CRASH_LOOP,
                f"Container {status['name']} keeps ending with exit code {terminated.get('exitCode')}"
                f"{': ' + said if said else ''}. See kubectl logs {pod['metadata']['name']} --previous.",
            )
    return None


def _last_line(terminated: Manifest) -> str:
    return str(terminated.get("message") or "").strip().rpartition("\n")[2].strip().rstrip(".")


def _evicted(pod: Manifest) -> Cause | None:
    status = pod.get("status") or {}
    if status.get("phase") != "Failed" or status.get("reason") != "Evicted":
        return None
    said = status.get("message") or "no cause given"
    lowered = said.lower()
    reason = names.REASON_EVICTED
    if "disk" in lowered or "ephemeral" in lowered:
        reason = names.REASON_DISK_PRESSURE
    elif "memory" in lowered:
        reason = names.REASON_MEMORY_PRESSURE
    return Cause(reason, f"Pod {pod['metadata']['name']} was evicted: {said}")


def _unschedulable(pod: Manifest) -> Cause | None:
    scheduled = condition_of(pod, "PodScheduled") or {}
    if scheduled.get("status") == "False" and scheduled.get("reason") == "Unschedulable":
        said = scheduled.get("message") or "no node fits"
        return Cause(names.REASON_UNSCHEDULABLE, f"No node takes pod {pod['metadata']['name']}: {said}")
    return None


def _sentences(*parts: str) -> str:
    texts = [part.strip() for part in parts if part.strip()]
    return " ".join(text if text[-1] in ".!?" else f"{text}." for text in texts)


_SIGNS: tuple[Callable[[Manifest], Cause | None], ...] = (
    _last_words,
    _out_of_memory,
    _image,
    _start,
    _crash_loop,
    _evicted,
    _unschedulable,
)
