# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Measures a model server under a stated load: tokens a minute, time to the first token, time for each further one.

`kaito-runtime bench` asks any OpenAI-compatible server; a serving pod runs it after it is Ready, never before, and
tells the result in `/metrics`, in `/healthz` and in its log. Prompts are words by chance, so that no cache helps.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import aiohttp

CHAT = "/v1/completions"
WORDS = ("time", "house", "river", "green", "seven", "under", "light", "stone", "music", "paper", "north", "apple")
TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=5)


@dataclass(frozen=True, slots=True)
class Load:
    """What is asked for."""

    streams: int
    seconds: float
    input_tokens: int
    output_tokens: int


LIGHT = Load(streams=4, seconds=10, input_tokens=256, output_tokens=64)
FULL = Load(streams=64, seconds=60, input_tokens=2048, output_tokens=256)
"""KAITO's shape of a request; the streams are as many as the engine takes at once, 64 at most."""


@dataclass(slots=True)
class Seen:
    """What came of it."""

    seconds: float = 0.0
    prompt_tokens: int = 0
    answer_tokens: int = 0
    requests: int = 0
    errors: int = 0
    problem: str = ""
    """What the last request that failed met."""
    first_ms: list[float] = field(default_factory=list)
    each_ms: list[float] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Result:
    """The figures of one run."""

    tokens_per_minute: float
    """Of prompts and answers together, as KAITO counts."""
    ttft_ms: float
    tpot_ms: float
    requests: int
    errors: int
    load: Load

    def report(self) -> dict[str, Any]:
        """For `/healthz` and for people."""
        return {
            "tokensPerMinute": self.tokens_per_minute,
            "ttftMs": self.ttft_ms,
            "tpotMs": self.tpot_ms,
            "requests": self.requests,
            "errors": self.errors,
            "durationSec": self.load.seconds,
            "inputTokens": self.load.input_tokens,
            "outputTokens": self.load.output_tokens,
            "maxConcurrency": self.load.streams,
        }


def result_of(seen: Seen, load: Load) -> Result | None:
    """The figures; None when not one answer came."""
    if not seen.answer_tokens or seen.seconds <= 0:
        return None
    tokens = seen.prompt_tokens + seen.answer_tokens
    return Result(
        tokens_per_minute=round(60 * tokens / seen.seconds, 2),
        ttft_ms=round(mean(seen.first_ms), 2),
        tpot_ms=round(mean(seen.each_ms), 2),
        requests=seen.requests,
        errors=seen.errors,
        load=load,
    )


def mean(values: list[float]) -> float:
    """The mean; 0 of nothing."""
    return sum(values) / len(values) if values else 0.0


async def measured(
    session: aiohttp.ClientSession, url: str, model: str, load: Load, *, seen: Seen | None = None
) -> Result | None:
    """Ask with that load; the figures, or None when the server did not answer (`seen` then has why). What is under way
    at the end counts with the tokens that had come."""
    seen = seen or Seen()
    until = time.monotonic() + load.seconds
    began = time.monotonic()
    clients = [asyncio.create_task(_client(session, url, model, load, seen, until)) for _ in range(load.streams)]
    try:
        await asyncio.wait(clients, timeout=load.seconds)
    finally:
        for client in clients:
            client.cancel()
        await asyncio.gather(*clients, return_exceptions=True)
    seen.seconds = time.monotonic() - began
    return result_of(seen, load)


async def _client(session: aiohttp.ClientSession, url: str, model: str, load: Load, seen: Seen, until: float) -> None:
    while time.monotonic() < until:
        try:
            await _one(session, url, model, load, seen)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            seen.errors += 1
            seen.problem = str(error) or type(error).__name__
            await asyncio.sleep(0.2)


async def _one(session: aiohttp.ClientSession, url: str, model: str, load: Load, seen: Seen) -> None:
    body = {
        "model": model,
        "prompt": " ".join(random.choices(WORDS, k=load.input_tokens)),
        "max_tokens": load.output_tokens,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    began = last = time.monotonic()
    first = True
    async with session.post(url + CHAT, json=body) as response:
        if response.status != 200:
            raise ValueError(f"the server answers {response.status}{_reason(await response.read())}")
        async for line in response.content:
            if not line.startswith(b"data: {"):
                continue
            event = json.loads(line[6:])
            if event.get("usage"):
                seen.prompt_tokens += int(event["usage"].get("prompt_tokens") or 0)
            if not event.get("choices"):
                continue
            now = time.monotonic()
            seen.answer_tokens += 1
            if first:
                seen.first_ms.append(1000 * (now - began))
            else:
                seen.each_ms.append(1000 * (now - last))
            first, last = False, now
    seen.requests += 1


def _reason(body: bytes) -> str:
    """What an OpenAI-shaped error says, after a colon; empty where the body is something else."""
    try:
        return f": {json.loads(body)['error']['message']}"
    except (ValueError, TypeError, LookupError):
        return ""


async def bench(url: str, load: Load, *, api_key: str | None, say: Callable[[str], None]) -> int:
    """Measure a server from outside and print the figures; an exit code."""
    headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0), timeout=TIMEOUT, headers=headers
    ) as session:
        try:
            async with session.get(url + "/v1/models", timeout=aiohttp.ClientTimeout(total=30)) as response:
                answer = await response.json()
                model = str(answer["data"][0]["id"]) if response.status == 200 else ""
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError, LookupError, TypeError):
            model = ""
        if not model:
            sys.stderr.write(f"{url} does not answer with its models: is it Ready, and is the key right?\n")
            return 1
        result = await measured(session, url, model, load)
    if result is None:
        sys.stderr.write(f"{url} gave no answer under this load; try fewer --streams.\n")
        return 1
    say(json.dumps({"model": model, **result.report()}))
    return 0
