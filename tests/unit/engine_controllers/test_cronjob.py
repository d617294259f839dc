# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""CronJobs."""

from __future__ import annotations

from typing import Any

from kaito.engine.controllers import cronjob
from kaito.kube.manifest import Key, Manifest
from kaito.kube.resource import CRON_JOBS, JOBS
from tests.unit.engine_controllers.builders import template
from tests.unit.engine_controllers.world import World, assert_at_rest

KEY = Key("default", "tick")


def world_with(**spec: Any) -> World:
    world = World()
    world.add(
        {
            "apiVersion": "batch/v1",
            "kind": "CronJob",
            "metadata": {"name": "tick", "namespace": "default"},
            "spec": {
                "schedule": "*/5 * * * *",
                "jobTemplate": {"metadata": {"labels": {"a": "b"}}, "spec": {"template": template()}},
                **spec,
            },
        }
    )
    run(world)
    return world


def run(world: World) -> None:
    world.run(cronjob.controller())


def jobs(world: World) -> list[str]:
    return [job["metadata"]["name"] for job in world.list(JOBS)]


def status(world: World) -> Manifest:
    found: Manifest = world.objects[CRON_JOBS, KEY].get("status") or {}
    return found


def end_all(world: World, kind: str = "Complete") -> None:
    for job in world.list(JOBS):
        done = {"conditions": [{"type": kind, "status": "True"}], "completionTime": "2026-01-01T00:05:30Z"}
        world.change(JOBS, Key("default", job["metadata"]["name"]), {"status": done})
    run(world)


def minutes(world: World, count: int) -> None:
    world.later(60 * count)
    run(world)


def test_a_job_is_made_when_the_schedule_says_so_and_only_once() -> None:
    world = world_with()
    assert jobs(world) == []
    minutes(world, 5)
    [job] = world.list(JOBS)
    assert job["metadata"]["name"] == "tick-29453765"
    assert job["metadata"]["labels"] == {"a": "b"}
    assert job["metadata"]["annotations"] == {cronjob.SCHEDULED_AT: "2026-01-01T00:05:00Z"}
    assert status(world)["lastScheduleTime"] == "2026-01-01T00:05:00Z"
    assert [item["name"] for item in status(world)["active"]] == ["tick-29453765"]
    minutes(world, 1)
    assert len(jobs(world)) == 1
    assert_at_rest(world, cronjob.controller())


def test_a_finished_job_is_noticed() -> None:
    world = world_with()
    minutes(world, 5)
    end_all(world)
    assert "active" not in status(world)
    assert status(world)["lastSuccessfulTime"] == "2026-01-01T00:05:30Z"
    assert [e.message for e in world.events if e.reason == "SawCompletedJob"] == [
        "Saw completed job: tick-29453765, condition: Complete"
    ]


def test_only_the_last_of_many_missed_times_counts() -> None:
    world = world_with()
    minutes(world, 60 * 24)
    assert jobs(world) == ["tick-29455200"]


def test_a_start_that_is_too_late_is_left_out() -> None:
    world = world_with(startingDeadlineSeconds=30)
    minutes(world, 6)
    assert jobs(world) == []


def test_forbid_waits_for_the_one_that_runs() -> None:
    world = world_with(concurrencyPolicy="Forbid")
    minutes(world, 5)
    minutes(world, 5)
    assert len(jobs(world)) == 1
    end_all(world)
    assert len(jobs(world)) == 2


def test_replace_ends_the_one_that_runs() -> None:
    world = world_with(concurrencyPolicy="Replace")
    minutes(world, 5)
    minutes(world, 5)
    assert jobs(world) == ["tick-29453770"]


def test_nothing_starts_while_it_is_suspended() -> None:
    world = world_with(suspend=True)
    minutes(world, 5)
    assert jobs(world) == []


def test_old_jobs_go() -> None:
    world = world_with(successfulJobsHistoryLimit=1, failedJobsHistoryLimit=0)
    for _ in range(3):
        minutes(world, 5)
        end_all(world)
    assert jobs(world) == ["tick-29453775"]
    minutes(world, 5)
    end_all(world, "Failed")
    assert len(jobs(world)) == 0


def test_it_asks_to_be_looked_at_when_the_next_is_due() -> None:
    world = world_with()
    observed = cronjob.Observed(world.objects[CRON_JOBS, KEY], ())
    assert cronjob.plan(observed, world.now).requeue_after_s == 300 + cronjob.LATE_S
