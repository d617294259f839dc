# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""A revisioned key-value log with watch: the engine's etcd.

Objects are kept in memory as encoded bytes; every write moves one revision counter and lands in a ring of events from
which watches resume and from which an older list can be rebuilt. Behind it stands a `Journal`: nothing (memory) or
SQLite (`kaito.engine.storage.journal`).

Durability: writes are journalled in groups. `put` and `delete` change what readers in this process see at once; the
journal gets all writes of one turn of the event loop in one transaction, then watchers see them. Whoever tells the
outside world of a state asks `settled` first, which calls back after the commit, so nothing that anybody was told is
lost when the process is killed. A group that cannot be journalled is taken back as a whole. What a power cut may take
is the journal's business. The store does not know JSON, Kubernetes, or HTTP.
"""

from __future__ import annotations

import asyncio
import logging
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterator
from itertools import chain, islice

from kaito.engine.storage.events import Batch, Event, EventType, Journal, NotStored, Record
from kaito.engine.storage.fanout import FanOut, Subscription

log = logging.getLogger(__name__)

LARGE_GROUP = 64
"""Writes that are not kept waiting for more."""
RING_SIZE = 20_000
"""Events kept for watches to resume from; a watch from before the oldest one gets `Compacted`."""


class Compacted(Exception):
    """The revision that was asked for is older than what is remembered."""

    def __init__(self, oldest: int) -> None:
        super().__init__(f"oldest remembered revision is {oldest}")
        self.oldest = oldest


Settled = Callable[[NotStored | None], None]
"""Told that what was read or written so far is journalled, or that it was undone."""


class Store:
    """All objects, by collection (`group/plural`), namespace and name."""

    def __init__(
        self, journal: Journal, *, ring_size: int = RING_SIZE, loop: asyncio.AbstractEventLoop | None = None
    ) -> None:
        """With a loop, all writes of one of its turns are journalled together; without, each is for itself."""
        self._journal = journal
        self._loop = loop
        self._fan_out = FanOut(loop)
        self._pending: list[Event] = []
        self._waiting: list[Settled] = []
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

    def scan_at(self, collection: str, namespace: str | None, revision: int) -> list[Record]:
        """The collection as it was at a revision. Raises Compacted when that is too long ago, and NotStored."""
        self.commit()  # the ring has to be as new as the records
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
        """Store an object; `encode` gets the revision that the write will have. Returns what is stored.

        Raises NotStored where writes are not grouped.
        """
        revision = self.revision + 1
        record = Record(collection, namespace, name, revision, encode(revision))
        previous = self.get(collection, namespace, name)
        self._change(Event("MODIFIED" if previous else "ADDED", revision, record, previous))
        return record

    def delete(self, collection: str, namespace: str, name: str, *, encode: Callable[[int], bytes]) -> Record:
        """Remove an object; `encode` gives its last state. Raises KeyError when there is none, NotStored as `put`."""
        previous = self._collections[collection][namespace][name]
        revision = self.revision + 1
        record = Record(collection, namespace, name, revision, encode(revision))
        self._change(Event("DELETED", revision, record, previous))
        return record

    def _change(self, event: Event) -> None:
        """Make the change visible in this process, and have it journalled."""
        self._pending.append(event)
        self._show(event.record, gone=event.type == "DELETED")
        self.revision = event.revision
        for listener in self._listeners:
            listener(event)
        if self._loop is None:
            self.commit()
        elif len(self._pending) == 1:
            self._loop.call_soon(self._commit_when_quiet, 0)

    def _show(self, record: Record, *, gone: bool) -> None:
        records = self._namespace(record.collection, record.namespace)
        if gone:
            del records[record.name]
        else:
            records[record.name] = record

    # Committing

    def settled(self, callback: Settled, *, told: int | None = None) -> None:
        """Call back when all that was written so far is journalled, or undone: at once when there is nothing to do.

        `told`: only this revision and those before it matter. A read of what has long been stored need not wait.
        """
        if self._pending and (told is None or told >= self._pending[0].revision):
            self._waiting.append(callback)
        else:
            callback(None)

    def commit(self) -> None:
        """Journal what waits, and tell watchers. Raises NotStored after undoing it."""
        if not self._pending:
            return
        events, self._pending = self._pending, []
        failure = None
        try:
            self._journal.write(events)
        except NotStored as error:
            failure = error
            self._undo(events)
        else:
            self._publish(events)
        waiting, self._waiting = self._waiting, []
        for callback in waiting:
            callback(failure)
        if failure is not None:
            raise failure

    def _commit_when_quiet(self, seen: int) -> None:
        """Commit once a turn of the loop has brought no more writes, which all share the transaction: 16 writers in
        one take a third of the journal's time for each."""
        if self._loop is not None and seen < len(self._pending) < LARGE_GROUP:
            self._loop.call_soon(self._commit_when_quiet, len(self._pending))
        else:
            self._commit_quietly()

    def _commit_quietly(self) -> None:
        try:
            self.commit()
        except NotStored as error:
            log.error("writes were not stored: %s", error)  # those who wait for them have been told

    def _undo(self, events: list[Event]) -> None:
        """Take changes back that were never told to a watcher; their revisions are given out again."""
        for event in reversed(events):
            record, previous = event.record, event.previous
            self._show(previous or record, gone=previous is None)
            self.revision = event.revision - 1
            back: EventType = "DELETED" if previous is None else "ADDED" if event.type == "DELETED" else "MODIFIED"
            for listener in self._listeners:
                listener(Event(back, self.revision, previous or record, record))

    def _publish(self, events: list[Event]) -> None:
        ring = self._ring
        surplus = len(ring) + len(events) - (ring.maxlen or 0)
        if surplus > 0:
            self.compacted = next(islice(chain(ring, events), surplus - 1, None)).revision
        ring.extend(events)
        by_collection: dict[str, list[Event]] = {}
        for event in events:
            by_collection.setdefault(event.record.collection, []).append(event)
        for collection, changes in by_collection.items():
            batch = Batch(changes)
            for subscription in list(self._subscriptions.get(collection, ())):
                if subscription.push(batch):
                    self._fan_out.add(subscription)
                else:
                    self.unsubscribe(subscription)
        self._fan_out.start()

    def listen(self, listener: Callable[[Event], None]) -> None:
        """Call the function with every change, at once and in order, before the writer is answered.

        A change that is undone because it could not be journalled is followed by the opposite one.
        """
        self._listeners.append(listener)

    def _check_remembered(self, revision: int) -> None:
        if revision < self.compacted:
            raise Compacted(self.compacted)

    def subscribe(self, collection: str, since: int | None = None) -> tuple[Subscription, list[Event]]:
        """A subscription to what comes, and the events after `since` that have been. Raises Compacted, NotStored."""
        self.commit()  # or the subscriber would be told of what it can see already
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
        """Journal what waits, end all watches and release the journal."""
        self._commit_quietly()
        self.end_watches()
        self._journal.close()
