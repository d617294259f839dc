# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""What the node decides to do about a pod."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from kaito.engine.node.lifecycle import decide, next_backoff
from kaito.engine.node.model import Attempt, ContainerView, Problem, Remove, Start, Stop
from tests.unit.engine_node.pods import NOW, container, deleting, ended, pod, running, view


def state_of(status: dict[str, Any], name: str = "main") -> dict[str, Any]:
    entries = [*status.get("initContainerStatuses", []), *status["containerStatuses"]]
    found: dict[str, Any] = next(item["state"] for item in entries if item["name"] == name)
    return found


def conditions(status: dict[str, Any]) -> dict[str, str]:
    return {item["type"]: item["status"] for item in status["conditions"]}


def test_a_new_pod_first_needs_its_volumes() -> None:
    decision = decide(view(pod(), volumes_ready=False), NOW)
    assert decision.prepare
    assert not decision.actions
    assert decision.status["phase"] == "Pending"
    assert state_of(decision.status) == {"waiting": {"reason": "ContainerCreating"}}


def test_all_app_containers_start_together() -> None:
    decision = decide(view(pod(container("a"), container("b"))), NOW)
    assert decision.actions == (Start("a", 0), Start("b", 0))


def test_a_pod_whose_containers_run_is_running_and_ready() -> None:
    decision = decide(view(pod(), main=running()), NOW)
    assert not decision.actions
    assert decision.wake_after_s is None
    assert decision.status["phase"] == "Running"
    assert decision.status["podIP"] == "127.64.0.9"
    assert set(conditions(decision.status).values()) == {"True"}


def test_deciding_twice_gives_the_same() -> None:
    seen = view(pod(container("a"), container("b")), a=running(), b=ended(1, number=2))
    assert decide(seen, NOW) == decide(seen, NOW)


@pytest.mark.parametrize(
    ("policy", "exit_code", "phase", "restarts"),
    [
        ("Always", 0, "Running", True),
        ("Always", 1, "Running", True),
        ("OnFailure", 1, "Running", True),
        ("OnFailure", 0, "Succeeded", False),
        ("Never", 0, "Succeeded", False),
        ("Never", 3, "Failed", False),
    ],
)
def test_the_restart_policy_decides_what_an_end_means(policy: str, exit_code: int, phase: str, restarts: bool) -> None:
    decision = decide(view(pod(restartPolicy=policy), main=ended(exit_code)), NOW)
    assert decision.status["phase"] == phase
    assert decision.actions == ((Start("main", 1),) if restarts else ())


@pytest.mark.parametrize(
    ("number", "waited_s", "ran_s", "expected_s"),
    [(0, 0, 1, 0), (1, 0, 1, 10), (2, 10, 1, 20), (5, 160, 1, 300), (9, 300, 1, 300), (9, 300, 700, 0)],
)
def test_restarts_wait_longer_and_longer_until_a_run_was_long(
    number: int, waited_s: int, ran_s: int, expected_s: int
) -> None:
    attempt = Attempt(
        number,
        "c",
        backoff=timedelta(seconds=waited_s),
        started_at=NOW - timedelta(seconds=ran_s),
        finished_at=NOW,
        exit_code=1,
    )
    assert next_backoff(attempt) == timedelta(seconds=expected_s)


def test_a_crashing_container_waits_in_crash_loop_back_off() -> None:
    decision = decide(view(pod(), main=ended(1, number=2, backoff_s=10, ago_s=5)), NOW)
    waiting = state_of(decision.status)["waiting"]
    assert waiting["reason"] == "CrashLoopBackOff"
    assert waiting["message"] == "back-off 20s restarting failed container=main pod=web-0_default(u-1)"
    assert decision.status["containerStatuses"][0]["lastState"]["terminated"]["exitCode"] == 1
    assert decision.wake_after_s == 15
    assert not decision.actions


def test_init_containers_run_one_after_the_other() -> None:
    manifest = pod(init=[container("one"), container("two")])
    first = decide(view(manifest), NOW)
    assert first.actions == (Start("one", 0),)
    assert state_of(first.status) == {"waiting": {"reason": "PodInitializing"}}
    assert decide(view(manifest, one=running()), NOW).actions == ()
    assert decide(view(manifest, one=ended()), NOW).actions == (Start("two", 0),)
    both = decide(view(manifest, one=ended(), two=ended()), NOW)
    assert both.actions == (Start("main", 0),)
    assert conditions(both.status)["Initialized"] == "True"


def test_a_failed_init_container_fails_the_pod_only_when_nothing_restarts() -> None:
    never = decide(view(pod(init=[container("one")], restartPolicy="Never"), one=ended(1)), NOW)
    assert never.status["phase"] == "Failed"
    always = decide(view(pod(init=[container("one")]), one=ended(1)), NOW)
    assert always.actions == (Start("one", 1),)


def test_a_sidecar_must_have_started_before_the_next_container() -> None:
    manifest = pod(init=[container("side", restartPolicy="Always")])
    assert decide(view(manifest), NOW).actions == (Start("side", 0),)
    assert decide(view(manifest, side=running(started=False)), NOW).actions == ()
    assert decide(view(manifest, side=running()), NOW).actions == (Start("main", 0),)


def test_a_sidecar_is_stopped_when_the_app_containers_have_ended() -> None:
    manifest = pod(init=[container("side", restartPolicy="Always")], restartPolicy="Never")
    stopping = decide(view(manifest, side=running(), main=ended()), NOW)
    assert stopping.actions == (Stop("side", 30.0),)
    assert stopping.status["phase"] == "Running"
    over = decide(view(manifest, side=ended(143), main=ended()), NOW)
    assert over.actions == ()
    assert over.status["phase"] == "Succeeded"


def test_a_sidecar_that_crashes_is_restarted_while_the_app_runs() -> None:
    manifest = pod(init=[container("side", restartPolicy="Always")], restartPolicy="Never")
    decision = decide(view(manifest, side=ended(1), main=running()), NOW)
    assert decision.actions == (Start("side", 1),)
    assert decision.status["phase"] == "Running"


def test_an_unhealthy_container_is_stopped_once() -> None:
    unhealthy = running(unhealthy="failed liveness probe")
    assert decide(view(pod(), main=unhealthy), NOW).actions == (
        Stop("main", 30.0, why="failed liveness probe", unhealthy=True),
    )
    stopping = running(unhealthy="failed liveness probe", stopping=True)
    assert decide(view(pod(), main=stopping), NOW).actions == ()


def test_a_deleted_pod_ends_its_apps_then_its_sidecars_then_goes() -> None:
    manifest = deleting(pod(init=[container("s1", restartPolicy="Always"), container("s2", restartPolicy="Always")]))
    apps = decide(view(manifest, s1=running(), s2=running(), main=running()), NOW)
    assert apps.actions == (Stop("main", 30.0),)
    last_sidecar = decide(view(manifest, s1=running(), s2=running(), main=ended(143)), NOW)
    assert last_sidecar.actions == (Stop("s2", 30.0),)
    gone = decide(view(manifest, s1=ended(), s2=ended(), main=ended()), NOW)
    assert gone.actions == (Remove(),)


@pytest.mark.parametrize(
    ("main", "phase"), [(ended(), "Succeeded"), (ended(143), "Failed"), (None, "Failed")], ids=["0", "143", "never ran"]
)
def test_a_deleted_pod_shows_how_it_came_to_its_end(main: ContainerView | None, phase: str) -> None:
    """Whoever holds the object by a finalizer, as a Job does, counts it by that."""
    decision = decide(view(deleting(pod(status={"phase": "Running"})), **({"main": main} if main else {})), NOW)
    assert (decision.actions, decision.status["phase"]) == ((Remove(),), phase)


@pytest.mark.parametrize(
    ("late_s", "left_s"),
    [(0.0, 2.0), (0.9, 2.0), (2.0, 1.0), (60.0, 1.0)],
    ids=["seen at once", "asked for late in a second", "seen by a later engine", "long over"],
)
def test_a_deleted_pod_gets_what_is_left_of_its_grace(late_s: float, left_s: float) -> None:
    """The deletionTimestamp is cut to the second, so the last second of the grace is not in it."""
    decision = decide(view(deleting(pod(), grace_s=2), main=running()), NOW + timedelta(seconds=late_s))
    assert decision.actions == (Stop("main", left_s),)


def test_a_deletion_without_grace_kills_at_once() -> None:
    decision = decide(view(deleting(pod(), grace_s=0), main=running()), NOW)
    assert decision.actions == (Stop("main", 0.0),)


def test_a_pod_that_was_never_started_goes_at_once() -> None:
    assert decide(view(deleting(pod()), volumes_ready=False), NOW).actions == (Remove(),)


def test_a_finished_pod_is_left_alone() -> None:
    status = {"phase": "Succeeded", "startTime": "2026-01-01T11:00:00Z"}
    decision = decide(view(pod(status=status)), NOW)
    assert decision.actions == ()
    assert decision.status == status


def test_a_pod_past_its_deadline_fails() -> None:
    manifest = pod(activeDeadlineSeconds=60, status={"startTime": "2026-01-01T11:58:00Z"})
    decision = decide(view(manifest, main=running()), NOW)
    assert decision.actions == (Stop("main", 30.0),)
    assert (decision.status["phase"], decision.status["reason"]) == ("Failed", "DeadlineExceeded")


def test_the_node_looks_again_when_the_deadline_comes() -> None:
    manifest = pod(activeDeadlineSeconds=60, status={"startTime": "2026-01-01T11:59:30Z"})
    assert decide(view(manifest, main=running()), NOW).wake_after_s == 30


def test_an_unknown_image_is_tried_again_later() -> None:
    problem = Problem("ErrImagePull", "not known", NOW - timedelta(seconds=4))
    waiting = decide(view(pod(), main=ContainerView(problem=problem)), NOW)
    assert waiting.actions == ()
    assert waiting.wake_after_s == 6
    assert state_of(waiting.status) == {"waiting": {"reason": "ErrImagePull", "message": "not known"}}
    due = decide(view(pod(), main=ContainerView(problem=problem)), NOW + timedelta(seconds=6))
    assert due.actions == (Start("main", 0),)


def test_a_running_container_keeps_its_pod_running_while_a_volume_is_missing() -> None:
    decision = decide(view(pod(container("a"), container("b")), a=running(), b=ended(1), volumes_ready=False), NOW)
    assert decision.prepare
    assert decision.actions == ()
    assert decision.status["phase"] == "Running"


def test_a_container_is_ready_only_when_started_and_probed() -> None:
    for fields, ready in (({"started": False}, False), ({"ready": False}, False), ({}, True)):
        status = decide(view(pod(), main=running(**fields)), NOW).status
        assert status["containerStatuses"][0]["ready"] is ready
        assert conditions(status)["Ready"] == str(ready)


def test_conditions_keep_the_time_since_when_they_hold() -> None:
    first = decide(view(pod(), main=running()), NOW).status
    later = decide(view(pod(status=first), main=running()), NOW + timedelta(minutes=5)).status
    assert later == first


def test_an_unmet_readiness_gate_keeps_the_pod_unready() -> None:
    manifest = pod(readinessGates=[{"conditionType": "example.com/ok"}])
    assert conditions(decide(view(manifest, main=running()), NOW).status)["Ready"] == "False"
    manifest["status"] = {"conditions": [{"type": "example.com/ok", "status": "True"}]}
    assert conditions(decide(view(manifest, main=running()), NOW).status)["Ready"] == "True"


@pytest.mark.parametrize(("kind", "grace_s"), [("startup", 3.0), ("liveness", 7.0), ("postStart", 30.0)])
def test_the_probe_that_gave_up_decides_the_grace_period(kind: str, grace_s: float) -> None:
    probe = {"tcpSocket": {"port": 1}}
    graces = {
        "startupProbe": {**probe, "terminationGracePeriodSeconds": 3},
        "livenessProbe": {**probe, "terminationGracePeriodSeconds": 7},
    }
    said = "failed postStart hook" if kind == "postStart" else f"failed {kind} probe"
    (action,) = decide(view(pod(container(**graces)), main=running(unhealthy=said)), NOW).actions
    assert isinstance(action, Stop)
    assert action.grace_s == grace_s


LOOK = {"ephemeralContainers": [container("look")]}


def test_an_ephemeral_container_starts_whatever_the_others_do() -> None:
    decision = decide(view(pod(init=[container("first")], **LOOK), first=running()), NOW)
    assert decision.actions == (Start("look", 0),)
    assert decision.status["phase"] == "Pending"


@pytest.mark.parametrize("exit_code", [0, 1])
def test_an_ephemeral_container_runs_once_and_changes_nothing(exit_code: int) -> None:
    decision = decide(view(pod(**LOOK), main=running(), look=ended(exit_code)), NOW)
    assert not decision.actions
    assert decision.status["phase"] == "Running"
    assert conditions(decision.status)["Ready"] == "True"
    [told] = decision.status["ephemeralContainerStatuses"]
    assert told["state"]["terminated"]["exitCode"] == exit_code
    assert not told["ready"]


def test_an_ephemeral_container_ends_with_the_others() -> None:
    over = decide(view(pod(**LOOK, restartPolicy="Never"), main=ended(0), look=running()), NOW)
    assert [action.container for action in over.actions if isinstance(action, Stop)] == ["look"]
    gone = decide(view(deleting(pod(**LOOK)), main=running(), look=running()), NOW)
    assert [action.container for action in gone.actions if isinstance(action, Stop)] == ["main", "look"]
