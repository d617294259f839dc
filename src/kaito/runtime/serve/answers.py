# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""What the front answers itself: health and progress, metrics, and the chat API of old KAITO releases."""

from __future__ import annotations

import json
from typing import Any

import aiohttp

from kaito.runtime.serve import legacy, openai
from kaito.runtime.serve.backend import Backend
from kaito.runtime.serve.keys import Keys
from kaito.runtime.serve.limits import Queue
from kaito.runtime.serve.state import ServingState
from kaito.runtime.serve.wire import Exchange

HEALTH_TIMEOUT = aiohttp.ClientTimeout(total=5)
MODELS = "/v1/models/"
TEXT = b"text/plain; version=0.0.4; charset=utf-8"


class NotReady(Exception):
    """There is no engine to ask; the text says how far it is."""


class Answers:
    """The routes that are answered here."""

    def __init__(self, state: ServingState, queue: Queue, keys: Keys | None) -> None:
        self._state = state
        self._queue = queue
        self._keys = keys
        self._backend: Backend | None = None
        self._session: aiohttp.ClientSession | None = None

    def attach(self, backend: Backend, session: aiohttp.ClientSession) -> None:
        """There is an engine."""
        self._backend, self._session = backend, session

    def _engine(self) -> tuple[Backend, aiohttp.ClientSession]:
        if self._backend is None or self._session is None or not self._state.ready:
            raise NotReady(f"The model is not ready yet: {self._state.phase} ({self._state.seconds():.0f} s so far).")
        return self._backend, self._session

    def _authorization(self, exchange: Exchange) -> dict[str, str]:
        """The client's `Authorization`, for an engine that has a key of its own; ours stay here."""
        authorization = exchange.request.header(b"authorization")
        return {"Authorization": authorization.decode("latin-1")} if authorization and self._keys is None else {}

    async def running(self, exchange: Exchange) -> None:
        """`GET /`, as old KAITO servers answer it."""
        exchange.respond(200, b'{"message": "Server is running"}')

    async def health(self, exchange: Exchange) -> None:
        """The engine's own health once it is ready (200 with its body, or its status); before that 503 and how far it
        is. `/healthz` adds what is known about the server's speed."""
        if self._state.ready and self._backend is None:
            exchange.respond(200, openai.encoded(self._state.report()))  # a rank without an API
            return
        if not self._state.ready or self._backend is None or self._session is None:
            exchange.respond(503, openai.encoded(self._state.report()), headers={"Retry-After": "2"})
            return
        try:
            url = self._backend.url + "/health"
            async with self._session.get(url, timeout=HEALTH_TIMEOUT) as upstream:
                status, body = upstream.status, await upstream.read()
        except (TimeoutError, aiohttp.ClientError, OSError):
            status, body = 503, b""
        if exchange.request.path == "/healthz" or status != 200:
            report = self._state.report() if status == 200 else {**self._state.report(), "status": "unhealthy"}
            body = openai.encoded(report)
        exchange.respond(status, body)

    async def metrics(self, exchange: Exchange) -> None:
        """The engine's series and ours."""
        text = await self._engine_metrics()
        ours = self._state.metrics() + "\n".join(self._limit_lines()) + "\n"
        exchange.respond(200, (text.rstrip("\n") + "\n" + ours if text else ours).encode(), TEXT)

    async def _engine_metrics(self) -> str:
        if self._backend is None or self._session is None or not self._state.ready:
            return ""
        try:
            async with self._session.get(self._backend.url + "/metrics", timeout=HEALTH_TIMEOUT) as upstream:
                return await upstream.text() if upstream.status == 200 else ""
        except (TimeoutError, aiohttp.ClientError, OSError):
            return ""

    def _limit_lines(self) -> list[str]:
        queue = self._queue
        lines = [
            "# HELP kaito_ratelimit_rejected_total Requests refused because too many waited for the engine.",
            "# TYPE kaito_ratelimit_rejected_total counter",
            f"kaito_ratelimit_rejected_total {queue.rejected}",
            "# HELP kaito_queue_depth Requests that wait for the engine.",
            "# TYPE kaito_queue_depth gauge",
            f"kaito_queue_depth {queue.depth()}",
        ]
        return lines + (self._keys.metrics() if self._keys is not None else [])

    async def model(self, exchange: Exchange) -> None:
        """`GET /v1/models/NAME`, from the engine's list; engines have no such route."""
        backend, session = self._engine()
        name = exchange.request.path.removeprefix(MODELS)
        headers = self._authorization(exchange)
        async with session.get(backend.url + MODELS[:-1], headers=headers, timeout=HEALTH_TIMEOUT) as upstream:
            status, body = upstream.status, await upstream.read()
        if status != 200:
            exchange.respond(status, body)
            return
        entry = next((entry for entry in json.loads(body)["data"] if entry["id"] == name), None)
        if entry is None:
            exchange.respond(404, openai.encoded(openai.unknown_model(name)))
        else:
            exchange.respond(200, openai.encoded(entry))

    async def old_chat(self, exchange: Exchange) -> None:
        """`POST /chat` and `POST /generate` of old releases."""
        backend, session = self._engine()
        try:
            asked = legacy.questions(json_of(await exchange.body()))
        except legacy.BadRequest as error:
            exchange.respond(400, openai.encoded({"detail": str(error)}))
            return
        texts: list[str] = []
        for question in asked:
            status, answer = await self._ask(question, backend, session, exchange)
            if status != 200:
                exchange.respond(status, openai.encoded(answer))
                return
            choice = answer["choices"][0]
            texts.append(choice["text"] if "text" in choice else choice["message"].get("content") or "")
        exchange.respond(200, openai.encoded(legacy.answer(asked, texts)))

    async def _ask(
        self, question: legacy.Question, backend: Backend, session: aiohttp.ClientSession, exchange: Exchange
    ) -> tuple[int, dict[str, Any]]:
        """One completion, without streaming; a model without a chat template continues the bare text."""
        path, body = "/v1/chat/completions", question.body
        if not backend.chat and question.prompt:
            path = "/v1/completions"
            body = {**{key: value for key, value in body.items() if key != "messages"}, "prompt": question.prompt}
        headers = {"X-Request-Id": exchange.id.decode(), **self._authorization(exchange)}
        async with session.post(
            backend.url + path, json={"model": backend.names[0], **body}, headers=headers
        ) as upstream:
            if upstream.status != 200:
                return upstream.status, openai.adapt_error(upstream.status, await upstream.read())
            answer: dict[str, Any] = await upstream.json()
            return 200, answer


def json_of(body: bytes) -> Any:
    """The JSON value of a body, whatever its content type says; raises BadRequest."""
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        raise legacy.BadRequest("The body is not valid JSON.") from None
