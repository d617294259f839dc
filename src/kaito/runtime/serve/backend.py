# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""The engine behind the front: where it listens, and what must be known to ask it something from here.

An engine listens on a Unix socket in a folder that only this process's user can enter: nothing else reaches it.
"""

from __future__ import annotations

from dataclasses import dataclass

import aiohttp

from kaito.api.contracts import Engine

ON_THE_SOCKET = "http://engine"
"""The address of an engine in a session whose connector leads to its socket."""


@dataclass(frozen=True, slots=True)
class Backend:
    """An engine's address and the names it serves."""

    engine: Engine
    names: tuple[str, ...]
    url: str = ON_THE_SOCKET
    chat: bool = True
    """The model has a chat template."""


def session_on(socket: str) -> aiohttp.ClientSession:
    """A session for what the front itself asks an engine on this socket; requests of clients go through `relay.py`."""
    return aiohttp.ClientSession(
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=5),
        connector=aiohttp.UnixConnector(socket, limit=0),
        auto_decompress=False,
        read_bufsize=1 << 20,
    )


async def is_healthy(session: aiohttp.ClientSession, backend: Backend) -> bool:
    """The engine answers its health question with a 200."""
    try:
        async with session.get(backend.url + "/health", timeout=aiohttp.ClientTimeout(total=2)) as response:
            return response.status == 200
    except (TimeoutError, aiohttp.ClientError, OSError):
        return False
