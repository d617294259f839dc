# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""What a new engine finds of attempts that an old one began: real shims, no API server."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import signal
import sys
from pathlib import Path

import pytest

from kaito.engine.node import process


def launch(folder: Path, script: str) -> process.Launch:
    argv = (sys.executable, "-I", "-S", "-c", script)
    return process.Launch(argv, {"PATH": os.environ["PATH"]}, str(folder), places={"/etc/x": "/real"})


async def test_a_shim_holds_its_lock_as_long_as_it_lives(tmp_path: Path) -> None:
    folder = tmp_path / "attempt"
    await process.start(folder, launch(tmp_path, "import time; time.sleep(600)"))
    with (folder / process.LOCK).open("r+") as lock:
        with pytest.raises(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        await process.stop(folder, 1.0)
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


async def test_an_attempt_that_is_being_started_is_waited_for(tmp_path: Path) -> None:
    with (tmp_path / process.LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        waiting = asyncio.ensure_future(process.settle(tmp_path))
        await asyncio.sleep(0.03)
        assert not waiting.done()
        (tmp_path / "exit.json").write_text(json.dumps({"exit_code": 0, "finished_at": 0.0}))
        await asyncio.wait_for(waiting, 20)


async def test_an_attempt_that_was_never_started_is_not_waited_for(tmp_path: Path) -> None:
    (tmp_path / process.LOCK).touch()
    await asyncio.wait_for(process.settle(tmp_path), 0.5)
    await asyncio.wait_for(process.settle(tmp_path / "missing"), 0.5)


async def test_who_gives_up_waiting_for_a_start_leaves_it_known(tmp_path: Path) -> None:
    folder = tmp_path / "attempt"
    starting = asyncio.ensure_future(process.start(folder, launch(tmp_path, "import time; time.sleep(600)")))
    await asyncio.sleep(0)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert process.running(folder) is not None
    await process.stop(folder, 0)


async def test_what_a_killed_shim_leaves_in_its_session_is_killed(tmp_path: Path) -> None:
    folder = tmp_path / "attempt"
    script = "import os, time; pid = os.fork(); pid and open('child', 'w').write(str(pid)); time.sleep(600)"
    await process.start(folder, launch(tmp_path, script))
    while not (tmp_path / "child").exists() or not (tmp_path / "child").read_text():
        await asyncio.sleep(0.01)
    child = int((tmp_path / "child").read_text())
    what = process.running(folder)
    assert what is not None
    os.kill(what.shim_pid, signal.SIGKILL)
    assert (await process.wait(folder)).exit_code == 137
    async with asyncio.timeout(20):
        while process.is_alive(child, ""):
            await asyncio.sleep(0.01)


async def test_commands_beside_the_process_know_its_places(tmp_path: Path) -> None:
    folder = tmp_path / "attempt"
    await process.start(folder, launch(tmp_path, "pass"))
    found = process.launch_of(folder)
    assert found is not None and found.places == {"/etc/x": "/real"}
    await process.wait(folder)
