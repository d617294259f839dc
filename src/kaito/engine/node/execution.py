# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Commands beside a container's own process: `kubectl exec`, exec probes and life cycle hooks.

They run as children of the engine with the container's environment and folder, and end with the engine or their
client. A terminal is given by a small launcher, because a controlling terminal has to be taken by the process itself.
Of a killed engine's commands only those end by themselves that it had started; what they started is found again by the
notes that each leaves before it runs (`process.end_strays`).
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import fcntl
import os
import pty
import signal
import struct
import sys
import termios
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from kaito.engine.node.process import Launch, forget_stray, forget_unborn, note_stray
from kaito.engine.stream import Channel, NodeError, Streams

TERMINAL = Path(__file__).with_name("terminal.py")
CHUNK = 32768
QUEUE = 64
LONGEST_OUTPUT = 4096
DRAIN_S = 0.5
WRITE_POLL_S = 0.02
NOT_FOUND = 127
PR_SET_PDEATHSIG = 1
"""prctl(2). Linux only."""
LIBC = ctypes.CDLL(None)


async def run(folder: Path, launch: Launch, argv: Sequence[str], timeout_s: float | None = None) -> tuple[int, str]:
    """Run to the end: exit code and the beginning of the output. Raises TimeoutError after killing it."""
    try:
        session = await start(folder, launch, argv, Streams())
    except NodeError as error:
        return NOT_FOUND, str(error)
    output = bytearray()
    try:
        async with asyncio.timeout(timeout_s):
            while (piece := await session.read()) is not None:
                output += piece[1][: LONGEST_OUTPUT - len(output)]
            return await session.exit_code(), output.decode(errors="replace").strip()
    finally:
        await session.close()


def _before_exec(folder: Path) -> None:
    """In the child: be killed when the engine is, and leave a note, for what this command starts is not."""
    if sys.platform == "linux":
        LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    note_stray(folder, os.getpid())


def exit_code(returncode: int) -> int:
    """The exit code as a shell and a container runtime tell it: 128 + the signal's number."""
    return 128 - returncode if returncode < 0 else returncode


def kill_group(pid: int) -> None:
    """Kill a process that leads a group, and the group."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


class ExecSession:
    """A command that a client started (`kaito.engine.stream.Session`).

    The pipes are our own and not asyncio's, whose `wait` does not return while something that the command left in the
    background holds one of them open.
    """

    def __init__(
        self, process: asyncio.subprocess.Process, folder: Path, outputs: Mapping[int, Channel], source: int | None,
        *, tty: bool,
    ) -> None:  # fmt: skip
        self._process = process
        self._folder = folder
        self._outputs = dict(outputs)
        self._input = source
        self._tty = tty
        self._queue: asyncio.Queue[tuple[Channel, bytes] | None] = asyncio.Queue(QUEUE)
        self._readers = [asyncio.create_task(self._copy(fd, channel)) for fd, channel in outputs.items()]
        self._finisher = asyncio.create_task(self._finish())

    async def _copy(self, fd: int, channel: Channel) -> None:
        while True:
            try:
                data = os.read(fd, CHUNK)
            except BlockingIOError:
                await _readable(fd)
                continue
            except OSError:
                return  # the last process that had the terminal open has gone
            if not data:
                return
            await self._queue.put((channel, data))

    async def _finish(self) -> None:
        """Put the end mark behind all that the command wrote."""
        await self._process.wait()
        pending = set(self._readers)
        while pending:
            _, pending = await asyncio.wait(pending, timeout=DRAIN_S)
            if pending and not self._queue.full():
                break  # only something in the background can still write
        for task in self._readers:
            task.cancel()
        await self._queue.put(None)

    async def read(self) -> tuple[Channel, bytes] | None:
        """The next output; None at the end."""
        return await self._queue.get()

    async def write(self, data: bytes) -> None:
        """Feed the command's input."""
        while data and self._input is not None and self._process.returncode is None:
            try:
                data = data[os.write(self._input, data) :]
            except BlockingIOError:
                await asyncio.sleep(WRITE_POLL_S)
            except OSError:
                return

    async def close_stdin(self) -> None:
        """End the command's input; a terminal gets Ctrl-D."""
        if self._tty:
            await self.write(b"\x04")
        elif self._input is not None:
            os.close(self._input)
            self._input = None

    async def resize(self, columns: int, rows: int) -> None:
        """Tell the command's terminal its size."""
        if self._tty and self._input is not None:
            with contextlib.suppress(OSError):
                fcntl.ioctl(self._input, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    async def exit_code(self) -> int:
        """Wait for the end of the command."""
        return exit_code(await self._process.wait())

    async def close(self) -> None:
        """The client has gone: nothing of the command stays."""
        kill_group(self._process.pid)
        forget_stray(self._folder, self._process.pid)
        tasks = [*self._readers, self._finisher]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._process.wait()
        for fd in {*self._outputs, *([self._input] if self._input is not None else [])}:
            os.close(fd)
        self._outputs, self._input = {}, None


async def start(folder: Path, launch: Launch, argv: Sequence[str], streams: Streams) -> ExecSession:
    """Start a command beside the attempt of this folder, for a client. Raises NodeError when it cannot be started."""
    if not Path(launch.cwd).is_dir():
        raise NodeError(500, f"the container's folder {launch.cwd} is gone")
    ends = _ends(streams)
    command = (sys.executable, "-I", "-S", str(TERMINAL), *argv) if streams.tty else tuple(argv)
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            env=launch.env,
            cwd=launch.cwd,
            stdin=ends.theirs[0],
            stdout=ends.theirs[1],
            stderr=ends.theirs[2],
            start_new_session=True,
            preexec_fn=partial(_before_exec, folder),
        )
    except OSError as error:
        for fd in {*ends.outputs, *([ends.source] if ends.source is not None else [])}:
            os.close(fd)
        forget_unborn(folder)
        raise NodeError(500, f"exec {argv[0]!r} failed: {error.strerror}") from error
    finally:
        for fd in set(ends.theirs):
            os.close(fd)
    return ExecSession(process, folder, ends.outputs, ends.source, tty=streams.tty)


@dataclass(frozen=True, slots=True)
class _Ends:
    """Both ends of a command's three streams."""

    theirs: tuple[int, int, int]
    outputs: dict[int, Channel]
    source: int | None


def _ends(streams: Streams) -> _Ends:
    if streams.tty:
        master, slave = pty.openpty()
        os.set_blocking(master, False)
        return _Ends((slave, slave, slave), {master: "stdout"}, master)
    out_read, out_write = os.pipe()
    err_read, err_write = os.pipe()
    if streams.stdin:
        in_read, source = os.pipe()
        os.set_blocking(source, False)
    else:
        in_read, source = os.open(os.devnull, os.O_RDONLY), None
    for fd in (out_read, err_read):
        os.set_blocking(fd, False)
    return _Ends((in_read, out_write, err_write), {out_read: "stdout", err_read: "stderr"}, source)


async def _readable(fd: int) -> None:
    loop, ready = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(fd, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(fd)
