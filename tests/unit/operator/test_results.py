# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""A Workspace that serves what another one tunes: waited for, served by its digest; what cannot be served says why."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from kaito.api import names
from kaito.api.contracts import FETCH_CONFIG_KEY, PULL_SECRETS_MOUNT
from kaito.api.meta import WORKSPACES
from kaito.kube.manifest import Key, Manifest, condition_of
from kaito.kube.plan import Plan
from kaito.operator.facts import catalogue_lookup
from kaito.operator.provisioners.local import LOCAL
from kaito.operator.settings import Settings
from kaito.operator.workspace.controller import workspace_controller
from tests.builders import merged, node, workspace
from tests.scenario.world import World

NOW = datetime(2026, 1, 1, tzinfo=UTC)
DIGEST = f"sha256:{'1' * 64}"
MODEL = "phi-3-mini-4k-instruct"
SERVING = workspace(
    "serving",
    inference={"preset": {"name": MODEL}, "adapters": [{"source": {"workspace": "taught"}, "strength": "0.5"}]},
)


def tuning(state: str = "Running", **changes: Any) -> Manifest:
    spec = {
        "preset": {"name": MODEL},
        "method": "lora",
        "input": {"urls": ["https://example.com/data.parquet"]},
        "output": {"image": "registry.example.com/team/taught:v1", "imagePushSecret": "login"},
    }
    status: dict[str, Any] = {"state": state, "tuning": {"progress": "3/10 (30%)"}}
    if state == "Succeeded":
        status["tuning"] = {"image": "registry.example.com/team/taught:v1", "digest": DIGEST}
    if state == "Failed":
        status["conditions"] = [
            {
                "type": names.WORKSPACE_SUCCEEDED, "status": "False", "reason": names.REASON_FAILED,
                "message": "The data set is empty.", "lastTransitionTime": "2026-01-01T00:00:00Z",
            }
        ]  # fmt: skip
    made = workspace("taught", inference=None, tuning=merged(spec, changes))
    return {**made, "metadata": {**made["metadata"], "uid": "uid-taught"}, "status": status}


MERGING = {"metadata": {"annotations": {names.MERGE_ANNOTATION: "true"}}}


def planned(*others: Manifest, known: tuple[Manifest, ...] = ()) -> Plan:
    controller = workspace_controller(Settings(), LOCAL, catalogue_lookup)
    here = World(SERVING, node(), *others, *known, known=(WORKSPACES,))
    observed = controller.observe(here, Key("default", "serving"))
    assert observed is not None
    woken = {key.name for watch in controller.watches if watch.resource == WORKSPACES for key in watch.keys(tuning())}
    assert woken == {"serving"}, "a change of the tuning is seen"
    return controller.plan(observed, NOW)


def told(plan: Plan) -> tuple[str, str]:
    found = condition_of({"status": plan.status}, names.INFERENCE_READY)
    assert found is not None
    return found["reason"], found["message"]


def item(plan: Plan) -> Manifest:
    (config,) = (made for made in plan.apply if made["kind"] == "ConfigMap")
    (found,) = json.loads(config["data"][FETCH_CONFIG_KEY])["items"]
    return dict(found)


def pod_spec(plan: Plan) -> Manifest:
    (made,) = (made for made in plan.apply if made["kind"] == "StatefulSet")
    return dict(made["spec"]["template"]["spec"])


def test_a_tuning_that_goes_on_is_waited_for() -> None:
    plan = planned(tuning())
    assert told(plan) == (
        names.REASON_INFERENCE_PENDING,
        "Waiting for Workspace taught (3/10 (30%)): its result is adapter taught.",
    )
    assert plan.apply == ()


def test_the_result_is_fetched_by_its_digest_with_the_login_that_it_was_pushed_with() -> None:
    plan = planned(tuning("Succeeded"))
    found = item(plan)
    assert found["source"]["reference"] == f"registry.example.com/team/taught@{DIGEST}"
    assert found["credentials"] == [f"{PULL_SECRETS_MOUNT}/login"]
    assert {"name": "login"} in pod_spec(plan)["imagePullSecrets"]


def test_a_new_result_is_a_new_pod_and_the_old_one_is_served_until_there_is_one() -> None:
    first = planned(tuning("Succeeded"))
    serve_config = next(made for made in first.apply if made["kind"] == "ConfigMap")
    for without in ((), (tuning(),), (tuning("Failed"),)):
        again = planned(*without, known=(serve_config,))
        assert item(again) == item(first)
        assert pod_spec(again) == pod_spec(first)
    newer = tuning("Succeeded")
    newer["status"]["tuning"]["digest"] = f"sha256:{'2' * 64}"
    second = planned(newer, known=(serve_config,))
    annotations = [
        next(made for made in plan.apply if made["kind"] == "StatefulSet")["spec"]["template"]["metadata"][
            "annotations"
        ]
        for plan in (first, second)
    ]
    assert annotations[0] != annotations[1]


def test_a_result_on_a_volume_is_mounted() -> None:
    output = {"volumeSource": {"persistentVolumeClaim": {"claimName": "results"}}}
    spec = tuning("Succeeded")
    spec["tuning"]["output"] = output
    volumes = pod_spec(planned(spec))["volumes"]
    assert any(volume.get("persistentVolumeClaim") == {"claimName": "results"} for volume in volumes)


@pytest.mark.parametrize(
    ("found", "says"),
    [
        ((), "there is no Workspace taught. Create it"),
        ((tuning("Failed"),), "Workspace taught has failed. The data set is empty."),
        ((tuning("Succeeded", method="full"),), "its result is a model and no adapter"),
        ((merged(tuning("Succeeded"), MERGING),), "merges its adapter: its result is a model"),
        ((tuning("Succeeded", preset={"name": "phi-3-mini-128k-instruct"}),), "and this one serves"),
        (
            ({**workspace("taught"), "metadata": {"name": "taught", "namespace": "default", "uid": "2"}},),
            "Workspace taught tunes no model",
        ),
    ],
    ids=["missing", "failed", "full", "merged", "another model", "serves itself"],
)
def test_what_cannot_be_served_says_why(found: tuple[Manifest, ...], says: str) -> None:
    plan = planned(*found)
    assert says in told(plan)[1]
    assert told(plan)[1].startswith("inference.adapters[0].source.workspace: ")
    assert plan.apply == ()
    assert plan.status is not None
    assert plan.status["failure"]["reason"] == names.REASON_ADAPTER
