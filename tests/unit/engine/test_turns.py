# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Work on the event loop: at once as far as it goes, then in a task; long queues in helpings."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable

import pytest

from kaito.engine.turns import HELPING_S, Turns, begin, in_task


async def answer(*waits: Awaitable[object]) -> str:
    for wait in waits:
        await wait
    return "done"


async def test_work_that_never_waits_is_done_at_once_and_without_a_task() -> None:
    results: list[str] = []
    assert begin(answer(), results.append) is None
    assert results == ["done"]


async def test_work_that_waits_goes_on_in_a_task() -> None:
    loop = asyncio.get_running_loop()
    first, second = loop.create_future(), loop.create_future()
    results: list[str] = []
    task = begin(answer(first, second), results.append)
    assert task is not None
    for future in (first, second):
        await asyncio.sleep(0)
        assert results == []
        future.set_result(None)
    await task
    await asyncio.sleep(0)
    assert results == ["done"]


async def test_what_work_waits_for_may_fail_and_the_work_may_deal_with_it() -> None:
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def patient() -> str:
        try:
            await future
        except ValueError as error:
            return str(error)
        raise AssertionError("unreachable")

    results: list[str] = []
    task = begin(patient(), results.append)
    assert task is not None
    future.set_exception(ValueError("broken"))
    assert await task == "broken"
    await asyncio.sleep(0)
    assert results == ["broken"]


@pytest.mark.parametrize("turns_before", [0, 1])
async def test_work_in_a_task_can_be_cancelled(turns_before: int) -> None:
    cleaned: list[bool] = []

    async def cautious() -> str:
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            cleaned.append(True)
        return ""

    results: list[str] = []
    task = begin(cautious(), results.append)
    assert task is not None
    for _ in range(turns_before):
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (cleaned, results) == ([True], [])


async def test_what_needs_a_task_gets_one() -> None:
    answered: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def limited() -> str:
        await in_task()
        async with asyncio.timeout(10):
            await asyncio.sleep(0)
        return "in time"

    # As a callback of the loop: this test itself is a task.
    asyncio.get_running_loop().call_soon(begin, limited(), answered.set_result)
    assert await answered == "in time"


async def test_a_long_queue_lets_others_in_between_and_keeps_its_order() -> None:
    turns = Turns(asyncio.get_running_loop())
    done: list[int] = []

    def work(number: int) -> None:
        time.sleep(HELPING_S)
        done.append(number)
        if number == 0:
            turns.add(lambda: done.append(-1))

    for number in range(3):
        turns.add(lambda number=number: work(number))  # type: ignore[misc]
    seen = []
    while len(done) < 4:
        await asyncio.sleep(0)
        seen.append(len(done))
    assert done == [0, 1, 2, -1]
    assert {1, 2} <= set(seen)
