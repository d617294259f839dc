# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""A child that died is started again: after a pause, or at once when somebody asks for it."""

from __future__ import annotations

import asyncio
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
