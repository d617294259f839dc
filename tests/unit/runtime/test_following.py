# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""The engine is told of adapters that come and go in the config file; what cannot be loaded leaves the others alone."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession, web

from kaito.api.contracts import Adapter, ServeConfig
from kaito.runtime.serve.following import LOAD, UNLOAD, Following, wishes
from kaito.runtime.serve.prepare import load_config
from kaito.runtime.settings import Settings
from tests.lora import write_adapter


@dataclass
class Engine:
    """An engine that only takes adapters."""

    asked: list[tuple[str, str]] = field(default_factory=list)
    refuses: set[str] = field(default_factory=set)

    def application(self) -> web.Application:
        app = web.Application()
        app.router.add_post(LOAD, self.answer)
        app.router.add_post(UNLOAD, self.answer)
        return app

    async def answer(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.asked.append((request.path.split("/")[-1].split("_")[0], body["lora_name"]))
        return web.Response(status=500 if body["lora_name"] in self.refuses else 200, text="no room")


@dataclass
class Server:
    """What follows, with everything around it."""

    engine: Engine
    folder: Path
    following: Following
    lines: list[str]
    restarted: asyncio.Event

    def write(self, *adapters: Adapter) -> None:
        config = {"workspace": "w", "namespace": "d", "engine": "vllm", "device": "cpu", "served_model_name": "m"}
        listed = [adapter.model_dump() for adapter in adapters]
        text = json.dumps({**config, "model": {"id": "a/b"}, "adapters": listed})
        (self.folder / "serve.json").write_text(text)

    def config(self) -> ServeConfig:
        return load_config(self.folder / "serve.json")

    async def follow(self, *adapters: Adapter) -> list[tuple[str, str]]:
        """What the engine is asked when these are wanted."""
        self.write(*adapters)
        self.engine.asked.clear()
        await self.following.follow(self.config(), wishes(self.config(), Settings()))
        return self.engine.asked

    def adapter(self, name: str, strength: float = 1.0, **more: Any) -> Adapter:
        place = self.folder / name
        if not place.exists():
            write_adapter(place, **more)
        return Adapter(name=name, path=str(place), strength=strength)


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    engine, lines, restarted = Engine(), [], asyncio.Event()  # type: ignore[var-annotated]
    runner = web.AppRunner(engine.application())
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    async with ClientSession() as session:
        following = Following(
            tmp_path / "serve.json", Settings(), session, f"http://{host}:{port}", model={}, rank=16,
            scratch=tmp_path / "scratch", say=lines.append, restart=restarted.set,
        )  # fmt: skip
        yield Server(engine, tmp_path, following, lines, restarted)
    await runner.cleanup()


async def test_an_adapter_that_is_added_is_loaded_and_one_that_is_gone_unloaded(server: Server) -> None:
    one, two = server.adapter("one"), server.adapter("two")
    assert await server.follow(one) == [("load", "one")]
    assert await server.follow(one, two) == [("load", "two")]
    assert await server.follow(one, two) == []
    assert await server.follow(two) == [("unload", "one")]


async def test_another_strength_is_another_adapter(server: Server) -> None:
    await server.follow(server.adapter("one"))
    assert await server.follow(server.adapter("one", 0.5)) == [("unload", "one"), ("load", "one")]


async def test_one_that_cannot_be_loaded_is_said_once_and_leaves_the_others(server: Server) -> None:
    missing = Adapter(name="missing", path=str(server.folder / "missing"))
    server.engine.refuses = {"full"}
    full, one = server.adapter("full"), server.adapter("one")
    assert await server.follow(missing, full, one) == [("load", "full"), ("load", "one")]
    assert await server.follow(missing, full, one) == [], "not again at once"
    said = "\n".join(server.lines)
    assert "The adapter missing is not there" in said and "no room" in said and "adapter one is served" in said


async def test_a_rank_that_there_is_no_room_for_ends_the_server_in_good_order(server: Server) -> None:
    assert await server.follow(server.adapter("large", rank=32)) == []
    assert server.restarted.is_set()
    assert "rank 32" in server.lines[-1]


async def test_an_adapter_that_is_not_there_yet_is_fetched(server: Server) -> None:
    app = web.Application()
    app.router.add_static("/files", write_adapter(server.folder / "published"))
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    address = f"http://127.0.0.1:{runner.addresses[0][1]}/files"
    urls = [f"{address}/adapter_config.json", f"{address}/adapter_model.safetensors"]
    place = server.folder / "fetched"
    item = {"name": "one", "source": {"kind": "url", "urls": urls}, "destination": str(place)}
    (server.folder / "fetch.json").write_text(json.dumps({"items": [item]}))
    server.write(Adapter(name="one", path=str(place)))
    config = server.config().model_copy(update={"fetch_config": str(server.folder / "fetch.json")})
    await server.following.follow(config, wishes(config, Settings()))
    await runner.cleanup()
    assert server.engine.asked == [("load", "one")]
    weaker = config.model_copy(update={"adapters": (Adapter(name="one", path=str(place), strength=0.5),)})
    await server.following.follow(weaker, wishes(weaker, Settings()))
    assert server.engine.asked[1:] == [("unload", "one"), ("load", "one")], "from the files that are there"
    assert (server.folder / "scratch/one-0.5/adapter_model.safetensors").is_file()
