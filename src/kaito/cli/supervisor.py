# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Keeps the local engine, the operator and, if asked for, the node provisioner running: starts them in order, restarts
what dies, stops them in order.

`kaito up` starts this as a process of its own (`python -m kaito.cli.supervisor`), so that closing a terminal does not
take the engine down when --detach was asked for. It knows command lines and exit codes only; the engine and the
operator find their own way.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import ctypes
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from kaito.cli import local

RESTART_AFTER_S = (0.2, 1.0, 3.0, 10.0)
"""Pause before the first, second, ... restart in a row; the last one repeats."""
STEADY_AFTER_S = 30.0
"""A child that ran this long starts again with the shortest pause."""
STOP_SIGNAL = {"operator": signal.SIGTERM, "provisioner": signal.SIGTERM, "engine": signal.SIGQUIT}
"""The engine leaves its pods running on SIGTERM, as a kubelet does, and ends them on SIGQUIT."""
STOP_S = {"operator": 5.0, "provisioner": 5.0, "engine": 45.0}
"""How long a child may take to stop; the engine ends its pods first, each with its grace period."""
POLL_S = 0.05
HURRY = signal.SIGUSR1
"""What `kaito up` sends to a supervisor that runs already."""
PR_SET_PDEATHSIG = 1
"""prctl(2): have the kernel signal us when the parent dies. Linux only."""


def follow_parent(number: signal.Signals) -> None:
    """In a child before exec: get this signal when the parent dies, so that a restart finds nothing astray.

    And be stopped by any signal until it has handlers of its own: what a script starts in the background inherits
    SIGINT and SIGQUIT ignored, and an engine that is told to stop while it still loads would never hear of it.
    """
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT):
        signal.signal(ignored, signal.SIG_DFL)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, number)


@dataclass
class Child:
    """One supervised process."""

    name: str
    argv: list[str]
    log: Path
    on_start: Callable[[str, int], None]
    after: Callable[[], bool] = lambda: True
    """What must hold before the first start."""
    process: asyncio.subprocess.Process | None = None
    stopping: bool = False
    attempts: int = field(default=0)
    hurried: asyncio.Event = field(default_factory=asyncio.Event)

    async def keep_running(self) -> None:
        """Start, wait, start again, until `stopping`."""
        while not self.after():  # noqa: ASYNC110 - a file is looked at, and nothing tells when it changes
            await asyncio.sleep(POLL_S)
        while not self.stopping:
            began = time.monotonic()
            with self.log.open("ab") as log:
                self.process = await asyncio.create_subprocess_exec(
                    *self.argv,
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    preexec_fn=partial(follow_parent, signal.SIGKILL),
                )
            self.on_start(self.name, self.process.pid)
            code = await self.process.wait()
            if self.stopping:
                return
            if time.monotonic() - began > STEADY_AFTER_S:
                self.attempts = 0
            pause = RESTART_AFTER_S[min(self.attempts, len(RESTART_AFTER_S) - 1)]
            self.attempts += 1
            print(f"{self.name} ended with {code}; starting it again in {pause:g} s", file=sys.stderr, flush=True)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.hurried.wait(), pause)
            self.hurried.clear()

    def hurry(self) -> None:
        """Somebody waits for it: cut the present pause, or the next one, short."""
        self.hurried.set()

    async def stop(self) -> None:
        """Ask it to end, and kill it when that is not heard in time."""
        self.stopping = True
        if self.process is None or self.process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(STOP_SIGNAL[self.name])
        try:
            await asyncio.wait_for(self.process.wait(), STOP_S[self.name])
        except TimeoutError:
            self.process.kill()
            await self.process.wait()


def is_named_in(kubeconfig: Path, server: str) -> bool:
    """Whether the file is there and names this server: one of an earlier run would lead the operator astray."""
    try:
        return server in kubeconfig.read_text()
    except OSError:
        return False


def hurry(children: Sequence[Child]) -> None:
    """Start at once what waits for its restart."""
    for child in children:
        child.hurry()


async def supervise(
    data_dir: Path, server: str, kubeconfig: Path, *, engine: list[str], operator: list[str], provisioner: list[str]
) -> None:
    """Run those that have a command line until SIGTERM or SIGINT; the operator always has one."""
    state = local.State(local.Process.of(os.getpid()), None, None, server, str(kubeconfig))

    def started(name: str, pid: int) -> None:
        nonlocal state
        state = state.with_process(name, local.Process.of(pid))
        local.save(data_dir, state)

    logs = data_dir / "logs"
    children = [Child("engine", engine, logs / "engine.log", started)] if engine else []
    is_up = partial(is_named_in, kubeconfig, server)
    children += [
        Child(name, argv, logs / f"{name}.log", started, after=is_up)
        for name, argv in (("operator", operator), ("provisioner", provisioner))
        if argv
    ]
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    loop.add_signal_handler(HURRY, hurry, children)
    local.save(data_dir, state)  # from now on others may send signals
    tasks = [asyncio.create_task(child.keep_running()) for child in children]
    await stop.wait()
    for child in reversed(children):
        await child.stop()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    local.forget(data_dir)


def main() -> None:
    """Entry of the process. Pass each argument of the command lines as `--engine=ARG`, `--operator=ARG` and so on."""
    parser = argparse.ArgumentParser(prog="kaito supervisor")
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--server", required=True)
    parser.add_argument("--kubeconfig", type=Path, required=True)
    parser.add_argument("--engine", action="append", default=[], help="one argument of the engine's command line")
    parser.add_argument("--operator", action="append", default=[], help="one argument of the operator's command line")
    parser.add_argument("--provisioner", action="append", default=[], help="one argument of the provisioner's")
    options = parser.parse_args()
    asyncio.run(
        supervise(
            options.data_dir,
            options.server,
            options.kubeconfig,
            engine=options.engine,
            operator=options.operator,
            provisioner=options.provisioner,
        )
    )


if __name__ == "__main__":
    main()
