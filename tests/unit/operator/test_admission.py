# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Admission: what the API server is told about a Workspace, and where it is told to ask."""

from __future__ import annotations

from typing import Any

import pytest

from kaito.kube.admission import AdmissionRequest, Operation, Verdict
from kaito.kube.manifest import Manifest
from kaito.operator.admission import Address, policy_of, webhook_configuration, workspace_validator
from tests.builders import workspace

VALIDATE = workspace_validator(policy_of("local"))


def judged(new: Manifest | None, old: Manifest | None = None, **changes: Any) -> Verdict:
    operation: Operation = changes.pop("operation", "UPDATE" if old else "CREATE")
    fields = {"subresource": "", **changes}
    return VALIDATE(
        AdmissionRequest(
            uid="u",
            operation=operation,
            group="kaito.sh",
            version="v1beta1",
            kind="Workspace",
            plural="workspaces",
            name="demo",
            namespace="default",
            object=new,
            old_object=old,
            username="someone",
            dry_run=False,
            **fields,
        )
    )


@pytest.mark.parametrize(
    ("changes", "path", "says"),
    [
        ({"inference": {"preset": {"name": "phi-3-mini-4k-instrukt"}}}, "inference.preset.name", "phi-3-mini-4k"),
        ({"inference": None}, "inference", "is required"),
        ({"tuning": {"input": {}, "output": {}}}, "tuning", "together with inference"),
        ({"inference": {"preset": {"name": 7}}}, "inference.preset.name", "string"),
    ],
)
def test_a_bad_workspace_is_denied_with_the_field_and_what_to_do(changes: dict[str, Any], path: str, says: str) -> None:
    errors = judged(workspace(**changes)).errors
    (error,) = [error for error in errors if error.path == path]
    assert says in str(error)


def test_a_change_of_the_preset_is_forbidden() -> None:
    new = workspace(inference={"preset": {"name": "phi-4"}})
    (error,) = judged(new, workspace()).errors
    assert (error.path, error.reason) == ("inference.preset.name", "FieldValueForbidden")


@pytest.mark.parametrize(
    ("new", "more"),
    [
        (workspace(), {}),
        (None, {"operation": "DELETE"}),
        (workspace(inference=None), {"subresource": "status"}),
        (workspace(inference=None, metadata={"deletionTimestamp": "2026-01-01T00:00:00Z"}), {}),
    ],
)
def test_what_is_right_or_not_ours_to_judge_is_let_through(new: Manifest | None, more: dict[str, Any]) -> None:
    assert judged(new, **more).errors == ()


def test_the_configuration_points_at_a_url_on_one_machine_and_at_a_service_in_a_cluster() -> None:
    local = webhook_configuration(Address(host="127.0.0.1", port=4711), "Q0E=", must_answer=False)["webhooks"][0]
    assert local["clientConfig"]["url"] == "https://127.0.0.1:4711/validate/workspace.kaito.sh"
    assert local["failurePolicy"] == "Ignore"
    address = Address(service="kaito-webhook", namespace="kaito-system")
    cluster = webhook_configuration(address, "Q0E=", must_answer=True)["webhooks"][0]
    assert cluster["clientConfig"]["service"]["name"] == "kaito-webhook"
    assert (cluster["failurePolicy"], cluster["rules"][0]["apiVersions"]) == ("Fail", ["v1alpha1", "v1beta1"])
    assert address.names()[0] == "kaito-webhook.kaito-system.svc"
