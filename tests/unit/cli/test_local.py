# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""The record of what runs here is trusted only as far as the processes agree with it."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from signal import SIGTERM

from kaito.cli import local


def state(process: local.Process) -> local.State:
    return local.State(process, None, None, "https://127.0.0.1:6443", "/k")


def test_what_was_saved_is_loaded(tmp_path: Path) -> None:
    saved = state(local.Process.of(os.getpid()))
    local.save(tmp_path, saved)
    assert local.load(tmp_path) == local.running(tmp_path) == saved


def test_nothing_or_rubbish_on_disk_means_nothing_runs(tmp_path: Path) -> None:
    assert local.running(tmp_path) is None
    (tmp_path / local.STATE_FILE).write_text('{"supervisor": 7')
    assert local.running(tmp_path) is None


def test_a_recycled_pid_is_not_taken_for_ours(tmp_path: Path) -> None:
    local.save(tmp_path, state(replace(local.Process.of(os.getpid()), started="1")))
    assert local.running(tmp_path) is None


def test_ending_a_process_waits_for_its_end() -> None:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    process = local.Process.of(child.pid)
    assert process.is_alive()
    assert process.end(SIGTERM, wait_s=10)
    assert not process.is_alive()
    child.wait()
