# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Words a pod's status the way the kubelet does. Pure.

Phase, conditions and one entry for each container with its `waiting`, `running` or `terminated` state. What should
happen is decided in `lifecycle`; nothing here decides.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Literal

from kaito.engine.node.model import Attempt, ContainerView, PodView
from kaito.kube.manifest import Manifest, merged_conditions, rfc3339

Phase = Literal["Pending", "Running", "Succeeded", "Failed"]
OWN_CONDITIONS = ("PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled")
NOTHING = ContainerView()


def pod_status(
    view: PodView,
    phase: Phase,
    backoffs: Mapping[str, timedelta],
    now: datetime,
    *,
    initialized: bool,
    reason: tuple[str, str] | None = None,
) -> Manifest:
    """The whole status of the pod. `backoffs`: containers that wait before their next start, and for how long."""
    pod, spec = view.pod, view.pod["spec"]
    before = pod.get("status") or {}
    init = [_container(view, item, backoffs, initialized=initialized, is_init=True) for item in _init_of(spec)]
    apps = [_container(view, item, backoffs, initialized=initialized, is_init=False) for item in spec["containers"]]
    status: Manifest = {
        "phase": phase,
        "conditions": _conditions(view, phase, init, apps, now, initialized=initialized),
        "containerStatuses": apps,
        "hostIP": view.host_address,
        "hostIPs": [{"ip": view.host_address}],
        "qosClass": before.get("qosClass") or qos_class(spec),
        "startTime": before.get("startTime") or rfc3339(now),
    }
    if view.address:
        status["podIP"] = view.address
        status["podIPs"] = [{"ip": view.address}]
    if init:
        status["initContainerStatuses"] = init
    if spec.get("ephemeralContainers"):
        status["ephemeralContainerStatuses"] = [_ephemeral(view, item) for item in spec["ephemeralContainers"]]
    if pod["metadata"].get("generation"):
        status["observedGeneration"] = pod["metadata"]["generation"]
    if reason is not None:
        status["reason"], status["message"] = reason
    return status


def _init_of(spec: Manifest) -> list[Manifest]:
    return list(spec.get("initContainers") or [])


def _container(
    view: PodView, container: Manifest, backoffs: Mapping[str, timedelta], *, initialized: bool, is_init: bool
) -> Manifest:
    name = container["name"]
    state = view.containers.get(name, NOTHING)
    current = state.current
    serves = state.is_running and state.started
    if is_init and container.get("restartPolicy") != "Always":
        ready = current is not None and current.exit_code == 0
    else:
        ready = serves and state.ready and not state.stopping
    status: Manifest = {
        "name": name,
        "image": container.get("image", ""),
        "imageID": state.image_id,
        "ready": ready,
        "started": serves,
        "restartCount": current.number if current else 0,
        "lastState": {},
        "state": _state(view, container, state, backoffs, initialized=initialized, is_init=is_init),
    }
    if current is not None:
        status["containerID"] = f"kaito://{current.container_id}"
    last = current if "waiting" in status["state"] else state.previous
    if last is not None and not last.is_running:
        status["lastState"] = {"terminated": terminated(last)}
    return status


def _ephemeral(view: PodView, container: Manifest) -> Manifest:
    """That of an ephemeral container: it waits for nothing, and is never ready."""
    status = _container(view, container, {}, initialized=True, is_init=False)
    return {**{name: value for name, value in status.items() if name != "started"}, "ready": False}


def _state(
    view: PodView,
    container: Manifest,
    state: ContainerView,
    backoffs: Mapping[str, timedelta],
    *,
    initialized: bool,
    is_init: bool,
) -> Manifest:
    current, name = state.current, container["name"]
    if state.is_running and current is not None:
        return {"running": _time("startedAt", current.started_at)}
    if state.problem is not None:
        return {"waiting": {"reason": state.problem.reason, "message": state.problem.message}}
    if name in backoffs:
        meta = view.pod["metadata"]
        seconds = _go_duration(backoffs[name])
        pod = f"{meta['name']}_{meta.get('namespace', '')}({meta.get('uid', '')})"
        text = f"back-off {seconds} restarting failed container={name} pod={pod}"
        return {"waiting": {"reason": "CrashLoopBackOff", "message": text}}
    if current is not None:
        return {"terminated": terminated(current)}
    waits_for_init = not initialized and bool(_init_of(view.pod["spec"])) and view.volumes_ready
    return {"waiting": {"reason": "PodInitializing" if waits_for_init else "ContainerCreating"}}


def _go_duration(length: timedelta) -> str:
    """The length as Go prints it: 10s, 2m40s."""
    minutes, seconds = divmod(int(length.total_seconds()), 60)
    return f"{minutes}m{seconds}s" if minutes else f"{seconds}s"


def terminated(attempt: Attempt) -> Manifest:
    """How an attempt ended."""
    value: Manifest = {
        "exitCode": attempt.exit_code,
        "reason": attempt.reason or ("Completed" if attempt.exit_code == 0 else "Error"),
        "containerID": f"kaito://{attempt.container_id}",
        **_time("startedAt", attempt.started_at),
        **_time("finishedAt", attempt.finished_at),
    }
    if attempt.message:
        value["message"] = attempt.message
    return value


def _time(name: str, moment: datetime | None) -> Manifest:
    return {name: rfc3339(moment)} if moment else {}


def _conditions(
    view: PodView, phase: Phase, init: list[Manifest], apps: list[Manifest], now: datetime, *, initialized: bool
) -> list[Manifest]:
    serving = apps + [item for item in init if item["started"]]
    unready = [item["name"] for item in serving if not item["ready"]]
    incomplete = [item["name"] for item in init if not item["ready"] and not item["started"]]
    ready = _condition("ContainersReady", not unready, "ContainersNotReady", _listed("unready", unready))
    if phase in ("Succeeded", "Failed"):
        ready = _condition("ContainersReady", False, "PodCompleted" if phase == "Succeeded" else "PodFailed", "")
    gates = _unmet_gates(view.pod)
    pod_ready = {**ready, "type": "Ready"}
    if ready["status"] == "True" and gates:
        pod_ready = _condition("Ready", False, "ReadinessGatesNotReady", gates)
    done = initialized or phase == "Succeeded"
    wanted = [
        _condition("PodReadyToStartContainers", view.volumes_ready and phase in ("Pending", "Running"), "", ""),
        _condition("Initialized", done, "ContainersNotInitialized", _listed("incomplete", incomplete)),
        pod_ready,
        ready,
        _condition("PodScheduled", True, "", ""),
    ]
    current = (view.pod.get("status") or {}).get("conditions") or []
    foreign = [item for item in current if item["type"] not in OWN_CONDITIONS]
    return [*foreign, *merged_conditions(current, wanted, now)]


def _condition(type_: str, holds: bool, reason: str, message: str) -> Manifest:
    condition: Manifest = {"type": type_, "status": "True" if holds else "False"}
    if not holds and reason:
        condition["reason"] = reason
    if not holds and message:
        condition["message"] = message
    return condition


def _listed(what: str, names: list[str]) -> str:
    return f"containers with {what} status: [{' '.join(names)}]"


def _unmet_gates(pod: Manifest) -> str:
    have = {item["type"]: item["status"] for item in (pod.get("status") or {}).get("conditions") or []}
    unmet = [gate["conditionType"] for gate in pod["spec"].get("readinessGates") or []]
    unmet = [gate for gate in unmet if have.get(gate) != "True"]
    return "; ".join(f'the status of pod readiness gate "{gate}" is not "True"' for gate in unmet)


def qos_class(spec: Manifest) -> str:
    """Guaranteed, Burstable or BestEffort, by what the containers ask for."""
    everyone = [*_init_of(spec), *spec["containers"]]
    resources = [item.get("resources") or {} for item in everyone]
    named = [(part.get("requests") or {}, part.get("limits") or {}) for part in resources]
    core = ("cpu", "memory")
    if not any(name in part for pair in named for part in pair for name in core):
        return "BestEffort"
    guaranteed = all(
        name in limits and requests.get(name, limits[name]) == limits[name]
        for requests, limits in named
        for name in core
    )
    return "Guaranteed" if guaranteed else "Burstable"
