# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""exec and attach over WebSockets, as kubectl speaks them: subprotocols v5 and v4.channel.k8s.io.

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

from kaito.engine.podaccess import PodAccess, container_of, node_refusal
from kaito.engine.requests import Request, Target, is_true
from kaito.engine.status import StatusError, bad_request
from kaito.engine.stream import NodeError, Session, Streams
from kaito.engine.streaming import Receive, Send
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
            protocol = _protocol(scope)
            session = await self._open(request, target)
        except StatusError as error:
            await _refuse(error, send)
            return
        await send({"type": "websocket.accept", "subprotocol": protocol})
        try:
            await _Connection(session, receive, send).run()
        finally:
            await session.close()

    async def _open(self, request: Request, target: Target) -> Session:
        if target.plural != "pods" or target.subresource not in ("exec", "attach"):
            raise bad_request(f"{target.subresource} over WebSockets is not supported by this server")
        pod = self._pods.pod(target.namespace, target.name)
        container = container_of(pod, request.param("container"))
        streams = _streams(request)
        node = self._pods.node()
        if not pod["spec"].get("nodeName"):
            raise bad_request(f"pod {target.name} does not have a host assigned")
        try:
            if target.subresource == "attach":
                return await node.attach(pod, container, streams)
            command = request.query.get("command", [])
            if not command:
                raise bad_request("you must specify at least one command for the container")
            return await node.exec(pod, container, command, streams)
        except NodeError as error:
            raise node_refusal(error) from None


def _streams(request: Request) -> Streams:
    def asked(name: str) -> bool:
        return is_true(request.param(name))

    streams = Streams(asked("stdin"), asked("stdout"), asked("stderr"), asked("tty"))
    if not (streams.stdin or streams.stdout or streams.stderr):
        raise bad_request("you must specify at least 1 of stdin, stdout, stderr")
    return streams


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
