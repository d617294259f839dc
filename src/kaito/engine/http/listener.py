# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""The listening socket and the HTTP server: uvicorn, with our own HTTP protocol and without its signal handlers."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from typing import Any

import uvicorn
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from kaito.engine.http.certificates import Credentials
from kaito.engine.http.protocol import HttpProtocol

DATE_EVERY_S = 1.0
SPELLED_AS_TOKEN = "SPDY-3.1+portforward.k8s.io"
"""How the application sees kubectl's name for a port-forward tunnel."""
GRACE_S = 2
"""How long open requests may go on after the stop; watches are ended by the store before."""


class CannotListen(Exception):
    """The address is taken, or not ours."""


def listen(host: str, port: int) -> socket.socket:
    """A listening socket. Raises CannotListen, saying what to do."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    server = socket.socket(family, socket.SOCK_STREAM)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        server.bind((host, port))
    except OSError as error:
        server.close()
        raise CannotListen(
            f"cannot listen on {host} port {port} ({error.strerror}): choose another with --port, or 0 for a free one"
        ) from None
    server.listen(1024)
    server.setblocking(False)
    return server


class _Quiet(uvicorn.Server):
    """Leaves the process's signals alone, and sleeps while nothing happens: the engine stops the server itself."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._stopping = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def main_loop(self) -> None:
        """Keep the Date header right until stopped; uvicorn's own loop wakes ten times a second to see that."""
        while not await self.on_tick(0):
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), DATE_EVERY_S)

    def stop(self) -> None:
        """Let `serve` come to its end."""
        self.should_exit = True
        self._stopping.set()


class _WebSocket(WebSocketsSansIOProtocol):
    """Lets `kubectl port-forward` through, whose subprotocol holds a slash that no header token may hold."""

    def data_received(self, data: bytes) -> None:
        """Respell the name in the client's handshake; nothing else is touched."""
        if not self._begun:
            data = data.replace(b"SPDY/3.1+portforward", b"SPDY-3.1+portforward")
            self._begun = True
        super().data_received(data)

    _begun = False


class Listener:
    """Serves an application on a socket until stopped."""

    def __init__(self, app: Any, server: socket.socket, credentials: Credentials) -> None:
        config = uvicorn.Config(
            app,
            http=HttpProtocol,
            ws=_WebSocket,
            lifespan="off",
            loop="none",
            access_log=False,
            log_config=None,
            proxy_headers=False,
            server_header=False,
            ssl_certfile=credentials.certificate_file,
            ssl_keyfile=credentials.key_file,
            timeout_graceful_shutdown=GRACE_S,
            backlog=1024,
        )
        self._server = _Quiet(config)
        self._socket = server
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Return once requests are answered."""
        self._task = asyncio.ensure_future(self._server.serve(sockets=[self._socket]))
        while not self._server.started:
            if self._task.done():
                self._task.result()
                raise CannotListen("the HTTP server ended before it had started")
            await asyncio.sleep(0.005)

    async def stop(self) -> None:
        """End open requests and release the socket."""
        self._server.stop()
        if self._task is not None:
            await self._task
