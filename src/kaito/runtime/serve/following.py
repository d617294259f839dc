# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Adapters that come and go while the model is served: the config file is followed, the engine is told.

Both engines take vLLM's two requests for it, which the front lets nobody else send. What cannot be loaded is said and
tried again later; the model and the other adapters are served meanwhile. A rank that the engine has no room for needs a
new engine: the server ends in good order, and the pod starts it again.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path

import aiohttp

from kaito.api.contracts import FETCHED_ADAPTERS_MOUNT, Adapter, FetchConfig, FetchItem, ServeConfig
from kaito.api.names import REASON_ADAPTER
from kaito.runtime.artifacts.fetch import fetch_item
from kaito.runtime.artifacts.fetch import load_config as load_fetch_config
from kaito.runtime.failure import Failed, failure_line
from kaito.runtime.serve.adapters import check, rank_of, read_config, with_strength
from kaito.runtime.serve.prepare import load_config, resolved
from kaito.runtime.serve.tensors import Shape
from kaito.runtime.settings import Settings

LOAD, UNLOAD = "/v1/load_lora_adapter", "/v1/unload_lora_adapter"
POLL_S = 1.0
RETRY_POLLS = 30
"""An adapter that could not be loaded is tried again after so many polls."""

Wish = tuple[Adapter, str]
"""An adapter as the config has it, and what it is fetched from."""


def bring(config: ServeConfig, settings: Settings, names: frozenset[str] | None = None) -> None:
    """Fetch those of the config's adapters (or of the names) that are not there yet; raises Failed. Blocks."""
    fetch = fetches(config, settings)
    items = items_by_path(fetch)
    for adapter in config.adapters:
        item = items.get(adapter.path)
        if item is not None and (names is None or adapter.name in names):
            fetch_item(item, fetch, settings)


def fetches(config: ServeConfig, settings: Settings) -> FetchConfig:
    """The FetchConfig beside the config; one without items when there is none."""
    if config.fetch_config is None:
        return FetchConfig(items=())
    return load_fetch_config(settings.path(config.fetch_config))


def items_by_path(fetch: FetchConfig) -> Mapping[str, FetchItem]:
    """What is fetched, by its folder."""
    return {item.destination: item for item in fetch.items}


def wishes(config: ServeConfig, settings: Settings) -> dict[str, Wish]:
    """The adapters that the config asks for, by name."""
    items = items_by_path(fetches(config, settings))
    sources = {path: item.source.model_dump_json() for path, item in items.items()}
    return {adapter.name: (adapter, sources.get(adapter.path, "")) for adapter in config.adapters}


@dataclass(slots=True)
class Following:
    """The adapters of one running engine."""

    config_path: Path
    settings: Settings
    session: aiohttp.ClientSession
    url: str
    _: KW_ONLY
    model: Mapping[str, Shape]
    """The model's tensors."""
    rank: int
    """The highest rank that the engine has room for."""
    scratch: Path
    say: Callable[[str], None]
    restart: Callable[[], None]
    """Ends the server in good order."""
    loaded: dict[str, Wish] = field(default_factory=dict)
    on_change: Callable[[tuple[str, ...]], None] = lambda names: None
    """Told of the adapters that can be asked for."""
    _failed: dict[str, Wish] = field(default_factory=dict)
    _polls: int = 0

    async def run(self) -> None:
        """Follow the file for ever."""
        while True:
            await asyncio.sleep(POLL_S)
            self._polls += 1
            if self._polls % RETRY_POLLS == 0:
                self._failed.clear()
            try:
                config = load_config(self.config_path)
                wanted = wishes(config, self.settings)
            except Failed:
                continue  # It is being replaced, or is for a newer runtime.
            await self.follow(config, wanted)

    async def follow(self, config: ServeConfig, wanted: Mapping[str, Wish]) -> None:
        """Bring the engine to what is wanted."""
        before = dict(self.loaded)
        for name in [name for name in self.loaded if name not in wanted]:
            await self._take_out(name)
        for name, wish in wanted.items():
            if self.loaded.get(name) == wish or self._failed.get(name) == wish:
                continue
            try:
                await self._load(config, wish)
            except (Failed, OSError) as error:
                self._failed[name] = wish
                self.say(failure_line(error.failure) if isinstance(error, Failed) else f"kaito-runtime: {error}")
        if self.loaded != before:
            self.on_change(tuple(self.loaded))

    async def _load(self, config: ServeConfig, wish: Wish) -> None:
        adapter = wish[0]
        await asyncio.to_thread(bring, config, self.settings, frozenset({adapter.name}))
        here = next(one for one in resolved(config, self.settings).adapters if one.name == adapter.name)
        check(here, self.model)
        rank = rank_of(read_config(here))
        if rank > self.rank:
            self.say(f"kaito-runtime: the adapter {adapter.name} has rank {rank}: the engine is started anew for it")
            self.restart()
            return
        scaled = with_strength(here, self.scratch)
        if self.loaded.pop(adapter.name, None) is not None:
            await self._ask(UNLOAD, adapter.name)
        await self._ask(LOAD, adapter.name, lora_path=scaled.path)
        self.loaded[adapter.name] = wish
        self.say(f"kaito-runtime: the adapter {adapter.name} is served (strength {adapter.strength:g})")

    async def _take_out(self, name: str) -> None:
        """Unload an adapter that is not wanted any more, and free its space on the disk."""
        adapter, source = self.loaded.pop(name)
        try:
            await self._ask(UNLOAD, name)
        except Failed as error:
            self.say(failure_line(error.failure))
            return
        self.say(f"kaito-runtime: the adapter {name} is not served any more")
        if source and adapter.path.startswith(FETCHED_ADAPTERS_MOUNT):
            await asyncio.to_thread(shutil.rmtree, self.settings.path(adapter.path), ignore_errors=True)

    async def _ask(self, path: str, name: str, **more: str) -> None:
        try:
            async with self.session.post(self.url + path, json={"lora_name": name, **more}) as answer:
                text = await answer.text()
                if answer.status < 400:
                    return
                said = f"status {answer.status}: {' '.join(text.split())[:300]}"
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            said = type(error).__name__
        what = f"The engine does not {'load' if path == LOAD else 'unload'} the adapter {name} ({said})."
        raise Failed(REASON_ADAPTER, what, "It is tried again; see the log for the engine's own words.")
