# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Figures as a status writes them, and how they are read back from it. Pure."""

from __future__ import annotations

import re

GIB = " GiB"
_SECONDS = {"h": 3600, "m": 60, "s": 1}
_PARTS = re.compile(r"(\d+)([hms])")


def size(count: int) -> str:
    """Bytes as people say them: 812 MiB, 7.6 GiB."""
    return f"{count / 2**30:.1f}{GIB}" if count >= 2**30 else f"{count / 2**20:.0f} MiB"


def duration(seconds: int) -> str:
    """A time as people say it: 45s, 3m20s, 1h05m."""
    minutes, rest = divmod(max(0, seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes:02}m"
    return f"{minutes}m{rest:02}s" if minutes else f"{rest}s"


def seconds_of(text: str) -> float:
    """The seconds that `duration` wrote."""
    return float(sum(int(number) * _SECONDS[unit] for number, unit in _PARTS.findall(text)))


def bytes_of(text: str) -> float:
    """The bytes that `status.tuning.gpuMemory` says."""
    return float(text.removesuffix(GIB)) * 2**30
