# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Watch streams: from the store's events to lines of JSON.

Each event is encoded once for each form (version, table or not) and its bytes are shared by all watchers; a selector
turns a change into ADDED or DELETED where the object enters or leaves the selection, as Kubernetes does.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass

import msgspec

from kaito.engine.kinds import Kind
from kaito.engine.objects.listing import Selection, too_large
from kaito.engine.storage.events import Batch, Event, EventType, Record
from kaito.engine.storage.fanout import Subscription
from kaito.engine.storage.store import Compacted, Store
from kaito.engine.wire.codec import decode
from kaito.engine.wire.status import StatusError, expired
from kaito.kube.clock import Clock
from kaito.kube.manifest import Manifest

BOOKMARK_EVERY_S = 60.0
DEFAULT_TIMEOUT_S = (1800.0, 3600.0)
"""A watch without timeoutSeconds ends after a random time in this range, as kube-apiserver's do."""

INITIAL_EVENTS_END = "k8s.io/initial-events-end"

Render = Callable[[bytes, bool], bytes]
"""Object as JSON, and whether it is the first of the stream, to the event's object as JSON."""


Ready = Callable[[Iterable[Record]], Awaitable[None]]
"""To be awaited before records are viewed, where a webhook converts them."""


@dataclass(frozen=True, slots=True)
class WatchOptions:
    """What a client wants from a watch."""

    since: int | None
    """Send what happened after this revision; None: from now on."""
    initial: bool
    """Send what exists as ADDED first."""
    mark_initial_end: bool
    bookmarks: bool
    timeout_s: float


@dataclass(frozen=True, slots=True)
class Form:
    """How objects are shown, and a name for it under which encoded events are shared."""

    name: str
    render: Render | None = None
    """None: as they are."""

    def event(self, type_: str, obj: bytes, *, first: bool = False) -> bytes:
        """One line of the stream."""
        shown = obj if self.render is None else self.render(obj, first)
        return b'{"type":"' + type_.encode() + b'","object":' + shown + b"}\n"


class WatchStream:
    """One client's watch: an async iterator of lines. The subscription exists from construction on."""

    def __init__(
        self,
        store: Store,
        kind: Kind,
        selection: Selection,
        options: WatchOptions,
        *,
        view: Callable[[Record], bytes],
        form: Form,
        clock: Clock,
        ready: Ready | None = None,
    ) -> None:
        """Raises StatusError: 410 when the start is forgotten, 504 when it lies ahead."""
        if options.since is not None and options.since > store.revision:
            raise too_large(options.since, store.revision)
        self._store, self._kind, self._selection, self._options = store, kind, selection, options
        self._view, self._form, self._clock = view, form, clock
        self._ready = ready
        self._first = True
        since = None if options.initial else options.since
        try:
            self._subscription, self._missed = store.subscribe(kind.collection, since)
        except Compacted as error:
            raise expired(f"too old resource version: {options.since} ({error.oldest})") from None
        self._revision = store.revision
        self._initial = list(store.scan(kind.collection, selection.namespace)) if options.initial else []

    def close(self) -> None:
        """Stop listening."""
        self._store.unsubscribe(self._subscription)

    async def lines(self) -> AsyncIterator[bytes]:
        """The stream's lines until its time is up, its watcher is dropped, or the client goes."""
        try:
            await self._make_ready(self._missed, self._initial)
            for line in self._beginning():
                yield line
            async for line in self._following(self._subscription):
                yield line
        except StatusError as error:
            yield error_line(error)
        finally:
            self.close()

    def _beginning(self) -> list[bytes]:
        lines: list[bytes] = []
        if self._options.initial:
            for record in self._initial:
                if self._selection.matches(record, self._view):
                    lines.append(self._line("ADDED", record))
            self._initial = []
            if self._options.mark_initial_end:
                lines.append(self._bookmark(self._revision, {INITIAL_EVENTS_END: "true"}))
        lines += self._lines_of(self._missed)
        self._missed = []
        return [b"".join(lines)] if lines else []

    async def _following(self, subscription: Subscription) -> AsyncIterator[bytes]:
        end = self._clock.monotonic() + self._options.timeout_s
        next_bookmark = self._clock.monotonic() + min(BOOKMARK_EVERY_S, max(self._options.timeout_s - 2, 1))
        while True:
            now = self._clock.monotonic()
            if now >= end:
                return
            until = min(end, next_bookmark) if self._options.bookmarks else end
            batches = await subscription.wait(max(until - now, 0.001))
            if batches is None:
                return
            if self._ready is not None:
                await self._make_ready([event for batch in batches for event in batch.events])
            told = [self._told(batch) for batch in batches]
            lines = told[0] if len(told) == 1 else b"".join(told)
            if lines:
                yield lines
            if self._options.bookmarks and self._clock.monotonic() >= next_bookmark:
                next_bookmark += BOOKMARK_EVERY_S
                yield self._bookmark(max(self._revision, self._store.revision))

    async def _make_ready(self, events: list[Event], records: list[Record] | None = None) -> None:
        """Have converted by webhook what is about to be shown. Raises StatusError."""
        if self._ready is None:
            return
        changed = [record for event in events for record in (event.record, event.previous) if record is not None]
        await self._ready([*(records or ()), *changed])
        if not self._selection.is_everything:
            await self._ready([self._shown_record("DELETED", event) for event in events])

    def _told(self, batch: Batch) -> bytes:
        """What the watcher is told of a batch: found out once for all who watch the same form of everything."""
        if not self._selection.is_everything or (self._first and self._form.render is not None):
            return b"".join(self._lines_of(batch.events))
        namespace = self._selection.namespace
        key = (self._form.name, namespace)
        told: bytes | None = batch.known(key)
        if told is None:
            told = b"".join(
                self._form.event(event.type, self._view(event.record))
                for event in batch.events
                if namespace is None or event.record.namespace == namespace
            )
            batch.remember(key, told)
        self._revision = batch.events[-1].revision
        return told

    def _lines_of(self, events: list[Event]) -> list[bytes]:
        lines = []
        for event in events:
            self._revision = event.revision
            type_ = self._type_seen(event)
            if type_ is not None:
                lines.append(self._shared_line(type_, event))
        return lines

    def _type_seen(self, event: Event) -> EventType | None:
        """What the change is for this watcher; None when it never knew of the object."""
        selection = self._selection
        if selection.namespace is not None and event.record.namespace != selection.namespace:
            return None
        if selection.is_everything:
            return event.type
        was = event.previous is not None and selection.matches(event.previous, self._view)
        if event.type == "DELETED":
            return "DELETED" if was else None
        is_now = selection.matches(event.record, self._view)
        if is_now:
            return "MODIFIED" if was else "ADDED"
        return "DELETED" if was else None

    def _shared_line(self, type_: EventType, event: Event) -> bytes:
        if self._first and self._form.render is not None:
            return self._line(type_, self._shown_record(type_, event))
        key = (self._form.name, type_)
        line: bytes | None = event.known(key)
        if line is None:
            line = self._form.event(type_, self._view(self._shown_record(type_, event)))
            event.remember(key, line)
        return line

    def _shown_record(self, type_: EventType, event: Event) -> Record:
        """What a watcher sees: for an object that left the selection, its last state in it, at the new revision."""
        if type_ != "DELETED" or event.type == "DELETED" or event.previous is None:
            return event.record
        shown: Record | None = event.known("left")
        if shown is None:
            obj = decode(event.previous.value)
            obj["metadata"]["resourceVersion"] = str(event.revision)
            record = event.record
            value = msgspec.json.encode(obj)
            shown = Record(record.collection, record.namespace, record.name, event.revision, value)
            event.remember("left", shown)
        return shown

    def _line(self, type_: str, record: Record) -> bytes:
        line = self._form.event(type_, self._view(record), first=self._first)
        self._first = False
        return line

    def _bookmark(self, revision: int, annotations: dict[str, str] | None = None) -> bytes:
        meta: Manifest = {"resourceVersion": str(revision)}
        if annotations:
            meta["annotations"] = annotations
        obj = {"kind": self._kind.kind, "apiVersion": self._kind.api_version, "metadata": meta}
        line = self._form.event("BOOKMARK", msgspec.json.encode(obj), first=self._first)
        self._first = False
        return line


def error_line(error: StatusError) -> bytes:
    """An ERROR event, for a watch that has begun."""
    return msgspec.json.encode({"type": "ERROR", "object": error.body()}) + b"\n"


def default_timeout_s() -> float:
    """A timeout for a watch whose client named none."""
    return random.uniform(*DEFAULT_TIMEOUT_S)
