# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""What this process's cgroup (version 2) says about memory: how much is free, and whether the kernel killed for it."""

from __future__ import annotations

from pathlib import Path

GIB = 1024**3
CGROUP = Path("/sys/fs/cgroup")
"""A container sees its own cgroup here."""


def available_bytes(cgroup: Path = CGROUP) -> int:
    """Bytes that are free for this process: the machine's, or less where a cgroup limits it."""
    free = 4 * GIB
    try:
        for line in Path("/proc/meminfo").read_text("ascii").splitlines():
            if line.startswith("MemAvailable:"):
                free = int(line.split()[1]) * 1024
        limit = (cgroup / "memory.max").read_text("ascii").strip()
        used = int((cgroup / "memory.current").read_text("ascii"))
    except (OSError, ValueError):
        return free
    return free if limit == "max" else max(0, min(free, int(limit) - used))


def oom_kills(cgroup: Path = CGROUP) -> int:
    """How many processes of this cgroup the kernel has killed because memory ran out; 0 where nothing says so."""
    try:
        for line in (cgroup / "memory.events").read_text("ascii").splitlines():
            name, _, count = line.partition(" ")
            if name == "oom_kill":
                return int(count)
    except (OSError, ValueError):
        return 0
    return 0
