# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Whatever bytes arrive on a connection: an answer that blames the client, in order, and the connection's end."""

from __future__ import annotations

import asyncio
import json
import socket
from dataclasses import dataclass

import pytest
import uvicorn
from hypothesis import given, settings
from hypothesis import strategies as st
from uvicorn.server import ServerState

from kaito.engine.access.auth import Authenticator
from kaito.engine.access.rbac import Authorizer
from kaito.engine.access.reviews import Reviews
from kaito.engine.http.documents import Documents
from kaito.engine.http.protocol import CHECK_EVERY_S, STALLED_S, HttpProtocol
from kaito.engine.http.server import Server
from kaito.engine.http.websocket import PodSocket
from kaito.engine.objects.deletion import Deletion
from kaito.engine.objects.metrics import Metrics
from kaito.engine.objects.podaccess import PodAccess
from kaito.engine.objects.subresources import Subresources
from kaito.engine.turns import Turns
from kaito.kube.clock import RealClock
from kaito.kube.manifest import Manifest
from tests.unit.engine.api import Api
from tests.unit.engine.test_http_protocol import Clock

PATIENCE_S = 10
LOGIN = b"Authorization: Bearer admin\r\n"
PATH = b"/api/v1/namespaces/default/configmaps"
METHODS = (b"GET", b"POST", b"PUT", b"PATCH", b"DELETE", b"HEAD", b"OPTIONS", b"CONNECT", b"get", b"NONE", b"G\x00T")
TARGETS = (
    *(PATH, PATH + b"/x", PATH + b"?watch=true&timeoutSeconds=1", PATH + b"?limit=x", PATH + b"/%ff%00%"),
    *(b"*", b"/", b"//", b"host:443", b"http://host" + PATH, b"http://host", b"HTTP://host?a=b", b"ftp://host/"),
    *(b"/api/v1/namespaces/\xff\xfe/pods/x/exec?command=%zz", b"/healthz?\x80=\xff", b"?", b"", b"/" + b"a" * 70_000),
    *(b"api", PATH + b"/\xc3\xa9"),
)
VERSIONS = (b"HTTP/1.1", b"HTTP/1.1", b"HTTP/1.1", b"HTTP/1.0", b"HTTP/0.9", b"HTTP/2.0", b"HTTP/x", b"")
HEADERS = (
    *(LOGIN, LOGIN, b"Content-Length: 2\r\n", b"Content-Length: -1\r\n", b"Content-Length: 99999999999999999999\r\n"),
    *(b"Transfer-Encoding: chunked\r\n", b"Transfer-Encoding: gzip\r\n", b"Transfer-Encoding: chunked, gzip\r\n"),
    *(b"Content-Type: \xff/\xfe\r\n", b"Accept: \xc3\x28;;=\r\n", b"Authorization: Bearer \xff\xfe.\xff.\xff\r\n"),
    *(b"Upgrade: websocket\r\nConnection: Upgrade\r\n", b"Upgrade: h2c\r\nConnection: upgrade, close\r\n"),
    *(b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n", b"Expect: 100-continue\r\n"),
    *(b"Impersonate-User: \xff\r\n", b": empty\r\n", b"no colon\r\n", b" folded\r\n", b"A: b\nC: d\r\n"),
    *(b"N\xc3\xa9: x\r\n", b"Z: \x00\r\n"),
)
BODIES = (
    *(b"", b"{}", b"2\r\n{}\r\n0\r\n\r\n", b"2\r\n{}\r\n0\r\nX: y\r\n\r\n", b"zz\r\n{}\r\n", b"-1\r\n{}\r\n0\r\n\r\n"),
    *(b"2;a=b\r\n{}\r\n0\r\n\r\n", b"ffffffffffffffffff\r\n{}", b"2\r\n{}xx0\r\n\r\n", b"\xff" * 40, b"1\r\n"),
)


def texts(*parts: bytes) -> st.SearchStrategy[bytes]:
    return st.sampled_from(parts)


@st.composite
def messages(draw: st.DrawFn) -> bytes:
    """One to three requests, put together from good and bad parts, with some bytes replaced."""
    whole = b""
    for _ in range(draw(st.integers(1, 3))):
        line = b" ".join((draw(texts(*METHODS)), draw(texts(*TARGETS)), draw(texts(*VERSIONS))))
        fields = b"".join(draw(st.lists(texts(*HEADERS), max_size=5)))
        whole += line + b"\r\n" + fields + b"\r\n" + draw(texts(*BODIES))
    for _ in range(draw(st.integers(0, 2))):
        at = draw(st.integers(0, len(whole)))
        whole = whole[:at] + draw(st.binary(max_size=3)) + whole[at + draw(st.integers(0, 3)) :]
    return whole


@dataclass
class Answer:
    status: int
    head: bytes
    body: bytes


def answers_in(data: bytes, *, to_head: bool = False) -> list[Answer]:
    """What came back, message by message. Raises ValueError for what is no HTTP."""
    found = []
    while data:
        head, gap, data = data.partition(b"\r\n\r\n")
        version, status, _ = head.split(b" ", 2)
        assert gap, head
        assert version == b"HTTP/1.1", head
        fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
        body = b""
        if int(status) >= 200 and b"content-length" in fields:
            size = int(fields[b"content-length"])
            # The answer to a HEAD tells the length of a body that does not come.
            is_bare = data.startswith(b"HTTP/1.1 ") or (to_head and not data)
            body, data = (b"", data) if is_bare else (data[:size], data[size:])
        elif int(status) >= 200:
            while (size := int(data.partition(b"\r\n")[0], 16)) > 0:
                start = data.index(b"\r\n") + 2
                body, data = body + data[start : start + size], data[start + size + 2 :]
            data = data.partition(b"\r\n\r\n")[2]
        found.append(Answer(int(status), head, body))
    return found


def server() -> Server:
    """The engine's server over an empty store; the administrator's token is `admin`."""
    api, clock = Api(), RealClock()
    authenticator = Authenticator("admin", b"key", uid_of=lambda plural, namespace, name: None)
    authorizer, pods, deletion = Authorizer(api.registry), PodAccess(api.registry, clock), Deletion(api.registry)
    return Server(
        api.store,
        api.kinds,
        api.resources,
        Subresources(api.registry, api.resources, deletion, authenticator, pods, clock),
        Reviews(authenticator, authorizer, clock),
        Documents(api.kinds),
        Metrics(api.registry, pods, clock),
        authenticator=authenticator,
        authorizer=authorizer,
        socket=PodSocket(pods),
        clock=clock,
        turns=Turns(asyncio.get_running_loop()),
    )


async def answered(data: bytes) -> bytes:
    """All that a connection brings on which these bytes are sent, until the server ends it."""
    loop, (ours, theirs) = asyncio.get_running_loop(), socket.socketpair()
    failures: list[Manifest] = []
    loop.set_exception_handler(lambda _, context: failures.append(context))
    clock, config = Clock(), uvicorn.Config(server(), lifespan="off", log_config=None)
    config.load()
    transport, _ = await loop.create_connection(
        lambda: HttpProtocol(config, ServerState(), {}, clock),  # type: ignore[arg-type]
        sock=ours,
    )
    reader, writer = await asyncio.open_connection(sock=theirs)
    writer.write(data)
    whole = asyncio.create_task(reader.read())
    for _ in range(4):
        await asyncio.sleep(0)
    async with asyncio.timeout(PATIENCE_S):
        while not whole.done():
            await clock.pass_by(STALLED_S + 2 * CHECK_EVERY_S)
            await asyncio.sleep(0.001)
    writer.close()
    transport.abort()
    await asyncio.sleep(0)
    assert not failures, failures
    return whole.result()


@settings(max_examples=200, derandomize=True)
@given(data=messages())
def test_broken_requests_are_answered_and_blamed_on_the_client(data: bytes) -> None:
    came = asyncio.run(answered(data))
    found = answers_in(came, to_head=b"HEAD" in data)
    assert found or not data.strip(b"\r\n"), "no answer"
    assert all(answer.status < 500 for answer in found), came


@pytest.mark.parametrize(
    ("data", "statuses"),
    [
        (b"OPTIONS * HTTP/1.1\r\n\r\n", [400]),
        (b"CONNECT host:443 HTTP/1.1\r\n\r\n", [400]),
        (b"GET ftp://host/ HTTP/1.1\r\n" + LOGIN + b"\r\n", [400]),
        (b"GET http://host/healthz HTTP/1.1\r\n" + LOGIN + b"Connection: close\r\n\r\n", [200]),
        (b"GET /healthz HTTP/1.1\r\n" + LOGIN + b"\r\nnonsense\r\n\r\n", [200, 400]),
        (b"POST " + PATH + b" HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", [400]),
        (b"POST " + PATH + b" HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}nonsense\r\n\r\n", [401, 400]),
        (b"GET /healthz HTTP/1.1\r\nX-Slow: ", [408]),
        (b"GET /healthz HTTP/1.1\r\nA: " + b"a" * 300_000, [431]),
    ],
)
def test_a_refusal_has_its_place_and_says_why(data: bytes, statuses: list[int]) -> None:
    found = answers_in(asyncio.run(answered(data)))
    assert [answer.status for answer in found] == statuses
    for answer in found:
        if answer.status >= 400:
            status = json.loads(answer.body)
            assert (status["kind"], status["code"]) == ("Status", answer.status)
            assert status["message"]
    if statuses[-1] != 200:
        assert b"connection: close" in found[-1].head


def test_an_exception_while_a_head_is_read_is_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    def defect(raw: bytes) -> dict[str, list[str]]:
        raise RuntimeError("a defect")

    monkeypatch.setattr("kaito.engine.http.protocol.parse_query", defect)
    [answer] = answers_in(asyncio.run(answered(b"GET /healthz?a=b HTTP/1.1\r\n\r\n")))
    assert answer.status == 400
    assert json.loads(answer.body)["kind"] == "Status"
