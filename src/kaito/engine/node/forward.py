# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""A small HTTP proxy for pods, which knows Services by address and by name.

Processes have no cluster DNS and, for an ordinary user, no port 80 on a cluster address. HTTP clients that honour
`http_proxy` reach both through here: plain requests (absolute form) and CONNECT. Everything else is passed on as it
is. The user name in the proxy's URL is the pod's namespace, so that a bare Service name means what it means on a
cluster.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections.abc import Callable
from urllib.parse import urlsplit

from kaito.engine.node.routing import Routes, Target
from kaito.engine.node.splice import close, connect, splice

HEAD_S = 30.0
LONGEST_HEAD = 64 * 1024
HOP_HEADERS = ("proxy-connection", "proxy-authorization", "connection", "keep-alive")
DEFAULT_PORTS = {"http": 80, "https": 443}


class BadRequest(Exception):
    """What a client sent is no proxy request."""


class ForwardProxy:
    """Listens on a free port of 127.0.0.1."""

    def __init__(self, routes: Callable[[], Routes]) -> None:
        self._routes = routes
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self.address = ""
        """host:port, once started."""

    async def start(self) -> None:
        """Begin to listen."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0, limit=LONGEST_HEAD)
        host, port = self._server.sockets[0].getsockname()
        self.address = f"{host}:{port}"

    def close(self) -> None:
        """Stop listening and drop the connections."""
        if self._server is not None:
            self._server.close()
        for task in self._connections:
            task.cancel()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer))
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            raw = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), HEAD_S)
            target, head, namespace = parse(raw)
            upstream = await connect(self._targets(target, namespace))
            if upstream is None:
                await _answer(writer, 502, f"nobody answers at {target.host}:{target.port}")
                return
            if head is None:
                writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            else:
                upstream[1].write(head)
            await splice((reader, writer), upstream)
        except BadRequest as error:
            await _answer(writer, 400, str(error))
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, TimeoutError, OSError):
            await close(writer)
        except asyncio.CancelledError:
            writer.transport.abort()
            raise

    def _targets(self, target: Target, namespace: str) -> list[Target]:
        routes = self._routes()
        found = routes.by_address(*target)
        if found is None:
            found = routes.by_name(*target, namespace)
        return [target] if found is None else found


def parse(raw: bytes) -> tuple[Target, bytes | None, str]:
    """Where a request wants to go, its head as sent there (None for CONNECT), and the caller's namespace.

    Raises BadRequest.
    """
    first, *lines = raw.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
    try:
        method, address, version = first.split(" ")
    except ValueError as error:
        raise BadRequest("not an HTTP request") from error
    namespace = _namespace(lines)
    if method == "CONNECT":
        return _target(f"//{address}", 443), None, namespace
    url = urlsplit(address)
    if url.scheme not in DEFAULT_PORTS or not url.hostname:
        raise BadRequest("this is a proxy: ask for http://HOST/PATH")
    path = (url.path or "/") + (f"?{url.query}" if url.query else "")
    kept = [line for line in lines if line.partition(":")[0].strip().lower() not in HOP_HEADERS]
    # One request for each connection: the next one may be for somebody else.
    head = "\r\n".join([f"{method} {path} {version}", *kept, "Connection: close", "", ""])
    return _target(address, DEFAULT_PORTS[url.scheme]), head.encode("latin-1"), namespace


def _target(address: str, default_port: int) -> Target:
    try:
        url = urlsplit(address)
        port = url.port or default_port
    except ValueError as error:
        raise BadRequest(f"not an address: {address}") from error
    if not url.hostname:
        raise BadRequest(f"not an address: {address}")
    return Target(url.hostname, port)


def _namespace(lines: list[str]) -> str:
    for line in lines:
        name, _, value = line.partition(":")
        if name.strip().lower() == "proxy-authorization":
            scheme, _, token = value.strip().partition(" ")
            if scheme.lower() == "basic":
                try:
                    return base64.b64decode(token).decode().partition(":")[0] or "default"
                except (binascii.Error, UnicodeDecodeError):
                    return "default"
    return "default"


async def _answer(writer: asyncio.StreamWriter, status: int, text: str) -> None:
    body = f"{text}\n".encode()
    reason = {400: "Bad Request", 502: "Bad Gateway"}[status]
    lines = (
        f"HTTP/1.1 {status} {reason}",
        "Content-Type: text/plain",
        f"Content-Length: {len(body)}",
        "Connection: close",
    )
    writer.write("\r\n".join((*lines, "", "")).encode() + body)
    await close(writer)
