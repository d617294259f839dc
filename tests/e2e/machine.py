# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""One machine with `kaito up` on it, for end-to-end tests: the real command, the real kubectl, real model servers."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.engine_process import free_port, latest_pod_logs

KAITO = str(Path(sys.executable).parent / "kaito")
REPOSITORY = Path(__file__).parents[2]


class Machine:
    """`kaito up --detach` in a folder of its own; commands run with its kubeconfig."""

    def __init__(self, folder: Path, *up_arguments: str, cache: Path) -> None:
        self.folder = folder
        self.up_arguments = up_arguments
        self.kubeconfig = folder / "kubeconfig"
        self.env = {
            **os.environ,
            "KAITO_DATA_DIR": str(folder / "data"),
            "XDG_CACHE_HOME": str(cache),
            "KUBECONFIG": str(self.kubeconfig),
        }
        self.prefer_port(free_port())

    def prefer_port(self, port: int) -> None:
        """Have `kaito up` try this port first, as if it had been the last one: machines start side by side here."""
        (self.folder / "data").mkdir(parents=True, exist_ok=True)
        (self.folder / "data" / "port").write_text(str(port))

    def run(
        self, *argv: str, check: bool = True, timeout: float = 120, input: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a command; a failure shows what it printed."""
        done = subprocess.run(argv, env=self.env, capture_output=True, text=True, timeout=timeout, input=input)
        if check and done.returncode != 0:
            raise AssertionError(f"{' '.join(argv)} ended with {done.returncode}\n{done.stdout}\n{done.stderr}")
        return done

    def kaito(self, *arguments: str, check: bool = True, timeout: float = 120) -> subprocess.CompletedProcess[str]:
        """Run the kaito command."""
        return self.run(KAITO, *arguments, check=check, timeout=timeout)

    def kubectl(self, *arguments: str, check: bool = True, timeout: float = 120) -> subprocess.CompletedProcess[str]:
        """Run the real kubectl."""
        return self.run("kubectl", *arguments, check=check, timeout=timeout)

    def up(self) -> str:
        """Bring everything up; returns what was printed."""
        return self.kaito("up", "--detach", "--kubeconfig", str(self.kubeconfig), *self.up_arguments).stdout

    def down(self) -> None:
        """Stop everything."""
        self.kaito("down")

    def workspace(self, name: str) -> dict[str, Any]:
        """The Workspace as the server has it."""
        found: dict[str, Any] = json.loads(self.kubectl("get", "workspace", name, "-o", "json").stdout)
        return found

    def condition(self, name: str, type_: str) -> dict[str, Any]:
        """A condition of the Workspace; empty while it is not there."""
        conditions = (self.workspace(name).get("status") or {}).get("conditions") or []
        return next((c for c in conditions if c["type"] == type_), {})

    def wait_ready(self, name: str, *, timeout: float = 90) -> float:
        """Wait until the Workspace is Ready; returns the seconds."""
        began = time.monotonic()
        self.kubectl(
            "wait",
            "--for=condition=WorkspaceReady",
            f"workspace/{name}",
            f"--timeout={timeout:g}s",
            timeout=timeout + 10,
        )
        return time.monotonic() - began

    def state(self) -> dict[str, Any]:
        """What the supervisor wrote down: the processes."""
        found: dict[str, Any] = json.loads((self.folder / "data" / "up.json").read_text())
        return found

    def logs(self) -> list[Path]:
        """The files that the latest pods and `kaito up` write to."""
        return [*latest_pod_logs(self.folder), *sorted(self.folder.glob("data/logs/*.log"))]

    def kill(self, which: str) -> None:
        """kill -9 of the supervisor, the engine or the operator; one that is just dead is fine."""
        process = self.state()[which]
        if process is not None:
            kill_9(process["pid"])

    def kill_everything(self) -> None:
        """kill -9 of every process of this machine, pods included."""
        for pid in pids_below(self.folder, ""):
            kill_9(pid)


def kill_9(pid: int) -> None:
    """SIGKILL; a process that is gone already is fine."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def eventually(check: Callable[[], bool], *, within: float, what: str) -> None:
    """Wait until the check holds; fails with `what` when it does not in time."""
    deadline = time.monotonic() + within
    while not check():
        assert time.monotonic() < deadline, f"not within {within:g} s: {what}"
        time.sleep(0.2)


def processes_below(folder: Path) -> list[str]:
    """Command lines of running processes that mention the folder, there or in their environment: what a test must not
    leave behind.
    """
    return [line for _, line in _processes_of(folder)]


def pids_below(folder: Path, *words: str) -> list[int]:
    """The same processes by number, those whose command line holds one of the words."""
    return [pid for pid, line in _processes_of(folder) if any(word in line for word in words)]


def _processes_of(folder: Path) -> list[tuple[int, str]]:
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            environment = (entry / "environ").read_bytes().decode(errors="replace")
        except OSError:
            continue
        if line and str(folder) in line + environment:
            found.append((int(entry.name), line))
    return found
