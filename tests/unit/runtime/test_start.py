# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""What a server's log tells of its start."""

from __future__ import annotations

import json
from typing import Any

from kaito.api.names import START_MARK
from kaito.runtime.serve.diagnose import LOADING
from kaito.runtime.serve.start import Start
from kaito.runtime.serve.state import READY, Download, ServingState
from kaito.runtime.starting import Fetching, Teller

GIB = 1 << 30


class Log:
    """A log and a clock."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.now = 0.0
        self.teller = Teller(self.lines.append)

    @property
    def told(self) -> list[dict[str, Any]]:
        return [json.loads(line.removeprefix(START_MARK)) for line in self.lines]


def start(log: Log) -> Start:
    return Start(log.teller, ServingState("vllm", lambda: log.now), weigh=lambda: 8 * GIB)


def test_a_start_is_told_phase_by_phase_with_what_came_before() -> None:
    log = Log()
    story = start(log)
    for phase, at in ((LOADING, 10.0), (LOADING, 11.0), ("Compiling the model", 72.0), (READY, 90.0)):
        log.now = at
        story.entered(phase)
    log.now = 91.5
    story.made_token()
    assert [one["phase"] for one in log.told] == [LOADING, "Compiling the model", READY, READY]
    last = log.told[-1]
    assert (last["weights_bytes"], last["weights_s"], last["first_token_s"]) == (8 * GIB, 62.0, 91.5)
    assert last["weights_at"] and last["first_token_at"]


def test_a_download_is_told_every_few_seconds_and_not_after_its_end() -> None:
    log = Log()
    story = start(log)
    story.entered(LOADING)
    for at in range(1, 13):
        log.now = float(at)
        story.downloaded(Download(at * GIB, 20 * GIB, float(GIB)))
    assert [(one.get("done_bytes"), one.get("remaining_s")) for one in log.told[1:]] == [(5 * GIB, 15), (10 * GIB, 10)]
    assert story.state.download == Download(12 * GIB, 20 * GIB, float(GIB))
    log.now = 30.0
    story.entered(READY)
    story.downloaded(Download(20 * GIB, 20 * GIB, 0.0))
    assert "done_bytes" not in log.told[-1]


def test_a_fetch_is_told_every_few_seconds() -> None:
    log = Log()
    fetching = Fetching(log.teller, "weights", lambda: log.now)
    fetching.total = 10 * GIB
    for at in range(1, 9):
        log.now = float(at)
        fetching(GIB)
    assert log.told == [{"phase": "Fetching weights", "done_bytes": 5 * GIB, "total_bytes": 10 * GIB, "remaining_s": 5}]
