# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""The client's cache and controllers against a real engine that is killed, frozen, cut off and compacted.

After each fault the cache must hold what the server holds, within seconds, without a storm of requests.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from kaito.kube.answer import WatchEvent
from kaito.kube.cache import Cache
from kaito.kube.client import Client, Page, Timeouts
from kaito.kube.config import ClusterConfig, load_kubeconfig
from kaito.kube.controller import Manager
from kaito.kube.manifest import Key, Manifest, key_of, owner_reference
from kaito.kube.plan import Controller, Plan, Reader, Watch, owner_keys
from kaito.kube.resource import CONFIG_MAPS, SECRETS
from tests.engine_process import EngineProcess
from tests.unit.kube.waiting import background, until

TIMEOUTS = Timeouts(connect_s=1.0, request_s=2.0, inactivity_s=1.0)
MANY = 50


class CountingClient(Client):
    """Counts what a cache asks for."""

    watches = 0
    lists = 0

    async def watch(self, *args: Any, **kwargs: Any) -> AsyncGenerator[WatchEvent, None]:
        self.watches += 1
        async for event in super().watch(*args, **kwargs):
            yield event

    async def pages(self, *args: Any, **kwargs: Any) -> AsyncGenerator[Page, None]:
        self.lists += 1
        async for page in super().pages(*args, **kwargs):
            yield page


class Wire:
    """A TCP proxy: the connection of one client to the engine, which can be held or cut."""

    def __init__(self) -> None:
        self.target = 0
        """The engine's port."""
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self.port = 0

    async def __aenter__(self) -> Wire:
        self._server = await asyncio.start_server(self._connect, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        self._flowing.set()
        self.cut()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def hold(self) -> None:
        """Nothing passes any more, and nobody is told: a half-open connection."""
        self._flowing.clear()

    def release(self) -> None:
        """What was held is lost with its connections; new ones work."""
        self.cut()
        self._flowing.set()

    def cut(self) -> None:
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            upstream, up = await asyncio.open_connection("127.0.0.1", self.target)
        except OSError:
            writer.transport.abort()
            return
        self._writers |= {writer, up}
        for source, sink in ((reader, up), (upstream, writer)):
            task = asyncio.create_task(self._pump(source, sink))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        try:
            while data := await source.read(65536):
                await self._flowing.wait()
                sink.write(data)
        except OSError:
            pass
        sink.transport.abort()


@dataclass
class Setting:
    """An engine, a cache of its ConfigMaps, and a client beside it."""

    engine: EngineProcess
    config: ClusterConfig
    cached: CountingClient
    cache: Cache
    direct: Client

    async def change(self, value: str) -> None:
        """Change all of them but the last, remove that one, and add another."""
        for number in range(MANY - 1):
            await self.direct.apply(CONFIG_MAPS, config_map(f"m-{number}", value), field_manager="test")
        await self.direct.delete(CONFIG_MAPS, f"m-{MANY - 1}", "default")
        await self.direct.create(CONFIG_MAPS, config_map(f"new-{value}", value))

    async def restart(self) -> None:
        await asyncio.to_thread(self.engine.kill)
        await asyncio.to_thread(self.engine.start)

    async def caught_up(self, within_s: float = 60.0) -> None:
        """Return when the cache holds what the server holds."""
        items, _ = await self.direct.list_objects(CONFIG_MAPS)
        wanted = {key_of(item): item["metadata"]["resourceVersion"] for item in items}
        await until(lambda: versions(self.cache) == wanted, within_s=within_s)


def versions(cache: Cache) -> dict[Key, str]:
    return {key_of(obj): obj["metadata"]["resourceVersion"] for obj in cache.store.select()}


def config_map(name: str, value: str) -> Manifest:
    meta = {"name": name, "namespace": "default"}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": {"value": value}}


@asynccontextmanager
async def setting(folder: Path, *, wire: Wire | None = None) -> AsyncIterator[Setting]:
    """The cache's connections go through the wire if there is one."""
    engine = EngineProcess(folder, "--no-node", "--no-controllers")
    await asyncio.to_thread(engine.start)
    try:
        config = load_kubeconfig(engine.kubeconfig)
        if wire is not None:
            wire.target = engine.port
        through = replace(config, server=f"https://127.0.0.1:{wire.port if wire is not None else engine.port}")
        async with CountingClient(through, timeouts=TIMEOUTS) as cached, Client(config, timeouts=TIMEOUTS) as direct:
            for number in range(MANY):
                await direct.apply(CONFIG_MAPS, config_map(f"m-{number}", "0"), field_manager="test")
            cache = Cache(cached, CONFIG_MAPS)
            here = Setting(engine, config, cached, cache, direct)
            async with background(cache.run()):
                await here.caught_up()
                yield here
    finally:
        if engine.process is not None and engine.process.poll() is None:
            engine.signal(signal.SIGCONT)
            await asyncio.to_thread(engine.kill)


async def test_a_killed_and_restarted_engine_is_followed_again(tmp_path: Path) -> None:
    async with setting(tmp_path) as here:
        await here.restart()
        await here.change("1")
        await here.caught_up()
        assert here.cached.watches <= 20


async def test_no_change_is_lost_when_the_engine_is_killed_amid_them(tmp_path: Path) -> None:
    async with setting(tmp_path) as here:
        for value in ("1", "2", "3"):
            writing = asyncio.create_task(here.change(value))
            await asyncio.sleep(0.05)
            await here.restart()
            await asyncio.gather(writing, return_exceptions=True)
            await here.caught_up()


async def test_a_frozen_engine_is_noticed_and_followed_when_it_goes_on(tmp_path: Path) -> None:
    async with setting(tmp_path) as here:
        here.engine.signal(signal.SIGSTOP)
        watches, began = here.cached.watches, time.monotonic()
        await asyncio.sleep(1.6)
        here.engine.signal(signal.SIGCONT)
        await here.change("1")
        await here.caught_up()
        assert 1 <= here.cached.watches - watches <= 3 + 2 * (time.monotonic() - began)


@pytest.mark.parametrize("is_compacted", [False, True])
async def test_a_half_open_connection_is_given_up_and_no_change_is_lost(tmp_path: Path, is_compacted: bool) -> None:
    async with Wire() as wire, setting(tmp_path, wire=wire) as here:
        lists, watches = here.cached.lists, here.cached.watches
        began = time.monotonic()
        wire.hold()
        await here.change("1")
        if is_compacted:
            # A restarted engine has no history: our resourceVersion is too old for it.
            await here.restart()
        wire.release()
        await here.caught_up()
        assert here.cached.lists - lists == (1 if is_compacted else 0)
        assert here.cached.watches - watches <= 6 + 2 * (time.monotonic() - began)  # It does not spin.


def observe(reader: Reader, key: Key) -> Manifest | None:
    found = reader.get(CONFIG_MAPS, key.name, key.namespace)
    return found if found is not None and found["metadata"]["name"].startswith("m-") else None


def plan(parent: Manifest, now: datetime) -> Plan:
    name = parent["metadata"]["name"]
    meta = {"name": name, "namespace": "default", "ownerReferences": [owner_reference(parent)]}
    # The server encodes stringData away: what comes back is never what was sent.
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": meta, "stringData": {"value": "x"}}
    copy = {**config_map(f"of-{name}", parent["data"]["value"]), "metadata": {**meta, "name": f"of-{name}"}}
    return Plan(apply=(secret, copy))


def copies(versions: dict[Key, str]) -> dict[Key, str]:
    return {key: version for key, version in versions.items() if key.name.startswith("of-")}


COPIES: Controller[Manifest] = Controller(
    name="copies",
    resource=CONFIG_MAPS,
    observe=observe,
    plan=plan,
    watches=(Watch(SECRETS, owner_keys("ConfigMap")),),
)


async def test_controllers_reach_their_aim_over_a_crash_and_then_write_nothing(tmp_path: Path) -> None:
    async with setting(tmp_path) as here, Client(here.config, timeouts=TIMEOUTS) as client:
        manager = Manager(client, [COPIES])
        async with background(manager.run()):
            await asyncio.sleep(0.05)
            await here.restart()
            await here.change("1")

            def done() -> bool:
                notes = {key_of(obj).name: obj["data"]["value"] for obj in here.cache.store.select()}
                return all(notes.get(f"of-m-{number}") == "1" for number in range(MANY - 1))

            await until(done, within_s=10)
            await until(lambda: manager.is_idle)
            await here.caught_up()
            writes, before = manager.stats["copies"].writes, versions(here.cache)
            # Wake every key again: nothing of that may lead to a write.
            for number in range(MANY - 1):
                body = {"metadata": {"annotations": {"touched": "yes"}}}
                await here.direct.patch(CONFIG_MAPS, f"m-{number}", "default", body)
            await here.caught_up()
            await asyncio.sleep(0.2)
            await until(lambda: manager.is_idle)
            assert manager.stats["copies"].writes == writes
            assert copies(versions(here.cache)) == copies(before)
