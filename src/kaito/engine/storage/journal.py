# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""The store's journal in an SQLite file, and the lock that keeps a second engine away from it.

Write-ahead log with `synchronous=NORMAL`: each group of writes is one committed transaction, handed to the operating
system before anybody is told of it, so a killed process loses nothing. The file is flushed to the disk at checkpoints
only: a power cut may take the last writes, never the file's consistency. `synchronous=FULL` closes that gap at the cost
of an fsync a group.
Checkpoints run in a thread of their own with their own connection, so no request waits for the disk.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

from kaito.engine.storage.events import Event, NotStored, Record

CHECKPOINT_EVERY_S = 2.0

Key = tuple[str, str, str]
Row = tuple[str, str, str, int, bytes]

SCHEMA = """
CREATE TABLE IF NOT EXISTS objects (
  collection TEXT NOT NULL, namespace TEXT NOT NULL, name TEXT NOT NULL,
  revision INTEGER NOT NULL, value BLOB NOT NULL,
  PRIMARY KEY (collection, namespace, name)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS counter (id INTEGER PRIMARY KEY CHECK (id = 1), revision INTEGER NOT NULL);
INSERT OR IGNORE INTO counter VALUES (1, 0);
"""


class AlreadyRunning(Exception):
    """Another engine works on the data directory."""


class DirectoryLock:
    """Holds `engine.lock` in a data directory until the process ends or `release` is called."""

    def __init__(self, directory: Path) -> None:
        """Raises AlreadyRunning, naming the process that holds the directory."""
        path = directory / "engine.lock"
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = path.read_text().strip() or "unknown"
            os.close(self._fd)
            raise AlreadyRunning(
                f"another engine (process {holder}) already runs on {directory}: "
                "stop it first, or name another folder with --data-dir"
            ) from None
        os.ftruncate(self._fd, 0)
        os.write(self._fd, f"{os.getpid()}\n".encode())

    def release(self) -> None:
        """Let the next engine in."""
        os.close(self._fd)


class SqliteJournal:
    """A `kaito.engine.storage.store.Journal` in one file."""

    def __init__(self, path: Path, *, synchronous: Literal["NORMAL", "FULL"] = "NORMAL") -> None:
        self._path = path
        self._db = sqlite3.connect(path, isolation_level=None)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute(f"PRAGMA synchronous={synchronous}")
        self._db.execute("PRAGMA wal_autocheckpoint=0")
        self._db.executescript(SCHEMA)
        self._dirty = threading.Event()
        self._stopping = threading.Event()
        self._checkpointer = threading.Thread(target=self._checkpoint, name="checkpoint", daemon=True)
        self._checkpointer.start()

    def load(self) -> tuple[int, Iterable[Record]]:
        (revision,) = self._db.execute("SELECT revision FROM counter").fetchone()
        rows = self._db.execute("SELECT collection, namespace, name, revision, value FROM objects")
        records = [Record(*row) for row in rows]
        return max([revision, *(record.revision for record in records)]), records

    def write(self, events: Sequence[Event]) -> None:
        # Of several changes of one object only the last one matters.
        last = {(e.record.collection, e.record.namespace, e.record.name): e for e in events}
        put = [(*key, e.revision, e.record.value) for key, e in last.items() if e.type != "DELETED"]
        gone = [key for key, e in last.items() if e.type == "DELETED"]
        try:
            self._transact(events[-1].revision, put, gone)
        except sqlite3.Error as error:
            text = f"{self._path} cannot be written ({error}): make room on its disk, or its folder writable"
            raise NotStored(text) from None
        self._dirty.set()

    def _transact(self, revision: int, put: list[Row], gone: list[Key]) -> None:
        """One transaction. Raises sqlite3.Error when nothing of it was done."""
        self._db.execute("BEGIN IMMEDIATE")
        try:
            if put:
                self._db.executemany("INSERT OR REPLACE INTO objects VALUES (?, ?, ?, ?, ?)", put)
            if gone:
                self._db.executemany("DELETE FROM objects WHERE collection = ? AND namespace = ? AND name = ?", gone)
                # A deletion leaves no record behind that would tell its revision.
                self._db.execute("UPDATE counter SET revision = ?", (revision,))
            self._db.execute("COMMIT")
        except sqlite3.Error:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise

    def _checkpoint(self) -> None:
        db = sqlite3.connect(self._path, isolation_level=None)
        try:
            # Without writes there is nothing to wake up for.
            while self._dirty.wait() and not self._stopping.wait(CHECKPOINT_EVERY_S):
                self._dirty.clear()
                db.execute("PRAGMA wal_checkpoint(PASSIVE)")
        finally:
            db.close()

    def close(self) -> None:
        self._stopping.set()
        self._dirty.set()
        self._checkpointer.join()
        self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        self._db.close()
