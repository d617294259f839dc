# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""How much processor time and memory pods use, from /proc: what `kubectl top` shows.

A container's processes are those below its shim, which takes in what its container leaves behind. Times are told as a
rate over a window, so two looks are needed: the one before, if it is not too old, or one a second earlier.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from kaito.engine.node import process
from kaito.engine.node.folder import PodFolder
from kaito.engine.stream import NodeError, NodeUsage, Usage
from kaito.kube.clock import Clock

WINDOW_S = (1.0, 60.0)
"""How long ago the look before may be, in seconds."""
PROC = Path("/proc")
Container = tuple[str, str]
"""The pod's uid and the container's name."""


@dataclass(frozen=True, slots=True)
class Process:
    """One line of /proc."""

    parent: int
    cpu_s: float
    """Its own and that of its children that have ended."""
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class Look:
    """What was seen at one moment."""

    at_s: float
    containers: Mapping[Container, Usage]
    """With the processor time since the container began, in seconds, in place of the rate."""
    node: Usage


class Meter:
    """Measures one node."""

    def __init__(self, pods: Path, clock: Clock) -> None:
        self._pods, self._clock = pods, clock
        self._before: Look | None = None

    async def usage(self) -> NodeUsage:
        """The use of the node and its containers. Raises NodeError where the system does not tell."""
        before, now = self._before, self._look()
        if before is None or not WINDOW_S[0] <= now.at_s - before.at_s <= WINDOW_S[1]:
            await self._clock.sleep(WINDOW_S[0])
            before, now = now, self._look()
        self._before = now
        window_s = max(now.at_s - before.at_s, 0.001)
        containers = {
            key: _rate(use, before.containers.get(key, Usage(0.0, 0)), window_s) for key, use in now.containers.items()
        }
        return NodeUsage(_rate(now.node, before.node, window_s), containers, window_s)

    def _look(self) -> Look:
        try:
            found = processes(PROC)
            node = node_use((PROC / "stat").read_text(), (PROC / "meminfo").read_text())
        except OSError as error:
            raise NodeError(503, f"this system does not tell what processes use: {error.strerror}") from None
        return Look(self._clock.monotonic(), dict(self._containers(found)), node)

    def _containers(self, found: Mapping[int, Process]) -> Iterable[tuple[Container, Usage]]:
        children: dict[int, list[int]] = {}
        for pid, one in found.items():
            children.setdefault(one.parent, []).append(pid)
        for path in self._pods.iterdir():
            folder = PodFolder(path)
            for name in folder.containers():
                latest = folder.latest(name)
                what = process.running(latest) if latest is not None else None
                if latest is None or what is None or process.ended(latest) is not None:
                    continue
                below = _below(what.shim_pid, children)
                used = [found[pid] for pid in below if pid in found]
                cpu_s = sum(one.cpu_s for one in used)
                yield (path.name, name), Usage(cpu_s, sum(one.memory_bytes for one in used))


def _rate(now: Usage, before: Usage, window_s: float) -> Usage:
    return Usage(max(0.0, now.cpu - before.cpu) / window_s, now.memory_bytes)


def _below(pid: int, children: Mapping[int, list[int]]) -> list[int]:
    """All that descend from the process, without itself."""
    found: list[int] = []
    new = list(children.get(pid, ()))
    while new:
        found += new
        new = [child for parent in new for child in children.get(parent, ())]
    return found


def processes(proc: Path) -> dict[int, Process]:
    """Every process, by its number."""
    found = {}
    for entry in proc.glob("[0-9]*"):
        try:
            found[int(entry.name)] = parse_stat((entry / "stat").read_text())
        except (OSError, ValueError, IndexError):
            continue  # it has just ended
    return found


def parse_stat(text: str) -> Process:
    """A process from its `stat` (proc(5): ppid is field 4, utime to cstime are 14 to 17, rss is 24)."""
    fields = text.rsplit(")", 1)[1].split()
    ticks = sum(int(value) for value in fields[11:15])
    return Process(int(fields[1]), ticks / os.sysconf("SC_CLK_TCK"), int(fields[21]) * os.sysconf("SC_PAGE_SIZE"))


def node_use(stat: str, meminfo: str) -> Usage:
    """The machine's use: processor time (but idle and waiting for disks; proc(5)), memory that is not available."""
    times = [int(value) for value in stat.split("\n", 1)[0].split()[1:9]]
    busy = sum(times) - times[3] - times[4]
    sizes = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in meminfo.splitlines() if line.strip()}
    return Usage(busy / os.sysconf("SC_CLK_TCK"), sizes["MemTotal"] - sizes.get("MemAvailable", 0))
