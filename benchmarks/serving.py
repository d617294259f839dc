# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Model servers with the demo model: vLLM through the front against vLLM itself, batching, and the start.

Everything is a ratio of two measurements that alternate in one run. vLLM itself is started with the very command that
the front starts it with, but listens on a TCP port as its users have it: a token costs its sender 2 µs on a Unix socket
and 6 µs on loopback TCP, and that must not be laid to the front.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
from tests.e2e.runtime_process import RuntimeProcess, serve_config
from tests.engine_process import free_port

QUESTION = [{"role": "user", "content": "What is kaito?"}]
CHAT = "/v1/chat/completions"
STREAMS = (1, 16, 64)
TOKENS = 32


@dataclass
class Ratios:
    """Through the front over bare, of each pair of rounds; the other way round for times, so that more is better."""

    throughput: dict[int, list[float]] = field(default_factory=dict)
    ttft_p50: dict[int, list[float]] = field(default_factory=dict)
    ttft_p99: dict[int, list[float]] = field(default_factory=dict)


@dataclass
class Round:
    """One round of streams."""

    tokens_per_s: float
    ttft_ms: list[float]

    def percentile(self, part: float) -> float:
        """A percentile of the times to the first token."""
        ordered = sorted(self.ttft_ms)
        return ordered[min(len(ordered) - 1, int(part * len(ordered)))]


@contextmanager
def served(folder: Path, weights: Path, engine: str) -> Iterator[RuntimeProcess]:
    """A server that is ready."""
    folder.mkdir(parents=True)
    with RuntimeProcess(serve_config(folder, engine, local_dirs=[str(weights)]), folder) as server:
        server.wait_ready()
        yield server


Command = tuple[list[str], dict[str, str]]
"""Words and environment."""


def command_of(server: RuntimeProcess) -> Command:
    """What this server's engine was started with."""
    guarded = next(process for process in server.tree() if "--uds" in process.cmdline())
    argv = guarded.cmdline()
    return argv[argv.index("--") + 1 :] if "--" in argv else argv, guarded.environ()


@contextmanager
def alone(command: Command, folder: Path) -> Iterator[int]:
    """vLLM's own server with an engine's command, on the port that this yields; it may still load."""
    argv, environment = command
    at, port = argv.index("--uds"), free_port()
    words = [*argv[:at], "--host", "127.0.0.1", "--port", str(port), *argv[at + 2 :]]
    with (folder / "alone.log").open("wb") as log:
        process = subprocess.Popen(words, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        yield port
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def wait_for_answer(port: int, folder: Path, within_s: float = 300) -> None:
    """Return once one token comes from this port; the server's log when none does."""
    deadline = time.monotonic() + within_s
    while not answers(port):
        if time.monotonic() > deadline:
            raise RuntimeError((folder / "alone.log").read_text()[-2000:])
        time.sleep(0.1)


async def one_stream(session: aiohttp.ClientSession, url: str) -> tuple[int, float]:
    """Tokens and milliseconds to the first one of a stream."""
    body = {
        "model": "demo-phi-3",
        "messages": QUESTION,
        "stream": True,
        "max_tokens": TOKENS,
        "ignore_eos": True,
    }
    began = time.perf_counter()
    first = 0.0
    tokens = 0
    async with session.post(url + CHAT, json=body) as response:
        async for line in response.content:
            if b'"content":"' in line and b'"content":""' not in line:
                tokens += 1
                first = first or 1000 * (time.perf_counter() - began)
    return tokens, first


async def round_of(session: aiohttp.ClientSession, url: str, streams: int, each: int) -> Round:
    """So many streams at once, each so often in a row."""

    async def client() -> list[tuple[int, float]]:
        return [await one_stream(session, url) for _ in range(each)]

    began = time.perf_counter()
    found = [one for answers in await asyncio.gather(*(client() for _ in range(streams))) for one in answers]
    seconds = time.perf_counter() - began
    return Round(sum(tokens for tokens, _ in found) / seconds, [first for _, first in found])


async def compare(front_port: int, bare_port: int, rounds: int = 4) -> Ratios:
    """Alternate between the front and vLLM itself."""
    ratios = Ratios()
    pair = [("bare", f"http://127.0.0.1:{bare_port}"), ("front", f"http://127.0.0.1:{front_port}")]
    limits = aiohttp.ClientTimeout(total=None)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=limits) as session:
        for _, url in pair:
            await round_of(session, url, 4, 2)
        for streams in STREAMS:
            each = max(2, 48 // streams)
            for number in range(rounds):
                found = {}
                for name, url in pair if number % 2 else reversed(pair):
                    found[name] = await round_of(session, url, streams, each)
                front, alone = found["front"], found["bare"]
                ratios.throughput.setdefault(streams, []).append(front.tokens_per_s / alone.tokens_per_s)
                ratios.ttft_p50.setdefault(streams, []).append(alone.percentile(0.5) / front.percentile(0.5))
                ratios.ttft_p99.setdefault(streams, []).append(alone.percentile(0.99) / front.percentile(0.99))
    return ratios


def front_ratios(folder: Path, weights: Path) -> Ratios:
    """vLLM through the front, as a part of vLLM itself."""
    with served(folder, weights, "vllm") as server, alone(command_of(server), folder) as port:
        wait_for_answer(port, folder)
        return asyncio.run(compare(server.port, port))


async def _batched(url: str, rounds: int) -> list[float]:
    found = []
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        await round_of(session, url, 1, 2)
        for _ in range(rounds):
            alone = await round_of(session, url, 1, 16)
            together = await round_of(session, url, 16, 1)
            found.append(together.tokens_per_s / alone.tokens_per_s)
    return found


def batching_gain(folder: Path, weights: Path, rounds: int = 4) -> list[float]:
    """Tokens a second of 16 requests at once over the same 16 one after the other, transformers engine."""
    with served(folder, weights, "transformers") as server:
        return asyncio.run(_batched(f"http://127.0.0.1:{server.port}", rounds))


def first_token_s(folder: Path, weights: Path) -> float:
    """Seconds from the start of `kaito-runtime serve` to the first token, vLLM."""
    folder.mkdir(parents=True)
    began = time.monotonic()
    with RuntimeProcess(serve_config(folder, "vllm", local_dirs=[str(weights)]), folder) as server:
        server.wait_ready()
        server.request("POST", CHAT, {"messages": QUESTION, "max_tokens": 1})
        return time.monotonic() - began


def bare_first_token_s(folder: Path, weights: Path) -> float:
    """The same for vLLM's own server."""
    with served(folder, weights, "vllm") as server:
        command = command_of(server)
    began = time.monotonic()
    with alone(command, folder) as port:
        wait_for_answer(port, folder)
        return time.monotonic() - began


def answers(port: int) -> bool:
    """One token comes from the server on this port."""
    body = json.dumps({"model": "demo-phi-3", "messages": QUESTION, "max_tokens": 1}).encode()
    head = b"POST %b HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\nconnection: close\r\n" % CHAT.encode()
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=60) as client:
            client.sendall(head + b"content-length: %d\r\n\r\n" % len(body) + body)
            return client.recv(64).startswith(b"HTTP/1.1 200")
    except OSError:
        return False


def added_start_s(folder: Path, weights: Path, tries: int = 3) -> list[float]:
    """What the front adds to the time to the first token."""
    return [
        first_token_s(folder / f"front-{number}", weights) - bare_first_token_s(folder / f"bare-{number}", weights)
        for number in range(tries)
    ]


if __name__ == "__main__":
    import tempfile

    models = Path.home() / ".cache" / "kaito" / "models"
    with tempfile.TemporaryDirectory() as temporary:
        where = Path(temporary)
        if "batching" in sys.argv:
            print("batching", [round(one, 2) for one in batching_gain(where / "batch", models)])
        if "front" in sys.argv:
            result = front_ratios(where / "front", models)
            for what in ("throughput", "ttft_p50", "ttft_p99"):
                for streams, values in getattr(result, what).items():
                    print(what, streams, round(statistics.median(values), 3), [round(one, 3) for one in values])
        if "start" in sys.argv:
            print("start", [round(one, 2) for one in added_start_s(where / "start", models, tries=1)])
