# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from kaito.api import names
from kaito.kube.manifest import Manifest
from kaito.operator.workspace.timeline import Sighting, durations, timeline
from tests.builders import workspace

NOW = datetime(2026, 1, 1, 0, 10, tzinfo=UTC)
LOADED = "2026-01-01T00:08:00Z"
BORN = "2026-01-01T00:00:00Z"


def pod(*, ready: str = "False") -> Manifest:
    return {
        "metadata": {"name": "demo-0"},
        "status": {
            "conditions": [{"type": "Ready", "status": ready, "lastTransitionTime": "2026-01-01T00:09:00Z"}],
            "containerStatuses": [
                {"image": "runtime:1", "state": {"running": {"startedAt": "2026-01-01T00:05:00Z"}}},
            ],
        },
    }


def steps(found: list[Manifest]) -> list[tuple[str, str]]:
    return [(step["step"], step["time"]) for step in found]


def test_each_step_has_the_time_that_the_cluster_gives_for_it() -> None:
    order = {"kind": "NodeClaim", "metadata": {"creationTimestamp": "2026-01-01T00:00:01Z"}}
    sighting = Sighting(
        orders=[order],
        nodes_ready=True,
        pods=[pod(ready="True")],
        served=True,
        weights=(LOADED, "2.0 GiB in 9 s"),
        first_token=("2026-01-01T00:11:00Z", "70 s after the server started"),
    )
    assert steps(timeline(workspace(), sighting, NOW)) == [
        (names.STEP_NODES_REQUESTED, "2026-01-01T00:00:01Z"),
        (names.STEP_NODES_READY, "2026-01-01T00:10:00Z"),
        (names.STEP_IMAGE_PULLED, "2026-01-01T00:05:00Z"),
        (names.STEP_WEIGHTS_LOADED, LOADED),
        (names.STEP_ENGINE_READY, "2026-01-01T00:09:00Z"),
        (names.STEP_SERVING, "2026-01-01T00:10:00Z"),
        (names.STEP_FIRST_TOKEN, "2026-01-01T00:11:00Z"),
    ]


def test_what_is_done_is_not_written_anew() -> None:
    known: list[dict[str, Any]] = [{"step": names.STEP_IMAGE_PULLED, "time": BORN, "message": "runtime:0"}]
    manifest = {**workspace(), "status": {"timeline": known}}
    assert timeline(manifest, Sighting(pods=[pod()]), NOW) == known
    assert timeline(manifest, Sighting(), NOW) == known, "not even when the pod is gone"


def test_durations_count_from_the_creation() -> None:
    manifest = workspace()
    manifest["metadata"]["creationTimestamp"] = BORN
    manifest["status"] = {"timeline": timeline(manifest, Sighting(pods=[pod()]), NOW)}
    assert durations(manifest) == {names.STEP_IMAGE_PULLED: 300.0}
    assert durations(workspace()) == {}
