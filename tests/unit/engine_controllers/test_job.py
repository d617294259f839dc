# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Jobs."""

from __future__ import annotations

from typing import Any

import pytest

from kaito.engine.controllers import indexes, tally
from kaito.engine.controllers import job as jobs
from kaito.kube.manifest import Key, Manifest
from kaito.kube.resource import JOBS, PODS
from tests.unit.engine_controllers.builders import job
from tests.unit.engine_controllers.world import World, assert_at_rest

ONE = Key("default", "one")


def world_with(**spec: Any) -> World:
    world = World()
    world.add(job(**spec))
    run(world)
    return world


def run(world: World) -> None:
    world.run(jobs.controller())


def status(world: World) -> Manifest:
    found: Manifest = world.objects[JOBS, ONE]["status"]
    return found


def conditions(world: World) -> list[tuple[str, str, str]]:
    return sorted((c["type"], c["status"], c["reason"]) for c in status(world).get("conditions", []))


def active(world: World) -> list[str]:
    return [p["metadata"]["name"] for p in world.pods() if (p.get("status") or {}).get("phase", "Pending") == "Pending"]


def test_a_job_runs_one_tracked_pod() -> None:
    world = world_with()
    [pod] = world.pods()
    assert pod["metadata"]["finalizers"] == [tally.FINALIZER]
    assert pod["metadata"]["generateName"] == "one-"
    counts = {key: value for key, value in status(world).items() if key not in ("startTime", "conditions")}
    assert counts == {"active": 1, "ready": 0, "terminating": 0, "uncountedTerminatedPods": {}}
    assert_at_rest(world, jobs.controller())


def test_a_success_completes_it_and_is_counted_once() -> None:
    world = world_with()
    world.set_all("Succeeded")
    run(world)
    assert status(world)["succeeded"] == 1
    assert "active" not in status(world)
    assert status(world)["completionTime"]
    assert conditions(world) == [
        ("Complete", "True", "CompletionsReached"),
        ("SuccessCriteriaMet", "True", "CompletionsReached"),
    ]
    assert not world.pods()[0]["metadata"].get("finalizers")
    assert_at_rest(world, jobs.controller())


def test_the_backoff_limit_fails_it() -> None:
    world = world_with(backoffLimit=0)
    world.set_all("Failed")
    run(world)
    assert status(world)["failed"] == 1
    assert conditions(world) == [
        ("Failed", "True", "BackoffLimitExceeded"),
        ("FailureTarget", "True", "BackoffLimitExceeded"),
    ]


def test_a_failed_pod_is_replaced_after_a_while() -> None:
    world = world_with()
    world.set_all("Failed")
    run(world)
    assert not active(world)
    world.later(10)
    run(world)
    assert len(active(world)) == 1
    world.set_pod(active(world)[0], "Failed")
    world.later(10)
    run(world)
    assert not active(world)
    world.later(10)
    run(world)
    assert len(world.pods()) == 3


def test_parallelism_is_a_limit_and_completions_are_the_goal() -> None:
    world = world_with(parallelism=2, completions=3)
    assert len(active(world)) == 2
    world.set_pod(active(world)[0], "Succeeded")
    run(world)
    assert len(active(world)) == 2
    for name in active(world):
        world.set_pod(name, "Succeeded")
    run(world)
    assert status(world)["succeeded"] == 3
    assert len(world.pods()) == 3


def test_a_deadline_ends_it_and_its_pods() -> None:
    world = world_with(activeDeadlineSeconds=60)
    world.later(60)
    run(world)
    assert not world.pods()
    assert ("Failed", "True", "DeadlineExceeded") in conditions(world)


def test_suspending_removes_the_pods_and_resuming_starts_anew() -> None:
    world = world_with(suspend=True)
    assert not world.pods()
    assert conditions(world) == [("Suspended", "True", "JobSuspended")]
    assert "startTime" not in status(world)
    world.change(JOBS, ONE, {"spec": {"suspend": False}})
    run(world)
    assert len(world.pods()) == 1
    assert conditions(world) == [("Suspended", "False", "JobResumed")]
    world.change(JOBS, ONE, {"spec": {"suspend": True}})
    run(world)
    assert not active(world)
    assert_at_rest(world, jobs.controller())


def test_indexed_pods_have_numbers_and_each_number_succeeds_once() -> None:
    world = world_with(completionMode="Indexed", completions=3, parallelism=2)
    hosts = sorted(p["spec"]["hostname"] for p in world.pods())
    assert hosts == ["one-0", "one-1"]
    first = world.pods()[0]
    assert first["metadata"]["annotations"] == {indexes.INDEX: "0"}
    assert [e["name"] for e in first["spec"]["containers"][0]["env"]] == ["JOB_COMPLETION_INDEX"]
    world.set_all("Succeeded")
    run(world)
    assert status(world)["completedIndexes"] == "0,1"
    world.set_all("Succeeded")
    run(world)
    assert status(world)["completedIndexes"] == "0-2"
    assert ("Complete", "True", "CompletionsReached") in conditions(world)


def test_a_success_policy_ends_it_as_soon_as_its_indexes_have_succeeded() -> None:
    rules = {"rules": [{"succeededIndexes": "0-1", "succeededCount": 2}, {"succeededIndexes": "0"}]}
    world = world_with(completionMode="Indexed", completions=3, parallelism=3, successPolicy=rules)
    names = {indexes.index_of(p): p["metadata"]["name"] for p in world.pods()}
    world.set_pod(names[2], "Succeeded")
    run(world)
    assert not conditions(world)
    world.set_pod(names[0], "Succeeded")
    run(world)
    assert ("SuccessCriteriaMet", "True", "SuccessPolicy") in conditions(world)
    assert status(world)["conditions"][0]["message"] == "Matched rules at index 1"
    assert not active(world), "the others are ended"
    assert status(world)["completedIndexes"] == "0,2"


def test_a_finished_job_goes_after_its_time() -> None:
    world = world_with(ttlSecondsAfterFinished=30)
    world.set_all("Succeeded")
    run(world)
    world.later(30)
    run(world)
    assert world.objects[JOBS, ONE]["metadata"]["deletionTimestamp"]


def test_pods_of_a_job_that_is_gone_are_let_go() -> None:
    world = world_with()
    world.remove(JOBS, ONE)
    run(world)
    assert not world.pods()[0]["metadata"].get("finalizers")


def test_a_deleted_pod_counts_as_a_failure() -> None:
    world = world_with()
    world.delete(PODS, Key("default", world.names()[0]))
    run(world)
    assert status(world)["failed"] == 1
    assert len(active(world)) == 1


@pytest.mark.parametrize(
    ("numbers", "text"), [([], ""), ([0], "0"), ([0, 1], "0,1"), ([0, 1, 2], "0-2"), ([0, 2, 3, 4, 9], "0,2-4,9")]
)
def test_ranges_are_written_and_read(numbers: list[int], text: str) -> None:
    assert indexes.ranges(numbers) == text
    assert indexes.parse_ranges(text) == set(numbers)
