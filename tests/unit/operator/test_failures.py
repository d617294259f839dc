# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Which cause is found in a pod, for every sign there is."""

from __future__ import annotations

import json
from typing import Any

import pytest

from kaito.api import names
from kaito.kube.manifest import Manifest
from kaito.operator.faults.fault import MAX_MESSAGE_BYTES
from kaito.operator.workspace.failures import cause_of
from kaito.operator.workspace.progress import progress_of
from tests.builders import container_status, pod

FAILURE = json.dumps({"reason": "ModelWeightsNotFound", "message": "No weights in /w", "next_step": "Give --weights"})
WRONG_REASON = json.dumps({"reason": "not a reason", "message": "Odd"})


def ended(**terminated: Any) -> Manifest:
    return {"terminated": {"exitCode": 1, "reason": "Error", **terminated}}


def waits(reason: str, **more: str) -> Manifest:
    return {"waiting": {"reason": reason, **more}}


def with_container(**states: Any) -> Manifest:
    return pod(status={"containerStatuses": [container_status(**states)]})


def unschedulable() -> Manifest:
    condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1 nodes: no GPU"}
    return pod(status={"phase": "Pending", "conditions": [condition], "containerStatuses": None})


def evicted(message: str) -> Manifest:
    return pod(status={"phase": "Failed", "reason": "Evicted", "message": message})


CASES = [
    (with_container(state=ended(message=FAILURE)), names.REASON_WEIGHTS_NOT_FOUND, "No weights in /w. Give --weights."),
    (with_container(state={"running": {}}, lastState=ended(message=FAILURE)), names.REASON_WEIGHTS_NOT_FOUND, ""),
    (with_container(state=ended(message="a log line\n" + FAILURE)), names.REASON_WEIGHTS_NOT_FOUND, "No weights"),
    (with_container(state=ended(message=WRONG_REASON)), names.REASON_ENGINE_FAILED, "Odd."),
    (with_container(state=waits("CrashLoopBackOff"), lastState=ended(reason="OOMKilled")), names.REASON_OOM_KILLED, ""),
    (with_container(state=waits("ErrImagePull", message="no command for x")), names.REASON_IMAGE_PULL, "no command"),
    (
        with_container(
            state=waits("ImagePullBackOff", message='Back-off pulling image "x:1": ErrImagePull: no command for x')
        ),
        names.REASON_IMAGE_PULL,
        "no command for x.",
    ),
    (with_container(state=waits("ImagePullBackOff")), names.REASON_IMAGE_PULL, "ImagePullBackOff for image"),
    (
        with_container(state=waits("CreateContainerConfigError", message="secret gone")),
        names.REASON_CONTAINER_START,
        "",
    ),
    (
        with_container(state=waits("CrashLoopBackOff"), lastState=ended(exitCode=3, message="x\nboom\n")),
        names.REASON_CRASH_LOOP,
        "exit code 3: boom. See kubectl logs demo-0 --previous.",
    ),
    (
        with_container(state={"running": {}}, restartCount=2, lastState=ended(exitCode=1)),
        names.REASON_CRASH_LOOP,
        "keeps ending with exit code 1. See",
    ),
    (evicted("The node was low on resource: ephemeral-storage"), names.REASON_DISK_PRESSURE, "was evicted"),
    (evicted("The node was low on resource: memory"), names.REASON_MEMORY_PRESSURE, ""),
    (evicted("Preempted"), names.REASON_EVICTED, "Preempted"),
    (unschedulable(), names.REASON_UNSCHEDULABLE, "0/1 nodes: no GPU"),
]


@pytest.mark.parametrize(("found", "reason", "says"), CASES, ids=[reason for _, reason, _ in CASES])
def test_a_sign_gives_its_reason_and_says_what_was_found(found: Manifest, reason: str, says: str) -> None:
    cause = cause_of([found])
    assert cause is not None
    assert cause.condition == reason
    assert says in cause.message


def test_what_a_container_says_itself_wins_over_every_other_sign() -> None:
    pods = [unschedulable(), with_container(state=waits("CrashLoopBackOff"), lastState=ended(message=FAILURE))]
    cause = cause_of(pods)
    assert cause is not None and cause.reason == names.REASON_WEIGHTS_NOT_FOUND


@pytest.mark.parametrize(
    "quiet",
    [
        pod(),
        pod(status={"containerStatuses": [container_status(ready=True, lastState=ended(message=FAILURE))]}),
        pod(status={"containerStatuses": [container_status(lastState={"terminated": {"exitCode": 0}})]}),
        pod(status=None),
        pod(metadata={"deletionTimestamp": "2026-01-01T00:00:00Z"}, **evicted("gone")["status"]),
    ],
)
def test_a_pod_without_signs_has_no_cause(quiet: Manifest) -> None:
    assert cause_of([quiet]) is None


@pytest.mark.parametrize(
    ("pods", "says"),
    [
        ([], "0 of 1 exist"),
        ([pod(spec={"nodeName": None}, status={"phase": "Pending", "containerStatuses": None})], "waits for a node"),
        ([pod(status={"containerStatuses": None})], "is being started"),
        ([pod(status={"containerStatuses": None, "initContainerStatuses": [container_status(state={"running": {}})]})],
         "prepares files"),
        ([pod()], "loads the model; it is ready once /health answers"),
        ([with_container(state={"running": {}}, lastState=ended(exitCode=137))], "exit code 137, runs again"),
        ([pod(status={"conditions": [{"type": "Ready", "status": "True"}]})], "StatefulSet"),
    ],
)  # fmt: skip
def test_progress_names_what_is_waited_for(pods: list[Manifest], says: str) -> None:
    assert says in progress_of(pods, 1)


@pytest.mark.parametrize("message", ["Wrong", "Wrong: " + "ä" * 400])
def test_a_long_message_keeps_its_next_step_within_a_condition(message: str) -> None:
    said = json.dumps({"reason": "InferenceEngineFailed", "message": message, "next_step": "Use a smaller model."})
    cause = cause_of([with_container(state=ended(message=said))])
    assert cause is not None
    assert cause.message.startswith("Wrong") and cause.message.endswith(" Use a smaller model.")
    assert len(cause.message.encode()) <= MAX_MESSAGE_BYTES


@pytest.mark.parametrize(
    "reason", [names.REASON_ARTIFACT_UNAVAILABLE, names.REASON_ARTIFACT_UNAUTHORIZED, names.REASON_ADAPTER]
)
def test_what_our_runtime_knows_for_sure_is_not_guessed_anew_from_its_words(reason: str) -> None:
    said = "The registry localhost:5000 cannot be used for localhost:5000/team/adapter:1: its name cannot be resolved."
    message = json.dumps({"reason": reason, "message": said, "next_step": "Check the name."})
    waiting = container_status(name="fetch-adapters", state=waits("CrashLoopBackOff"), lastState=ended(message=message))
    cause = cause_of([pod(status={"initContainerStatuses": [waiting], "containerStatuses": None})])
    assert cause is not None
    assert (cause.reason, cause.condition) == (reason, reason)
    assert cause.step == "Check the name."
