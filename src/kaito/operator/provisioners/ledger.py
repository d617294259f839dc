# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""How often the nodes of a Workspace were ordered, so that a node that is lost or never comes is paced, not repeated.

Kept as an annotation on the Workspace, since orders that failed are gone. It is written from the orders that are seen,
never ahead of them, and so says the same whoever writes it and however often.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from kaito.kube.manifest import parse_time, rfc3339

PAUSES_S = (0.0, 10.0, 60.0, 300.0, 1800.0)
"""The least time between an order and the next one for the same place, by how many there were in the series: a place
costs at most five orders in the first 37 minutes and two an hour from then on."""
SERIES_ENDS_AFTER_S = 6 * 3600.0
"""A place whose last order is older than this begins anew."""
_ENTRY = re.compile(r"(\d{1,5})=(\d{1,5})@([0-9TZ:+.-]+)")


@dataclass(frozen=True, slots=True)
class Entry:
    """The orders for one place."""

    place: int
    count: int
    """How many there were in this series."""
    last: datetime


@dataclass(frozen=True, slots=True)
class Ledger:
    """The orders of a Workspace, by place."""

    entries: tuple[Entry, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Ledger:
        """What an annotation says. Parts that cannot be read are left out: they only cost patience."""
        found = {}
        for part in text.split(","):
            match = _ENTRY.fullmatch(part.strip())
            if match is None:
                continue
            try:
                last = parse_time(match[3])
            except ValueError:
                continue
            if last.tzinfo is not None:
                found[int(match[1])] = Entry(int(match[1]), int(match[2]), last)
        return cls(tuple(found[place] for place in sorted(found)))

    def __str__(self) -> str:
        return ",".join(f"{entry.place}={entry.count}@{rfc3339(entry.last)}" for entry in self.entries)

    def due(self, place: int) -> datetime | None:
        """When a node may next be ordered for the place; None when at once."""
        entry = self._entry(place)
        if entry is None:
            return None
        return entry.last + timedelta(seconds=PAUSES_S[min(entry.count, len(PAUSES_S) - 1)])

    def count(self, place: int) -> int:
        """How many orders there were in the place's series."""
        entry = self._entry(place)
        return entry.count if entry else 0

    def seen(self, orders: Iterable[tuple[int, datetime]]) -> Ledger:
        """The ledger with orders that are there: each with its place and its time of creation."""
        entries = {entry.place: entry for entry in self.entries}
        for place, created in orders:
            before = entries.get(place)
            if before is None:
                entries[place] = Entry(place, 1, created)
            elif created > before.last:
                is_new_series = (created - before.last).total_seconds() > SERIES_ENDS_AFTER_S
                entries[place] = Entry(place, 1 if is_new_series else before.count + 1, created)
        return Ledger(tuple(entries[place] for place in sorted(entries)))

    def _entry(self, place: int) -> Entry | None:
        return next((entry for entry in self.entries if entry.place == place), None)
