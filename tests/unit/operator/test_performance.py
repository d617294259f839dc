# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""The figures of a model server's own measurement, from its log to the Workspace's status."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from kaito.api.contracts import BenchmarkResult
from kaito.api.meta import WORKSPACES
from kaito.api.names import BENCHMARK_MARK
from kaito.kube.manifest import Manifest, condition_of, key_of, rfc3339
from kaito.kube.plan import Plan
from kaito.operator.facts import catalogue_lookup
from kaito.operator.provisioners.local import LOCAL
from kaito.operator.settings import Settings
from kaito.operator.workspace.controller import workspace_controller
from kaito.operator.workspace.observe import Heard
from kaito.operator.workspace.performance import latest_result
from tests.builders import config_map, node, pod, workspace
from tests.scenario.world import World

NOW = datetime(2026, 1, 1, tzinfo=UTC)
FOUND = BenchmarkResult(
    vllm_total_tpm=1234.5, ttft_avg_ms=20.25, tpot_avg_ms=5, duration_sec=10, input_tokens=256, output_tokens=64,
    max_concurrency=4, load="light", engine="vllm", engine_version="1.2.3",
)  # fmt: skip
OLD: Manifest = {"metrics": {"peakTokensPerMinute": {"value": "7", "config": {"revision": "demo-1"}}}}
ADOPTED: Manifest = {"metrics": {"peakTokensPerMinute": {"value": "7"}}}


def planned(
    result: BenchmarkResult | None,
    *,
    ready_for_s: float = 0,
    benchmark: str = "light",
    old: Manifest | None = None,
    before: list[Manifest] | None = None,
) -> tuple[Plan, list[str]]:
    """The plan for a Workspace that is served at revision demo-2, and which pods were asked for their figures."""
    asked: list[str] = []

    def heard(pod: Manifest) -> BenchmarkResult | None:
        asked.append(pod["metadata"]["name"])
        return result

    since = rfc3339(NOW - timedelta(seconds=ready_for_s))
    labels = {"kaito.sh/workspace": "demo", "controller-revision-hash": "demo-2"}
    first = pod(status={"conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": since}]})
    first["metadata"]["labels"] = labels
    serving = '{"workspace": "demo", "namespace": "default", "engine": "vllm", "device": "cpu", "model": {"id": "m"},'
    serving += f' "served_model_name": "m", "benchmark": "{benchmark}"}}'
    owner = {"apiVersion": "kaito.sh/v1beta1", "kind": "Workspace", "name": "demo", "uid": "uid-demo"}
    stateful_set: Manifest = {
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "metadata": {
            "name": "demo", "namespace": "default", "uid": "uid-sts-demo", "resourceVersion": "1", "generation": 1,
            "ownerReferences": [{**owner, "controller": True}],
        },
        "spec": {"replicas": 1},
        "status": {"observedGeneration": 1, "readyReplicas": 1, "updatedReplicas": 1, "updateRevision": "demo-2"},
    }  # fmt: skip
    served = config_map("demo-serve", **{"serve.json": serving})
    served["metadata"]["ownerReferences"] = stateful_set["metadata"]["ownerReferences"]
    known = {"performance": old, "conditions": before}
    subject = workspace(status={field: value for field, value in known.items() if value})
    here = World(subject, node(), first, stateful_set, served, known=(WORKSPACES,))
    controller = workspace_controller(Settings(), LOCAL, catalogue_lookup, Heard(result=heard))
    (found,) = here.list(WORKSPACES)
    observed = controller.observe(here, key_of(found))
    assert observed is not None
    return controller.plan(observed, NOW), asked


def performance(plan: Plan) -> Manifest:
    assert plan.status is not None
    found: Manifest = plan.status.get("performance") or {}
    return found


def test_the_figures_stand_in_the_status_with_the_load_they_were_found_under() -> None:
    plan, asked = planned(FOUND)
    assert asked == ["demo-0"]
    assert performance(plan)["metrics"] == {
        "peakTokensPerMinute": {
            "description": "light load", "value": "1234.50", "unit": "tokens/min",
            "config": {
                "durationSec": "10", "inputTokens": "256", "outputTokens": "64", "maxConcurrency": "4",
                "engine": "vllm", "engineVersion": "1.2.3", "revision": "demo-2",
            },
        },
        "timeToFirstToken": {"description": "mean, light load", "value": "20.25", "unit": "ms"},
        "timePerOutputToken": {"description": "mean, light load", "value": "5.00", "unit": "ms"},
    }  # fmt: skip
    assert plan.requeue_after_s is None


@pytest.mark.parametrize(("ready_for_s", "again"), [(0, 20), (60, 60), (1000, None)])
def test_what_was_not_said_yet_is_looked_for_more_and_more_seldom(ready_for_s: float, again: float | None) -> None:
    plan, asked = planned(None, ready_for_s=ready_for_s)
    assert asked and plan.requeue_after_s == again and not performance(plan)


def benchmark_condition(plan: Plan) -> Manifest:
    assert plan.status is not None
    return condition_of({"status": plan.status}, "BenchmarkCompleted") or {}


def test_a_server_that_could_not_measure_says_why_once_and_is_served_all_the_same() -> None:
    failed = BenchmarkResult(vllm_total_tpm=-1, problem="no answer came: the server answers 503")
    plan, _ = planned(failed)
    assert plan.requeue_after_s is None and not performance(plan)
    condition = benchmark_condition(plan)
    assert (condition["status"], condition["reason"]) == ("False", "BenchmarkFailed")
    assert failed.problem in condition["message"] and "kaito.sh/benchmark: light" in condition["message"]
    assert len(condition["message"].encode()) <= 256
    assert plan.status is not None and plan.status["state"] == "Ready" and "failure" not in plan.status
    assert [event.message for event in plan.events if event.reason == "BenchmarkFailed"] == [condition["message"]]
    later, asked = planned(None, before=[condition])
    assert not asked and benchmark_condition(later) == condition
    assert not [event for event in later.events if event.reason == "BenchmarkFailed"]


def test_a_pod_that_starts_anew_after_a_failed_measurement_measures_anew() -> None:
    old = {"type": "BenchmarkCompleted", "status": "False", "reason": "BenchmarkFailed", "message": "It could not.",
           "lastTransitionTime": rfc3339(NOW - timedelta(hours=1))}  # fmt: skip
    plan, asked = planned(None, before=[old])
    assert asked and not benchmark_condition(plan)


@pytest.mark.parametrize("problem", ["", "x" * 500, "é" * 300])
def test_what_kept_a_server_from_measuring_is_cut_before_the_next_step(problem: str) -> None:
    message = benchmark_condition(planned(BenchmarkResult(vllm_total_tpm=-1, problem=problem))[0])["message"]
    assert len(message.encode()) <= 256 and message.endswith("light asks less.")


def test_a_measurement_is_told_as_a_condition_too() -> None:
    condition = benchmark_condition(planned(FOUND)[0])
    assert (condition["status"], condition["message"]) == ("True", "1234.50 tokens/min under light load.")


def test_a_server_that_does_not_measure_is_not_asked() -> None:
    plan, asked = planned(None, benchmark="off")
    assert not asked and plan.requeue_after_s is None


def test_figures_of_what_is_served_are_kept_and_not_asked_for_again() -> None:
    known = performance(planned(FOUND)[0])
    plan, asked = planned(None, old=known)
    assert performance(plan) == known and not asked


def test_figures_of_another_revision_go_and_those_of_unknown_origin_stay_until_there_are_new_ones() -> None:
    assert not performance(planned(None, old=OLD)[0])
    assert performance(planned(None, old=ADOPTED)[0]) == ADOPTED
    assert performance(planned(FOUND, old=ADOPTED)[0])["metrics"]["peakTokensPerMinute"]["value"] == "1234.50"


def test_the_last_result_of_a_log_counts_ours_or_kaitos() -> None:
    mark = f"{BENCHMARK_MARK}2026-01-01T00:00:00Z "
    theirs = '{"vllm_total_tpm": 10.5, "ttft_avg_ms": 1, "tpot_avg_ms": 2, "another": 3}'
    assert latest_result(["INFO: started", "KAITO_BENCHMARK_CONFIG now {}"]) is None
    assert latest_result([mark + FOUND.model_dump_json(), "INFO: a request"]) == FOUND
    found = latest_result([mark + FOUND.model_dump_json(), mark + theirs, mark + "{torn"])
    assert found is not None and found.vllm_total_tpm == 10.5
