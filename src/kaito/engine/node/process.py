# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Container processes as the node sees them: start through the shim, find again after a restart, end, and feed.

What is known of a process lives in files (see `shim`), so a new engine adopts what an old one started: a process is
ours when its number and its start time both match. Nothing here knows pods; `worker` does.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import signal
import struct
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from kaito.engine.node.shim import start_time

SHIM = Path(__file__).with_name("shim.py")
LOCK = "lock"
"""Held by the shim as long as it lives."""
BESIDE = "beside"
"""In an attempt's folder, a note for each command beside it: its process as the name, the start time as the text."""
LOG_BYTES = 10 * 1024 * 1024
FRAME_BYTES = 4000
"""Below PIPE_BUF, so that a frame written to the FIFO is never split by another writer's."""
POLL_S = 0.2
LAUNCH_S = 10.0


class StartFailure(Exception):
    """The shim itself could not be started."""


@dataclass(frozen=True, slots=True)
class Launch:
    """All that it takes to start a container's process, as the host sees it."""

    argv: tuple[str, ...]
    env: dict[str, str]
    cwd: str
    tty: bool = False
    stdin: bool = False
    places: Mapping[str, str] = field(default_factory=dict)
    """Paths as the container sees them, and where they really are; commands beside the process need them too."""


@dataclass(frozen=True, slots=True)
class Running:
    """Which processes belong to a started attempt."""

    pid: int
    start: str
    shim_pid: int
    shim_start: str
    started_at: datetime


@dataclass(frozen=True, slots=True)
class Ended:
    """How an attempt ended."""

    exit_code: int
    finished_at: datetime
    signal: int = 0
    start_error: str = ""


async def start(folder: Path, launch: Launch) -> None:
    """Start the process; `running` or `ended` of the folder tell the rest. Raises StartFailure."""
    folder.mkdir(parents=True, mode=0o700, exist_ok=True)
    spec = {
        "argv": list(launch.argv),
        "env": launch.env,
        "cwd": launch.cwd,
        "tty": launch.tty,
        "stdin": launch.stdin,
        "places": dict(launch.places),
        "log_bytes": LOG_BYTES,
    }
    path = folder / "spec.json"
    path.touch(mode=0o600)
    path.write_text(json.dumps(spec))
    (folder / "log").touch(mode=0o600)
    if launch.stdin:
        os.mkfifo(folder / "stdin", 0o600)
    # Whoever asked may go away; a shim that is being started may not be left half known.
    starting = asyncio.ensure_future(_start_shim(folder))
    try:
        await asyncio.shield(starting)
    except asyncio.CancelledError:
        with contextlib.suppress(StartFailure, OSError):
            await starting
        raise


async def _start_shim(folder: Path) -> None:
    """Start the shim and return when it has told how it went. Raises StartFailure."""
    errors = folder / "shim.err"
    held = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with errors.open("wb") as sink:
            shim = await asyncio.create_subprocess_exec(
                *(sys.executable, "-I", "-S", str(SHIM), str(folder), str(held)),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=sink,
                env={},
                pass_fds=(held,),
                start_new_session=True,
            )
    finally:
        os.close(held)
    # What counts is in the folder; the launcher's own end is only a reason to look.
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(shim.wait(), LAUNCH_S)
    if running(folder) is None and ended(folder) is None:
        text = errors.read_text(errors="replace").strip()
        raise StartFailure(text.splitlines()[-1] if text else f"the shim ended with {shim.returncode}")


async def settle(folder: Path) -> None:
    """Return when an attempt that an earlier engine began is known to run, to have ended, or never to have started.

    The shim holds a lock from before its first instruction, so one that has not told its number yet is noticed.
    """
    deadline = time.monotonic() + LAUNCH_S
    while running(folder) is None and ended(folder) is None and _is_locked(folder / LOCK):
        if time.monotonic() > deadline:
            return
        await asyncio.sleep(0.01)


def _is_locked(path: Path) -> bool:
    try:
        fd = os.open(path, os.O_RDWR)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(fd)
    return False


def _read(path: Path) -> dict[str, Any] | None:
    try:
        value: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return value


def launch_of(folder: Path) -> Launch | None:
    """How the attempt was started; exec uses its environment."""
    spec = _read(folder / "spec.json")
    if spec is None:
        return None
    return Launch(
        tuple(spec["argv"]), spec["env"], spec["cwd"], tty=spec["tty"], stdin=spec["stdin"], places=spec["places"]
    )


def running(folder: Path) -> Running | None:
    """The attempt's processes, whether they still live or not; None when it was never started."""
    state = _read(folder / "state.json")
    if state is None:
        return None
    started_at = datetime.fromtimestamp(state["started_at"], UTC)
    return Running(state["pid"], state["start"], state["shim_pid"], state["shim_start"], started_at)


def ended(folder: Path) -> Ended | None:
    """How the attempt ended; None while it runs, or when its shim was killed before it could tell."""
    end = _read(folder / "exit.json")
    if end is None:
        return None
    finished_at = datetime.fromtimestamp(end["finished_at"], UTC)
    return Ended(end["exit_code"], finished_at, end.get("signal", 0), end.get("start_error", ""))


def record_end(folder: Path, end: Ended) -> None:
    """Note the end of an attempt whose shim cannot do it any more."""
    value = {"exit_code": end.exit_code, "finished_at": end.finished_at.timestamp(), "signal": end.signal}
    temporary = folder / "exit.new"
    temporary.write_text(json.dumps(value))
    temporary.replace(folder / "exit.json")


def is_alive(pid: int, start: str) -> bool:
    """Whether that very process lives (not a later one with its number)."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return False
    stat = Path(f"/proc/{pid}/stat")
    try:
        fields = stat.read_text().rsplit(")", 1)[1].split()
    except OSError:
        return not Path("/proc/self").exists()
    return fields[0] != "Z" and (not start or fields[19] == start)


async def wait(folder: Path) -> Ended:
    """The end of a started attempt, at once when it is over already. Its shim is gone then: to tell is its last act."""
    what = running(folder)
    if what is not None:
        await _gone(what.shim_pid, what.shim_start)
    end = ended(folder)
    if end is None:
        if what is not None:
            _kill_session(what.pid, what.start)
            await _gone(what.pid, what.start)
        end = Ended(exit_code=137, finished_at=datetime.now(UTC), signal=int(signal.SIGKILL))
        record_end(folder, end)
    return end


async def _gone(pid: int, start: str) -> None:
    """Return when the process has ended: told by the kernel where it can, looked up a few times a second elsewhere."""
    try:
        fd = os.pidfd_open(pid)
    except (AttributeError, OSError):
        while is_alive(pid, start):  # noqa: ASYNC110 (no event tells it here)
            await asyncio.sleep(POLL_S)
        return
    loop = asyncio.get_running_loop()
    over = asyncio.Event()
    loop.add_reader(fd, over.set)
    try:
        if is_alive(pid, start):
            await over.wait()
    finally:
        loop.remove_reader(fd)
        os.close(fd)


def _kill_session(leader: int, start: str) -> None:
    """Kill a process that leads a session, and whatever of its session is left when it has gone itself."""
    if is_alive(leader, start):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(leader, signal.SIGKILL)
    elif is_alive(leader, ""):
        return  # A number is given to a new process only when nobody is left in the session that had it.
    for pid, began in _session(leader):
        if start and began >= int(start):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)


def note_stray(folder: Path, pid: int) -> None:
    """Note that a command beside this attempt leads a session, for `end_strays` of another engine."""
    notes = folder / BESIDE
    notes.mkdir(exist_ok=True)
    (notes / str(pid)).write_text(start_time(pid))


def forget_stray(folder: Path, pid: int) -> None:
    """It has ended, and so has all that it started."""
    (folder / BESIDE / str(pid)).unlink(missing_ok=True)


def forget_unborn(folder: Path) -> None:
    """Drop the notes of processes that are not there: commands that could not be executed leave one."""
    for note in (folder / BESIDE).glob("[0-9]*"):
        if not is_alive(int(note.name), note.read_text()):
            note.unlink()


def end_strays(folder: Path) -> None:
    """Kill what is left of the commands that an engine, killed since, ran beside this attempt."""
    for note in (folder / BESIDE).glob("[0-9]*"):
        _kill_session(int(note.name), note.read_text())
        note.unlink()


def _session(leader: int) -> list[tuple[int, int]]:
    """Number and start time of the living processes of a session; none where /proc is missing."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, IndexError, ValueError):
            fields = entry.read_text(errors="replace").rsplit(")", 1)[1].split()
            if int(fields[3]) == leader and fields[0] != "Z":
                found.append((int(entry.parent.name), int(fields[19])))
    return found


def send(folder: Path, number: signal.Signals) -> None:
    """Send a signal to the container's first process, if it still lives; what it leaves behind, the shim kills."""
    what = running(folder)
    if what is None or ended(folder) is not None or not is_alive(what.pid, what.start):
        return
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(what.pid, number)


async def stop(folder: Path, grace_s: float) -> Ended:
    """SIGTERM, the grace period, SIGKILL; returns how it ended."""
    if grace_s > 0:
        send(folder, signal.SIGTERM)
        try:
            return await asyncio.wait_for(wait(folder), grace_s)
        except TimeoutError:
            pass
    send(folder, signal.SIGKILL)
    return await wait(folder)


class Feed:
    """The writing end of a container's input. Raises BrokenPipeError when nobody reads any more."""

    def __init__(self, folder: Path) -> None:
        try:
            self._fd = os.open(folder / "stdin", os.O_WRONLY | os.O_NONBLOCK)
        except OSError as error:
            raise BrokenPipeError(str(error)) from error

    async def data(self, data: bytes) -> None:
        """Hand over input; waits while the container does not take any."""
        for at in range(0, len(data), FRAME_BYTES):
            await self._frame(0, data[at : at + FRAME_BYTES])

    async def end(self) -> None:
        """No more input will come."""
        await self._frame(1, b"")

    async def resize(self, columns: int, rows: int) -> None:
        """The terminal's size."""
        await self._frame(2, struct.pack("!HH", columns, rows))

    async def _frame(self, kind: int, body: bytes) -> None:
        frame = struct.pack("!BH", kind, len(body)) + body
        while self._fd >= 0:
            try:
                os.write(self._fd, frame)
                return
            except BlockingIOError:
                await asyncio.sleep(0.02)

    def close(self) -> None:
        """Let go of the FIFO; the container's input stays open."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
