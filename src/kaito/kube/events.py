# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Events about objects, as `kubectl describe` shows them: repeats are counted in one Event, not multiplied.

An Event's name follows from what it says, so a restarted process counts on. Losing an event never fails anything.
A repeat within a few seconds of the last write is counted and written with the next one.
"""

from __future__ import annotations

import hashlib
import logging
from collections import OrderedDict
from dataclasses import dataclass

from kaito.kube.client import Client
from kaito.kube.clock import Clock
from kaito.kube.errors import AlreadyExists, ApiError, NotFound
from kaito.kube.manifest import Manifest, rfc3339
from kaito.kube.plan import Event
from kaito.kube.resource import EVENTS

QUIET_S = 5.0
_REMEMBERED = 4096
_MESSAGE_MAX = 1024

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Known:
    """What the server has of an event, and how many repeats it does not have yet."""

    count: int
    written_at: float
    unwritten: int = 0


def event_manifest(event: Event, source: str, now: str) -> Manifest:
    """The core/v1 Event, with a name that follows from the object, the source and what is said."""
    about = event.about
    meta = about["metadata"]
    namespace = meta.get("namespace") or "default"
    message = event.message if len(event.message) <= _MESSAGE_MAX else event.message[: _MESSAGE_MAX - 1] + "…"
    said = "\0".join((meta.get("uid", ""), about["kind"], source, event.type, event.reason, message))
    digest = hashlib.sha256(said.encode()).hexdigest()[:16]
    involved = {
        "apiVersion": about["apiVersion"],
        "kind": about["kind"],
        "name": meta["name"],
        "namespace": meta.get("namespace"),
        "uid": meta.get("uid"),
        "resourceVersion": meta.get("resourceVersion"),
    }
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": f"{meta['name'][:220]}.{digest}", "namespace": namespace},
        "involvedObject": {key: value for key, value in involved.items() if value},
        "reason": event.reason,
        "message": message,
        "type": event.type,
        "source": {"component": source},
        "reportingComponent": source,
        "reportingInstance": source,
        "firstTimestamp": now,
        "lastTimestamp": now,
        "count": 1,
    }


class Recorder:
    """Writes the events of one source."""

    def __init__(self, client: Client, source: str, *, clock: Clock, quiet_s: float = QUIET_S) -> None:
        self._client = client
        self._source = source
        self._clock = clock
        self._quiet_s = quiet_s
        self._known: OrderedDict[str, _Known] = OrderedDict()

    async def record(self, event: Event) -> bool:
        """Whether something was written. Does not raise what the server answers."""
        manifest = event_manifest(event, self._source, rfc3339(self._clock.now()))
        name = manifest["metadata"]["name"]
        known = self._known.get(name)
        if known is not None:
            known.unwritten += 1
            if self._clock.monotonic() - known.written_at < self._quiet_s:
                return False
        try:
            await (self._count_on(manifest, known) if known is not None else self._first(manifest))
        except ApiError as error:
            _log.info("event %s about %s is lost: %s", event.reason, manifest["involvedObject"]["name"], error)
            return False
        return True

    async def _first(self, manifest: Manifest) -> None:
        try:
            await self._client.create(EVENTS, manifest)
            self._remember(manifest, 1)
        except AlreadyExists:
            meta = manifest["metadata"]
            there = await self._client.get(EVENTS, meta["name"], meta["namespace"])
            known = _Known(int(there.get("count") or 1), 0.0, unwritten=1)
            await self._count_on(manifest, known)

    async def _count_on(self, manifest: Manifest, known: _Known) -> None:
        count = known.count + known.unwritten
        meta = manifest["metadata"]
        body = {"count": count, "lastTimestamp": manifest["lastTimestamp"]}
        try:
            await self._client.patch(EVENTS, meta["name"], meta["namespace"], body)
        except NotFound:  # It expired on the server: start anew.
            await self._client.create(EVENTS, manifest)
            count = 1
        self._remember(manifest, count)

    def _remember(self, manifest: Manifest, count: int) -> None:
        name = manifest["metadata"]["name"]
        self._known[name] = _Known(count, self._clock.monotonic())
        self._known.move_to_end(name)
        while len(self._known) > _REMEMBERED:
            self._known.popitem(last=False)
