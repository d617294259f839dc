# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""The HTTP front of a model server: it listens at once, says how far the engine is, and then passes requests on.

Here are routes and the mapping of errors only. What differs between engines is in `openai.py`, what old clients send in
`legacy.py`, the pass-through in `backend.py`. Knows nothing of processes.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
from aiohttp import web

from kaito.runtime.serve import legacy, openai
from kaito.runtime.serve.backend import Backend, pass_through
from kaito.runtime.serve.state import ServingState

log = logging.getLogger("kaito.runtime")

BODY_LIMIT = 256 * 1024**2
OPENAI_PATHS = ("/v1/chat/completions", "/v1/completions")
COUNTED_PATHS = frozenset(
    {"/", "/chat", "/generate", "/health", "/healthz", "/metrics", "/v1/models", "/v1/responses", "/v1/messages"}
    | {"/v1/embeddings", "/tokenize", "/detokenize", *OPENAI_PATHS}
)
"""Paths that are counted by name; the rest is one, so that clients cannot grow the metrics."""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Front:
    """The front of one engine, which `attach` makes known once it is started."""

    def __init__(self, state: ServingState) -> None:
        self.state = state
        self._backend: Backend | None = None
        self._session: aiohttp.ClientSession | None = None

    def attach(self, backend: Backend, session: aiohttp.ClientSession) -> None:
        """From now on there is an engine to ask (it need not answer yet)."""
        self._backend, self._session = backend, session

    def application(self) -> web.Application:
        """The web application with all routes."""
        app = web.Application(client_max_size=BODY_LIMIT, middlewares=[self._counted, self._errors])
        app.router.add_get("/", self._running)
        app.router.add_get("/health", self._health)
        app.router.add_get("/healthz", self._health)
        app.router.add_get("/metrics", self._metrics)
        app.router.add_get("/v1/models", self._models)
        app.router.add_get("/v1/models/{name:.+}", self._model)
        app.router.add_post("/chat", self._old_chat)
        app.router.add_post("/generate", self._old_chat)
        for path in OPENAI_PATHS:
            app.router.add_post(path, self._openai)
        app.router.add_route("*", "/{rest:.*}", self._other)
        return app

    @web.middleware
    async def _counted(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        started = self.state.now()
        status = 499  # What proxies call a client that went away.
        self.state.in_flight += 1
        try:
            response = await handler(request)
            status = response.status
            return response
        finally:
            self.state.in_flight -= 1
            path = request.path if request.path in COUNTED_PATHS else "other"
            self.state.count(request.method, path, status, self.state.now() - started)

    @web.middleware
    async def _errors(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            return await handler(request)
        except web.HTTPException as error:
            return problem(error.text or error.reason, status=error.status)
        except (TimeoutError, aiohttp.ClientError, ConnectionError) as error:
            if request.task is not None and request.transport is None:
                raise
            log.warning("%s %s: the engine did not answer: %s", request.method, request.path, type(error).__name__)
            return problem("The engine did not answer; it may be restarting.", status=502, kind="ServiceUnavailable")
        except (LookupError, TypeError, ValueError):
            log.exception("%s %s: the engine's answer has an unknown shape", request.method, request.path)
            return problem("The engine's answer could not be understood.", status=502, kind="InternalServerError")

    def _engine(self) -> tuple[Backend, aiohttp.ClientSession]:
        """The engine, when it is ready; raises a 503 that says how far it is."""
        if self._backend is None or self._session is None or not self.state.ready:
            text = f"The model is not ready yet: {self.state.phase} ({self.state.seconds():.0f} s so far)."
            raise web.HTTPServiceUnavailable(text=text)
        return self._backend, self._session

    async def _running(self, request: web.Request) -> web.StreamResponse:
        return web.json_response({"message": "Server is running"})

    async def _health(self, request: web.Request) -> web.StreamResponse:
        if self._backend is not None and self._session is not None and self.state.ready:
            url = self._backend.url + "/health"
            async with self._session.get(url, timeout=aiohttp.ClientTimeout(total=5)) as upstream:
                body = await upstream.read()
                kind = upstream.headers.get("Content-Type", "text/plain")
                return web.Response(status=upstream.status, body=body, headers={"Content-Type": kind})
        report = {"status": "starting", "phase": self.state.phase, "seconds": round(self.state.seconds(), 1)}
        return web.json_response(report, status=503)

    async def _metrics(self, request: web.Request) -> web.StreamResponse:
        text = self.state.metrics()
        if self._backend is not None and self._session is not None and self.state.ready and self._backend.speaks_openai:
            try:
                url = self._backend.url + "/metrics"
                async with self._session.get(url, timeout=aiohttp.ClientTimeout(total=5)) as upstream:
                    theirs = await upstream.text() if upstream.status == 200 else ""
            except (TimeoutError, aiohttp.ClientError):
                theirs = ""
            text = theirs.rstrip("\n") + "\n" + text if theirs else text
        return web.Response(text=text, headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})

    async def _models(self, request: web.Request) -> web.StreamResponse:
        backend, session = self._engine()
        if backend.speaks_openai:
            return await pass_through(request, session, backend)
        return web.json_response(model_list(backend))

    async def _model(self, request: web.Request) -> web.StreamResponse:
        backend, _ = self._engine()
        name = request.match_info["name"]
        if name not in backend.names:
            return web.json_response(openai.unknown_model(name), status=404)
        return web.json_response(next(entry for entry in model_list(backend)["data"] if entry["id"] == name))

    async def _other(self, request: web.Request) -> web.StreamResponse:
        backend, session = self._engine()
        return await pass_through(request, session, backend)

    async def _openai(self, request: web.Request) -> web.StreamResponse:
        backend, session = self._engine()
        if backend.speaks_openai:
            return await pass_through(request, session, backend)
        body = parsed(await request.read())
        if not isinstance(body, dict):
            return problem("The body must be a JSON object.", status=400)
        name = body.get("model")
        if name is not None and name not in backend.names:
            return web.json_response(openai.unknown_model(str(name)), status=404)
        try:
            adapted = openai.adapt_request(
                request.path, body, model=backend.model, defaults=backend.generation_defaults
            )
        except openai.Unsupported as error:
            return web.json_response(openai.error(str(error), param=error.field), status=400)
        except (TypeError, ValueError):
            return problem("A sampling field of the request is not a number.", status=400)
        return await self._adapted(request, adapted, backend, session)

    async def _adapted(
        self, request: web.Request, adapted: openai.Adapted, backend: Backend, session: aiohttp.ClientSession
    ) -> web.StreamResponse:
        """Ask an engine whose answers are not quite OpenAI's, and put them right on the way."""
        async with session.post(backend.url + request.path, json=adapted.body) as upstream:
            if upstream.status >= 400:
                status = 400 if upstream.status == 422 else upstream.status
                return web.json_response(openai.adapt_error(status, await upstream.read()), status=status)
            if not adapted.stream:
                return web.json_response(openai.renamed(await upstream.json(), backend.names[0]))
            response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-cache"})
            await response.prepare(request)
            async for line in upstream.content:
                event = line.strip()
                if event:
                    events = openai.adapt_event(event, name=backend.names[0], usage_chunk=adapted.usage_chunk)
                    await response.write(b"\n\n".join(events) + b"\n\n")
            await response.write(b"data: [DONE]\n\n")
            await response.write_eof()
            return response

    async def _old_chat(self, request: web.Request) -> web.StreamResponse:
        backend, session = self._engine()
        try:
            asked = legacy.questions(parsed(await request.read()))
        except legacy.BadRequest as error:
            return web.json_response({"detail": str(error)}, status=400)
        texts: list[str] = []
        for question in asked:
            status, answer = await self._ask(question, backend, session, request.headers.get("Authorization"))
            if status != 200:
                return web.json_response(answer, status=status)
            choice = answer["choices"][0]
            texts.append(choice["text"] if "text" in choice else choice["message"].get("content") or "")
        return web.json_response(legacy.answer(asked, texts))

    async def _ask(
        self, question: legacy.Question, backend: Backend, session: aiohttp.ClientSession, authorization: str | None
    ) -> tuple[int, dict[str, Any]]:
        """One completion, without streaming; a model without a chat template continues the bare text."""
        path, body = "/v1/chat/completions", question.body
        if not backend.chat and question.prompt:
            path = "/v1/completions"
            body = {**{key: value for key, value in body.items() if key != "messages"}, "prompt": question.prompt}
        body = {"model": backend.names[0], **body}
        if not backend.speaks_openai:
            body = openai.adapt_request(path, body, model=backend.model, defaults=backend.generation_defaults).body
        headers = {"Authorization": authorization} if authorization else {}
        async with session.post(backend.url + path, json=body, headers=headers) as upstream:
            if upstream.status != 200:
                return upstream.status, openai.adapt_error(upstream.status, await upstream.read())
            return 200, await upstream.json()


def model_list(backend: Backend) -> dict[str, Any]:
    """The list of models of an engine that has none of its own."""
    return openai.model_list(
        backend.names, created=backend.created, root=backend.model, max_model_len=backend.max_model_len
    )


def parsed(body: bytes) -> Any:
    """The JSON value of a body; raises a 400 for something else. The content type does not matter."""
    try:
        return json.loads(body)
    except ValueError:
        raise web.HTTPBadRequest(text="The body is not valid JSON.") from None


def problem(message: str, *, status: int, kind: str | None = None) -> web.Response:
    """An error in OpenAI's shape; one that will pass says when to ask again."""
    kinds = {400: "BadRequestError", 404: "NotFoundError", 503: "ServiceUnavailable"}
    body = openai.error(message, kind=kind or kinds.get(status, "HTTPError"), code=status)
    return web.json_response(body, status=status, headers={"Retry-After": "2"} if status == 503 else None)
