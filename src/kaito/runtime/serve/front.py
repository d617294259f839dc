# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""The front of a model server: it listens at once, says how far the engine is, lets in who may, and passes requests on.

Here is what happens to a request, in order: is it about health (anybody may ask), who asks and may they, is it answered
here, is there an engine, is its queue full, and then it goes to the engine as it is. `answers.py` has what is answered
here, `metered.py` what must be read to count its tokens. Knows nothing of processes.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Coroutine
from typing import Any

import aiohttp

from kaito.runtime.serve import openai
from kaito.runtime.serve.answers import MODELS, Answers, NotReady
from kaito.runtime.serve.backend import Backend
from kaito.runtime.serve.framing import Refused
from kaito.runtime.serve.keys import ApiKey, Keys, OverLimit
from kaito.runtime.serve.limits import Queue
from kaito.runtime.serve.metered import Metered
from kaito.runtime.serve.relay import EnginePool
from kaito.runtime.serve.state import ServingState
from kaito.runtime.serve.wire import Exchange

log = logging.getLogger("kaito.runtime")

BODY_LIMIT = 256 * 1024**2
"""Bytes of a request's body when the configuration does not say; pictures and sound are sent in bodies."""
OPEN_PATHS = frozenset({"/health", "/healthz"})
"""Answered without a key: probes have none, and what they say is no secret."""
ENGINE_PATHS = frozenset(
    {"/tokenize", "/detokenize", "/tokenizer_info", "/pooling", "/classify", "/score", "/rerank", "/v2/rerank"}
    | {"/v2/embed", "/invocations", "/ping", "/version", "/load", "/docs", "/openapi.json"}
)
"""What is passed on beside `/v1/…`. Everything else an engine may have is for its operator, not for clients."""
CONTROL_PATHS = frozenset({"/v1/load_lora_adapter", "/v1/unload_lora_adapter"})
COUNTED_PATHS = frozenset(
    {"/", "/chat", "/generate", "/health", "/healthz", "/metrics", "/v1/models", "/v1/responses", "/v1/messages"}
    | {"/v1/embeddings", "/tokenize", "/detokenize", "/v1/chat/completions", "/v1/completions"}
)
"""Paths that are counted by name; the rest is one, so that clients cannot grow the metrics."""
AUTHORIZATION, API_KEY = b"authorization", b"x-api-key"
CREDENTIALS = frozenset({AUTHORIZATION, API_KEY})
BROKEN_OFF = openai.event_of(
    openai.error(
        "The engine ended while it answered; it is started again. Ask once more in a while.",
        kind="ServiceUnavailable",
        code=502,
    )
)
Local = Callable[[Exchange], Coroutine[Any, Any, None]]


class Front:
    """The front of one engine, which `attach` makes known once it is started."""

    def __init__(self, state: ServingState, *, keys: Keys | None = None, body_limit: int = BODY_LIMIT) -> None:
        self.state = state
        self.keys = keys
        self.queue = Queue()
        self.body_limit = body_limit
        self._answers = Answers(state, self.queue, keys)
        self._pool: EnginePool | None = None
        self._metered: Metered | None = None
        self._local: dict[tuple[str, str], Local] = {
            ("GET", "/"): self._answers.running,
            ("GET", "/metrics"): self._answers.metrics,
            ("POST", "/chat"): self._answers.old_chat,
            ("POST", "/generate"): self._answers.old_chat,
        }

    def attach(self, backend: Backend, session: aiohttp.ClientSession, pool: EnginePool) -> None:
        """From now on there is an engine to ask (it need not answer yet); the session is for our own questions."""
        pool.last_event = BROKEN_OFF + b"\n\n"
        self._pool = pool
        self._answers.attach(backend, session)
        self._metered = Metered(backend, session, self.keys) if self.keys is not None else None

    def refuse(self, exchange: Exchange, error: Refused) -> None:
        """Answer what is no request."""
        self._count_at_end(exchange)
        problem(exchange, error.status, str(error))

    def handle(self, exchange: Exchange) -> None:
        """Answer a request."""
        self._count_at_end(exchange)
        request = exchange.request
        method = "GET" if request.method == "HEAD" else request.method
        if request.path in OPEN_PATHS and method == "GET":
            self._run(exchange, self._answers.health)
            return
        client = None
        if self.keys is not None:
            client = self.keys.client(request.header(AUTHORIZATION), request.header(API_KEY))
            if client is None:
                unauthorized(exchange, bool(request.header(AUTHORIZATION) or request.header(API_KEY)))
                return
            over = self.keys.admit(client, exchange.started)
            if over is not None:
                too_many(exchange, over)
                return
        if request.header(b"upgrade") and b"upgrade" in request.header(b"connection").lower():
            problem(exchange, 501, "Upgraded connections (WebSockets) are not served here.", kind="NotImplementedError")
            return
        local = self._local.get((method, request.path))
        if local is None and method == "GET" and request.path.startswith(MODELS):
            local = self._answers.model
        if local is not None and local != self._answers.old_chat:
            self._run(exchange, local)
        else:
            self._to_engine(exchange, local, client)

    def _to_engine(self, exchange: Exchange, local: Local | None, client: ApiKey | None) -> None:
        path = exchange.request.path
        if local is None and not is_passed_on(path):
            problem(exchange, 404, f"There is no {path[:200]} here.")
            return
        if self._pool is None or not self.state.ready:
            not_ready(exchange, self.state)
            return
        if exchange.request.method == "POST":
            if self.queue.is_full():
                self.queue.rejected += 1
                queue_full(exchange, self.queue)
                return
            self.queue.in_flight += 1
            exchange.on_end.append(self._left_queue)
        if local is not None:
            self._run(exchange, local)
        elif client is not None and client.tokens_per_minute is not None and exchange.request.method == "POST":
            assert self._metered is not None
            self._run(exchange, self._metered.for_client(client))
        else:
            self._pool.relay(exchange, no_answer, without=CREDENTIALS if client is not None else frozenset())

    def _left_queue(self) -> None:
        self.queue.in_flight -= 1

    def _count_at_end(self, exchange: Exchange) -> None:
        self.state.in_flight += 1
        exchange.on_end.append(lambda: self._counted(exchange))

    def _counted(self, exchange: Exchange) -> None:
        request = exchange.request
        path = request.path if request.path in COUNTED_PATHS else "other"
        method = request.method if request.method in ("GET", "POST", "HEAD", "OPTIONS", "DELETE", "PUT") else "other"
        self.state.in_flight -= 1
        seconds = exchange.connection.now() - exchange.started
        self.state.count(method, path, exchange.status, seconds)

    def _run(self, exchange: Exchange, answer: Local) -> None:
        exchange.run(answered(exchange, answer))


async def answered(exchange: Exchange, answer: Local) -> None:
    """Give an answer that is made here; what goes wrong on the way becomes an error in OpenAI's shape."""
    try:
        await answer(exchange)
    except NotReady as error:
        failed(exchange, 503, str(error), "ServiceUnavailable")
    except (TimeoutError, aiohttp.ClientError, OSError) as error:
        log.warning("%s: the engine did not answer: %s", exchange.request.path, type(error).__name__)
        failed(exchange, 502, "The engine did not answer; it may be restarting.", "ServiceUnavailable")
    except (LookupError, TypeError, ValueError, AttributeError):
        log.exception("%s: the engine's answer has an unknown shape", exchange.request.path)
        failed(exchange, 502, "The engine's answer could not be understood.", "InternalServerError")
    except asyncio.CancelledError:
        raise
    except Exception:
        log.exception("%s: an answer could not be made", exchange.request.path)
        failed(exchange, 500, "The request could not be answered.", "InternalServerError")


def is_passed_on(path: str) -> bool:
    """Whether clients may use this path of the engine (decoded)."""
    if path in ENGINE_PATHS:
        return True
    return path.startswith("/v1/") and "/../" not in path and path.rstrip("/") not in CONTROL_PATHS


def failed(exchange: Exchange, status: int, message: str, kind: str) -> None:
    """An error; when the answer has begun already, the connection is cut so that the client sees it."""
    if exchange.status:
        exchange.abort()
    else:
        problem(exchange, status, message, kind=kind)


def problem(exchange: Exchange, status: int, message: str, *, kind: str | None = None, retry_s: int = 2) -> None:
    """An error in OpenAI's shape; one that will pass says when to ask again."""
    kinds = {404: "NotFoundError", 413: "BadRequestError", 431: "BadRequestError", 503: "ServiceUnavailable"}
    body = openai.error(message, kind=kind or kinds.get(status, "BadRequestError"), code=status)
    later = {"Retry-After": str(retry_s)} if status in (429, 502, 503) else None
    exchange.respond(status, openai.encoded(body), headers=later)


def no_answer(exchange: Exchange) -> None:
    """The engine closed the connection, or does not take one."""
    problem(exchange, 502, "The engine did not answer; it may be restarting.", kind="ServiceUnavailable")


def not_ready(exchange: Exchange, state: ServingState) -> None:
    """There is no engine yet."""
    message = f"The model is not ready yet: {state.phase} ({state.seconds():.0f} s so far)."
    problem(exchange, 503, message, kind="ServiceUnavailable")


def unauthorized(exchange: Exchange, given: bool) -> None:
    """401, as OpenAI words it; says nothing about the keys there are."""
    message = (
        "Incorrect API key provided. Ask whoever runs this model for one."
        if given
        else "You didn't provide an API key. Send it as a header: Authorization: Bearer YOUR_KEY."
    )
    body = {"error": {"message": message, "type": "invalid_request_error", "param": None, "code": "invalid_api_key"}}
    exchange.respond(401, openai.encoded(body), headers={"WWW-Authenticate": "Bearer"})


def too_many(exchange: Exchange, over: OverLimit) -> None:
    """429 for a client that has used up its limit."""
    seconds = math.ceil(over.wait_s)
    message = f"Rate limit reached: {over.limit} {over.what} per minute. Try again in {seconds} s."
    body = {"error": {"message": message, "type": over.what, "param": None, "code": "rate_limit_exceeded"}}
    exchange.respond(429, openai.encoded(body), headers={"Retry-After": str(max(1, seconds))})


def queue_full(exchange: Exchange, queue: Queue) -> None:
    """429 for a server that has enough to do; KAITO's words."""
    message = f"Too many requests: waiting queue ({queue.depth()}) exceeds max-num-seqs ({queue.limit})."
    body = {"error": {"message": message, "type": "requests", "param": None, "code": "rate_limit_exceeded"}}
    exchange.respond(429, openai.encoded(body), headers={"Retry-After": str(queue.retry_after_s())})
