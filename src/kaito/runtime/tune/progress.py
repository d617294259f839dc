# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""What a tuning says of its progress: lines of the log that programs read too.

A pod does not talk to the Kubernetes API; whoever may read its log (the operator, `kaito tune watch`) knows how far it
is, while it runs and afterwards, on any cluster.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TextIO

from kaito.api.contracts import TuneProgress
from kaito.api.names import PROGRESS_MARK

LEAST_PAUSE_S = 1.0
"""Between two lines of the same phase."""


def say(line: str) -> None:
    """One line for the log."""
    sys.stderr.write(f"kaito-runtime: {line}\n")
    sys.stderr.flush()


def line_of(progress: TuneProgress) -> str:
    """The progress as a line of the log."""
    return PROGRESS_MARK + progress.model_dump_json(exclude_defaults=True)


@dataclass(slots=True)
class Teller:
    """Writes progress lines, no more often than is of use."""

    stream: TextIO = field(default_factory=lambda: sys.stdout)
    clock: Callable[[], float] = time.monotonic
    speaks: bool = True
    """Of several processes that do the same only one does."""
    _told: TuneProgress | None = None
    _at: float = 0.0

    def tell(self, progress: TuneProgress, *, now: bool = False) -> None:
        """Write the line, unless the last one was just a moment ago and was of the same phase."""
        moment = self.clock()
        is_new = self._told is None or self._told.phase != progress.phase
        if not self.speaks or progress == self._told or not (now or is_new or moment - self._at >= LEAST_PAUSE_S):
            return
        self._told, self._at = progress, moment
        self.stream.write(line_of(progress) + "\n")
        self.stream.flush()
