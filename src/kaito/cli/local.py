# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""The record of the engine that `kaito up` runs on this machine: which processes, where, and are they alive.

One JSON file in the data directory, written by the supervisor. A process counts as alive only when its start time
agrees with the record, so that a recycled pid is never taken for ours (or killed).
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

STATE_FILE = "up.json"
LOCK_FILE = "up.lock"


@dataclass(frozen=True, slots=True)
class Process:
    """A process that cannot be mistaken for another one."""

    pid: int
    started: str
    """Start time in the kernel's own words (clock ticks since boot); empty where the system does not tell."""

    @classmethod
    def of(cls, pid: int) -> Process:
        """The process with this pid as it is now."""
        return cls(pid, start_time(pid))

    def is_alive(self) -> bool:
        """Whether this very process still runs (a zombie does not)."""
        try:
            os.kill(self.pid, 0)
        except (ProcessLookupError, PermissionError):
            return False
        return start_time(self.pid) == self.started

    def send(self, number: signal.Signals) -> None:
        """Send the signal, if the process still runs."""
        if self.is_alive():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def end(self, number: signal.Signals, *, wait_s: float) -> bool:
        """Send the signal and wait; True when the process is gone."""
        deadline = time.monotonic() + wait_s
        self.send(number)
        while self.is_alive():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)
        return True


def start_time(pid: int) -> str:
    """The kernel's start time of a process (proc_pid_stat(5), field 22), or "" without /proc and "gone" for zombies."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:  # gone: before the file was opened, or (ESRCH) while it was read
        return ""
    return "gone" if fields[0] == "Z" else fields[19]


@dataclass(frozen=True, slots=True)
class State:
    """What the supervisor wrote down about itself and its children."""

    supervisor: Process
    engine: Process | None
    operator: Process | None
    server: str
    kubeconfig: str
    provisioner: Process | None = None

    def with_process(self, name: str, process: Process) -> State:
        """The state with the process of that name, one of engine, operator and provisioner."""
        return replace(self, **{name: process})  # type: ignore[arg-type]

    def children(self) -> list[Process]:
        """All processes but the supervisor's, in the order in which they are to end."""
        return [process for process in (self.provisioner, self.operator, self.engine) if process is not None]


def load(data_dir: Path) -> State | None:
    """The recorded state, or None where nothing (readable) is recorded."""
    try:
        raw = json.loads((data_dir / STATE_FILE).read_text())
        return State(
            supervisor=Process(**raw["supervisor"]),
            engine=Process(**raw["engine"]) if raw["engine"] else None,
            operator=Process(**raw["operator"]) if raw["operator"] else None,
            server=raw["server"],
            kubeconfig=raw["kubeconfig"],
            provisioner=Process(**raw["provisioner"]) if raw.get("provisioner") else None,
        )
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def save(data_dir: Path, state: State) -> None:
    """Write the state so that a reader sees the old or the new one, never half of it."""
    fresh = data_dir / (STATE_FILE + ".new")
    fresh.write_text(json.dumps(asdict(state), indent=1))
    fresh.replace(data_dir / STATE_FILE)


@contextlib.contextmanager
def alone(data_dir: Path) -> Iterator[None]:
    """Let one command at a time start or stop this data directory's processes; another one waits for its turn."""
    data_dir.mkdir(parents=True, exist_ok=True)
    with (data_dir / LOCK_FILE).open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def forget(data_dir: Path) -> None:
    """Remove the record."""
    (data_dir / STATE_FILE).unlink(missing_ok=True)


def running(data_dir: Path) -> State | None:
    """The state of a supervisor that is alive, or None."""
    state = load(data_dir)
    return state if state and state.supervisor.is_alive() else None
