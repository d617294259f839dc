# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""exec, attach and port-forward over WebSockets, as kubectl speaks them.

exec and attach: subprotocols v5 and v4.channel.k8s.io. port-forward: SPDY frames, see `kaito.engine.http.portforward`.

A message is one byte of channel and its data: 0 stdin, 1 stdout, 2 stderr, 3 the final status as JSON, 4 terminal size,
and in v5 255 to close a channel. What runs behind it is a `Session` of the node.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import MutableMapping
from typing import Any

import msgspec

from kaito.engine.http import portforward
from kaito.engine.http.listener import SPELLED_AS_TOKEN
from kaito.engine.objects.podaccess import PodAccess, SessionRequest, node_refusal
from kaito.engine.stream import NodeError, Session
from kaito.engine.wire.asgi import Receive, Send
from kaito.engine.wire.requests import Request, Target
from kaito.engine.wire.spdy import SpdyError
from kaito.engine.wire.status import StatusError, bad_request
from kaito.kube.manifest import Manifest

log = logging.getLogger(__name__)

STDIN, STDOUT, STDERR, ERROR, RESIZE, CLOSE = 0, 1, 2, 3, 4, 255
PROTOCOLS = ("v5.channel.k8s.io", "v4.channel.k8s.io")
REFUSED = "websocket.http.response"


class PodSocket:
    """Serves WebSocket connections to pods."""

    def __init__(self, pods: PodAccess) -> None:
        self._pods = pods

    async def serve(
        self, request: Request, target: Target, scope: MutableMapping[str, Any], receive: Receive, send: Send
    ) -> None:
        """Run one connection to its end."""
        await receive()
        try:
            if target.plural != "pods" or target.subresource not in ("exec", "attach", "portforward"):
                raise bad_request(f"{target.subresource} over WebSockets is not supported by this server")
            if target.subresource == "portforward":
                await self._forward(target, scope, receive, send)
                return
            protocol = _protocol(scope)
            wanted = self._pods.session(request, target)
        except StatusError as error:
            await _refuse(error, send)
            return
        await send({"type": "websocket.accept", "subprotocol": protocol})
        try:
            session = await self._open(wanted, target.subresource)
        except NodeError as error:
            # Refusing the upgrade would make kubectl try an older protocol, and show that one's trouble instead.
            await send({"type": "websocket.send", "bytes": bytes((ERROR,)) + msgspec.json.encode(failure(error))})
            await send({"type": "websocket.close", "code": 1000})
            return
        try:
            await _Connection(session, receive, send).run()
        finally:
            await session.close()

    async def _forward(self, target: Target, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Serve a port-forward tunnel until the client goes. Raises StatusError before it is accepted."""
        pod, node = self._pods.pod(target.namespace, target.name), self._pods.node()
        if (pod.get("status") or {}).get("phase") != "Running":
            raise bad_request(f"unable to forward port because pod is not running: {target.name}")
        if SPELLED_AS_TOKEN not in (scope.get("subprotocols") or []):
            raise bad_request(f"unable to upgrade: this server speaks {portforward.SUBPROTOCOL}")
        await send({"type": "websocket.accept", "subprotocol": portforward.SUBPROTOCOL})

        async def out(frame: bytes) -> None:
            await send({"type": "websocket.send", "bytes": frame})

        tunnel = portforward.Tunnel(lambda port: node.connect(pod, port), out)
        try:
            while (message := await receive())["type"] != "websocket.disconnect":
                await tunnel.feed(message.get("bytes") or b"")
        except SpdyError as error:
            log.warning("port-forward to pod %s/%s: %s", target.namespace, target.name, error)
            await send({"type": "websocket.close", "code": 1002})
        finally:
            await tunnel.close()

    async def _open(self, wanted: SessionRequest, subresource: str) -> Session:
        node = self._pods.node()
        if subresource == "attach":
            return await node.attach(wanted.pod, wanted.container, wanted.streams)
        return await node.exec(wanted.pod, wanted.container, wanted.command, wanted.streams)


def _protocol(scope: MutableMapping[str, Any]) -> str:
    offered = scope.get("subprotocols") or []
    for protocol in PROTOCOLS:
        if protocol in offered:
            return protocol
    raise bad_request(f"unable to upgrade: this server speaks {' and '.join(PROTOCOLS)}")


async def _refuse(error: StatusError, send: Send) -> None:
    """Answer the upgrade request with a status; kubectl shows its message."""
    headers = [(b"content-type", b"application/json")]
    await send({"type": f"{REFUSED}.start", "status": error.code, "headers": headers})
    await send({"type": f"{REFUSED}.body", "body": msgspec.json.encode(error.body())})


class _Connection:
    """One client and one session, each feeding the other until the session ends or the client goes."""

    def __init__(self, session: Session, receive: Receive, send: Send) -> None:
        self._session, self._receive, self._send = session, receive, send

    async def run(self) -> None:
        incoming = asyncio.ensure_future(self._from_client())
        outgoing = asyncio.ensure_future(self._to_client())
        done, pending = await asyncio.wait((incoming, outgoing), return_when=asyncio.FIRST_COMPLETED)
        for task in pending:
            task.cancel()
        for task in pending:
            with contextlib.suppress(asyncio.CancelledError, NodeError, OSError):
                await task
        for task in done:
            error = task.exception()
            if error is not None and not isinstance(error, NodeError | OSError):
                log.error("stream failed: %s", error)

    async def _from_client(self) -> None:
        """Feed the session until the client closes. Returns when it does."""
        while True:
            message = await self._receive()
            if message["type"] == "websocket.disconnect":
                return
            data = message.get("bytes")
            if data is None:
                data = (message.get("text") or "").encode()
            if data:
                await self._incoming(data[0], bytes(data[1:]))

    async def _incoming(self, channel: int, data: bytes) -> None:
        if channel == STDIN and data:
            with contextlib.suppress(NodeError, OSError):
                await self._session.write(data)
        elif channel == CLOSE and data[:1] == b"\x00":
            await self._session.close_stdin()
        elif channel == RESIZE:
            with contextlib.suppress(msgspec.DecodeError, KeyError, TypeError, ValueError):
                size = msgspec.json.decode(data)
                await self._session.resize(int(size["Width"]), int(size["Height"]))

    async def _to_client(self) -> None:
        while (piece := await self._session.read()) is not None:
            name, data = piece
            channel = STDOUT if name == "stdout" else STDERR
            await self._message(channel, data)
        await self._message(ERROR, msgspec.json.encode(exit_status(await self._session.exit_code())))
        await self._send({"type": "websocket.close", "code": 1000})

    async def _message(self, channel: int, data: bytes) -> None:
        await self._send({"type": "websocket.send", "bytes": bytes((channel,)) + data})


def failure(error: NodeError) -> Manifest:
    """The status of a session that could not begin."""
    return node_refusal(error).body()


def exit_status(code: int) -> Manifest:
    """The status that ends a session."""
    if code == 0:
        return {"metadata": {}, "status": "Success"}
    return {
        "metadata": {},
        "status": "Failure",
        "message": f"command terminated with non-zero exit code: exit status {code}",
        "reason": "NonZeroExitCode",
        "details": {"causes": [{"reason": "ExitCode", "message": str(code)}]},
    }
