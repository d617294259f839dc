# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Load on an API server from a client that costs little itself: HTTP/1.1 over TLS on uvloop, no parsing of bodies.

`python -m benchmarks.load` runs one job, read as JSON from standard input, and writes what it saw as JSON to standard
output: a process of its own, so that the measured server shares no interpreter with its clients. A job has up to three
parts that run at once: writers (each sends a request when the last one is answered), watchers, and a reader at a steady
rate.
"""

from __future__ import annotations

import asyncio
import itertools
import re
import ssl
import sys
import time
from collections import Counter, deque
from collections.abc import Iterator
from typing import cast

import msgspec
import uvloop

STAMP = re.compile(rb'"sent":"(\d+)"')
"""Where an object says when it was sent: nanoseconds of the machine's monotonic clock."""
STAMP_MARK = "0000000000000000000"
"""Stands in a body for the time of sending."""
INDEX_MARK = "~index~"
"""Stands in a path or body for the number of the request."""
SETTLE_S = 10.0


class Job(msgspec.Struct):
    """What to do."""

    host: str
    port: int
    ca: str
    token: str
    method: str = "POST"
    path: str = ""
    body: str = ""
    content_type: str = "application/json"
    count: int = 0
    """Requests that the writers send, all together."""
    writers: int = 0
    rate: float = 0.0
    """Requests a second by all writers together; 0: as fast as they are answered."""
    watch: str = ""
    """The collection that watchers watch from its present state on."""
    watchers: int = 0
    read: str = ""
    """The path that the reader gets."""
    reads_per_s: float = 0.0


class Seen(msgspec.Struct):
    """What came of it."""

    seconds: float = 0.0
    """From the first request to the last answer."""
    statuses: dict[str, int] = msgspec.field(default_factory=dict)
    answer_ms: list[float] = msgspec.field(default_factory=list)
    answer_bytes: int = 0
    """Of the bodies of all answers to writers."""
    events: int = 0
    events_seconds: float = 0.0
    """From the first request to the last event."""
    event_ms: list[float] = msgspec.field(default_factory=list)
    """From the sending of a write to its event at a watcher; a sample of all events."""
    read_ms: list[float] = msgspec.field(default_factory=list)


class Connection(asyncio.Protocol):
    """One HTTP/1.1 connection with one request at a time; answers have a Content-Length."""

    def __init__(self) -> None:
        self._buffer = b""
        self._waiter: asyncio.Future[tuple[int, bytes]] | None = None
        self._transport: asyncio.WriteTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.WriteTransport, transport)  # uvloop's own class

    def data_received(self, data: bytes) -> None:
        data = self._buffer + data if self._buffer else data
        head = data.find(b"\r\n\r\n")
        if head > 0:
            size = _content_length(data[:head])
            if len(data) >= head + 4 + size:
                self._buffer = b""
                self._answer(int(data[9:12]), data[head + 4 :])
                return
        self._buffer = data

    def _answer(self, status: int, body: bytes) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result((status, body))

    def connection_lost(self, exc: Exception | None) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(ConnectionError("the server closed the connection"))

    async def ask(self, request: bytes) -> tuple[int, bytes]:
        """Status and body of the answer."""
        assert self._transport is not None
        self._waiter = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._waiter


def _content_length(head: bytes) -> int:
    at = head.lower().find(b"content-length:")
    return int(head[at + 15 :].split(b"\r\n", 1)[0])


class Watcher(asyncio.Protocol):
    """Counts the events of a watch and takes their ages."""

    def __init__(self, seen: Seen) -> None:
        self.opened = asyncio.get_running_loop().create_future()
        self._seen = seen
        self._tail = b""
        self.last = 0.0

    def data_received(self, data: bytes) -> None:
        now = time.monotonic_ns()
        self.last = time.perf_counter()
        if not self.opened.done():
            self.opened.set_result(None)
        data = self._tail + data
        stamps = STAMP.findall(data)
        self._seen.events += len(stamps)
        self._seen.event_ms += [(now - int(stamp)) / 1e6 for stamp in stamps]
        # A stamp that is cut in two is found with the next piece.
        end = data.rfind(b'"sent":"')
        self._tail = data[end:] if end >= 0 and not STAMP.match(data, end) else data[-8:]


def request_bytes(job: Job, method: str, path: str, body: bytes = b"") -> bytes:
    """A whole request as it goes over the wire."""
    head = (
        f"{method} {path} HTTP/1.1\r\nhost: {job.host}:{job.port}\r\nauthorization: Bearer {job.token}\r\n"
        "user-agent: load/1\r\naccept: application/json\r\n"
    )
    if body:
        head += f"content-type: {job.content_type}\r\ncontent-length: {len(body)}\r\n"
    return head.encode() + b"\r\n" + body


def requests_of(job: Job) -> Iterator[bytes]:
    """The writers' requests, one after the other, stamped with the time at which they are taken."""
    for number in range(job.count):
        text = job.body.replace(INDEX_MARK, str(number))
        text = text.replace(STAMP_MARK, f"{time.monotonic_ns():019}")
        yield request_bytes(job, job.method, job.path.replace(INDEX_MARK, str(number)), text.encode())


async def run(job: Job) -> Seen:
    """Do the job."""
    seen = Seen()
    loop = asyncio.get_running_loop()
    context = ssl.create_default_context(cadata=job.ca)

    async def connect(factory: type[Connection] | None = None) -> Connection:
        _, protocol = await loop.create_connection(factory or Connection, job.host, job.port, ssl=context)
        return protocol

    connections = [await connect() for _ in range(job.writers)]
    watchers = []
    for _ in range(job.watchers):
        _, body = await connections[0].ask(request_bytes(job, "GET", f"{job.watch}?limit=1"))
        version = msgspec.json.decode(body)["metadata"]["resourceVersion"]
        transport, watcher = await loop.create_connection(lambda: Watcher(seen), job.host, job.port, ssl=context)
        transport.write(request_bytes(job, "GET", f"{job.watch}?watch=true&resourceVersion={version}"))
        watchers.append(watcher)
    await asyncio.gather(*(watcher.opened for watcher in watchers))
    for connection in connections:
        await connection.ask(request_bytes(job, "GET", "/livez"))
    reader = asyncio.create_task(_read(job, await connect(), seen)) if job.reads_per_s else None
    began = time.perf_counter()
    await _write(job, connections, seen)
    seen.seconds = time.perf_counter() - began
    wanted = job.count * job.watchers
    deadline = time.perf_counter() + SETTLE_S
    while seen.events < wanted and time.perf_counter() < deadline:
        await asyncio.sleep(0.002)
    seen.events_seconds = max((watcher.last for watcher in watchers), default=began) - began
    if reader is not None:
        reader.cancel()
    seen.event_ms = _sample(seen.event_ms)
    return seen


def _sample(values: list[float], most: int = 20_000) -> list[float]:
    """Evenly taken out of a longer list, in the order of their size."""
    ordered = sorted(values)
    step = max(len(ordered) // most, 1)
    return [*ordered[::step], *ordered[-1:]]


async def _write(job: Job, connections: list[Connection], seen: Seen) -> None:
    requests = requests_of(job)
    statuses: Counter[str] = Counter()
    turns = itertools.count()
    began = time.perf_counter()

    async def writer(connection: Connection) -> None:
        for request in requests:
            if job.rate:
                due = began + next(turns) / job.rate
                await asyncio.sleep(max(due - time.perf_counter(), 0))
            sent = time.perf_counter()
            status, body = await connection.ask(request)
            seen.answer_ms.append(1000 * (time.perf_counter() - sent))
            seen.answer_bytes += len(body)
            statuses[str(status)] += 1

    await asyncio.gather(*(writer(connection) for connection in connections))
    seen.statuses = dict(statuses)


async def _read(job: Job, connection: Connection, seen: Seen) -> None:
    """Reads at a steady rate; a late answer delays none of the measured times of those after it."""
    idle = deque([connection])
    began = time.perf_counter()
    request = request_bytes(job, "GET", job.read)
    for number in itertools.count():
        due = began + number / job.reads_per_s
        await asyncio.sleep(max(due - time.perf_counter(), 0))
        status, _ = await idle[0].ask(request)
        seen.read_ms.append(1000 * (time.perf_counter() - due))
        assert status == 200


def main() -> None:
    """Read the job, run it, write what was seen."""
    job = msgspec.json.decode(sys.stdin.buffer.read(), type=Job)
    seen = uvloop.run(run(job))
    # A buffered file of our own: with PYTHONUNBUFFERED, `sys.stdout` writes no more than a pipe takes at once.
    with open(sys.stdout.fileno(), "wb", closefd=False) as out:
        out.write(msgspec.json.encode(seen))


if __name__ == "__main__":
    main()
