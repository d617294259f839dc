# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""The way to the server for clients in its own process: the same requests and answers, without a socket.

The controllers and the node agent speak the API like anybody else: their requests carry a token, are authorized,
admitted and validated, and are answered once they are stored. What they are spared is two times TLS and HTTP, which is
most of what a small request costs, and the buffers of hundreds of watches.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import cast
from urllib.parse import quote

from kaito.engine.http.answer import error_response
from kaito.engine.http.protocol import Application
from kaito.engine.storage.events import NotStored
from kaito.engine.wire.requests import Request, Response
from kaito.engine.wire.status import internal
from kaito.kube.request import Request as Wanted
from kaito.kube.transport import Answer, Patience

_SAFE_IN_PATH = "/:@!$&'()*+,;=~"


class InProcess:
    """A `kaito.kube.transport.Transport` to the server in this process."""

    def __init__(self, app: Application, *, token: str, user_agent: str) -> None:
        self._app = app
        self._headers = [
            ("authorization", f"Bearer {token}"),
            ("user-agent", user_agent),
            ("accept", "application/json"),
        ]

    def open(self) -> None:
        """Nothing to do: there is no connection."""

    async def close(self) -> None:
        """Nothing to do."""

    @asynccontextmanager
    async def send(self, request: Wanted, patience: Patience) -> AsyncIterator[Answer]:
        response = await self._answer(request)
        try:
            yield _Answer(response)
        finally:
            if response.release is not None:
                response.release()
            close = cast(Callable[[], Awaitable[None]] | None, getattr(response.chunks, "aclose", None))
            if close is not None:
                await close()

    async def _answer(self, request: Wanted) -> Response:
        own = [(name.lower(), value) for name, value in request.headers.items()]
        query = {name: [value] for name, value in request.params.items()}
        path = quote(request.path, safe=_SAFE_IN_PATH)
        response = await self._app.answer(
            Request(request.method, path, query, self._headers + own, request.body or b"")
        )
        stored: asyncio.Future[NotStored | None] = asyncio.get_running_loop().create_future()

        def settled(failure: NotStored | None) -> None:
            if not stored.done():
                stored.set_result(failure)

        self._app.settled(response, settled)
        if stored.done():
            await asyncio.sleep(0)  # whoever asks one thing after the other must not hold up everybody else
        failure = await stored
        return response if failure is None else error_response(internal(str(failure)))


class _Answer:
    def __init__(self, response: Response) -> None:
        self.status = response.status
        self.headers: Mapping[str, str] = {name.title(): value for name, value in response.headers}
        self._response = response

    async def read(self) -> bytes:
        if self._response.chunks is None:
            return self._response.body
        return b"".join([chunk async for chunk in self._response.chunks])

    async def chunks(self) -> AsyncIterator[bytes]:
        if self._response.chunks is None:
            yield self._response.body
            return
        async for chunk in self._response.chunks:
            yield chunk
