# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""A revisioned key-value log with watch: the engine's etcd.

Objects are kept in memory as encoded bytes; every write moves one revision counter and lands in a ring of events from
which watches resume and from which an older list can be rebuilt. Behind it stands a `Journal`: nothing (memory) or
SQLite (`kaito.engine.storage.journal`).

Durability: a write is in the journal before `put` or `delete` returns, so before the client is answered and before any
watcher sees it. A killed process therefore loses nothing that was acknowledged; what a power cut may take is the
journal's business. The store does not know JSON, Kubernetes, or HTTP.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Literal, Protocol

EventType = Literal["ADDED", "MODIFIED", "DELETED"]

RING_SIZE = 20_000
"""Events kept for watches to resume from; a watch from before the oldest one gets `Compacted`."""

MAX_PENDING_EVENTS = 10_000
"""A watcher that lets this many events pile up is dropped; its client starts again from its last revision."""


@dataclass(slots=True, eq=False)
class Record:
    """One stored object at one revision. `cache` is for readers who decode the value once for all."""

    collection: str
    namespace: str
    name: str
    revision: int
    value: bytes
    cache: dict[Any, Any] = field(default_factory=dict)


@dataclass(slots=True, eq=False)
class Event:
    """One change. A DELETED event's record holds the last state, encoded with the revision of the deletion."""

    type: EventType
    revision: int
    record: Record
    previous: Record | None
    cache: dict[Any, Any] = field(default_factory=dict)
    """Encoded forms that watchers share."""


class Compacted(Exception):
    """The revision that was asked for is older than what is remembered."""

    def __init__(self, oldest: int) -> None:
        super().__init__(f"oldest remembered revision is {oldest}")
        self.oldest = oldest


class Journal(Protocol):
    """Where writes go to stay."""

    def load(self) -> tuple[int, Iterable[Record]]:
        """The last revision and every record."""

    def put(self, record: Record) -> None:
        """Keep the record; returns when it would survive the end of this process."""

    def delete(self, record: Record) -> None:
        """Forget the record's key; its revision is the deletion's."""

    def close(self) -> None:
        """Release what is held."""


class MemoryJournal:
    """Keeps nothing: for tests and throw-away engines."""

    def load(self) -> tuple[int, Iterable[Record]]:
        return 0, ()

    def put(self, record: Record) -> None:
        pass

    def delete(self, record: Record) -> None:
        pass

    def close(self) -> None:
        pass


class Subscription:
    """A watcher's queue of events of one collection. Iterate with `next`; `None` says that it was dropped."""

    def __init__(self, collection: str, loop: asyncio.AbstractEventLoop | None = None) -> None:
        self.collection = collection
        self._events: deque[Event] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._loop = loop
        self.dropped = False

    def push(self, event: Event) -> None:
        """Queue an event, or drop the subscription when its reader has fallen too far behind."""
        if len(self._events) >= MAX_PENDING_EVENTS:
            self.drop()
            return
        self._events.append(event)
        self._wake()

    def drop(self) -> None:
        """End the subscription: the reader gets None."""
        self.dropped = True
        self._events.clear()
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def take(self) -> list[Event]:
        """All events that wait, without waiting."""
        events = list(self._events)
        self._events.clear()
        return events

    async def wait(self, timeout_s: float) -> list[Event] | None:
        """The next events, an empty list after `timeout_s`, None once dropped."""
        if not self._events and not self.dropped:
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await asyncio.wait_for(self._waiter, timeout_s)
            except TimeoutError:
                return []
            finally:
                self._waiter = None
        return None if self.dropped else self.take()


class Store:
    """All objects, by collection (`group/plural`), namespace and name."""

    def __init__(self, journal: Journal, *, ring_size: int = RING_SIZE) -> None:
        self._journal = journal
        self._ring: deque[Event] = deque(maxlen=ring_size)
        self._collections: dict[str, dict[str, dict[str, Record]]] = {}
        self._subscriptions: dict[str, set[Subscription]] = {}
        self._listeners: list[Callable[[Event], None]] = []
        self.revision, records = journal.load()
        self.revision = max(self.revision, 1)
        for record in records:
            self._namespace(record.collection, record.namespace)[record.name] = record
        self.compacted = self.revision
        """Changes up to and including this revision are forgotten."""

    def _namespace(self, collection: str, namespace: str) -> dict[str, Record]:
        return self._collections.setdefault(collection, {}).setdefault(namespace, {})

    def get(self, collection: str, namespace: str, name: str) -> Record | None:
        """The record, or None."""
        return self._collections.get(collection, {}).get(namespace, {}).get(name)

    def scan(self, collection: str, namespace: str | None = None) -> Iterator[Record]:
        """The records of a collection in the order of namespace and name; of one namespace if given."""
        spaces = self._collections.get(collection, {})
        names = sorted(spaces) if namespace is None else [namespace]
        for space in names:
            records = spaces.get(space, {})
            for name in sorted(records):
                yield records[name]

    def count(self, collection: str) -> int:
        """How many objects the collection holds."""
        return sum(len(records) for records in self._collections.get(collection, {}).values())

    def collections(self) -> list[str]:
        """The collections that hold, or once held, an object."""
        return sorted(self._collections)

    def scan_at(self, collection: str, namespace: str | None, revision: int) -> list[Record]:
        """The collection as it was at a revision. Raises Compacted when that is too long ago."""
        self._check_remembered(revision)
        state = {(r.namespace, r.name): r for r in self.scan(collection, namespace)}
        for event in reversed(self._ring):
            if event.revision <= revision:
                break
            record = event.record
            if record.collection != collection or (namespace is not None and record.namespace != namespace):
                continue
            key = (record.namespace, record.name)
            if event.previous is None:
                state.pop(key, None)
            else:
                state[key] = event.previous
        return [state[key] for key in sorted(state)]

    def put(self, collection: str, namespace: str, name: str, *, encode: Callable[[int], bytes]) -> Record:
        """Store an object; `encode` gets the revision that the write will have. Returns what is stored."""
        revision = self.revision + 1
        record = Record(collection, namespace, name, revision, encode(revision))
        self._journal.put(record)
        self.revision = revision
        previous = self.get(collection, namespace, name)
        self._namespace(collection, namespace)[name] = record
        self._publish(Event("MODIFIED" if previous else "ADDED", revision, record, previous))
        return record

    def delete(self, collection: str, namespace: str, name: str, *, encode: Callable[[int], bytes]) -> Record:
        """Remove an object; `encode` gives its last state. Raises KeyError when there is none."""
        previous = self._collections[collection][namespace][name]
        revision = self.revision + 1
        record = Record(collection, namespace, name, revision, encode(revision))
        self._journal.delete(record)
        self.revision = revision
        del self._collections[collection][namespace][name]
        self._publish(Event("DELETED", revision, record, previous))
        return record

    def _publish(self, event: Event) -> None:
        if self._ring.maxlen is not None and len(self._ring) == self._ring.maxlen:
            self.compacted = self._ring[0].revision
        self._ring.append(event)
        for listener in self._listeners:
            listener(event)
        for subscription in list(self._subscriptions.get(event.record.collection, ())):
            subscription.push(event)
            if subscription.dropped:
                self.unsubscribe(subscription)

    def listen(self, listener: Callable[[Event], None]) -> None:
        """Call the function with every change, at once and in order, before the writer is answered."""
        self._listeners.append(listener)

    def _check_remembered(self, revision: int) -> None:
        if revision < self.compacted:
            raise Compacted(self.compacted)

    def subscribe(self, collection: str, since: int | None = None) -> tuple[Subscription, list[Event]]:
        """A subscription to what comes, and the events after `since` that have been. Raises Compacted."""
        missed: list[Event] = []
        if since is not None:
            self._check_remembered(since)
            start = bisect_right(self._ring, since, key=lambda event: event.revision)
            missed = [event for event in islice(self._ring, start, None) if event.record.collection == collection]
        subscription = Subscription(collection)
        self._subscriptions.setdefault(collection, set()).add(subscription)
        return subscription, missed

    def unsubscribe(self, subscription: Subscription) -> None:
        """Stop feeding a subscription; nothing if that was done before."""
        self._subscriptions.get(subscription.collection, set()).discard(subscription)

    def drop_watchers(self, collection: str) -> None:
        """End every watch of a collection (its schema changed, or it is not served any more)."""
        for subscription in list(self._subscriptions.get(collection, ())):
            subscription.drop()
            self.unsubscribe(subscription)

    def end_watches(self) -> None:
        """End all watches (the server stops)."""
        for collection in list(self._subscriptions):
            self.drop_watchers(collection)

    def close(self) -> None:
        """End all watches and release the journal."""
        self.end_watches()
        self._journal.close()
