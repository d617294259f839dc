# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""The load generator against a server that streams, and what becomes of its figures."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import aiohttp
import pytest
from aiohttp import web

from kaito.operator.workspace.performance import latest_result
from kaito.runtime.bench import Load, Seen, bench, measured, result_of
from kaito.runtime.serve.afterwards import NO_MOMENT, not_measured

LOAD = Load(streams=2, seconds=0.3, input_tokens=5, output_tokens=3)


async def refuse(request: web.Request) -> web.Response:
    return web.json_response({"error": {"message": "the prompt is too long"}}, status=400)


async def models(request: web.Request) -> web.Response:
    return web.json_response({"data": [{"id": "m"}]})


async def complete(request: web.Request) -> web.StreamResponse:
    body = await request.json()
    assert body["model"] == "m" and len(body["prompt"].split()) == 5 and body["max_tokens"] == 3
    response = web.StreamResponse()
    await response.prepare(request)
    for _ in range(3):
        await response.write(b'data: {"choices":[{"text":"a"}]}\n\n')
        await asyncio.sleep(0.005)
    await response.write(b'data: {"choices":[],"usage":{"prompt_tokens":5}}\n\ndata: [DONE]\n\n')
    return response


@pytest.fixture
async def url() -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_get("/v1/models", models)
    app.router.add_post("/v1/completions", complete)
    app.router.add_post("/strict/v1/completions", refuse)
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.2)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


async def test_tokens_and_times_are_measured(url: str) -> None:
    async with aiohttp.ClientSession() as session:
        result = await measured(session, url, "m", LOAD)
    assert result is not None and result.requests >= 2 and result.errors == 0
    assert result.tokens_per_minute > 0 and result.tpot_ms >= 4 and result.ttft_ms > 0


async def test_what_a_server_without_answers_met_is_known(url: str) -> None:
    seen = Seen()
    async with aiohttp.ClientSession() as session:
        assert await measured(session, f"{url}/nowhere", "m", LOAD, seen=seen) is None
        assert seen.errors and seen.problem == "the server answers 404"
        assert await measured(session, f"{url}/strict", "m", LOAD, seen=seen) is None
    assert seen.problem == "the server answers 400: the prompt is too long"


def test_a_server_that_cannot_measure_itself_says_so_as_kaito_does_and_why() -> None:
    line = not_measured("light", NO_MOMENT)
    told = latest_result([line])
    assert told is not None and told.vllm_total_tpm == -1
    assert told.problem == "there was no moment without requests in 5 minutes"


async def test_the_command_prints_the_figures(url: str) -> None:
    lines: list[str] = []
    assert await bench(url, LOAD, api_key=None, say=lines.append) == 0
    report = json.loads(lines[0])
    assert report["model"] == "m" and report["maxConcurrency"] == 2 and report["tokensPerMinute"] > 0
    assert await bench("http://127.0.0.1:9", LOAD, api_key=None, say=lines.append) == 1 and len(lines) == 1


def test_figures_follow_from_what_was_seen() -> None:
    assert result_of(Seen(seconds=1.0), LOAD) is None
    seen = Seen(seconds=30.0, prompt_tokens=60, answer_tokens=40, requests=4, first_ms=[1.0, 3.0], each_ms=[2.0])
    result = result_of(seen, LOAD)
    assert result is not None
    assert (result.tokens_per_minute, result.ttft_ms, result.tpot_ms) == (200.0, 2.0, 2.0)
