# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Watches an engine while it serves: how many requests wait in it, whether it gets on, and how a download goes.

An engine that works on requests and makes no token for minutes hangs (a lost GPU, a dead rank): its own health question
does not show that. Polls seldom, and only while there is something to see.
"""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from kaito.api.names import REASON_ENGINE_FAILED
from kaito.runtime.failure import Failed
from kaito.runtime.serve.backend import Backend
from kaito.runtime.serve.limits import Queue
from kaito.runtime.serve.state import Download

POLL_S = 2.0
HANGS_AFTER_S = 300.0
"""A step of the largest models takes seconds; a long prompt is computed in pieces, each of which is counted."""
SILENT_AFTER_S = 60.0
"""How long an engine may leave its health question unanswered."""
SERIES = re.compile(r"^(?P<name>[A-Za-z_:][\w:]*)(?:\{[^}]*\})?\s+(?P<value>\S+)", re.MULTILINE)
WAITING = frozenset({"vllm:num_requests_waiting", "kaito_engine_requests_waiting"})
RUNNING = frozenset({"vllm:num_requests_running", "kaito_engine_requests_running"})
TOKENS = frozenset(
    {"vllm:prompt_tokens_total", "vllm:generation_tokens_total"}
    | {"kaito_engine_prompt_tokens_total", "kaito_engine_generation_tokens_total"}
)


@dataclass(frozen=True, slots=True)
class Reading:
    """What an engine's metrics say, summed over its parts."""

    waiting: int = 0
    running: int = 0
    tokens: float = 0.0


def reading(text: str) -> Reading:
    """The numbers in a text of Prometheus' format."""
    sums = {"waiting": 0.0, "running": 0.0, "tokens": 0.0}
    for match in SERIES.finditer(text):
        name = match["name"]
        place = "waiting" if name in WAITING else "running" if name in RUNNING else "tokens" if name in TOKENS else ""
        if place:
            sums[place] += float(match["value"])
    return Reading(int(sums["waiting"]), int(sums["running"]), sums["tokens"])


class Progress:
    """Whether an engine that has work gets on with it. Pure; time is handed in."""

    def __init__(self, now: float) -> None:
        self._tokens = -1.0
        self._since = now
        self._answered = now

    def seen(self, found: Reading | None, now: float) -> str | None:
        """Why the engine is taken to hang, in a sentence; None while it is not. A None reading is no answer."""
        if found is None:
            silent = now - self._answered
            return f"It has not answered for {silent:.0f} s." if silent >= SILENT_AFTER_S else None
        self._answered = now
        if found.tokens != self._tokens or not found.running:
            self._tokens, self._since = found.tokens, now
        stuck = now - self._since
        return (
            f"It works on {found.running} requests and has made no token for {stuck:.0f} s."
            if (stuck >= HANGS_AFTER_S)
            else None
        )


async def watch(session: aiohttp.ClientSession, backend: Backend, queue: Queue, now: Callable[[], float]) -> None:
    """Keep the queue's numbers and look for a hang; raises Failed when there is one."""
    progress = Progress(now())
    while True:
        await asyncio.sleep(POLL_S)
        if not queue.in_flight:
            queue.engine_waiting = 0
            progress = Progress(now())
            continue
        found = await asked(session, backend)
        queue.engine_waiting = found.waiting if found is not None else queue.engine_waiting
        why = progress.seen(found, now())
        if why is not None:
            raise Failed(
                REASON_ENGINE_FAILED,
                f"The {backend.engine} engine hangs. {why}",
                "Nothing to do at first: the pod starts again. If it recurs, read the pod's log and check the GPUs.",
            )


async def asked(session: aiohttp.ClientSession, backend: Backend) -> Reading | None:
    """The engine's numbers; None when it does not answer."""
    try:
        async with session.get(backend.url + "/metrics", timeout=aiohttp.ClientTimeout(total=10)) as response:
            return reading(await response.text()) if response.status == 200 else None
    except (TimeoutError, aiohttp.ClientError, OSError):
        return None


# Downloads


def bytes_below(folder: Path) -> int:
    """What lies below a folder of the hub's cache: blobs, half ones too, each once (links are not followed)."""
    try:
        return sum(file.lstat().st_size for file in folder.rglob("*") if file.is_file() and not file.is_symlink())
    except OSError:
        return 0


class Meter:
    """The speed of a download as a mean over the last samples. Pure; time is handed in."""

    def __init__(self, total: int | None) -> None:
        self._total = total
        self._samples: deque[tuple[float, int]] = deque(maxlen=6)

    def sample(self, done: int, now: float) -> Download:
        """How far it is."""
        self._samples.append((now, done))
        first_at, first = self._samples[0]
        seconds = now - first_at
        speed = max(0.0, (done - first) / seconds) if seconds > 0 else 0.0
        return Download(done, self._total, speed)


async def follow_download(
    folder: Path, total: int | None, tell: Callable[[Download], None], now: Callable[[], float]
) -> None:
    """Tell how a download goes until cancelled."""
    meter = Meter(total)
    while True:
        tell(meter.sample(await asyncio.to_thread(bytes_below, folder), now()))
        await asyncio.sleep(POLL_S)
