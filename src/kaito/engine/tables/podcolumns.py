# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""The columns of Pods: what `kubectl get pods` makes of phase, conditions and container states.

Pure. Follows the order of questions in Kubernetes' own printer (pkg/printers/internalversion, printPod).
"""

from __future__ import annotations

from datetime import datetime

from kaito.engine.tables.columns import AGE, NAME, Column, at, since
from kaito.kube.manifest import Manifest, condition_of

_SIDECAR = "Always"


def _is_sidecar(container: Manifest) -> bool:
    return container.get("restartPolicy") == _SIDECAR


def _sidecars(pod: Manifest) -> set[str]:
    return {c["name"] for c in pod["spec"].get("initContainers") or [] if _is_sidecar(c)}


def _counted(pod: Manifest) -> list[Manifest]:
    """The statuses of the containers that make up the Ready column: sidecars and the main ones."""
    sidecars, status = _sidecars(pod), pod.get("status") or {}
    early = [s for s in status.get("initContainerStatuses") or [] if s["name"] in sidecars]
    return early + list(status.get("containerStatuses") or [])


def _ready(pod: Manifest, now: datetime) -> str:
    wanted = len(pod["spec"].get("containers") or []) + len(_sidecars(pod))
    ready = [s for s in _counted(pod) if s.get("ready") and "running" in (s.get("state") or {})]
    return f"{len(ready)}/{wanted}"


def _restarts(pod: Manifest, now: datetime) -> str:
    status, initializing = pod.get("status") or {}, _initializing(pod)
    counted = (status.get("initContainerStatuses") or []) if initializing is not None else _counted(pod)
    total = sum(entry.get("restartCount", 0) for entry in counted)
    ends = [at("lastState", "terminated", "finishedAt", default="")(entry, now) for entry in counted]
    last = max((end for end in ends if end), default="")
    return f"{total} ({since(last, now)} ago)" if total and last else str(total)


def _exit_reason(terminated: Manifest) -> str:
    if terminated.get("reason"):
        return str(terminated["reason"])
    if terminated.get("signal"):
        return f"Signal:{terminated['signal']}"
    return f"ExitCode:{terminated.get('exitCode', 0)}"


def _initializing(pod: Manifest) -> str | None:
    """The Status while init containers are at work; None once they are done."""
    sidecars = _sidecars(pod)
    statuses = (pod.get("status") or {}).get("initContainerStatuses") or []
    for index, status in enumerate(statuses):
        state = status.get("state") or {}
        terminated, waiting = state.get("terminated"), state.get("waiting")
        if terminated is not None and terminated.get("exitCode", 0) == 0:
            continue
        if status["name"] in sidecars and status.get("started"):
            continue
        if terminated is not None:
            return f"Init:{_exit_reason(terminated)}"
        if waiting and waiting.get("reason") not in (None, "", "PodInitializing"):
            return f"Init:{waiting['reason']}"
        return f"Init:{index}/{len(pod['spec'].get('initContainers') or [])}"
    return None


def _running_reason(pod: Manifest, reason: str) -> str:
    """The Status once the main containers are what counts."""
    has_running = False
    for status in reversed((pod.get("status") or {}).get("containerStatuses") or []):
        state = status.get("state") or {}
        waiting, terminated = state.get("waiting"), state.get("terminated")
        if waiting and waiting.get("reason"):
            reason = waiting["reason"]
        elif terminated is not None:
            reason = _exit_reason(terminated)
        elif status.get("ready") and "running" in state:
            has_running = True
    if reason == "Completed" and has_running:
        ready = condition_of(pod, "Ready")
        return "Running" if ready and ready.get("status") == "True" else "NotReady"
    return reason


def pod_status(pod: Manifest, now: datetime) -> str:
    """The Status column."""
    status = pod.get("status") or {}
    reason = status.get("reason") or status.get("phase") or "Unknown"
    scheduled = condition_of(pod, "PodScheduled")
    if scheduled and scheduled.get("reason") == "SchedulingGated":
        reason = "SchedulingGated"
    initializing = _initializing(pod)
    reason = initializing if initializing is not None else _running_reason(pod, reason)
    if pod["metadata"].get("deletionTimestamp"):
        if status.get("reason") == "NodeLost":
            return "Unknown"
        if status.get("phase") not in ("Succeeded", "Failed"):
            return "Terminating"
    return str(reason)


def _gates(pod: Manifest, now: datetime) -> str:
    gates = pod["spec"].get("readinessGates") or []
    if not gates:
        return "<none>"
    met = 0
    for gate in gates:
        condition = condition_of(pod, gate["conditionType"])
        met += bool(condition and condition.get("status") == "True")
    return f"{met}/{len(gates)}"


def _ip(pod: Manifest, now: datetime) -> str:
    ips = (pod.get("status") or {}).get("podIPs") or []
    return str(ips[0]["ip"]) if ips else "<none>"


POD_COLUMNS = (
    NAME,
    Column("Ready", _ready, description="The aggregate readiness state of this pod for accepting traffic."),
    Column("Status", pod_status, description="The aggregate status of the containers in this pod."),
    Column(
        "Restarts",
        _restarts,
        description="The number of times the containers in this pod have been restarted and when the last container in "
        "this pod has restarted.",
    ),
    AGE,
    Column("IP", _ip, priority=1, documents="core.v1.PodStatus.podIP"),
    Column("Node", at("spec", "nodeName", default="<none>"), priority=1, documents="core.v1.PodSpec.nodeName"),
    Column(
        "Nominated Node",
        at("status", "nominatedNodeName", default="<none>"),
        priority=1,
        documents="core.v1.PodStatus.nominatedNodeName",
    ),
    Column("Readiness Gates", _gates, priority=1, documents="core.v1.PodSpec.readinessGates"),
)
