# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""The listening socket and the HTTP server around the ASGI application: uvicorn, without its signal handlers."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from typing import Any

import uvicorn

from kaito.engine.certificates import Credentials

KEEP_ALIVE_S = 120
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
    """Leaves the process's signals alone: the engine stops the server itself."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class Listener:
    """Serves an application on a socket until stopped."""

    def __init__(self, app: Any, server: socket.socket, credentials: Credentials) -> None:
        config = uvicorn.Config(
            app,
            http="httptools",
            ws="websockets-sansio",
            lifespan="off",
            loop="none",
            access_log=False,
            log_config=None,
            proxy_headers=False,
            server_header=False,
            ssl_certfile=credentials.certificate_file,
            ssl_keyfile=credentials.key_file,
            timeout_keep_alive=KEEP_ALIVE_S,
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
        self._server.should_exit = True
        if self._task is not None:
            await self._task
