# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Ends the pods that no engine cares for any more: those of an engine that was killed and is not to come back.

Reads the pods' folders, as `streams` does; knows neither the API server nor workers. An engine that starts on the same
folder takes such pods over instead (`worker`).
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from kaito.engine.node import process
from kaito.engine.node.folder import PodFolder
from kaito.engine.storage.journal import AlreadyRunning, DirectoryLock


async def end_leftovers(data_dir: Path, grace_s: float) -> int:
    """End every container below an engine's data directory; how many ran. None are touched while an engine runs."""
    pods = data_dir / "node" / "pods"
    if not pods.is_dir():
        return 0
    try:
        lock = DirectoryLock(data_dir)
    except AlreadyRunning:
        return 0
    try:
        folders = [PodFolder(pod) for pod in sorted(pods.iterdir())]
        for attempt in [attempt for folder in folders for attempt in _latest(folder)]:
            await process.settle(attempt)
            process.end_strays(attempt)
        running = [attempt for folder in folders for attempt in _latest(folder) if _lives(attempt)]
        await asyncio.gather(*(process.stop(attempt, grace_s) for attempt in running))
    finally:
        lock.release()
    return len(running)


def _latest(pod: PodFolder) -> list[Path]:
    """The latest attempt of every container."""
    latest = [pod.latest(container) for container in pod.containers()]
    return [attempt for attempt in latest if attempt is not None]


def _lives(attempt: Path) -> bool:
    what = process.running(attempt)
    if what is None:
        return False
    return process.is_alive(what.pid, what.start) or process.is_alive(what.shim_pid, what.shim_start)
