# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""What the store holds, tells and journals: records, events, and where writes go to stay."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from typing import Any, Literal, Protocol

import msgspec

EventType = Literal["ADDED", "MODIFIED", "DELETED"]


class Remembering(msgspec.Struct, eq=False, gc=False, kw_only=True):
    """What readers have found out about a value once for all, by names of their own.

    No value here refers back to what holds it, so that Python's cycle collector, which stops everything for as long as
    it looks at what is stored, need not know of these (`gc=False`); and most have nothing to remember.
    """

    _found: dict[Hashable, Any] | None = None

    def known(self, name: Hashable) -> Any:
        """What was found out, or None."""
        return None if self._found is None else self._found.get(name)

    def remember(self, name: Hashable, found: Any) -> None:
        """Keep it as long as the value."""
        if self._found is None:
            self._found = {}
        self._found[name] = found


class Record(Remembering, eq=False, gc=False):
    """One stored object at one revision."""

    collection: str
    namespace: str
    name: str
    revision: int
    value: bytes


class Event(Remembering, eq=False, gc=False):
    """One change. A DELETED event's record holds the last state, encoded with the revision of the deletion.

    It remembers encoded forms that watchers share.
    """

    type: EventType
    revision: int
    record: Record
    previous: Record | None


class Batch(Remembering, eq=False, gc=False):
    """The changes of one collection that were committed together, the same value for all of its watchers.

    It remembers what watchers of a kind are told of all the events, so that each has but to send it.
    """

    events: list[Event]


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
