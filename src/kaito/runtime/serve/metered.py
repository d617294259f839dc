# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Requests of clients that have a token limit: the only ones that are read on their way, to count tokens.

Before a request its tokens are estimated and set aside, so that many at once cannot use more than there is; afterwards
the engine's own count takes their place. A stream is asked for its usage, and that event is left out again for a client
that did not ask.
"""

from __future__ import annotations

import json
import math
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass
from typing import Any

import aiohttp

from kaito.runtime.serve import openai
from kaito.runtime.serve.backend import Backend
from kaito.runtime.serve.keys import ApiKey, Keys
from kaito.runtime.serve.wire import Exchange

BYTES_PER_TOKEN = 4
"""A cautious guess for a prompt's length; the engine's own count replaces it."""
ANSWER_TOKENS = 256
"""What an answer without a limit is first taken to need."""
USAGE_STREAMS = frozenset({"/v1/chat/completions", "/v1/completions"})
"""Paths whose streams tell the usage only when asked."""


@dataclass(slots=True)
class Asked:
    """A request's body, prepared."""

    body: bytes
    stream: bool = False
    added_usage: bool = False
    """We asked for the usage, the client did not."""
    estimate: int = 0


def prepared(path: str, body: bytes) -> Asked:
    """The body to send, with the usage asked for, and an estimate of its tokens."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        return Asked(body, estimate=len(body) // BYTES_PER_TOKEN)
    limits = (value.get(key) for key in ("max_completion_tokens", "max_tokens", "max_output_tokens"))
    limit = next((one for one in limits if isinstance(one, int) and not isinstance(one, bool)), ANSWER_TOKENS)
    copies = value.get("n") if isinstance(value.get("n"), int) else 1
    asked = Asked(body, estimate=len(body) // BYTES_PER_TOKEN + max(0, limit) * max(1, copies or 1))
    asked.stream = value.get("stream") is True
    if asked.stream and path in USAGE_STREAMS:
        options = value.get("stream_options")
        options = options if isinstance(options, dict) else {}
        if options.get("include_usage") is not True:
            asked.added_usage = True
            asked.body = json.dumps({**value, "stream_options": {**options, "include_usage": True}}).encode()
    return asked


def used_tokens(value: Any) -> int | None:
    """The tokens that an answer, or one event of it, says were used; OpenAI's and Anthropic's words for it."""
    if not isinstance(value, dict):
        return None
    usage = value.get("usage")
    for place in ("response", "message"):
        if not isinstance(usage, dict) and isinstance(value.get(place), dict):
            usage = value[place].get("usage")
    if not isinstance(usage, dict):
        return None
    if isinstance(usage.get("total_tokens"), int):
        return int(usage["total_tokens"])
    counts = [usage.get(key) for key in ("input_tokens", "output_tokens")]
    return sum(count for count in counts if isinstance(count, int)) if any(counts) else None


class Metered:
    """Asks the engine for clients whose tokens are limited."""

    def __init__(self, backend: Backend, session: aiohttp.ClientSession, keys: Keys) -> None:
        self._backend = backend
        self._session = session
        self._keys = keys

    def for_client(self, client: ApiKey) -> Callable[[Exchange], Coroutine[Any, Any, None]]:
        """How a request of this client is answered."""

        async def answer(exchange: Exchange) -> None:
            await self._answer(exchange, client)

        return answer

    async def _answer(self, exchange: Exchange, client: ApiKey) -> None:
        asked = prepared(exchange.request.path, await exchange.body())
        over = self._keys.reserve(client, asked.estimate, exchange.connection.now())
        if over is not None:
            message = f"Rate limit reached: {over.limit} tokens per minute; this request needs about {asked.estimate}."
            body = {"error": {"message": message, "type": "tokens", "param": None, "code": "rate_limit_exceeded"}}
            exchange.respond(429, openai.encoded(body), headers={"Retry-After": str(max(1, math.ceil(over.wait_s)))})
            return
        used: int | None = 0
        try:
            used = await self._carried(exchange, asked)
        finally:
            self._keys.settle(client, asked.estimate, asked.estimate if used is None else used)

    async def _carried(self, exchange: Exchange, asked: Asked) -> int | None:
        """Answer from the engine; the tokens it used, None when it does not say."""
        request = exchange.request
        headers = {"X-Request-Id": exchange.id.decode()}
        for name in (b"content-type", b"accept"):
            if request.header(name):
                headers[name.decode().title()] = request.header(name).decode("latin-1")
        if asked.body.lstrip()[:1] in (b"{", b"["):
            headers["Content-Type"] = "application/json"
        url = self._backend.url + request.target.decode("ascii")
        async with self._session.post(url, data=asked.body, headers=headers) as upstream:
            kind = upstream.headers.get("Content-Type", "application/json").encode("latin-1")
            if not kind.startswith(b"text/event-stream"):
                body = await upstream.read()
                exchange.respond(upstream.status, body, kind)
                return used_in(body) if upstream.status == 200 else 0
            exchange.begin(upstream.status, kind)
            used: int | None = None
            async for event in events_of(upstream.content):
                said = used_in_event(event)
                used = used if said is None else max(used or 0, said)
                if not (asked.added_usage and said is not None and is_only_usage(event)):
                    await exchange.write(event)
            exchange.end()
            return used


async def events_of(content: aiohttp.StreamReader) -> AsyncIterator[bytes]:
    """Server-sent events, each with its empty line."""
    event = b""
    async for line in content:
        event += line
        if line in (b"\n", b"\r\n"):
            yield event
            event = b""
    if event:
        yield event


def used_in(body: bytes) -> int | None:
    """The tokens that a JSON body says were used."""
    try:
        return used_tokens(json.loads(body))
    except (ValueError, RecursionError):
        return None


def data_of(event: bytes) -> bytes:
    """The data of an event of one line."""
    return next((line[5:].strip() for line in event.splitlines() if line.startswith(b"data:")), b"")


def used_in_event(event: bytes) -> int | None:
    """The tokens that an event says were used; cheap for the many that say nothing."""
    return used_in(data_of(event)) if b'"usage"' in event else None


def is_only_usage(event: bytes) -> bool:
    """The event exists for the usage alone."""
    value = json.loads(data_of(event))
    return isinstance(value, dict) and value.get("choices") == []
