# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Containers that outlived their engine are ended when nobody is to take them over."""

from __future__ import annotations

import os
import signal
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from kaito.engine.node import process
from kaito.engine.node.folder import PodFolder
from kaito.engine.node.leftovers import end_leftovers
from kaito.engine.storage.journal import DirectoryLock

IGNORES_TERM = ("sh", "-c", "trap '' TERM; sleep 1000 & wait; wait")


async def started(data_dir: Path, *argv: str) -> Path:
    pod = PodFolder(data_dir / "node" / "pods" / f"uid-{argv[0]}")
    attempt = pod.new_attempt("main", 0, timedelta(0))
    await process.start(attempt, process.Launch(argv, {"PATH": os.defpath}, str(data_dir)))
    return attempt


@pytest.mark.parametrize("argv", [("sleep", "1000"), IGNORES_TERM], ids=["obedient", "stubborn"])
async def test_what_runs_is_ended_and_counted(tmp_path: Path, argv: tuple[str, ...]) -> None:
    attempt = await started(tmp_path, *argv)
    assert await end_leftovers(tmp_path, 0.2) == 1
    assert process.ended(attempt) is not None
    assert await end_leftovers(tmp_path, 0.2) == 0


async def test_an_attempt_is_over_when_its_shim_is_gone_and_not_when_it_has_told_the_end(tmp_path: Path) -> None:
    attempt = await started(tmp_path, "sleep", "0.3")
    process.record_end(attempt, process.Ended(0, datetime.now(UTC)))
    assert (await process.wait(attempt)).exit_code == 0
    what = process.running(attempt)
    assert what is not None and not process.is_alive(what.shim_pid, what.shim_start)


async def test_a_killed_shim_leaves_nothing_either(tmp_path: Path) -> None:
    attempt = await started(tmp_path, *IGNORES_TERM)
    what = process.running(attempt)
    assert what is not None
    os.kill(what.shim_pid, signal.SIGKILL)
    await end_leftovers(tmp_path, 0.2)
    assert not process.is_alive(what.pid, what.start)


async def test_a_running_engine_keeps_its_pods(tmp_path: Path) -> None:
    attempt = await started(tmp_path, "sleep", "1000")
    lock = DirectoryLock(tmp_path)
    assert await end_leftovers(tmp_path, 0.2) == 0
    assert process.ended(attempt) is None
    lock.release()
    assert await end_leftovers(tmp_path, 0.2) == 1


async def test_no_pods_is_no_work(tmp_path: Path) -> None:
    assert await end_leftovers(tmp_path, 0.2) == 0
