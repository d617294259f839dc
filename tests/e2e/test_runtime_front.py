# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""The front under many requests: its memory stays where it was."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest
import uvloop
from benchmarks import front

from tests.e2e.machine import REPOSITORY
from tests.engine_process import free_port

pytestmark = pytest.mark.slow

WARM_UP, REQUESTS = 2_000, 10_000
MAY_GROW_MIB = 4


async def ask(port: int, count: int) -> None:
    """So many requests by a few clients, one in ten of them large."""
    clients = await front.connected(port, 20)
    for _ in range(count // 200):
        await front.many(clients, front.request_of(400), 9)
        await front.many(clients, front.request_of(220_000), 1)
    for client in clients:
        client.transport.close()


def test_memory_is_flat_over_ten_thousand_requests(tmp_path: Path) -> None:
    socket, port = str(tmp_path / "s"), free_port()
    me = [sys.executable, "-m", "benchmarks.front"]
    processes = [subprocess.Popen([*me, "stub", socket], cwd=REPOSITORY)]
    try:
        front.wait_for(lambda: Path(socket).exists())
        processes.append(subprocess.Popen([*me, "serve", socket, str(port)], cwd=REPOSITORY))
        server = psutil.Process(processes[1].pid)
        front.wait_for(lambda: any(one.laddr.port == port for one in server.net_connections()))
        uvloop.run(ask(port, WARM_UP))
        before = server.memory_info().rss
        uvloop.run(ask(port, REQUESTS))
        assert (server.memory_info().rss - before) / 2**20 < MAY_GROW_MIB
        assert len(server.net_connections()) < 30
    finally:
        for process in reversed(processes):
            process.terminate()
            process.wait()
