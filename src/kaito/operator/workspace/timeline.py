# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""How a Workspace came to be ready, step by step: `status.timeline`. Pure.

A step is written once, when it is first seen to be done, with the time that the cluster itself gives for it where there
is one; nothing that happens later rewrites the story of the first start.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from kaito.api import names
from kaito.kube.manifest import Manifest, condition_of, parse_time, rfc3339
from kaito.operator.workspace.containers import statuses


@dataclass(frozen=True, slots=True)
class Sighting:
    """What there is to tell the steps from."""

    orders: Sequence[Manifest] = ()
    nodes_ready: bool = False
    pods: Sequence[Manifest] = ()
    """Those of the workload, the first one first."""
    served: bool = False
    weights: tuple[str, str] | None = None
    """When a pod had its weights loaded, and what it says of them; None before."""
    first_token: tuple[str, str] | None = None
    """The same of its first token."""


def timeline(workspace: Manifest, sighting: Sighting, now: datetime) -> list[Manifest]:
    """The steps that are done, in their order: those known already, and those that are seen now."""
    known = {step["step"]: step for step in (workspace.get("status") or {}).get("timeline") or []}
    seen = {step: (moment, said) for step, moment, said in _seen(workspace, sighting, rfc3339(now))}
    steps = []
    for name in names.TIMELINE_STEPS:
        if name in known:
            steps.append(known[name])
        elif name in seen:
            moment, said = seen[name]
            steps.append({"step": name, "time": moment, **({"message": said} if said else {})})
    return steps


def _seen(workspace: Manifest, sighting: Sighting, now: str) -> Iterable[tuple[str, str, str]]:
    made = [str(order["metadata"].get("creationTimestamp") or now) for order in sighting.orders]
    if made:
        kinds = sorted({order["kind"] for order in sighting.orders})
        yield names.STEP_NODES_REQUESTED, min(made), f"{len(made)} ordered by {' and '.join(kinds)}"
    if sighting.nodes_ready:
        yield names.STEP_NODES_READY, now, ""
    pod = sighting.pods[0] if sighting.pods else None
    if pod is None:
        return
    began = _began(pod)
    if began:
        yield names.STEP_IMAGE_PULLED, began, _image(pod)
    ready = condition_of(pod, "Ready") or {}
    is_ready = ready.get("status") == "True"
    if sighting.weights:
        yield names.STEP_WEIGHTS_LOADED, *sighting.weights
    if is_ready:
        yield names.STEP_ENGINE_READY, str(ready.get("lastTransitionTime") or now), ""
    if sighting.served:
        yield names.STEP_SERVING, now, ""
    if sighting.first_token:
        yield names.STEP_FIRST_TOKEN, *sighting.first_token


def _began(pod: Manifest) -> str:
    """When a container of the pod first ran, which is when its image was there."""
    for status in statuses(pod, "containerStatuses"):
        for state in ("lastState", "state"):
            for kind in ("terminated", "running"):
                moment = ((status.get(state) or {}).get(kind) or {}).get("startedAt")
                if moment:
                    return str(moment)
    return ""


def _image(pod: Manifest) -> str:
    images = [str(status.get("image")) for status in statuses(pod, "containerStatuses") if status.get("image")]
    return images[0] if images else ""


def durations(workspace: Manifest) -> Mapping[str, float]:
    """The seconds from the Workspace's creation to each step that is done."""
    try:
        born = parse_time(str(workspace["metadata"].get("creationTimestamp")))
        return {
            step["step"]: max(0.0, (parse_time(step["time"]) - born).total_seconds())
            for step in (workspace.get("status") or {}).get("timeline") or []
        }
    except (ValueError, TypeError, KeyError):
        return {}
