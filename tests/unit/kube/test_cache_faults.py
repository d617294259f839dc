# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""What must hold however badly the server behaves: every change made meanwhile is seen, and nothing spins."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from kaito.kube.cache import FIRST_PAUSE_S, Cache
from kaito.kube.manifest import Key, Manifest, key_of
from kaito.kube.resource import CONFIG_MAPS
from tests.unit.kube.apiserver import ApiServer, refusal, running, status_object
from tests.unit.kube.waiting import HurriedClock, background, until

PLACE = "/api/v1/configmaps"
FASTER = 5.0
"""How much faster the cache's own pauses pass than the server's silence."""


def config_map(name: str, value: str = "1") -> Manifest:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name, "namespace": "default"},
        "data": {"value": value},
    }


def seen(cache: Cache) -> dict[str, str]:
    return {key_of(obj).name: obj["data"]["value"] for obj in cache.store.select()}


@asynccontextmanager
async def watched(clock: HurriedClock | None = None) -> AsyncIterator[tuple[ApiServer, Cache]]:
    """A server with three objects and a cache that watches them."""
    async with running() as server, server.client() as client:
        for name in ("changed", "kept", "removed"):
            await server.put(PLACE, config_map(name))
        cache = Cache(client, CONFIG_MAPS, chance=lambda: 0.0, clock=clock or HurriedClock(FASTER))
        async with background(cache.run()):
            await until(lambda: bool(server.watches))
            yield server, cache


async def change_everything(server: ApiServer) -> None:
    """A change of each sort, as somebody else makes them during a fault."""
    await server.put(PLACE, config_map("changed", "2"))
    await server.put(PLACE, config_map("added"))
    await server.remove(PLACE, "removed")


AFTERWARDS = {"added": "1", "changed": "2", "kept": "1"}


async def killed(server: ApiServer) -> None:
    await server.kill()
    await change_everything(server)
    await server.start()


async def killed_and_compacted(server: ApiServer) -> None:
    await server.kill()
    await change_everything(server)
    server.compact()
    await server.start()


async def frozen(server: ApiServer) -> None:
    server.thawed.clear()
    await change_everything(server)
    # Longer than the watch bears silence: the connection is half-open as far as the client can tell.
    await asyncio.sleep(0.4)
    server.thawed.set()


async def forgotten_without_a_close(server: ApiServer) -> None:
    # The server has lost the connection and will never write to it again, and no FIN ever comes.
    server.deaf.update(server.watches)
    await change_everything(server)


async def truncated(server: ApiServer) -> None:
    await server.drop_watches(last_words=b'{"type":"MODIFIED","object":{"metadata":{"na')
    await change_everything(server)


async def garbled(server: ApiServer) -> None:
    await server.drop_watches(last_words=b'{"type":"MODIFIED","object":"?"}\n')
    await change_everything(server)


async def gone_as_status(server: ApiServer) -> None:
    server.answers.append(("watch", refusal(410, "Expired")))
    await server.drop_watches()
    await change_everything(server)
    server.compact()


async def gone_in_stream(server: ApiServer) -> None:
    event = json.dumps({"type": "ERROR", "object": status_object(410, "Expired", "too old resource version")})
    await change_everything_silently(server)
    await server.drop_watches(last_words=event.encode() + b"\n")


async def change_everything_silently(server: ApiServer) -> None:
    """As change_everything, but no watch is ever told."""
    server.deaf.update(server.watches)
    await change_everything(server)
    server.compact()


async def internal_error_in_stream(server: ApiServer) -> None:
    event = json.dumps({"type": "ERROR", "object": status_object(500, "InternalError", "etcd went away")})
    await change_everything_silently(server)
    await server.drop_watches(last_words=event.encode() + b"\n")


async def throttled(server: ApiServer) -> None:
    server.answers += [("watch", refusal(429, "TooManyRequests", Retry_After="0"))] * 2
    await server.drop_watches()
    await change_everything(server)


async def restarting(server: ApiServer) -> None:
    server.answers += [("watch", refusal(503, "ServiceUnavailable"))] * 2
    await server.drop_watches()
    await change_everything(server)


async def wrong_page(server: ApiServer) -> None:
    # A proxy in between answers for the server.
    server.answers.append(("watch", refusal(502, "BadGateway")))
    server.answers.append(("list", refusal(502, "BadGateway")))
    await server.drop_watches()
    await change_everything(server)


async def restored_from_a_backup(server: ApiServer) -> None:
    await server.kill()
    server.version = 50
    server.history.clear()
    await change_everything(server)
    await server.start()
    server.bookmark_on_watch = True


@pytest.mark.parametrize(
    "fault",
    [
        killed,
        killed_and_compacted,
        frozen,
        forgotten_without_a_close,
        truncated,
        garbled,
        gone_as_status,
        gone_in_stream,
        internal_error_in_stream,
        throttled,
        restarting,
        wrong_page,
        restored_from_a_backup,
    ],
)
async def test_a_fault_loses_no_change_and_starts_no_storm(fault: Callable[[ApiServer], Awaitable[None]]) -> None:
    async with watched() as (server, cache):
        asked_before = len(server.requests)
        await fault(server)
        await until(lambda: seen(cache) == AFTERWARDS)
        assert len(server.requests) - asked_before <= 8
        await server.put(PLACE, config_map("changed", "3"))
        await until(lambda: seen(cache)["changed"] == "3")


async def test_a_dropped_watch_is_resumed_without_a_list() -> None:
    async with watched() as (server, cache):
        await server.drop_watches()
        await change_everything(server)
        await until(lambda: seen(cache) == AFTERWARDS)
        assert server.count("list") == 1


async def test_a_watch_that_always_ends_at_once_is_asked_for_ever_less_often() -> None:
    async with watched() as (server, _):
        server.answers += [("watch", refusal(410, "Expired"))] * 50
        await server.drop_watches()
        await asyncio.sleep(0.8 / FASTER)
        # 50 + 100 + 200 + 400 ms of pauses fit: five attempts, and the one before the fault.
        assert server.count("watch") <= 6


async def test_a_watch_that_brings_something_each_time_is_never_kept_waiting_for_long() -> None:
    clock = HurriedClock(FASTER)
    async with watched(clock) as (server, cache):
        for value in range(10):
            await server.drop_watches()
            await server.put(PLACE, config_map("changed", f"again-{value}"))
            await until(lambda value=value: seen(cache)["changed"] == f"again-{value}")  # type: ignore[misc]
    assert clock.longest_s <= FIRST_PAUSE_S  # Doubled ten times it would be most of a minute.


async def test_a_silent_server_that_sends_bookmarks_is_left_alone() -> None:
    async with watched() as (server, _):
        for _ in range(4):  # Longer than the watch bears silence.
            await asyncio.sleep(0.1)
            await server.bookmark(PLACE)
        assert server.count("watch") == 1


async def test_bookmarks_move_the_point_of_resumption() -> None:
    async with watched() as (server, cache):
        server.version += 40
        await server.bookmark(PLACE)
        await until(lambda: cache.version == str(server.version))
        server.compact()
        await server.drop_watches()
        await until(lambda: server.count("watch") == 2)
        assert server.requests[-1][2]["resourceVersion"] == str(server.version)
        assert server.count("list") == 1


async def test_a_consumer_that_blocks_for_long_misses_nothing() -> None:
    async with watched() as (server, cache):
        sizes: list[int] = []

        def slow(old: Manifest | None, new: Manifest | None) -> None:
            time.sleep(0.005)
            sizes.append(len(cache.store))

        cache.subscribe(slow)
        for number in range(30):
            await server.put(PLACE, config_map(f"burst-{number}"))
        await until(lambda: len(cache.store) == 33)
        assert len(sizes) == 30


async def test_a_list_reports_what_vanished_as_deleted() -> None:
    async with watched() as (server, cache):
        told: list[tuple[str, str]] = []

        def listen(old: Manifest | None, new: Manifest | None) -> None:
            name = key_of(new or old or {}).name
            told.append((name, "gone" if new is None else "new" if old is None else "changed"))

        cache.subscribe(listen)
        await killed_and_compacted(server)
        await until(lambda: seen(cache) == AFTERWARDS)
        assert sorted(told) == [("added", "new"), ("changed", "changed"), ("removed", "gone")]


async def test_an_answer_to_a_write_is_seen_at_once_and_told_once() -> None:
    async with watched() as (server, cache):
        told: list[Manifest | None] = []
        cache.subscribe(lambda old, new: told.append(new))
        written = await server.put(PLACE, config_map("kept", "9"))
        cache.written({**written, "metadata": dict(written["metadata"])})
        assert seen(cache)["kept"] == "9"
        await server.put(PLACE, config_map("changed", "2"))
        await until(lambda: seen(cache)["changed"] == "2")
        assert len(told) == 2


async def test_an_answer_older_than_what_the_watch_has_told_is_ignored() -> None:
    async with watched() as (server, cache):
        written = await server.put(PLACE, config_map("kept", "9"))
        late = {**written, "metadata": dict(written["metadata"])}
        await server.remove(PLACE, "kept")
        await until(lambda: cache.store.get(Key("default", "kept")) is None and cache.version == str(server.version))
        cache.written(late)
        assert cache.store.get(Key("default", "kept")) is None


async def test_the_return_of_a_server_is_told() -> None:
    async with watched() as (server, cache):
        back = asyncio.Event()
        cache.subscribe(lambda old, new: None, recovered=back.set)
        await server.kill()
        await server.start()
        async with asyncio.timeout(20):
            await back.wait()
