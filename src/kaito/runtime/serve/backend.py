# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""The engine behind the front, as an address and what must be known to speak to it; and the plain pass-through.

A passed-on answer is the engine's, byte for byte and chunk by chunk; when the client goes away, so does the request.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import aiohttp
from aiohttp import web
from multidict import CIMultiDict
from yarl import URL

from kaito.api.contracts import Engine

HOP_BY_HOP = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "host",
        "expect",
    }
)
"""Headers that belong to one connection (RFC 9110, section 7.6.1), and those that the next request sets itself."""


@dataclass(frozen=True, slots=True)
class Backend:
    """An engine's address and the names it serves."""

    engine: Engine
    url: str
    names: tuple[str, ...]
    model: str
    """The engine's own name for the model."""
    created: int = 0
    max_model_len: int | None = None
    generation_defaults: Mapping[str, Any] = field(default_factory=dict)
    """The model's generation_config.json."""
    chat: bool = True
    """The model has a chat template."""

    @property
    def speaks_openai(self) -> bool:
        """The engine's answers need no adapting."""
        return self.engine == "vllm"


def passed_headers(headers: Mapping[str, str]) -> CIMultiDict[str]:
    """The headers that go on to the next hop."""
    named = {name.strip().casefold() for name in headers.get("Connection", "").split(",")}
    kept: CIMultiDict[str] = CIMultiDict()
    for name, value in headers.items():
        if name.casefold() not in HOP_BY_HOP and name.casefold() not in named:
            kept.add(name, value)
    return kept


async def request_body(request: web.Request, headers: CIMultiDict[str]) -> bytes | aiohttp.StreamReader | None:
    """The body to send on. A JSON text under the content type that curl's `-d` sets is labelled as what it is."""
    if not request.body_exists:
        return None
    if request.content_type.startswith("multipart/"):
        return request.content
    body = await request.read()
    headers.pop("Content-Length", None)
    if request.content_type != "application/json" and body.lstrip()[:1] in (b"{", b"["):
        headers["Content-Type"] = "application/json"
    return body


async def pass_through(request: web.Request, session: aiohttp.ClientSession, backend: Backend) -> web.StreamResponse:
    """Give the request to the engine and its answer to the client, as it comes."""
    headers = passed_headers(request.headers)
    body = await request_body(request, headers)
    url = URL(backend.url + request.raw_path, encoded=True)
    async with session.request(request.method, url, headers=headers, data=body, allow_redirects=False) as upstream:
        response = web.StreamResponse(status=upstream.status, reason=upstream.reason)
        response.headers.extend(passed_headers(upstream.headers))
        await response.prepare(request)
        if request.method != "HEAD":
            async for chunk in upstream.content.iter_any():
                await response.write(chunk)
        await response.write_eof()
        return response


async def is_healthy(session: aiohttp.ClientSession, backend: Backend) -> bool:
    """The engine answers its health question with a 200."""
    try:
        async with session.get(backend.url + "/health", timeout=aiohttp.ClientTimeout(total=2)) as response:
            return response.status == 200
    except (TimeoutError, aiohttp.ClientError, OSError):
        return False
