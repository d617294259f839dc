# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Runs an engine as a child process: starts it behind its guard, passes its output on, ends its whole group.

Keeps the last lines so that an end can be explained (`diagnose.py`). Knows nothing of HTTP.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import BinaryIO

from kaito.runtime.serve.launch import Launch
from kaito.runtime.serve.memory import oom_kills

KEPT_LINES = 400
HEALTH_CHECK = b'"GET /health HTTP/1.1" 200'
LINE_LIMIT = 1 << 20
IN_ORDER = b"."
"""What the guard reads when the front stops in order, before the end of its input."""


def is_health_check(line: bytes) -> bool:
    """Whether an engine's log says that a probe of ours went well: every few seconds, and worth nobody's eyes."""
    return HEALTH_CHECK in line


class EngineProcess:
    """One engine, from start to end."""

    def __init__(self, process: asyncio.subprocess.Process, group: int, on_line: Callable[[str], None]) -> None:
        self._process = process
        self._group = group
        self._on_line = on_line
        self.oom_kills = oom_kills()
        """How often memory had run out in this container before."""
        self._output = asyncio.create_task(self._pass_output_on(sys.stdout.buffer))
        self.lines: deque[str] = deque(maxlen=KEPT_LINES)
        """The last lines of its output."""

    @classmethod
    async def start(
        cls, launch: Launch, inherited: Mapping[str, str], *, on_line: Callable[[str], None]
    ) -> EngineProcess:
        """Start the engine; `on_line` sees every line of its output. Raises OSError if it cannot be started."""
        read_end, write_end = os.pipe()
        guard = Path(__file__).with_name("guard.py")
        try:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-S", "-E", str(guard), str(write_end), "--", *launch.argv),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                limit=LINE_LIMIT,
                env={**inherited, **launch.environment},
                pass_fds=(write_end,),
                start_new_session=True,
            )
        finally:
            os.close(write_end)
        with os.fdopen(read_end, "rb") as report:
            answer = await asyncio.to_thread(report.readline)
        return cls(process, int(answer or b"0"), on_line)

    @property
    def pid(self) -> int:
        """The engine's process id, which is its group's too."""
        return self._group

    async def _pass_output_on(self, out: BinaryIO) -> None:
        """Copy the output to ours, line by line."""
        assert self._process.stdout is not None
        while True:
            try:
                line = await self._process.stdout.readline()
            except ValueError:
                continue  # A line beyond the limit: asyncio drops it.
            if not line:
                return
            if is_health_check(line):
                continue
            with contextlib.suppress(OSError, ValueError):
                out.write(line)
                out.flush()
            text = line.decode("utf-8", "replace").rstrip()
            self.lines.append(text)
            self._on_line(text)

    async def wait(self) -> int:
        """How it ended: an exit code, or minus a signal's number."""
        code = await self._process.wait()
        self._kill_rest()
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(asyncio.shield(self._output), 2)
        return code

    async def stop(self) -> None:
        """End the engine and everything it started: SIGTERM, and SIGKILL after the guard's grace time."""
        if self._process.returncode is None and self._process.stdin is not None:
            self._process.stdin.write(IN_ORDER)
            self._process.stdin.close()
        await self._process.wait()
        self._kill_rest()
        self._output.cancel()

    def _kill_rest(self) -> None:
        """Whatever is left of the group, also when the guard itself was killed."""
        if self._group > 0:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._group, signal.SIGKILL)
