# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import asyncio

import pytest

from kaito.kube.clock import VirtualClock
from kaito.kube.queue import WorkQueue, backoff_s
from tests.unit.kube.waiting import background


def queue(clock: VirtualClock) -> WorkQueue[str]:
    return WorkQueue(clock, chance=lambda: 1.0)


@pytest.mark.parametrize(
    ("failures", "seconds"), [(1, 0.005), (2, 0.01), (3, 0.02), (11, 5.12), (17, 300.0), (10_000, 300.0)]
)
def test_each_failure_doubles_the_wait_up_to_five_minutes(failures: int, seconds: float) -> None:
    assert backoff_s(failures, 1.0) == pytest.approx(seconds)
    assert backoff_s(failures, 0.0) == pytest.approx(seconds / 2)


async def test_a_key_added_often_is_got_once() -> None:
    keys = queue(VirtualClock())
    for key in ("a", "b", "a", "a"):
        keys.add(key)
    assert [(await keys.get())[0], (await keys.get())[0]] == ["a", "b"]
    assert len(keys) == 0


async def test_a_key_added_while_it_is_worked_on_comes_again_but_not_to_a_second_worker() -> None:
    keys = queue(VirtualClock())
    keys.add("a")
    key, _ = await keys.get()
    keys.add("a")
    keys.add("a")
    async with background(keys.get()) as second_worker:
        await asyncio.sleep(0)
        assert not second_worker.done()
        keys.done(key)
        assert (await second_worker)[0] == "a"
        keys.done("a")
    assert keys.is_idle


async def test_a_delayed_key_comes_when_its_time_comes_and_the_earliest_wish_counts() -> None:
    clock = VirtualClock()
    keys = queue(clock)
    keys.add_after("a", 60)
    keys.add_after("a", 10)
    keys.add_after("a", 30)
    await asyncio.sleep(0)
    await clock.advance(9.9)
    assert len(keys) == 0
    await clock.advance(0.2)
    assert len(keys) == 1
    await keys.get()
    keys.done("a")
    await clock.advance(100)
    assert keys.is_idle


async def test_working_on_a_key_cancels_what_was_to_come_later() -> None:
    clock = VirtualClock()
    keys = queue(clock)
    keys.add_after("a", 60)
    keys.add("a")
    await keys.get()
    keys.done("a")
    await clock.advance(100)
    assert keys.is_idle


async def test_a_failing_key_waits_longer_each_time_and_starts_anew_after_a_success() -> None:
    keys = queue(VirtualClock())
    assert [keys.retry("a") for _ in range(3)] == [0.005, 0.01, 0.02]
    assert keys.retry("a", most_s=0.001) == 0.001
    keys.forget("a")
    assert keys.retry("a") == 0.005
    keys.close()


async def test_a_flush_brings_back_what_failed_but_not_what_was_planned_for_later() -> None:
    clock = VirtualClock()
    keys = queue(clock)
    for _ in range(20):
        keys.retry("failed")
    keys.add_after("planned", 60)
    keys.flush()
    assert (await keys.get())[0] == "failed"
    assert len(keys) == 0
    keys.close()


async def test_the_wait_for_a_worker_is_measured() -> None:
    clock = VirtualClock()
    keys = queue(clock)
    keys.add("a")
    await clock.advance(3)
    assert await keys.get() == ("a", 3.0)


async def test_a_worker_that_is_stopped_as_it_is_woken_leaves_the_key_to_another() -> None:
    keys = queue(VirtualClock())
    first = asyncio.create_task(keys.get())
    second = asyncio.create_task(keys.get())
    await asyncio.sleep(0)
    keys.add("a")
    first.cancel()
    assert (await second)[0] == "a"
    with pytest.raises(asyncio.CancelledError):
        await first
