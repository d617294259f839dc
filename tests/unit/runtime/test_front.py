# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""The front before a real upstream on a free port: what it answers itself, what it passes on, what it puts right."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from yarl import URL

from kaito.api.contracts import Engine
from kaito.runtime.serve.backend import Backend
from kaito.runtime.serve.front import Front
from kaito.runtime.serve.state import READY, ServingState


@dataclass
class Upstream:
    """A tiny engine: it remembers what it was asked and can hold a stream open."""

    bodies: list[bytes] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    go_on: asyncio.Event = field(default_factory=asyncio.Event)
    gone: asyncio.Event = field(default_factory=asyncio.Event)

    def application(self) -> web.Application:
        app = web.Application()
        app.router.add_get("/health", self.health)
        app.router.add_get("/metrics", self.metrics)
        app.router.add_get("/raw", self.raw)
        app.router.add_get("/slow", self.slow)
        app.router.add_post("/v1/chat/completions", self.chat)
        app.router.add_post("/v1/completions", self.fail)
        return app

    async def health(self, request: web.Request) -> web.Response:
        return web.Response()

    async def metrics(self, request: web.Request) -> web.Response:
        return web.Response(text="vllm:requests 3\n")

    async def raw(self, request: web.Request) -> web.Response:
        headers = {"X-Path": request.raw_path, "Content-Encoding": "gzip", "Keep-Alive": "timeout=5"}
        return web.Response(status=206, body=b"\x1f\x8b not really gzip", headers=headers)

    async def slow(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        try:
            await response.write(b"first")
            await self.go_on.wait()
            await response.write(b"second")
        except (asyncio.CancelledError, ConnectionError):
            self.gone.set()
            raise
        return response

    async def chat(self, request: web.Request) -> web.StreamResponse:
        self.bodies.append(await request.read())
        self.headers.append(dict(request.headers))
        body = json.loads(self.bodies[-1])
        if not body.get("stream"):
            message = {"role": "assistant", "content": "Yes"}
            return web.json_response({"model": "/w@main", "choices": [{"index": 0, "message": message}]})
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b'data: {"model":"/w@main","choices":[{"delta":{"content":"Y')
        await response.write(b'es"}}]}\n\n')
        return response

    async def fail(self, request: web.Request) -> web.Response:
        return web.json_response({"detail": "no"}, status=422)


@dataclass
class Setup:
    """A front, its address, and the engine behind it."""

    front: Front
    upstream: Upstream
    url: str
    http: aiohttp.ClientSession

    async def ask(self, method: str, path: str, **options: Any) -> tuple[int, bytes, dict[str, str]]:
        async with self.http.request(method, URL(self.url + path, encoded=True), **options) as response:
            return response.status, await response.read(), dict(response.headers)


async def started(app: web.Application, *, cancel: bool) -> tuple[web.AppRunner, str]:
    runner = web.AppRunner(app, handler_cancellation=cancel, access_log=None, shutdown_timeout=0.2)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    return runner, f"http://127.0.0.1:{runner.addresses[0][1]}"


async def with_engine(engine: Engine, *, ready: bool = True, chat: bool = True) -> AsyncIterator[Setup]:
    upstream = Upstream()
    behind, behind_url = await started(upstream.application(), cancel=True)
    front = Front(ServingState(engine, lambda: 0.0))
    before, url = await started(front.application(), cancel=True)
    async with (
        aiohttp.ClientSession(auto_decompress=False) as session,
        aiohttp.ClientSession(auto_decompress=False) as http,
    ):
        if ready:
            front.attach(Backend(engine=engine, url=behind_url, names=("m",), model="/w", chat=chat), session)
            front.state.enter(READY)
        yield Setup(front, upstream, url, http)
    await before.cleanup()
    await behind.cleanup()


@pytest.fixture
async def vllm() -> AsyncIterator[Setup]:
    async for setup in with_engine("vllm"):
        yield setup


@pytest.fixture
async def transformers() -> AsyncIterator[Setup]:
    async for setup in with_engine("transformers"):
        yield setup


@pytest.fixture
async def starting() -> AsyncIterator[Setup]:
    async for setup in with_engine("vllm", ready=False):
        yield setup


async def test_a_starting_engine_is_reported_not_hidden(starting: Setup) -> None:
    starting.front.state.enter("Loading the weights")
    status, body, _ = await starting.ask("GET", "/health")
    assert status == 503 and json.loads(body)["phase"] == "Loading the weights"
    status, body, headers = await starting.ask("POST", "/v1/chat/completions", json={})
    assert status == 503 and b"Loading the weights" in body and headers["Retry-After"] == "2"
    status, body, _ = await starting.ask("GET", "/metrics")
    assert status == 200 and b'phase="Loading the weights"' in body
    assert (await starting.ask("GET", "/"))[0] == 200


async def test_an_answer_is_passed_on_byte_for_byte(vllm: Setup) -> None:
    status, body, headers = await vllm.ask("GET", "/raw?a=%2F&b")
    assert (status, body) == (206, b"\x1f\x8b not really gzip")
    assert headers["Content-Encoding"] == "gzip" and headers["X-Path"] == "/raw?a=%2F&b"
    assert "Keep-Alive" not in headers


async def test_a_stream_arrives_while_it_is_made(vllm: Setup) -> None:
    async with vllm.http.get(vllm.url + "/slow") as response:
        assert await response.content.readany() == b"first"
        vllm.upstream.go_on.set()
        assert await response.content.read() == b"second"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_a_client_that_leaves_ends_the_engines_work(vllm: Setup) -> None:
    async with vllm.http.get(vllm.url + "/slow") as response:
        await response.content.readany()
        response.close()
    await asyncio.wait_for(vllm.upstream.gone.wait(), 5)


async def test_json_without_its_content_type_is_labelled(vllm: Setup) -> None:
    text = b' {"messages": []}'
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    status, body, _ = await vllm.ask("POST", "/v1/chat/completions", data=text, headers=form)
    assert status == 200 and json.loads(body)["model"] == "/w@main"
    assert vllm.upstream.bodies == [text]
    assert vllm.upstream.headers[0]["Content-Type"] == "application/json"


async def test_metrics_are_the_engines_and_ours(vllm: Setup) -> None:
    await vllm.ask("GET", "/raw")
    _, body, headers = await vllm.ask("GET", "/metrics")
    assert body.startswith(b"vllm:requests 3\n") and b'kaito_engine_ready{engine="vllm"} 1' in body
    assert b'kaito_requests_total{method="GET",path="other",status="206"} 1' in body
    assert headers["Content-Type"].startswith("text/plain; version=0.0.4")


async def test_an_engine_that_is_gone_is_a_502(vllm: Setup) -> None:
    async with aiohttp.ClientSession() as session:
        vllm.front.attach(Backend(engine="vllm", url="http://127.0.0.1:9", names=("m",), model="/w"), session)
        status, body, _ = await vllm.ask("GET", "/raw")
    assert status == 502 and json.loads(body)["error"]["message"]


async def test_the_served_name_stands_in_requests_and_answers(transformers: Setup) -> None:
    body = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}
    status, answer, _ = await transformers.ask("POST", "/v1/chat/completions", json=body)
    assert status == 200 and json.loads(answer)["model"] == "m"
    assert json.loads(transformers.upstream.bodies[0])["model"] == "/w"
    status, answer, _ = await transformers.ask("POST", "/v1/chat/completions", json={**body, "model": "x"})
    assert status == 404 and json.loads(answer)["error"]["param"] == "model"
    _, answer, _ = await transformers.ask("GET", "/v1/models")
    assert [entry["id"] for entry in json.loads(answer)["data"]] == ["m"]
    assert (await transformers.ask("GET", "/v1/models/m"))[0] == 200
    assert (await transformers.ask("GET", "/v1/models/x"))[0] == 404


async def test_a_stream_ends_with_done(transformers: Setup) -> None:
    body = {"messages": [{"role": "user", "content": "Hi"}], "stream": True}
    _, answer, headers = await transformers.ask("POST", "/v1/chat/completions", json=body)
    assert headers["Content-Type"] == "text/event-stream"
    first, done, rest = answer.split(b"\n\n")
    assert json.loads(first[6:])["model"] == "m"
    assert (done, rest) == (b"data: [DONE]", b"")


async def test_the_frameworks_errors_take_openais_shape(transformers: Setup) -> None:
    status, answer, _ = await transformers.ask("POST", "/v1/completions", json={"prompt": "a"})
    assert status == 400 and json.loads(answer)["error"]["message"] == "no"
    status, answer, _ = await transformers.ask("POST", "/v1/completions", data=b"rubbish")
    assert status == 400 and "JSON" in json.loads(answer)["error"]["message"]


@pytest.mark.parametrize("engine", ["vllm", "transformers"])
async def test_the_old_chat_works_over_both_engines(engine: Engine) -> None:
    async for setup in with_engine(engine):
        status, answer, _ = await setup.ask("POST", "/chat", data=b'{"prompt": "Hi"}')
        assert (status, json.loads(answer)) == (200, {"Result": "Hi\nYes"})
        status, answer, _ = await setup.ask("POST", "/chat", json={"question": "Hi"})
        assert status == 400 and "prompt" in json.loads(answer)["detail"]


async def test_counted_paths_cannot_be_grown_by_clients(vllm: Setup) -> None:
    for number in range(3):
        await vllm.ask("GET", f"/nothing/{number}")
    _, body, _ = await vllm.ask("GET", "/metrics")
    assert b'path="other",status="404"} 3' in body and b"/nothing" not in body
