# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""The front before a real upstream on a free port: what it answers itself, what it passes on, what it puts right."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from multidict import CIMultiDict
from yarl import URL

from kaito.runtime.serve.backend import Backend
from kaito.runtime.serve.front import Front
from kaito.runtime.serve.keys import Keys
from kaito.runtime.serve.relay import EnginePool
from kaito.runtime.serve.state import READY, Download, ServingState
from kaito.runtime.serve.wire import Listener


@dataclass
class Upstream:
    """A tiny engine: it remembers what it was asked and can hold a stream open."""

    bodies: list[bytes] = field(default_factory=list)
    headers: list[CIMultiDict[str]] = field(default_factory=list)
    go_on: asyncio.Event = field(default_factory=asyncio.Event)
    gone: asyncio.Event = field(default_factory=asyncio.Event)

    def application(self) -> web.Application:
        app = web.Application(client_max_size=1 << 30)
        app.router.add_get("/health", self.health)
        app.router.add_get("/metrics", self.metrics)
        app.router.add_get("/v1/raw", self.raw)
        app.router.add_get("/v1/slow", self.slow)
        app.router.add_get("/v1/models", self.models)
        app.router.add_post("/v1/echo", self.echo)
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

    async def models(self, request: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [{"id": "m"}]})

    async def echo(self, request: web.Request) -> web.Response:
        self.headers.append(CIMultiDict(request.headers))
        return web.Response(body=await request.read())

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
        self.headers.append(CIMultiDict(request.headers))
        body = json.loads(self.bodies[-1])
        if not body.get("stream"):
            message = {"role": "assistant", "content": "Yes"}
            usage = {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}
            return web.json_response({"model": "m", "choices": [{"index": 0, "message": message}], "usage": usage})
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write(b'data: {"choices":[{"delta":{"content":"Y')
        await response.write(b'es"}}]}\n\n')
        if (body.get("stream_options") or {}).get("include_usage"):
            await response.write(b'data: {"choices":[],"usage":{"total_tokens":7}}\n\n')
        if body.get("die"):
            assert request.transport is not None
            request.transport.abort()
        elif body.get("wait"):
            await self.go_on.wait()
        await response.write(b"data: [DONE]\n\n")
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

    @property
    def port(self) -> int:
        return int(self.url.rsplit(":", 1)[1])

    async def ask(self, method: str, path: str, **options: Any) -> tuple[int, bytes, CIMultiDict[str]]:
        async with self.http.request(method, URL(self.url + path, encoded=True), **options) as response:
            return response.status, await response.read(), CIMultiDict(response.headers)

    async def raw(self, data: bytes) -> bytes:
        """What comes back for these bytes, up to the end of the connection or a pause."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(data)
        answer = b""
        try:
            while piece := await asyncio.wait_for(reader.read(65536), 0.3):
                answer += piece
        except (TimeoutError, ConnectionError):
            pass
        finally:
            writer.close()
        return answer


async def with_engine(*, ready: bool = True, chat: bool = True, **front_options: Any) -> AsyncIterator[Setup]:
    upstream = Upstream()
    runner = web.AppRunner(upstream.application(), handler_cancellation=True, access_log=None, shutdown_timeout=0.2)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    port = runner.addresses[0][1]
    front = Front(ServingState("vllm", lambda: 0.0), **front_options)
    listener = Listener(front)
    await listener.open("127.0.0.1", 0)
    pool = EnginePool(address=("127.0.0.1", port))
    async with (
        aiohttp.ClientSession(auto_decompress=False) as session,
        aiohttp.ClientSession(auto_decompress=False) as http,
    ):
        if ready:
            backend = Backend(engine="vllm", url=f"http://127.0.0.1:{port}", names=("m",), chat=chat)
            front.attach(backend, session, pool)
            front.state.enter(READY)
        yield Setup(front, upstream, f"http://127.0.0.1:{listener.port}", http)
    pool.close()
    await listener.close(within_s=0.5)
    await runner.cleanup()


@pytest.fixture
async def vllm() -> AsyncIterator[Setup]:
    async for setup in with_engine():
        yield setup


@pytest.fixture
async def starting() -> AsyncIterator[Setup]:
    async for setup in with_engine(ready=False):
        yield setup


KEY = "sk-0123456789abcdef"
CHAT = {"messages": [{"role": "user", "content": "Hi"}]}


@pytest.fixture
async def guarded(tmp_path: Path) -> AsyncIterator[Setup]:
    (tmp_path / "alice").write_text(KEY + "\n")
    (tmp_path / "bob").write_text(f"key: {KEY}-bob\nrequestsPerMinute: 2\n")
    (tmp_path / "carol").write_text(f"{{key: {KEY}-carol, tokensPerMinute: 60}}")
    async for setup in with_engine(keys=Keys(tmp_path, asyncio.get_running_loop().time())):
        yield setup


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


async def test_a_starting_engine_is_reported_not_hidden(starting: Setup) -> None:
    starting.front.state.enter("Loading the weights")
    starting.front.state.download = Download(25, 100, 5.0)
    status, body, _ = await starting.ask("GET", "/health")
    report = json.loads(body)
    assert status == 503 and report["phase"] == "Loading the weights"
    assert report["download"] == {"done_bytes": 25, "total_bytes": 100, "bytes_per_second": 5, "remaining_seconds": 15}
    status, body, headers = await starting.ask("POST", "/v1/chat/completions", json={})
    assert status == 503 and b"Loading the weights" in body and headers["Retry-After"] == "2"
    status, body, _ = await starting.ask("GET", "/metrics")
    assert status == 200 and b'phase="Loading the weights"' in body
    assert b"kaito_model_download_remaining_seconds 15" in body
    assert (await starting.ask("GET", "/"))[0] == 200


async def test_an_answer_is_passed_on_byte_for_byte(vllm: Setup) -> None:
    status, body, headers = await vllm.ask("GET", "/v1/raw?a=%2F&b")
    assert (status, body) == (206, b"\x1f\x8b not really gzip")
    assert headers["Content-Encoding"] == "gzip" and headers["X-Path"] == "/v1/raw?a=%2F&b"
    assert "Keep-Alive" not in headers


async def test_a_stream_arrives_while_it_is_made(vllm: Setup) -> None:
    async with vllm.http.get(vllm.url + "/v1/slow") as response:
        assert await response.content.readany() == b"first"
        vllm.upstream.go_on.set()
        assert await response.content.read() == b"second"


async def test_a_client_that_leaves_ends_the_engines_work(vllm: Setup) -> None:
    async with vllm.http.get(vllm.url + "/v1/slow") as response:
        await response.content.readany()
        response.close()
    await asyncio.wait_for(vllm.upstream.gone.wait(), 5)
    assert vllm.front.state.in_flight == 0


@pytest.mark.parametrize("chunked", [False, True])
async def test_json_without_its_content_type_is_labelled(vllm: Setup, chunked: bool) -> None:
    text = b' {"messages": []}'
    form = {"Content-Type": "application/x-www-form-urlencoded"}

    async def pieces() -> AsyncIterator[bytes]:
        yield text

    status, _, _ = await vllm.ask("POST", "/v1/chat/completions", data=pieces() if chunked else text, headers=form)
    assert status == 200
    assert vllm.upstream.bodies == [text]
    assert vllm.upstream.headers[0]["Content-Type"] == "application/json"


async def test_large_bodies_go_through_in_both_directions(vllm: Setup) -> None:
    body = bytes(range(256)) * 20_000
    status, answer, _ = await vllm.ask("POST", "/v1/echo", data=io.BytesIO(body))
    assert status == 200 and answer == body

    async def pieces() -> AsyncIterator[bytes]:
        for at in range(0, len(body), 100_000):
            yield body[at : at + 100_000]

    status, answer, _ = await vllm.ask("POST", "/v1/echo", data=pieces())
    assert status == 200 and answer == body


async def test_metrics_are_the_engines_and_ours(vllm: Setup) -> None:
    await vllm.ask("GET", "/v1/raw")
    _, body, headers = await vllm.ask("GET", "/metrics")
    assert body.startswith(b"vllm:requests 3\n") and b'kaito_engine_ready{engine="vllm"} 1' in body
    assert b'kaito_requests_total{method="GET",path="other",status="206"} 1' in body
    assert headers["Content-Type"].startswith("text/plain; version=0.0.4")


async def test_an_engine_that_is_gone_is_a_502(vllm: Setup) -> None:
    async with aiohttp.ClientSession() as session:
        backend = Backend(engine="vllm", url="http://127.0.0.1:9", names=("m",))
        vllm.front.attach(backend, session, EnginePool(address=("127.0.0.1", 9)))
        for method, path in (("GET", "/v1/raw"), ("GET", "/v1/models/m"), ("POST", "/v1/completions")):
            status, body, headers = await vllm.ask(method, path)
            assert status == 502 and json.loads(body)["error"]["message"] and headers["Retry-After"]
        assert (await vllm.ask("POST", "/chat", json={"prompt": "a"}))[0] == 502
        assert (await vllm.ask("GET", "/health"))[0] == 503


async def test_an_engine_that_dies_in_a_stream_ends_it_with_an_error(vllm: Setup) -> None:
    _, body, _ = await vllm.ask("POST", "/v1/chat/completions", json={**CHAT, "stream": True, "die": True})
    first, error, rest = body.split(b"\n\n")
    assert b"Yes" in first and rest == b""
    assert json.loads(error.removeprefix(b"data: "))["error"]["code"] == 502


async def test_a_models_entry_is_taken_from_the_engines_list(vllm: Setup) -> None:
    assert (await vllm.ask("GET", "/v1/models/m"))[0] == 200
    status, body, _ = await vllm.ask("GET", "/v1/models/x")
    assert status == 404 and json.loads(body)["error"]["param"] == "model"


async def test_the_old_chat_works(vllm: Setup) -> None:
    status, answer, _ = await vllm.ask("POST", "/chat", data=b'{"prompt": "Hi"}')
    assert (status, json.loads(answer)) == (200, {"Result": "Hi\nYes"})
    for wrong in (b'{"question": "Hi"}', b"rubbish", b"[" * 100_000):
        status, answer, _ = await vllm.ask("POST", "/chat", data=wrong)
        assert status == 400 and json.loads(answer)["detail"]


async def test_counted_paths_cannot_be_grown_by_clients(vllm: Setup) -> None:
    for number in range(3):
        await vllm.ask("GET", f"/nothing/{number}")
    _, body, _ = await vllm.ask("GET", "/metrics")
    assert b'path="other",status="404"} 3' in body and b"/nothing" not in body


@pytest.mark.parametrize(
    "path",
    [
        *("/sleep", "/collective_rpc", "/v1/load_lora_adapter", "/v1/load%5Flora_adapter", "/v1/unload_lora_adapter/"),
        *("/v1/../sleep", "/v1/%2e%2e/sleep", "//v1/models", "/update_weights"),
    ],
)
async def test_an_engines_controls_are_not_for_clients(vllm: Setup, path: str) -> None:
    status, body, _ = await vllm.ask("POST", path)
    assert status == 404 and json.loads(body)["error"]["type"] == "NotFoundError"


async def test_a_request_keeps_its_id_or_gets_one(vllm: Setup) -> None:
    _, _, headers = await vllm.ask("POST", "/v1/echo", headers={"X-Request-Id": "abc-1"})
    assert headers["X-Request-Id"] == "abc-1" and vllm.upstream.headers[-1]["X-Request-Id"] == "abc-1"
    _, _, headers = await vllm.ask("POST", "/v1/echo", headers={"X-Request-Id": "no spaces"})
    assert len(headers["X-Request-Id"]) == 32 and vllm.upstream.headers[-1]["X-Request-Id"] == headers["X-Request-Id"]


async def test_a_full_queue_is_told_until_streams_have_ended(vllm: Setup) -> None:
    vllm.front.queue.running, vllm.front.queue.waiting = 1, 0
    body = {**CHAT, "stream": True, "wait": True}
    async with vllm.http.post(vllm.url + "/v1/chat/completions", json=body) as one:
        await one.content.readany()
        async with vllm.http.post(vllm.url + "/v1/chat/completions", json=body) as two:
            await two.content.readany()
            status, answer, headers = await vllm.ask("POST", "/v1/responses", json=CHAT)
            error = json.loads(answer)["error"]
            assert status == 429 and error["code"] == "rate_limit_exceeded" and int(headers["Retry-After"]) >= 1
            assert error["message"] == "Too many requests: waiting queue (1) exceeds max-num-seqs (0)."
            assert (await vllm.ask("GET", "/v1/models"))[0] == 200
            vllm.upstream.go_on.set()
            await two.content.read()
        await one.content.read()
    assert (await vllm.ask("POST", "/v1/chat/completions", json=CHAT))[0] == 200
    assert b"kaito_ratelimit_rejected_total 1" in (await vllm.ask("GET", "/metrics"))[1]


# Keys

EVERY_ROUTE = [
    *(("GET", path) for path in ("/", "/metrics", "/v1/models", "/v1/models/m", "/docs", "/openapi.json", "/version")),
    *(
        ("GET", path)
        for path in ("/load", "/ping", "/v1/responses/1", "/nothing", "/health/", "/healthz/x", "//health")
    ),
    *(("POST", path) for path in ("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages")),
    *(("POST", path) for path in ("/v1/embeddings", "/tokenize", "/detokenize", "/pooling", "/classify", "/score")),
    *(("POST", path) for path in ("/v1/score", "/rerank", "/v1/rerank", "/v2/rerank", "/invocations", "/chat")),
    *(("POST", path) for path in ("/generate", "/v1/audio/transcriptions", "/v1/load_lora_adapter", "/health")),
    *(("PUT", "/v1/models"), ("OPTIONS", "/v1/models"), ("HEAD", "/metrics"), ("DELETE", "/v1/responses/1")),
]


@pytest.mark.parametrize(("method", "path"), EVERY_ROUTE)
async def test_every_route_needs_a_key_when_keys_are_set(guarded: Setup, method: str, path: str) -> None:
    for headers in (
        {},
        bearer("wrong"),
        {"Authorization": KEY},
        {"Authorization": f"Basic {KEY}"},
        {"X-Api-Key": KEY[:-1]},
    ):
        status, body, answered = await guarded.ask(method, path, headers=headers)
        assert status == 401 and answered["WWW-Authenticate"] == "Bearer"
        if method != "HEAD":
            assert json.loads(body)["error"]["code"] == "invalid_api_key"
    assert guarded.upstream.headers == []


async def test_health_needs_no_key(guarded: Setup) -> None:
    for path in ("/health", "/healthz", "/health?x=1"):
        assert (await guarded.ask("GET", path))[0] == 200


async def test_a_key_opens_the_door_and_stays_at_it(guarded: Setup) -> None:
    status, _, _ = await guarded.ask("POST", "/v1/chat/completions", json=CHAT, headers=bearer(KEY))
    assert status == 200
    assert "authorization" not in {name.lower() for name in guarded.upstream.headers[-1]}
    status, _, _ = await guarded.ask("POST", "/chat", json={"prompt": "Hi"}, headers=bearer(KEY))
    assert status == 200
    assert "authorization" not in {name.lower() for name in guarded.upstream.headers[-1]}
    assert (
        b'kaito_api_key_requests_total{client="alice"} 3'
        in (await guarded.ask("GET", "/metrics", headers=bearer(KEY)))[1]
    )


async def test_a_key_may_come_as_anthropics_clients_send_it(guarded: Setup) -> None:
    assert (await guarded.ask("POST", "/v1/echo", headers={"X-Api-Key": KEY}))[0] == 200
    assert not {"authorization", "x-api-key"} & {name.lower() for name in guarded.upstream.headers[-1]}


async def test_too_many_requests_a_minute_are_told_when_to_come_again(guarded: Setup) -> None:
    answers = [await guarded.ask("GET", "/v1/models", headers=bearer(KEY + "-bob")) for _ in range(3)]
    assert [status for status, _, _ in answers] == [200, 200, 429]
    _, body, headers = answers[-1]
    assert json.loads(body)["error"]["code"] == "rate_limit_exceeded" and 1 <= int(headers["Retry-After"]) <= 30
    assert (await guarded.ask("GET", "/v1/models", headers=bearer(KEY)))[0] == 200


async def test_tokens_are_set_aside_and_settled_by_what_was_used(guarded: Setup) -> None:
    carol = bearer(KEY + "-carol")
    body = {**CHAT, "max_tokens": 20}
    for _ in range(2):
        assert (await guarded.ask("POST", "/v1/chat/completions", json=body, headers=carol))[0] == 200
    tokens = (await guarded.ask("GET", "/metrics", headers=carol))[1]
    assert b'kaito_api_key_tokens_total{client="carol"} 14' in tokens
    body["stream"] = True
    status, answer, _ = await guarded.ask("POST", "/v1/chat/completions", json=body, headers=carol)
    assert status == 200 and answer.endswith(b"data: [DONE]\n\n") and b"usage" not in answer
    body["stream_options"] = {"include_usage": True}
    status, answer, _ = await guarded.ask("POST", "/v1/chat/completions", json={**body, "max_tokens": 1}, headers=carol)
    assert status == 200 and b'"usage"' in answer
    status, answer, headers = await guarded.ask("POST", "/v1/chat/completions", json=body, headers=carol)
    assert status == 429 and json.loads(answer)["error"]["type"] == "tokens" and int(headers["Retry-After"]) >= 1


# What clients should not do


@pytest.mark.parametrize(
    "data",
    [
        b"rubbish\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"POST /v1/echo HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /v1/echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        b"POST /v1/echo HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
        b"POST /v1/echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
        b"POST /v1/echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nabc\r\n",
        b"GET http://other/v1/models HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /health#/v1/models HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"y" * 70_000 + b"\r\n\r\n",
        b"CONNECT /v1/models HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /v1/models HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
    ],
)
async def test_what_is_no_request_gets_an_error_and_harms_nobody(vllm: Setup, data: bytes) -> None:
    answer = await vllm.raw(data)
    assert answer[9:12] in (b"400", b"431", b"501") and b'"error"' in answer
    assert (await vllm.ask("GET", "/v1/models"))[0] == 200


async def test_too_long_a_body_is_refused_with_413(tmp_path: Path) -> None:
    async for setup in with_engine(body_limit=1000):
        head = b"POST /v1/echo HTTP/1.1\r\nHost: a\r\n"
        answer = await setup.raw(head + b"Content-Length: 2000\r\n\r\n" + b"x" * 2000)
        assert answer.startswith(b"HTTP/1.1 413 ") and b"1000 bytes" in answer
        chunks = b"400\r\n" + b"x" * 1024 + b"\r\n0\r\n\r\n"
        answer = await setup.raw(head + b"Transfer-Encoding: chunked\r\n\r\n" + chunks)
        assert answer.startswith(b"HTTP/1.1 413 ")
        assert (await setup.ask("POST", "/v1/echo", data=b"x" * 1000))[0] == 200


async def test_requests_sent_ahead_are_answered_in_order(vllm: Setup) -> None:
    one = b"POST /v1/echo HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n"
    answer = await vllm.raw(one + b"one" + one + b"two" + b"GET /nothing HTTP/1.1\r\nHost: a\r\n\r\n")
    places = [answer.index(mark) for mark in (b"\r\n\r\none", b"\r\n\r\ntwo", b"There is no")]
    assert answer.count(b"HTTP/1.1 200") == 2 and places == sorted(places)


async def test_a_client_is_asked_to_go_on_with_a_large_body(vllm: Setup) -> None:
    head = b"POST /v1/echo HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n"
    assert (await vllm.raw(head)).startswith(b"HTTP/1.1 100 Continue\r\n\r\n")
    refused = await vllm.raw(head.replace(b"/v1/echo", b"/nothing"))
    assert refused.startswith(b"HTTP/1.1 404 ") and b"connection: close" in refused


async def test_an_old_client_gets_a_stream_without_chunks(vllm: Setup) -> None:
    body = json.dumps({**CHAT, "stream": True}).encode()
    head = b"POST /v1/chat/completions HTTP/1.0\r\nContent-Length: %d\r\n\r\n" % len(body)
    answer = await vllm.raw(head + body)
    assert b"transfer-encoding" not in answer.lower()
    assert answer.partition(b"\r\n\r\n")[2] == b'data: {"choices":[{"delta":{"content":"Yes"}}]}\n\ndata: [DONE]\n\n'


async def test_a_revoked_key_is_refused_and_a_broken_file_opens_nothing(tmp_path: Path) -> None:
    (tmp_path / "alice").write_text(KEY)
    (tmp_path / "short").write_text("secret")
    (tmp_path / "odd").write_text("key: 12\nrate: 1\n")
    keys = Keys(tmp_path, 0.0)
    assert len(keys) == 1 and not any("secret" in problem for problem in keys.problems) and len(keys.problems) == 2
    assert keys.client(f"Bearer {KEY}".encode()) is not None
    assert not keys.reload(1.0)
    (tmp_path / "alice").unlink()
    assert keys.reload(2.0) and keys.client(f"Bearer {KEY}".encode()) is None
    assert keys.client(b"Bearer ") is None and keys.client(b"Bearer secret") is None


async def test_fuzzed_requests_never_harm_the_server(vllm: Setup, tmp_path: Path) -> None:
    chance = random.Random(7)
    seeds = [
        b"POST /chat HTTP/1.1\r\nHost: a\r\nContent-Length: 36\r\n\r\n"
        + b'{"messages":[{"role":"a","content":1}]}'[:36],
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        b"GET /v1/models/%2e%2e HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
    ]
    for number in range(300):
        data = bytearray(seeds[number % len(seeds)])
        for _ in range(chance.randint(1, 6)):
            at = chance.randrange(len(data))
            what = chance.randrange(3)
            if what == 0:
                data[at] = chance.randrange(256)
            elif what == 1:
                del data[at : at + chance.randint(1, 8)]
                data = data or bytearray(b"x")
            else:
                data[at:at] = chance.randbytes(chance.randint(1, 8))
        reader, writer = await asyncio.open_connection("127.0.0.1", vllm.port)
        writer.write(bytes(data))
        writer.write_eof()
        with contextlib.suppress(ConnectionError):
            await asyncio.wait_for(reader.read(), 5)
        writer.close()
    assert (await vllm.ask("GET", "/v1/models"))[0] == 200
    assert vllm.front.queue.in_flight == 0 and vllm.front.state.in_flight == 0


@pytest.mark.parametrize(
    "body",
    [
        *(
            b"[]",
            b"null",
            b"3",
            b'"a"',
            b"{}",
            b'{"prompt": 3}',
            b'{"prompt": "a", "generate_kwargs": []}',
            b"\xff\xfe",
        ),
        *(b'{"messages": [1]}', b'{"prompt": "a", "generate_kwargs": {"temperature": "x"}}', b'{"input_data": 1}'),
        *(b'{"prompts": [1]}', b'{"prompt": "a", "generate_kwargs": {"max_length": 1e999}}'),
    ],
)
async def test_an_old_chat_that_makes_no_sense_is_a_bad_request(vllm: Setup, body: bytes) -> None:
    status, answer, _ = await vllm.ask("POST", "/chat", data=body)
    assert status == 400 and json.loads(answer)["detail"]
