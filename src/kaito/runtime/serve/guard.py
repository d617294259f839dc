# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Stands between the front and an engine so that no engine outlives its front: `python guard.py FD -- COMMAND…`.

The front holds the other end of this process's standard input. When that closes, the engine's whole process group gets
SIGTERM and, after a grace time, SIGKILL. A front that stops in order says so with a byte before; without it the front
was killed, nobody can take the engine's answers any more, and the grace time is short. On Linux the engine also dies
with this process. Ends as the engine ended: same exit code, or the same signal. Standard library only, and
started as a file, so that it costs a few milliseconds.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence

GRACE_S = 8.0
ABANDONED_GRACE_S = 1.0
PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36


def tie_to_parent() -> None:
    """In the child before exec: die when the guard dies (Linux's prctl(2); elsewhere nothing)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def signal_group(group: int, number: int) -> None:
    """Signal a process group; one that is gone already is fine."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def wait_for_end(child: subprocess.Popen[bytes], wake: int) -> None:
    """Return when the engine has ended, ending it when the front is gone or asks for it."""
    deadline: float | None = None
    grace_s = ABANDONED_GRACE_S
    watched = [0, wake]
    while child.poll() is None:
        left = None if deadline is None else max(0.0, deadline - time.monotonic())
        if left == 0.0:
            signal_group(child.pid, signal.SIGKILL)
            child.wait()
            return
        ready, _, _ = select.select(watched, [], [], left)
        if wake in ready:
            os.read(wake, 64)
        if 0 not in ready:
            continue
        if os.read(0, 64):
            grace_s = GRACE_S
        else:
            watched = [wake]
            deadline = time.monotonic() + grace_s
            signal_group(child.pid, signal.SIGTERM)


def run(argv: Sequence[str], report: int) -> int:
    """Run the command in a process group of its own, tell its id on the file descriptor, return how it ended."""
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # The front decides when to stop; it says so by closing the pipe.
        signal.signal(ignored, lambda number, frame: None)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    child = subprocess.Popen(argv, stdin=subprocess.DEVNULL, process_group=0, preexec_fn=tie_to_parent)
    os.write(report, f"{child.pid}\n".encode())
    os.close(report)
    wait_for_end(child, read_end)
    signal_group(child.pid, signal.SIGKILL)
    return child.returncode


def main() -> None:
    """Run the command after `--` and end as it ends."""
    report, argv = int(sys.argv[1]), sys.argv[3:]
    code = run(argv, report)
    if code < 0:
        signal.signal(-code, signal.SIG_DFL) if -code not in (signal.SIGKILL, signal.SIGSTOP) else None
        os.kill(os.getpid(), -code)
    os._exit(code if code >= 0 else 128 - code)


if __name__ == "__main__":
    main()
