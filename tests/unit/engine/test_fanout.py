# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Watchers are woken a few at a time, and none is forgotten."""

from __future__ import annotations

import asyncio

from kaito.engine.storage.events import Batch, Event, Record
from kaito.engine.storage.fanout import WOKEN_AT_ONCE, FanOut, Subscription


def batch(revision: int) -> Batch:
    return Batch([Event("ADDED", revision, Record("c", "", "a", revision, b"{}"), None)])


async def test_a_turn_of_the_loop_wakes_a_few_watchers_and_the_next_ones_the_rest() -> None:
    loop = asyncio.get_running_loop()
    fan_out, watchers = FanOut(loop), [Subscription("c") for _ in range(3 * WOKEN_AT_ONCE)]
    told: list[Subscription] = []

    async def watch(watcher: Subscription) -> None:
        await watcher.wait(60)
        told.append(watcher)

    tasks = [asyncio.create_task(watch(watcher)) for watcher in watchers]
    await asyncio.sleep(0)
    for watcher in watchers:
        watcher.push(batch(1))
        fan_out.add(watcher)
    fan_out.start()
    seen = []
    while len(told) < len(watchers):
        await asyncio.sleep(0)
        seen.append(len(told))
    assert max(later - earlier for earlier, later in zip([0, *seen], seen, strict=False)) <= WOKEN_AT_ONCE
    await asyncio.gather(*tasks)


async def test_what_comes_while_others_are_being_woken_is_told_in_the_next_round() -> None:
    loop = asyncio.get_running_loop()
    fan_out, watchers = FanOut(loop), [Subscription("c") for _ in range(2 * WOKEN_AT_ONCE)]
    tasks = [asyncio.create_task(watcher.wait(60)) for watcher in watchers]
    await asyncio.sleep(0)
    for watcher in watchers:
        watcher.push(batch(1))
        fan_out.add(watcher)
    fan_out.start()
    late = Subscription("c")
    waiting = asyncio.create_task(late.wait(60))
    await asyncio.sleep(0)
    late.push(batch(2))
    fan_out.add(late)
    fan_out.start()
    batches = await waiting
    assert batches is not None and [event.revision for found in batches for event in found.events] == [2]
    await asyncio.gather(*tasks)
