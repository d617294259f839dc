# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""A child that died is started again: after a pause, or at once when somebody asks for it. A child is stopped at any
moment of its start."""

from __future__ import annotations

import asyncio
import signal
import time
from pathlib import Path

from kaito.cli.supervisor import Child


async def test_kaito_up_cuts_the_pause_before_a_restart_short(tmp_path: Path) -> None:
    starts: asyncio.Queue[int] = asyncio.Queue()
    child = Child("engine", ["true"], tmp_path / "log", lambda name, pid: starts.put_nowait(pid), attempts=3)
    task = asyncio.create_task(child.keep_running())
    first = await starts.get()
    child.hurry()
    assert await asyncio.wait_for(starts.get(), 5) != first
    await child.stop()
    task.cancel()


async def test_a_child_that_has_no_handlers_yet_is_stopped_also_when_a_script_runs_us_in_the_background(
    tmp_path: Path,
) -> None:
    starts: asyncio.Queue[int] = asyncio.Queue()
    child = Child("engine", ["sleep", "60"], tmp_path / "log", lambda name, pid: starts.put_nowait(pid))
    before = signal.signal(signal.SIGQUIT, signal.SIG_IGN)  # as the shell does for `kaito up &`
    try:
        task = asyncio.create_task(child.keep_running())
        await asyncio.wait_for(starts.get(), 5)
    finally:
        signal.signal(signal.SIGQUIT, before)
    began = time.monotonic()
    await child.stop()
    await task
    assert time.monotonic() - began < 5
