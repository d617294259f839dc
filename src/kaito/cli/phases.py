# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""How far a Workspace has come, as people want to read it. Pure: manifests in, words out."""

from __future__ import annotations

from dataclasses import dataclass

from kaito.api import names
from kaito.kube.manifest import Manifest, condition_of, is_true

PHASES: tuple[str, ...] = (
    "Accepted",
    "Node ready",
    "Server started",
    "Model loaded",
    "Ready",
)
"""What a Workspace with a preset goes through, in order."""

STUCK_REASONS = frozenset(
    {
        names.REASON_UNKNOWN_PRESET,
        names.REASON_INVALID_SPEC,
        names.REASON_WEIGHTS_NOT_FOUND,
        names.REASON_NOT_SUPPORTED_HERE,
        names.REASON_CONFIG_INVALID,
        names.REASON_ENGINE_MISSING,
        names.REASON_ENGINE_FAILED,
        names.REASON_IMAGE_PULL,
        names.REASON_CRASH_LOOP,
        names.REASON_OOM_KILLED,
        names.REASON_NAME_TAKEN,
    }
)
"""Reasons that do not go away by waiting: the user must do something."""


def phase_index(workspace: Manifest, pod: Manifest | None) -> int:
    """How many of PHASES are reached, minus one."""
    if is_true(workspace, names.WORKSPACE_READY):
        return 4
    if pod is not None and is_true(pod, "Ready"):
        return 3
    statuses = ((pod or {}).get("status") or {}).get("containerStatuses") or []
    if any("running" in (status.get("state") or {}) for status in statuses):
        return 2
    return 1 if is_true(workspace, names.RESOURCE_READY) else 0


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why a Workspace is not ready."""

    reason: str
    message: str
    needs_action: bool


def trouble(workspace: Manifest) -> Trouble | None:
    """The first condition that says what is wrong or waited for, or None when the Workspace is ready."""
    if is_true(workspace, names.WORKSPACE_READY):
        return None
    for type_ in (names.RESOURCE_READY, names.INFERENCE_READY, names.JOB_STARTED, names.WORKSPACE_SUCCEEDED):
        condition = condition_of(workspace, type_)
        if condition is not None and condition["status"] != "True":
            reason = condition.get("reason", "")
            return Trouble(reason, condition.get("message", ""), reason in STUCK_REASONS)
    return Trouble("", "Waiting for the operator to take it up.", needs_action=False)


def model_of(workspace: Manifest) -> str:
    """What the Workspace runs, in a word or two."""
    for part in ("inference", "tuning"):
        section = workspace.get(part) or {}
        if "preset" in section:
            name = str((section["preset"] or {}).get("name", "?"))
            return name if part == "inference" else f"{name} (tuning)"
        if "template" in section:
            return "(own pod template)"
    return "?"


def state_of(workspace: Manifest) -> str:
    """One word for a table."""
    if workspace["metadata"].get("deletionTimestamp"):
        return "Deleting"
    if is_true(workspace, names.WORKSPACE_READY):
        return "Succeeded" if "tuning" in workspace else "Ready"
    found = trouble(workspace)
    if found is not None and found.needs_action:
        return "Stuck"
    return str((workspace.get("status") or {}).get("state") or "Pending")
