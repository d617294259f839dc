# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Tells in the log how far a start is, for the operator to read: `contracts.StartProgress` after `names.START_MARK`.

Each line holds all that is known so far, so that the last one is enough.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from kaito.api.contracts import StartProgress
from kaito.api.names import START_MARK

EVERY_S = 5.0
"""Between two lines of one download."""


def utc_now() -> str:
    """The time, as Kubernetes writes it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@dataclass(slots=True)
class Teller:
    """What is known of one start."""

    say: Callable[[str], None]
    progress: StartProgress = field(default_factory=lambda: StartProgress(phase="Starting"))

    def tell(self, **news: Any) -> None:
        """Add to what is known, and say it if it is new."""
        fresh = self.progress.model_copy(update=news)
        if fresh != self.progress:
            self.progress = fresh
            self.say(START_MARK + fresh.model_dump_json(exclude_defaults=True))


class Fetching:
    """Tells of one fetch every few seconds. What counts the bytes calls it from several threads."""

    def __init__(self, teller: Teller, what: str, now: Callable[[], float]) -> None:
        self.total = 0
        """Bytes that there are to fetch; 0 while that is not known."""
        self._teller, self._what, self._now = teller, what, now
        self._began = self._said = now()
        self._done = 0
        self._lock = threading.Lock()

    def __call__(self, count: int) -> None:
        with self._lock:
            self._done += count
            if self._now() - self._said < EVERY_S:
                return
            self._said = self._now()
            speed = self._done / (self._said - self._began)
            left = max(0, self.total - self._done)
            self._teller.tell(
                phase=f"Fetching {self._what}",
                done_bytes=self._done,
                total_bytes=self.total or None,
                remaining_s=round(left / speed) if self.total and speed else None,
            )
