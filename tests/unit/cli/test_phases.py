# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""What a user reads about a Workspace follows from its conditions."""

from __future__ import annotations

from typing import Any

import pytest

from kaito.api import names
from kaito.cli import phases


def workspace(**conditions: str) -> dict[str, Any]:
    """A Workspace whose conditions have these values: `Type="Status/Reason/Message"`."""
    listed = [
        dict(zip(("type", "status", "reason", "message"), (type_, *text.split("/")), strict=False))
        for type_, text in conditions.items()
    ]
    return {"metadata": {"name": "w"}, "inference": {"preset": {"name": "phi-4"}}, "status": {"conditions": listed}}


def pod(*, running: bool, ready: bool) -> dict[str, Any]:
    state = {"running": {}} if running else {"waiting": {}}
    return {
        "metadata": {"name": "w-0"},
        "status": {
            "containerStatuses": [{"state": state}],
            "conditions": [{"type": "Ready", "status": str(ready)}],
        },
    }


@pytest.mark.parametrize(
    ("conditions", "of_pod", "reached"),
    [
        ({}, None, "Accepted"),
        ({"ResourceReady": "True"}, None, "Node ready"),
        ({"ResourceReady": "True"}, pod(running=False, ready=False), "Node ready"),
        ({"ResourceReady": "True"}, pod(running=True, ready=False), "Server started"),
        ({"ResourceReady": "True"}, pod(running=True, ready=True), "Model loaded"),
        ({"ResourceReady": "True", "WorkspaceReady": "True"}, pod(running=True, ready=True), "Ready"),
    ],
)
def test_the_phase_is_the_farthest_one_reached(
    conditions: dict[str, str], of_pod: dict[str, Any] | None, reached: str
) -> None:
    assert phases.PHASES[phases.phase_index(workspace(**conditions), of_pod)] == reached


def test_the_first_false_condition_is_the_trouble() -> None:
    found = phases.trouble(
        workspace(ResourceReady="True", InferenceReady=f"False/{names.REASON_WEIGHTS_NOT_FOUND}/No weights.")
    )
    assert found == phases.Trouble(names.REASON_WEIGHTS_NOT_FOUND, "No weights.", needs_action=True)


def test_a_ready_workspace_has_no_trouble() -> None:
    assert phases.trouble(workspace(WorkspaceReady="True")) is None


def test_waiting_is_not_being_stuck() -> None:
    found = workspace(ResourceReady="True", InferenceReady=f"False/{names.REASON_INFERENCE_PENDING}/Loading.")
    assert phases.state_of(found) == "Pending"
    assert phases.state_of(workspace(InferenceReady=f"False/{names.REASON_UNKNOWN_PRESET}/No.")) == "Stuck"


@pytest.mark.parametrize(
    ("section", "shown"),
    [
        ({"inference": {"preset": {"name": "phi-4"}}}, "phi-4"),
        ({"inference": {"template": {}}}, "(own pod template)"),
        ({"tuning": {"preset": {"name": "phi-4"}}}, "phi-4 (tuning)"),
        ({}, "?"),
    ],
)
def test_the_model_column_names_what_runs(section: dict[str, Any], shown: str) -> None:
    assert phases.model_of({"metadata": {}, **section}) == shown
