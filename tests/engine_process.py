# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""A real engine process for tests: started on a free port in a folder of its own, killed and restarted at will."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType

READY_WITHIN_S = 60.0
FIRST_PORT = 12000
"""Below the ports that Linux gives to whoever asks for any (32768 on) and below Kubernetes' node ports (30000 on)."""
PORTS_PER_WORKER = 1000


def free_port() -> int:
    """A loopback port that nobody listens on now, and that neither another worker nor the system hands out."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    first = FIRST_PORT + worker * PORTS_PER_WORKER
    for port in random.sample(range(first, first + PORTS_PER_WORKER), PORTS_PER_WORKER):
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError(f"no port is free from {first} on")


def latest_pod_logs(folder: Path, count: int = 2) -> list[Path]:
    """The containers' logs that were written to last, below a machine's folder."""
    found = list(folder.glob("data/node/pods/*/containers/*/*/log"))
    return sorted(found, key=lambda path: path.stat().st_mtime)[-count:]


class EngineProcess:
    """`python -m kaito.engine` as a context manager."""

    prefix: tuple[str, ...] = ()
    """A command that runs the engine in its own way, e.g. with fewer rights."""

    def __init__(self, folder: Path, *arguments: str, port: int | None = None) -> None:
        self.folder = folder
        self.arguments = arguments
        self.port = port or free_port()
        self.server = f"https://127.0.0.1:{self.port}"
        self.kubeconfig = folder / "kubeconfig"
        self.log = folder / "engine.log"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> float:
        """Start it and wait until it serves; returns the seconds that took."""
        began = time.monotonic()
        self.kubeconfig.unlink(missing_ok=True)
        argv = [
            *self.prefix, sys.executable, "-m", "kaito.engine", "--data-dir", str(self.folder / "data"),
            "--port", str(self.port), "--kubeconfig", str(self.kubeconfig), *self.arguments,
        ]  # fmt: skip
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(argv, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        while not (self.kubeconfig.exists() and self._answers()):
            if self.process.poll() is not None or time.monotonic() - began > READY_WITHIN_S:
                raise AssertionError(f"the engine did not start:\n{self.log.read_text()[-3000:]}")
            time.sleep(0.02)
        return time.monotonic() - began

    @property
    def pid(self) -> int:
        """The process that runs now."""
        assert self.process is not None
        return self.process.pid

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), 1):
                return True
        except OSError:
            return False

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the engine."""
        assert self.process is not None
        os.kill(self.process.pid, number)

    def kill(self) -> None:
        """SIGKILL, as a power cut of the process."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        """SIGTERM; returns the exit status."""
        assert self.process is not None
        self.process.terminate()
        return self.process.wait(30)

    def logs(self) -> list[Path]:
        """The files that the engine and the latest pods write to."""
        return [*latest_pod_logs(self.folder), self.log]

    def __enter__(self) -> EngineProcess:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        if self.process is not None and self.process.poll() is None:
            self.stop()
