# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""What the store holds, tells and journals: records, events, and where writes go to stay."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

EventType = Literal["ADDED", "MODIFIED", "DELETED"]


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


@dataclass(slots=True, eq=False)
class Batch:
    """The changes of one collection that were committed together, the same value for all of its watchers."""

    events: list[Event]
    cache: dict[Any, bytes] = field(default_factory=dict)
    """What watchers of a kind are told of all the events, so that each has but to send it."""


class NotStored(Exception):
    """The journal did not take the writes, and they are undone; the text says what to do."""


class Journal(Protocol):
    """Where writes go to stay."""

    def load(self) -> tuple[int, Iterable[Record]]:
        """The last revision and every record."""

    def write(self, events: Sequence[Event]) -> None:
        """Keep the changes, all or none; returns when they would survive the end of this process. Raises NotStored."""

    def close(self) -> None:
        """Release what is held."""


class MemoryJournal:
    """Keeps nothing: for tests and throw-away engines."""

    def load(self) -> tuple[int, Iterable[Record]]:
        return 0, ()

    def write(self, events: Sequence[Event]) -> None:
        pass

    def close(self) -> None:
        pass
