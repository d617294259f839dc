# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""The store: revisions, snapshots, watches, and what its journal keeps."""

from __future__ import annotations

from pathlib import Path

import pytest

from kaito.engine.storage.events import MemoryJournal
from kaito.engine.storage.journal import AlreadyRunning, DirectoryLock, SqliteJournal
from kaito.engine.storage.store import Compacted, Store


def put(store: Store, name: str, text: str = "x", namespace: str = "n") -> int:
    return store.put("/things", namespace, name, encode=lambda revision: f"{text}@{revision}".encode()).revision


def names(store: Store, revision: int) -> list[str]:
    return [record.name for record in store.scan_at("/things", None, revision)]


def test_each_write_moves_the_revision_by_one_and_encodes_it() -> None:
    store = Store(MemoryJournal())
    first, second = put(store, "a"), put(store, "a", "y")
    found = store.get("/things", "n", "a")
    assert second == first + 1 == store.revision
    assert found is not None and found.value == f"y@{second}".encode()


def test_a_snapshot_shows_the_past_until_it_is_forgotten() -> None:
    store = Store(MemoryJournal(), ring_size=3)
    early = put(store, "a")
    put(store, "b")
    store.delete("/things", "n", "a", encode=lambda revision: b"gone")
    assert names(store, early) == ["a"]
    assert names(store, store.revision) == ["b"]
    put(store, "c")
    put(store, "d")
    with pytest.raises(Compacted):
        names(store, early)


def test_a_subscription_gets_what_it_missed_and_then_what_comes() -> None:
    store = Store(MemoryJournal())
    since = put(store, "a")
    put(store, "b")
    subscription, missed = store.subscribe("/things", since)
    put(store, "b", "y")
    assert [(event.type, event.record.name) for event in missed] == [("ADDED", "b")]
    assert [(event.type, event.record.name) for batch in subscription.take() for event in batch.events] == [
        ("MODIFIED", "b")
    ]


async def test_a_dropped_subscription_says_so() -> None:
    store = Store(MemoryJournal())
    subscription, _ = store.subscribe("/things")
    store.drop_watchers("/things")
    assert await subscription.wait(1) is None


def test_objects_and_revision_survive_and_old_watches_do_not(tmp_path: Path) -> None:
    store = Store(SqliteJournal(tmp_path / "state.db"))
    before = put(store, "a")
    put(store, "b")
    store.delete("/things", "n", "a", encode=lambda revision: b"gone")
    last = store.revision
    store.close()
    again = Store(SqliteJournal(tmp_path / "state.db"))
    assert again.revision == last
    assert [record.name for record in again.scan("/things")] == ["b"]
    assert put(again, "c") == last + 1
    with pytest.raises(Compacted):
        again.subscribe("/things", before)
    again.close()


def test_a_folder_belongs_to_one_engine(tmp_path: Path) -> None:
    lock = DirectoryLock(tmp_path)
    with pytest.raises(AlreadyRunning, match="already runs on"):
        DirectoryLock(tmp_path)
    lock.release()
    DirectoryLock(tmp_path).release()
