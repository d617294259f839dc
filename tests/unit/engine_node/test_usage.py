# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""What /proc says of processes and the machine."""

from __future__ import annotations

import os
from pathlib import Path

from kaito.engine.node.usage import Process, node_use, parse_stat, processes
from kaito.engine.stream import Usage

TICKS, PAGE = os.sysconf("SC_CLK_TCK"), os.sysconf("SC_PAGE_SIZE")
FIELDS = ["S", "7", *["0"] * 9, str(TICKS), str(2 * TICKS), str(3 * TICKS), "0", *["0"] * 6, "10", *["0"] * 20]
STAT = f"42 (a (strange) name) {' '.join(FIELDS)}\n"


def test_a_processs_time_has_that_of_its_ended_children() -> None:
    assert parse_stat(STAT) == Process(parent=7, cpu_s=6.0, memory_bytes=10 * PAGE)


def test_what_has_just_ended_is_left_out(tmp_path: Path) -> None:
    for name, text in (("42", STAT), ("43", ""), ("self", STAT)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "stat").write_text(text)
    (tmp_path / "44").mkdir()
    assert list(processes(tmp_path)) == [42]


def test_a_machine_that_waits_uses_nothing() -> None:
    stat = f"cpu  {TICKS} {TICKS} {TICKS} 999999 888888 {TICKS} {TICKS} {TICKS} 0 0\ncpu0 1 1 1 1\n"
    meminfo = "MemTotal:  1000 kB\nMemFree:  100 kB\nMemAvailable:  400 kB\n"
    assert node_use(stat, meminfo) == Usage(6.0, 600 * 1024)
