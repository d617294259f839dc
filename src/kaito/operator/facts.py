# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""What is known of the model that a preset names: the catalogue's record, or what a hub says of any other.

Answers at once, from what is at hand: planning never waits for a network. A hub is asked in the background, one model
at a time; meanwhile the answer is that it is being asked. A hub that cannot be reached, or that keeps a model to
itself, stops nothing: the model is then served without facts, and the pod's own download says what is wrong.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp

from kaito.catalog.hub import BUSY_S, Hub, HubError, web_fetch
from kaito.catalog.models import ModelFacts, UnknownModel, catalogue
from kaito.kube.clock import Clock, RealClock
from kaito.operator.settings import Settings
from kaito.operator.workspace.observe import FactsPending, Lookup, UnknownPreset

ASK_AGAIN_S = 600.0
"""How long a failure is believed."""
MOST_BUSY_S = 30.0
"""The longest that a Workspace waits for a hub that is asked too often."""

_log = logging.getLogger(__name__)


def catalogue_lookup(preset: str) -> ModelFacts | UnknownPreset:
    """The catalogue's record of a preset, a record without facts for another hub id, or why it names no model."""
    try:
        return catalogue().find(preset)
    except UnknownModel as error:
        text = str(error)
        return UnknownPreset(text[:1].upper() + text[1:])


class HubFacts:
    """The catalogue with a hub behind it. `lookup` is a `Lookup`; `run` does the asking, until cancelled."""

    def __init__(self, hub: Hub, clock: Clock | None = None) -> None:
        self._hub = hub
        self._clock = clock or RealClock()
        self._known: dict[str, ModelFacts | UnknownPreset] = {}
        self._until: dict[str, float] = {}
        self._asked: asyncio.Queue[str] = asyncio.Queue()
        self._pending: set[str] = set()

    def lookup(self, preset: str) -> ModelFacts | UnknownPreset | FactsPending:
        """What is known of the preset now. A model that nothing is known of is asked about from here on."""
        found = catalogue_lookup(preset)
        if isinstance(found, UnknownPreset) or found.is_known:
            return found
        key = found.id.lower()
        known = self._known.get(key)
        if known is not None and self._clock.monotonic() < self._until.get(key, float("inf")):
            return known
        if key not in self._pending:
            self._pending.add(key)
            self._asked.put_nowait(found.id)
        # What was believed so far holds until there is a newer answer, so that nothing that runs is taken down.
        return known or FactsPending(f"Asking {self._hub.endpoint} what {found.id} is.")

    async def run(self) -> None:
        """Ask the hub about one model after the other."""
        while True:
            id_ = await self._asked.get()
            answer, believed_s = await self._ask(id_)
            key = id_.lower()
            self._known[key] = answer
            self._pending.discard(key)
            if believed_s is None:
                self._until.pop(key, None)
            else:
                self._until[key] = self._clock.monotonic() + believed_s

    async def _ask(self, id_: str) -> tuple[ModelFacts | UnknownPreset, float | None]:
        """The answer, and for how many seconds it is good; None for ever."""
        for is_last in (False, False, True):
            try:
                return await self._hub.facts(id_), None
            except HubError as error:
                wait_s = error.retry_after_s or BUSY_S
                if error.why == "busy" and wait_s <= MOST_BUSY_S and not is_last:
                    await self._clock.sleep(wait_s)
                    continue
                _log.warning("%s", error)
                if error.why == "missing":
                    return UnknownPreset(_missing(self._hub.endpoint, id_), may_be_private=True), ASK_AGAIN_S
                break
        return ModelFacts(id=id_), ASK_AGAIN_S


def _missing(endpoint: str, id_: str) -> str:
    return (
        f"The hub {endpoint} shows no model {id_}: correct the name, or if it is private name a Secret with a token in "
        "inference.preset.presetOptions.modelAccessSecret."
    )


@asynccontextmanager
async def model_lookup(settings: Settings, clock: Clock) -> AsyncIterator[Lookup]:
    """How models are looked up while the operator runs: with a hub behind the catalogue, where one may be asked."""
    # On one machine a model is tried whatever its size, so nothing would be gained.
    if settings.offline or not settings.hub_endpoint or settings.provisioner == "local":
        yield catalogue_lookup
        return
    async with aiohttp.ClientSession(trust_env=True) as session:
        cache = Path(settings.facts_cache) if settings.facts_cache else None
        facts = HubFacts(Hub(web_fetch(session), settings.hub_endpoint.rstrip("/"), cache=cache), clock)
        asking = asyncio.create_task(facts.run())
        try:
            yield facts.lookup
        finally:
            asking.cancel()
