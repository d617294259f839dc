# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""What a model server says of its start, in the operator's words: weights with bytes and time left, the first token.

The first pod's log is asked while the pod takes longer than one look at it, and until it has told of a first token. A
start of a few seconds has no story, and asking for it would cost more than the start. Pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from pydantic import ValidationError

from kaito.api import names
from kaito.api.contracts import StartProgress
from kaito.kube.manifest import Manifest, condition_of, is_deleting, is_true, parse_time
from kaito.operator.workspace.containers import statuses
from kaito.operator.workspace.figures import duration, size

LOOK_AGAIN_S = 5.0
"""How often a start is looked at, which is also how often its figures are written."""
LONG_START_S = 3.0
"""From which on a start is worth a question afterwards."""
TOLD_WITHIN_S = 120.0
"""How long after it is Ready a server may take for a first token."""


def latest_start(lines: Sequence[str]) -> StartProgress | None:
    """The last progress that a log tells."""
    for line in reversed(lines):
        _, mark, text = line.partition(names.START_MARK)
        if mark:
            try:
                return StartProgress.model_validate_json(text)
            except ValidationError:
                continue
    return None


def starting_pod(workspace: Manifest, stateful_set: Manifest | None, pods: Sequence[Manifest]) -> Manifest | None:
    """The pod whose log is to be asked; None where nothing starts or all is known."""
    steps = _times(workspace)
    if stateful_set is None or names.STEP_IMAGE_PULLED not in steps:
        return None
    first = f"{stateful_set['metadata']['name']}-0"
    pod = next((pod for pod in pods if pod["metadata"]["name"] == first), None)
    if pod is None or is_deleting(pod):
        return None
    if not is_true(pod, "Ready"):
        return pod if container_of(pod) else None
    if names.STEP_FIRST_TOKEN in steps or names.STEP_ENGINE_READY not in steps:
        return None
    took = steps[names.STEP_ENGINE_READY] - steps[names.STEP_IMAGE_PULLED]
    return pod if took.total_seconds() >= LONG_START_S else None


def container_of(pod: Manifest) -> str:
    """The container that is at work: the one that fetches, or the model server; empty where none runs."""
    running = (status for status in statuses(pod) if (status.get("state") or {}).get("running") is not None)
    return next((str(status["name"]) for status in running), "")


def look_again_s(pod: Manifest | None, now: datetime) -> float | None:
    """When the pod is to be looked at again; None once it is over."""
    if pod is None:
        return None
    ready = condition_of(pod, "Ready") or {}
    if ready.get("status") != "True":
        return LOOK_AGAIN_S
    since = ready.get("lastTransitionTime")
    return LOOK_AGAIN_S if since and (now - parse_time(since)).total_seconds() < TOLD_WITHIN_S else None


def told(pod: str, progress: StartProgress | None) -> str:
    """What the pod is at, as a sentence; empty where its log has told nothing."""
    if progress is None:
        return ""
    at = progress.phase[:1].lower() + progress.phase[1:]
    if progress.done_bytes is None:
        return f"Pod {pod} is {at}."
    of = f" of {size(progress.total_bytes)}" if progress.total_bytes else ""
    left = f", about {duration(progress.remaining_s)} left" if progress.remaining_s is not None else ""
    return f"Pod {pod} is {at}: {size(progress.done_bytes)}{of} are here{left}."


def weights(progress: StartProgress | None) -> tuple[str, str] | None:
    """When the weights were loaded, and what there is to tell of it; None before."""
    if progress is None or not progress.weights_at:
        return None
    took = f"{progress.weights_s:.0f} s"
    return progress.weights_at, f"{size(progress.weights_bytes)} in {took}" if progress.weights_bytes else took


def first_token(progress: StartProgress | None) -> tuple[str, str] | None:
    """When the first token came, and after how long; None before."""
    if progress is None or not progress.first_token_at:
        return None
    return progress.first_token_at, f"{progress.first_token_s:.0f} s after the server started"


def _times(workspace: Manifest) -> dict[str, datetime]:
    steps = (workspace.get("status") or {}).get("timeline") or []
    return {step["step"]: parse_time(step["time"]) for step in steps}
