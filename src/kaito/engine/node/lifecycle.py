# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Decides what should happen to a pod on this node: start, restart, stop, remove. Pure.

`decide` looks at a `PodView` and the time, and returns actions, the pod's status and when to look again. It follows
the kubelet: init containers in order, sidecars before what comes after them, restarts with back-off, app containers
stopped before sidecars. `status.py` words the status.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from kaito.engine.node import probes
from kaito.engine.node.model import Action, Attempt, ContainerView, Decision, PodView, Problem, Remove, Start, Stop
from kaito.engine.node.status import Phase, pod_status
from kaito.kube.manifest import Manifest, is_deleting, parse_time

FIRST_BACKOFF = timedelta(seconds=10)
LONGEST_BACKOFF = timedelta(seconds=300)
STABLE_AFTER = timedelta(minutes=10)
"""A run this long forgives earlier crashes (kubelet: twice the longest back-off)."""
DEFAULT_GRACE_S = 30
NOTHING = ContainerView()


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one container should do now."""

    kind: Literal["start", "run", "stop", "wait", "done", "failed"]
    due: datetime | None = None
    backoff: timedelta = timedelta(0)


def next_backoff(attempt: Attempt) -> timedelta:
    """How long the attempt after this ended one has to wait: 0, 10 s, 20 s, … 5 min, as the kubelet does."""
    if attempt.started_at and attempt.finished_at and attempt.finished_at - attempt.started_at >= STABLE_AFTER:
        return timedelta(0)
    if attempt.number == 0:
        return timedelta(0)
    return min(max(FIRST_BACKOFF, attempt.backoff * 2), LONGEST_BACKOFF)


def retry_at(problem: Problem) -> datetime:
    """When to try again to start a container that could not be started."""
    delay = FIRST_BACKOFF * 2 ** min(problem.tries - 1, 5)
    due: datetime = problem.since + min(delay, LONGEST_BACKOFF)
    return due


def is_sidecar(container: Manifest) -> bool:
    """Whether an init container keeps running beside the others."""
    return bool(container.get("restartPolicy") == "Always")


def verdict(view: ContainerView, policy: str, now: datetime) -> Verdict:
    """What a container whose turn it is should do, by its restart policy."""
    current = view.current
    if current is None:
        return _start_or_wait(view, timedelta(0), now)
    if current.is_running:
        return Verdict("stop" if view.unhealthy and not view.stopping else "run")
    succeeded = current.exit_code == 0
    if policy == "Never" or (policy == "OnFailure" and succeeded):
        return Verdict("done" if succeeded else "failed")
    backoff = next_backoff(current)
    due = (current.finished_at or now) + backoff
    if now < due:
        return Verdict("wait", due, backoff)
    return _start_or_wait(view, backoff, now)


def _start_or_wait(view: ContainerView, backoff: timedelta, now: datetime) -> Verdict:
    if view.problem is not None and now < retry_at(view.problem):
        return Verdict("wait", retry_at(view.problem))
    return Verdict("start", backoff=backoff)


def decide(view: PodView, now: datetime) -> Decision:
    """What to do about the pod now."""
    pod = view.pod
    if is_deleting(pod):
        return _ending(view, now, _time_left(pod, now), phase=None, removes=True)
    if (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed"):
        return _ending(view, now, _grace(pod), phase=None, removes=False)
    if view.rejected is not None:
        return _ending(view, now, _grace(pod), phase="Failed", removes=False, reason=view.rejected)
    deadline = _deadline(pod)
    if deadline is not None and now >= deadline:
        text = "Pod was active on the node longer than the specified deadline"
        return _ending(view, now, _grace(pod), phase="Failed", removes=False, reason=("DeadlineExceeded", text))
    if not view.volumes_ready and not any(item.current for item in view.containers.values()):
        return Decision(pod_status(view, "Pending", {}, now, initialized=False), prepare=True)
    return _Running(view, now, deadline).decision()


def _grace(pod: Manifest) -> float:
    value = pod["spec"].get("terminationGracePeriodSeconds")
    return float(DEFAULT_GRACE_S if value is None else value)


def _time_left(pod: Manifest, now: datetime) -> float:
    """What is left of a deleted pod's grace period. Its deletionTimestamp is the end of it, cut to the second."""
    grace_s = pod["metadata"].get("deletionGracePeriodSeconds")
    if grace_s == 0:
        return 0.0
    left_s = (parse_time(pod["metadata"]["deletionTimestamp"]) - now).total_seconds() + 1
    return float(max(1.0, left_s if grace_s is None else min(left_s, grace_s)))


def _deadline(pod: Manifest) -> datetime | None:
    seconds = pod["spec"].get("activeDeadlineSeconds")
    started = (pod.get("status") or {}).get("startTime")
    return parse_time(started) + timedelta(seconds=seconds) if seconds is not None and started else None


def _ending(
    view: PodView,
    now: datetime,
    grace_s: float,
    *,
    phase: Phase | None,
    removes: bool,
    reason: tuple[str, str] | None = None,
) -> Decision:
    """Stop what runs: the app containers together, then the sidecars, last one first."""
    actions = tuple(_stops(view, grace_s))
    running = any(item.is_running for item in view.containers.values())
    final = (view.pod.get("status") or {}).get("phase")
    shown: Phase = phase or final or "Pending"
    if removes and not running:
        # Who waits for the pod's end, as a Job does with a finalizer, has to see how it came to it.
        shown = final if final in ("Succeeded", "Failed") else _final_phase(view)
        actions = (Remove(),)
    if not removes and final in ("Succeeded", "Failed"):
        return Decision(view.pod["status"], actions)
    return Decision(pod_status(view, shown, {}, now, initialized=_is_initialized(view), reason=reason), actions)


def _final_phase(view: PodView) -> Phase:
    """That of a deleted pod of which nothing runs any more."""
    ends = [view.containers.get(item["name"], NOTHING).current for item in view.pod["spec"]["containers"]]
    return "Succeeded" if all(end is not None and end.exit_code == 0 for end in ends) else "Failed"


def _stops(view: PodView, grace_s: float) -> Iterable[Action]:
    spec = view.pod["spec"]
    apps = [*spec["containers"], *(spec.get("ephemeralContainers") or [])]
    running = [item["name"] for item in apps if view.containers.get(item["name"], NOTHING).is_running]
    if not running:
        names = [item["name"] for item in reversed(spec.get("initContainers") or [])]
        running = [name for name in names if view.containers.get(name, NOTHING).is_running][:1]
    for name in running:
        if not view.containers[name].stopping:
            yield Stop(name, grace_s)


def _is_initialized(view: PodView) -> bool:
    """Whether all init containers have done their part."""
    for container in view.pod["spec"].get("initContainers") or []:
        state = view.containers.get(container["name"], NOTHING)
        if is_sidecar(container):
            done = state.current is not None and (state.started or not state.is_running)
        else:
            done = state.current is not None and state.current.exit_code == 0
        if not done:
            return False
    return True


class _Running:
    """One look at a pod that should run."""

    def __init__(self, view: PodView, now: datetime, deadline: datetime | None) -> None:
        self._view = view
        self._now = now
        self._spec = view.pod["spec"]
        self._actions: list[Action] = []
        self._dues: list[datetime] = [deadline] if deadline else []
        self._waiting: dict[str, timedelta] = {}

    def decision(self) -> Decision:
        """What to do, and the status."""
        self._ephemeral_containers()
        initialized, failed = self._init_containers()
        if failed:
            return _ending(self._view, self._now, _grace(self._view.pod), phase="Failed", removes=False)
        phase: Phase = "Pending"
        if initialized:
            phase = self._app_containers()
        status = pod_status(self._view, phase, self._waiting, self._now, initialized=initialized)
        later = [max(0.0, (due - self._now).total_seconds()) for due in self._dues]
        waiting = dict.fromkeys(self._waiting, "Back-off restarting failed container")
        actions = tuple(self._actions)
        if not self._view.volumes_ready:
            actions = tuple(action for action in actions if not isinstance(action, Start))
        prepare = len(actions) < len(self._actions)
        return Decision(status, actions, min(later) if later else None, prepare=prepare, waiting=waiting)

    def _ephemeral_containers(self) -> None:
        """Start each once, whatever the others do: they are there to look into that."""
        for container in self._spec.get("ephemeralContainers") or []:
            self._follow(container, verdict(self._state(container), "Never", self._now))

    def _init_containers(self) -> tuple[bool, bool]:
        """Take the init containers as far as they go: whether all are through, and whether one failed for good."""
        pod_policy = self._spec.get("restartPolicy", "Always")
        over = self._apps_are_over()
        for container in self._spec.get("initContainers") or []:
            state = self._state(container)
            if is_sidecar(container):
                if over:
                    continue
                self._follow(container, verdict(state, "Always", self._now))
                if not (state.is_running and state.started) and not self._apps_have_begun():
                    return False, False
                continue
            if self._apps_have_begun() and state.current is None:
                continue
            answer = verdict(state, "Never" if pod_policy == "Never" else "OnFailure", self._now)
            if answer.kind == "failed":
                return False, True
            if answer.kind != "done":
                self._follow(container, answer)
                return False, False
        return True, False

    def _app_containers(self) -> Phase:
        """Take every app container forward; returns the pod's phase."""
        policy = self._spec.get("restartPolicy", "Always")
        verdicts = []
        for container in self._spec["containers"]:
            answer = verdict(self._state(container), policy, self._now)
            self._follow(container, answer)
            verdicts.append(answer.kind)
        if all(kind in ("done", "failed") for kind in verdicts):
            self._actions += _stops(self._view, _grace(self._view.pod))
            if any(item.is_running for item in self._view.containers.values()):
                return "Running"
            return "Failed" if "failed" in verdicts else "Succeeded"
        never_ran = any(self._state(container).current is None for container in self._spec["containers"])
        return "Pending" if never_ran else "Running"

    def _follow(self, container: Manifest, answer: Verdict) -> None:
        name, state = container["name"], self._state(container)
        if answer.due is not None:
            self._dues.append(answer.due)
        if answer.kind == "wait" and state.problem is None:
            self._waiting[name] = answer.backoff
        elif answer.kind == "start":
            number = state.current.number + 1 if state.current else 0
            self._actions.append(Start(name, number, answer.backoff))
        elif answer.kind == "stop":
            grace_s = _probe_grace(container, state.unhealthy, _grace(self._view.pod))
            self._actions.append(Stop(name, grace_s, why=state.unhealthy, unhealthy=True))

    def _state(self, container: Manifest) -> ContainerView:
        return self._view.containers.get(container["name"], NOTHING)

    def _apps_have_begun(self) -> bool:
        return any(self._state(container).current is not None for container in self._spec["containers"])

    def _apps_are_over(self) -> bool:
        policy = self._spec.get("restartPolicy", "Always")
        verdicts = (verdict(self._state(container), policy, self._now) for container in self._spec["containers"])
        return all(answer.kind in ("done", "failed") for answer in verdicts)


def _probe_grace(container: Manifest, unhealthy: str, grace_s: float) -> float:
    """The grace period of the probe that gave up, where it has one of its own; else the pod's."""
    for kind in probes.KINDS:
        value = (container.get(f"{kind}Probe") or {}).get("terminationGracePeriodSeconds")
        if value is not None and unhealthy == probes.gave_up(kind):
            return float(value)
    return grace_s
