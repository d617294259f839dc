# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""What is asked of a pod that starts, and how its answer is put."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from kaito.api import names
from kaito.api.contracts import StartProgress
from kaito.kube.manifest import Manifest
from kaito.operator.workspace.starting import (
    LOOK_AGAIN_S,
    TOLD_WITHIN_S,
    first_token,
    latest_start,
    look_again_s,
    starting_pod,
    told,
    weights,
)
from tests.builders import pod, workspace

SET = {"metadata": {"name": "demo"}}
GIB = 1 << 30


def with_steps(**times: str) -> Manifest:
    steps = [{"step": step, "time": f"2026-01-01T00:{time}Z"} for step, time in times.items()]
    return {**workspace(), "status": {"timeline": steps}}


def ready(since: str = "2026-01-01T00:01:00Z") -> Manifest:
    conditions = [{"type": "Ready", "status": "True", "lastTransitionTime": since}]
    return pod(status={"conditions": conditions, "containerStatuses": [{"name": "demo", "state": {"running": {}}}]})


def asked(manifest: Manifest, found: Manifest) -> bool:
    return starting_pod(manifest, SET, [found]) is not None


def test_a_pod_is_asked_at_the_second_look_at_its_start() -> None:
    assert not asked(workspace(), pod()), "most starts in tests and on simulated nodes are over by the next look"
    assert asked(with_steps(ImagePulled="00:10"), pod())
    waits = pod(status={"containerStatuses": [{"name": "demo", "state": {"waiting": {"reason": "CrashLoopBackOff"}}}]})
    assert not asked(with_steps(ImagePulled="00:10"), waits)
    assert starting_pod(with_steps(ImagePulled="00:10"), None, [pod()]) is None


def test_a_ready_pod_is_asked_for_its_first_token_after_a_start_that_took_time() -> None:
    assert asked(with_steps(ImagePulled="00:10", EngineReady="00:50"), ready())
    assert not asked(with_steps(ImagePulled="00:10", EngineReady="00:11"), ready())
    assert not asked(with_steps(ImagePulled="00:10", EngineReady="00:50", FirstToken="00:51"), ready())


def test_a_start_is_looked_at_until_it_is_over() -> None:
    now = datetime(2026, 1, 1, 0, 1, 30, tzinfo=UTC)
    assert look_again_s(None, now) is None
    assert look_again_s(pod(), now) == LOOK_AGAIN_S
    assert look_again_s(ready(), now) == LOOK_AGAIN_S
    assert look_again_s(ready(), now + timedelta(seconds=TOLD_WITHIN_S)) is None


@pytest.mark.parametrize(
    ("progress", "said"),
    [
        (None, ""),
        ({"phase": "Compiling the model"}, "Pod demo-0 is compiling the model."),
        (
            {"phase": "Loading the weights", "done_bytes": 3 * GIB, "total_bytes": 8 * GIB, "remaining_s": 100},
            "Pod demo-0 is loading the weights: 3.0 GiB of 8.0 GiB are here, about 1m40s left.",
        ),
        (
            {"phase": "Fetching weights", "done_bytes": 300 << 20},
            "Pod demo-0 is fetching weights: 300 MiB are here.",
        ),
    ],
)
def test_a_start_is_told_with_bytes_and_time_left(progress: dict[str, Any] | None, said: str) -> None:
    assert told("demo-0", None if progress is None else StartProgress(**progress)) == said


def test_steps_are_told_once_they_are_done() -> None:
    progress = StartProgress(phase="Ready", weights_at="a", weights_bytes=2 * GIB, weights_s=9.2)
    assert weights(progress) == ("a", "2.0 GiB in 9 s")
    assert first_token(progress) is None
    done = progress.model_copy(update={"first_token_at": "b", "first_token_s": 41.4, "weights_bytes": 0})
    assert (weights(done), first_token(done)) == (("a", "9 s"), ("b", "41 s after the server started"))
    assert weights(StartProgress(phase="Starting")) is None


def test_the_last_line_that_can_be_read_counts() -> None:
    lines = [
        f'{names.START_MARK}{{"phase": "one"}}',
        f'{names.START_MARK}{{"phase": "two"}}',
        f"{names.START_MARK}cut o",
    ]
    assert latest_start(lines) == StartProgress(phase="two")
    assert latest_start(["nothing"]) is None
