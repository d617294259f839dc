# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""What a workload without failures is waiting for, in a sentence.

Says no time: a message that ticks would be a write each tick.
"""

from __future__ import annotations

from collections.abc import Sequence

from kaito.kube.manifest import Manifest, condition_of, is_deleting
from kaito.operator.workspace.containers import statuses, terminations


def progress_of(pods: Sequence[Manifest], wanted: int) -> str:
    """What the workload waits for."""
    living = [pod for pod in pods if not is_deleting(pod)]
    if len(living) < wanted:
        return f"Waiting for pods: {len(living)} of {wanted} exist."
    for pod in living:
        waiting = _waiting_for(pod)
        if waiting:
            return waiting
    return "The pods are ready; waiting for the StatefulSet to report it."


def _waiting_for(pod: Manifest) -> str:
    name = pod["metadata"]["name"]
    ready = condition_of(pod, "Ready")
    if ready is not None and ready.get("status") == "True":
        return ""
    if _runs(pod, "containerStatuses"):
        for _, terminated in terminations(pod):
            code = terminated.get("exitCode")
            return f"Pod {name} ended with exit code {code}, runs again and loads the model."
        return f"Pod {name} runs and loads the model; it is ready once {_health(pod)} answers."
    if _runs(pod, "initContainerStatuses"):
        return f"Pod {name} prepares files before the model server starts."
    if not (pod.get("spec") or {}).get("nodeName"):
        return f"Pod {name} waits for a node."
    return f"Pod {name} is being started."


def _runs(pod: Manifest, field: str) -> bool:
    return any((status.get("state") or {}).get("running") is not None for status in statuses(pod, field))


def _health(pod: Manifest) -> str:
    for container in (pod.get("spec") or {}).get("containers") or []:
        probe = container.get("readinessProbe") or {}
        if probe.get("httpGet"):
            return str(probe["httpGet"].get("path") or "/")
    return "it"
