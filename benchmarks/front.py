# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""What the front of a model server costs: processor time a request, and what it adds to a stream.

`python -m benchmarks.front stub SOCKET` is an engine that answers at once (or, when asked to stream, sends events at a
steady rate); `python -m benchmarks.front serve SOCKET PORT` is the front alone before it. Load comes from this process,
straight to the stub first and then through the front, so that the difference is the front's.
"""

from __future__ import annotations

import asyncio
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import psutil  # type: ignore[import-untyped]
import uvloop

from kaito.runtime.serve.backend import Backend, session_on
from kaito.runtime.serve.front import Front
from kaito.runtime.serve.relay import EnginePool
from kaito.runtime.serve.state import READY, ServingState
from kaito.runtime.serve.wire import Listener

ANSWER = b'{"id":"chatcmpl-1","object":"chat.completion","choices":[{"index":0,"message":{"content":"Yes"}}]}'
REPLY = (
    b"HTTP/1.1 200 OK\r\ndate: Thu, 01 Jan 2026 00:00:00 GMT\r\nserver: stub\r\ncontent-type: application/json\r\n"
    b"content-length: %d\r\n\r\n%b" % (len(ANSWER), ANSWER)
)
STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
END = b"0\r\n\r\n"
CLIENTS = 32
EVENTS = 5
PERIOD_S = 2.0
"""Of a stream's events: slower than a model answers one user, as many at once make it."""


class Stub(asyncio.Protocol):
    """An engine that costs next to nothing."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._left = 0
        self._buffer = b""
        self._stream = False

    def data_received(self, data: bytes) -> None:
        if self._left:
            self._left -= len(data)
        else:
            self._buffer += data
            end = self._buffer.find(b"\r\n\r\n")
            if end < 0:
                return
            head, rest = self._buffer[:end].lower(), self._buffer[end + 4 :]
            self._buffer = b""
            at = head.find(b"content-length:")
            size = int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
            self._stream = b"x-stream" in head
            self._left = size - len(rest)
        if not self._left:
            if self._stream:
                self._transport.write(STREAM_HEAD)
                self._event(0)
            else:
                self._transport.write(REPLY)

    def _event(self, number: int) -> None:
        if number == EVENTS:
            self._transport.write(END)
            return
        event = b'data: {"sent":%020d,"choices":[{"index":0,"delta":{"content":" word"}}]}\n\n' % time.monotonic_ns()
        self._transport.write(b"%x\r\n%b\r\n" % (len(event), event))
        asyncio.get_running_loop().call_later(PERIOD_S, self._event, number + 1)


async def stub(socket: str) -> None:
    """Serve until ended."""
    server = await asyncio.get_running_loop().create_unix_server(Stub, socket, backlog=4096)
    await server.serve_forever()


async def serve(socket: str, port: int) -> None:
    """The front alone, until ended."""
    front = Front(ServingState("vllm", time.monotonic))
    async with session_on(socket) as session:
        front.attach(Backend(engine="vllm", names=("m",)), session, EnginePool(socket))
        front.state.enter(READY)
        listener = Listener(front)
        await listener.open("127.0.0.1", port)
        await asyncio.Event().wait()


class Asker(asyncio.Protocol):
    """One client: asks, and takes note of answers and of the ages of events."""

    def __init__(self) -> None:
        self._buffer = b""
        self._waiter: asyncio.Future[None] | None = None
        self.ages_ms: list[float] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if b'"sent":' in data:
            now = time.monotonic_ns()
            self.ages_ms += [(now - int(part[:20])) / 1e6 for part in data.split(b'"sent":')[1:]]
        self._buffer = (self._buffer + data)[-512:]
        if (self._buffer.endswith((END, b"}]}"))) and self._waiter is not None:
            self._buffer = b""
            waiter, self._waiter = self._waiter, None
            waiter.set_result(None)

    async def ask(self, request: bytes) -> None:
        """Until the answer is complete."""
        self._waiter = asyncio.get_running_loop().create_future()
        self.transport.write(request)
        await self._waiter


@dataclass
class Found:
    """What was measured."""

    requests_per_core_s: list[float] = field(default_factory=list)
    """Requests a second of the front's processor time."""
    large_ms: list[float] = field(default_factory=list)
    """Processor time of the front for one request of 220 KB."""
    copies: list[float] = field(default_factory=list)
    """Memory that a burst of large bodies added at its peak, as a multiple of what was in flight."""
    added_p99_ms: list[float] = field(default_factory=list)
    rss_growth_mib: float = 0.0


def request_of(size: int, *, stream: bool = False) -> bytes:
    """A chat request with a body of this size."""
    extra = b"x-stream: 1\r\n" if stream else b""
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n"
    return head + b"authorization: Bearer x\r\n" + extra + b"content-length: %d\r\n\r\n" % size + b"x" * size


async def connected(target: str | int, count: int) -> list[Asker]:
    """Clients of a port, or of a Unix socket."""
    loop = asyncio.get_running_loop()
    found = []
    for _ in range(count):
        if isinstance(target, str):
            _, asker = await loop.create_unix_connection(Asker, target)
        else:
            _, asker = await loop.create_connection(Asker, "127.0.0.1", target)
        found.append(asker)
    return found


async def many(askers: list[Asker], request: bytes, each: int) -> None:
    """Every client asks so often, one after the other."""

    async def one(asker: Asker) -> None:
        for _ in range(each):
            await asker.ask(request)

    await asyncio.gather(*map(one, askers))


async def throughput(port: int, front: psutil.Process, found: Found, rounds: int = 3) -> None:
    """Small and large requests, by the front's processor time; memory over all of it."""
    askers = await connected(port, CLIENTS)
    await many(askers, request_of(400), 50)
    before = front.memory_info().rss
    for _ in range(rounds):
        cpu = seconds_of(front)
        await many(askers, request_of(400), 150)
        found.requests_per_core_s.append(CLIENTS * 150 / (seconds_of(front) - cpu))
        cpu = seconds_of(front)
        await many(askers, request_of(220_000), 10)
        found.large_ms.append(1000 * (seconds_of(front) - cpu) / (CLIENTS * 10))
    found.rss_growth_mib = (front.memory_info().rss - before) / 2**20
    for asker in askers:
        asker.transport.close()


async def streams(socket: str, port: int, found: Found, count: int = 2000) -> None:
    """Ages of events straight from the stub and through the front, with many streams open."""
    p99 = []
    for target in (socket, port):
        askers = await connected(target, count)
        request = request_of(400, stream=True)

        async def later(number: int, asker: Asker, request: bytes = request) -> None:
            await asyncio.sleep(PERIOD_S * number / count)
            await asker.ask(request)

        await asyncio.gather(*(later(*one) for one in enumerate(askers)))
        ages = sorted(age for asker in askers for age in asker.ages_ms)
        p99.append(ages[int(0.99 * len(ages))])
        for asker in askers:
            asker.transport.close()
    found.added_p99_ms.append(p99[1] - p99[0])


def seconds_of(process: psutil.Process) -> float:
    """Processor time."""
    times = process.cpu_times()
    return float(times.user + times.system)


def measure(port: int = 18765) -> Found:
    """All of it, with processes of their own for stub and front."""
    found = Found()
    with tempfile.TemporaryDirectory() as folder:
        socket = str(Path(folder) / "stub.sock")
        me = [sys.executable, "-m", "benchmarks.front"]
        processes = [subprocess.Popen([*me, "stub", socket])]
        try:
            wait_for(lambda: Path(socket).exists())
            processes.append(subprocess.Popen([*me, "serve", socket, str(port)]))
            front = psutil.Process(processes[1].pid)
            wait_for(lambda: any(one.laddr.port == port for one in front.net_connections()))
            uvloop.run(throughput(port, front, found))
            uvloop.run(streams(socket, port, found))
        finally:
            for process in reversed(processes):
                process.terminate()
                process.wait()
    return found


def wait_for(happened: object, within_s: float = 30) -> None:
    """Until it has happened."""
    assert callable(happened)
    deadline = time.monotonic() + within_s
    while not happened():
        if time.monotonic() > deadline:
            raise TimeoutError
        time.sleep(0.05)


if __name__ == "__main__":
    if sys.argv[1:2] == ["stub"]:
        uvloop.run(stub(sys.argv[2]))
    elif sys.argv[1:2] == ["serve"]:
        uvloop.run(serve(sys.argv[2], int(sys.argv[3])))
    else:
        result = measure()
        print("requests/s a core", [round(one) for one in result.requests_per_core_s])
        print("220 KB request, ms of CPU", [round(one, 2) for one in result.large_ms])
        print("2000 streams, added p99 ms", [round(one, 2) for one in result.added_p99_ms])
        print("growth MiB", round(result.rss_growth_mib, 2), "median", statistics.median(result.requests_per_core_s))
