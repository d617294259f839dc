# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""The parent process of one container: keeps its output, hands it its input, and notes how it ended.

Run as a script of its own (`python -I -S shim.py FOLDER LOCK_FD`) in a session of its own, so that a pod outlives the
engine that started it. It uses the standard library alone and imports nothing of ours, because every container pays
for its start and its memory.
Everything it knows and tells is a file in FOLDER:

    spec.json   read     argv, env, cwd, tty, stdin, log_bytes
    state.json  written  pid and start time of the process and of the shim, once the process runs
    log         written  one line per output line, `TIME STREAM F|P TEXT` as container runtimes do (P: no newline yet)
    stdin       read     a FIFO of frames, see `kaito.engine.node.process`
    exit.json   written  exit code, or the reason why the process could not be started
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import json
import os
import pty
import select
import signal
import struct
import sys
import termios
import time
from pathlib import Path
from typing import Any

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
FRAME_DATA, FRAME_EOF, FRAME_RESIZE = 0, 1, 2
FRAME_HEAD = struct.Struct("!BH")
CHUNK = 65536
DRAIN_S = 1.0


def prctl(option: int, value: int) -> None:
    """Call prctl(2) where it exists; elsewhere nothing happens."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def start_time(pid: int) -> str:
    """What tells this process from a later one with the same number; empty where /proc is missing."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    return stat.rsplit(")", 1)[1].split()[19]


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write the file so that a reader sees all of it or nothing."""
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(value))
    temporary.replace(path)


class Log:
    """The container's output on disk; the file before the last rotation is kept as `log.1`."""

    def __init__(self, path: Path, limit: int) -> None:
        self._path = path
        self._limit = limit
        self._open()

    def _open(self) -> None:
        self._fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._size = os.fstat(self._fd).st_size

    def write(self, stream: str, data: bytes) -> None:
        """Append the data as lines; a rest without newline is written at once, marked P."""
        now = time.time_ns()
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now // 10**9)) + f".{now % 10**9:09d}Z"
        *lines, rest = data.split(b"\n")
        head = f"{stamp} {stream} ".encode()
        entries = [head + b"F " + line + b"\n" for line in lines]
        if rest:
            entries.append(head + b"P " + rest + b"\n")
        text = b"".join(entries)
        view = memoryview(text)
        while view:
            view = view[os.write(self._fd, view) :]
        self._size += len(text)
        if self._size > self._limit and not rest:
            os.close(self._fd)
            self._path.replace(self._path.with_suffix(".1"))
            self._open()


class Input:
    """Frames from the FIFO, turned into the process's standard input, its end, and terminal sizes."""

    def __init__(self, fifo: int, target: int, *, tty: bool) -> None:
        self.fifo = fifo
        self.target: int | None = target
        self._tty = tty
        self._raw = b""
        self._pending = b""
        self._ended = False
        os.set_blocking(target, False)

    @property
    def wants_frames(self) -> bool:
        """Whether there is room for more input."""
        return self.target is not None and len(self._pending) < CHUNK

    @property
    def wants_write(self) -> bool:
        """Whether the process still has to take something."""
        return self.target is not None and (bool(self._pending) or self._ended)

    def take(self) -> None:
        """Read frames."""
        with contextlib.suppress(BlockingIOError):
            self._raw += os.read(self.fifo, CHUNK)
        while len(self._raw) >= FRAME_HEAD.size:
            kind, length = FRAME_HEAD.unpack_from(self._raw)
            end = FRAME_HEAD.size + length
            if len(self._raw) < end:
                return
            body, self._raw = self._raw[FRAME_HEAD.size : end], self._raw[end:]
            self._frame(kind, body)

    def _frame(self, kind: int, body: bytes) -> None:
        if kind == FRAME_DATA:
            self._pending += body
        elif kind == FRAME_EOF:
            # A terminal has no end of input; Ctrl-D on an empty line is how one says it.
            self._pending += b"\x04" if self._tty else b""
            self._ended = not self._tty
        elif kind == FRAME_RESIZE and self._tty and self.target is not None:
            columns, rows = struct.unpack("!HH", body)
            fcntl.ioctl(self.target, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def give(self) -> None:
        """Write what the process takes now."""
        if self.target is None:
            return
        try:
            while self._pending:
                self._pending = self._pending[os.write(self.target, self._pending) :]
        except BlockingIOError:
            return
        except OSError:
            self._pending, self._ended = b"", not self._tty
        if self._ended:
            os.close(self.target)
            self.target = None


class Child:
    """The container's process as its parent sees it."""

    def __init__(self, spec: dict[str, Any]) -> None:
        self.outputs: dict[int, str] = {}
        self.input_fd: int | None = None
        self.status: int | None = None
        if spec["tty"]:
            master, slave = pty.openpty()
            fds = (slave, slave, slave)
            self.outputs[master] = "stdout"
            self.input_fd = master if spec["stdin"] else None
        else:
            out_read, out_write = os.pipe()
            err_read, err_write = os.pipe()
            if spec["stdin"]:
                in_read, self.input_fd = os.pipe()
            else:
                in_read = os.open(os.devnull, os.O_RDONLY)
            fds = (in_read, out_write, err_write)
            self.outputs = {out_read: "stdout", err_read: "stderr"}
        self.error = self._start(spec, fds)
        for fd in set(fds):
            os.close(fd)

    def _start(self, spec: dict[str, Any], fds: tuple[int, int, int]) -> tuple[int, str] | None:
        tell_read, tell_write = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            become(spec, fds, tell_write)
        os.close(tell_write)
        told = os.read(tell_read, 4096)
        os.close(tell_read)
        if not told:
            return None
        os.waitpid(self.pid, 0)
        code, _, text = told.decode(errors="replace").partition(" ")
        return int(code), text

    def reap(self) -> None:
        """Collect whatever ended: the process itself, and orphans below it that came to us."""
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    return
                if pid == self.pid:
                    self.status = status

    def kill_rest(self) -> None:
        """Kill what the process left behind, as the end of a container's first process does."""
        deadline = time.monotonic() + 5
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        while time.monotonic() < deadline:
            for pid in descendants(os.getpid()):
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
            try:
                if os.waitpid(-1, os.WNOHANG)[0] == 0:
                    time.sleep(0.005)
            except ChildProcessError:
                return


def become(spec: dict[str, Any], fds: tuple[int, int, int], tell: int) -> None:
    """In the forked child: turn into the container's process. Never returns."""
    try:
        os.setsid()
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if spec["tty"]:
            fcntl.ioctl(fds[0], termios.TIOCSCTTY, 0)
        for target, fd in enumerate(fds):
            os.dup2(fd, target)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        os.umask(0o022)
        os.chdir(spec["cwd"])
        os.execvpe(spec["argv"][0], spec["argv"], spec["env"])
    except OSError as error:
        subject = error.filename if error.filename == spec["cwd"] else spec["argv"][0]
        code = 127 if error.errno == errno.ENOENT else 126
        os.write(tell, f"{code} {json.dumps(str(subject))}: {error.strerror}".encode()[:4000])
    finally:
        os._exit(127)


def descendants(root: int) -> list[int]:
    """All living processes below `root`, by the parent numbers that /proc tells."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, IndexError, ValueError):
            fields = entry.read_text(errors="replace").rsplit(")", 1)[1].split()
            if fields[0] != "Z":
                children.setdefault(int(fields[1]), []).append(int(entry.parent.name))
    found: list[int] = []
    pending = [root]
    while pending:
        below = children.get(pending.pop(), [])
        found += below
        pending += below
    return found


def open_input(folder: Path, child: Child, *, tty: bool) -> Input | None:
    """The reading end of the FIFO. Opened for both directions, so that it never ends when a client leaves."""
    if child.input_fd is None:
        return None
    fifo = os.open(folder / "stdin", os.O_RDWR | os.O_NONBLOCK)
    return Input(fifo, child.input_fd, tty=tty)


def pump(child: Child, log: Log, source: Input | None, signals: int) -> None:
    """Move bytes until the process has ended and its output is on disk."""
    deadline: float | None = None
    while child.outputs or child.status is None:
        reads = [*child.outputs, signals]
        if source is not None and source.wants_frames and child.status is None:
            reads.append(source.fifo)
        writes = [source.target] if source is not None and source.wants_write and source.target is not None else []
        timeout = None if deadline is None else max(0.0, deadline - time.monotonic())
        readable, writable, _ = select.select(reads, writes, [], timeout)
        if not readable and not writable and deadline is not None:
            return
        for fd in readable:
            if fd == signals:
                os.read(signals, 4096)
            elif source is not None and fd == source.fifo:
                source.take()
            else:
                copy_output(child, fd, log)
        if source is not None:
            source.give()
        child.reap()
        if child.status is not None and deadline is None:
            child.kill_rest()
            deadline = time.monotonic() + DRAIN_S


def copy_output(child: Child, fd: int, log: Log) -> None:
    """One read of one stream into the log; forgets the stream at its end."""
    try:
        data = os.read(fd, CHUNK)
    except BlockingIOError:
        return
    except OSError:
        data = b""  # a terminal whose last process has gone reports EIO
    if data:
        log.write(child.outputs[fd], data)
    else:
        del child.outputs[fd]


def signal_pipe() -> int:
    """A descriptor that becomes readable when a child ends."""
    read, write = os.pipe()
    os.set_blocking(read, False)
    os.set_blocking(write, False)
    signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    return read


def run(folder: Path, ready: int) -> None:
    """Start the process, tell `ready`, and stay until it has ended."""
    spec = json.loads((folder / "spec.json").read_text())
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    signals = signal_pipe()
    child = Child(spec)
    started_at = time.time()
    if child.error is not None:
        code, text = child.error
        write_json(folder / "exit.json", {"exit_code": code, "start_error": text, "finished_at": started_at})
        return
    me = os.getpid()
    processes = {"pid": child.pid, "start": start_time(child.pid), "shim_pid": me, "shim_start": start_time(me)}
    write_json(folder / "state.json", {**processes, "started_at": started_at})
    source = open_input(folder, child, tty=spec["tty"])
    os.write(ready, b"1")
    os.close(ready)
    pump(child, Log(folder / "log", spec["log_bytes"]), source, signals)
    status = child.status or 0
    by = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
    code = 128 + by if by else os.WEXITSTATUS(status)
    write_json(folder / "exit.json", {"exit_code": code, "signal": by, "finished_at": time.time()})


def main(argv: list[str]) -> int:
    """Detach from the caller, which gets 0 as soon as the process runs or is known not to."""
    folder = Path(argv[1])
    for held in argv[2:]:
        os.set_inheritable(int(held), False)  # the lock that says we live; the container must not keep it
    ready_read, ready_write = os.pipe()
    if os.fork() != 0:
        os.close(ready_write)
        os.read(ready_read, 1)
        return 0
    null = os.open(os.devnull, os.O_RDWR)
    for target in (0, 1):
        os.dup2(null, target)
    errors = os.open(folder / "shim.err", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    os.dup2(errors, 2)
    run(folder, ready_write)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
