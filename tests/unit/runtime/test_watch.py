# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""When an engine is taken to hang, what its metrics say, how a download goes, and how many requests may wait."""

from __future__ import annotations

import asyncio

import pytest

from kaito.runtime.failure import Failed
from kaito.runtime.serve.app import raise_first
from kaito.runtime.serve.limits import Bucket, Queue
from kaito.runtime.serve.watch import HANGS_AFTER_S, SILENT_AFTER_S, Meter, Progress, Reading, reading

METRICS = """# HELP vllm:num_requests_waiting waits
vllm:num_requests_waiting{engine="0"} 2.0
vllm:num_requests_waiting{engine="1"} 1.0
vllm:num_requests_running{engine="0"} 4.0
vllm:generation_tokens_total{engine="0"} 1e+02
vllm:prompt_tokens_total{engine="0"} 11
other 5
"""


def test_an_engines_numbers_are_summed_over_its_parts() -> None:
    assert reading(METRICS) == Reading(waiting=3, running=4, tokens=111.0)
    assert reading("nothing") == Reading()


def test_an_engine_hangs_when_it_has_work_and_makes_no_token() -> None:
    progress = Progress(0.0)
    busy = Reading(running=2, tokens=5)
    assert progress.seen(busy, 1.0) is None
    assert progress.seen(busy, HANGS_AFTER_S) is None
    assert progress.seen(Reading(running=2, tokens=6), HANGS_AFTER_S + 1) is None
    assert progress.seen(Reading(running=2, tokens=6), 2 * HANGS_AFTER_S) is None
    assert "2 requests" in str(progress.seen(Reading(running=2, tokens=6), 2 * HANGS_AFTER_S + 2))


def test_an_idle_engine_does_not_hang_and_a_silent_one_does() -> None:
    progress = Progress(0.0)
    assert progress.seen(Reading(), 10 * HANGS_AFTER_S) is None
    start = 10 * HANGS_AFTER_S
    assert progress.seen(None, start + SILENT_AFTER_S - 1) is None
    assert "not answered" in str(progress.seen(None, start + SILENT_AFTER_S))


def test_a_downloads_speed_is_a_mean_of_its_last_samples() -> None:
    meter = Meter(1000)
    assert meter.sample(0, 0.0).remaining_s() == -1
    found = meter.sample(200, 2.0)
    assert (found.bytes_per_s, found.remaining_s()) == (100, 8)
    assert meter.sample(1000, 4.0).remaining_s() == 0
    assert Meter(None).sample(5, 0.0).remaining_s() == -1


def test_the_queue_is_full_when_more_wait_than_may_run() -> None:
    queue = Queue()
    queue.in_flight = 1000
    assert not queue.is_full()
    queue.running = 500
    assert not queue.is_full(), "as many may wait as run"
    queue.in_flight = 1001
    assert queue.is_full() and queue.depth() == 501 and queue.retry_after_s() == 3
    queue.in_flight, queue.engine_waiting = 1, 501
    assert queue.is_full(), "one request may be many sequences"


def test_a_bucket_refills_evenly_and_remembers_what_is_owed() -> None:
    bucket = Bucket(60, 0.0)
    assert bucket.wait_s(60, 0.0) == 0
    bucket.take(60)
    assert bucket.wait_s(1, 0.0) == 1
    assert bucket.wait_s(30, 15.0) == 15
    bucket.take(75)
    assert bucket.wait_s(1, 15.0) == 61
    assert bucket.wait_s(1000, 15.0 + 120.0) == 0, "more than a minute's worth needs a full bucket"


async def test_what_a_watcher_found_comes_out_of_its_groups() -> None:
    async def lost() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(hangs())

    async def hangs() -> None:
        raise Failed("InferenceEngineFailed", "It hangs.")

    watching = asyncio.create_task(lost())
    await asyncio.wait((watching,))
    with pytest.raises(Failed, match=r"It hangs\."):
        raise_first(watching)
