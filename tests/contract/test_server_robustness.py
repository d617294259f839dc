# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""What a real engine process does when things go wrong around it: bodies that make no sense, clients that dawdle, a
thousand watches, a full disk, a sudden end.
"""

from __future__ import annotations

import asyncio
import json
import resource
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, ExitStack, suppress
from pathlib import Path

import psutil
import pytest

from kaito.kube.client import Client
from kaito.kube.config import load_kubeconfig
from kaito.kube.errors import ApiError
from kaito.kube.manifest import Manifest
from kaito.kube.resource import CONFIG_MAPS
from tests.engine_process import EngineProcess

PATH = "/api/v1/namespaces/default/configmaps"
JSON, YAML, PROTOBUF = "application/json", "application/yaml", "application/vnd.kubernetes.protobuf"
MERGE, APPLY = "application/merge-patch+json", "application/apply-patch+yaml"
KIB, MIB = 1024, 1024 * 1024


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineProcess]:
    with EngineProcess(tmp_path_factory.mktemp("robust"), "--no-node", "--no-controllers") as process:
        yield process


@pytest.fixture
async def client(engine: EngineProcess) -> AsyncIterator[Client]:
    async with Client(load_kubeconfig(engine.kubeconfig)) as made:
        yield made


def config_map(name: str, **data: str) -> Manifest:
    meta = {"name": name, "namespace": "default"}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": data}


@pytest.mark.parametrize(
    ("method", "content_type", "body", "status"),
    [
        ("POST", JSON, b"", 400),
        ("POST", JSON, b"null", 400),
        ("POST", JSON, b"[]", 400),
        ("POST", JSON, b'{"metadata":{"name":"a"}', 400),
        ("POST", JSON, b'{"metadata":{"name":"\xff\xfe"}}', 400),
        ("POST", JSON, b'{"metadata":{"name":"\\ud800"}}', 422),
        ("POST", JSON, b'{"data":' + b"[" * 200_000, 400),
        ("POST", JSON, b'{"data":' + b'{"a":' * 20_000 + b"1" + b"}" * 20_001, 400),
        ("POST", JSON, b'{"metadata":{"name":"a"},"data":{"a":1}}', 400),
        ("POST", JSON, b'{"metadata":{"name":"a","generation":' + b"9" * 400 + b"}}", 400),
        ("POST", YAML, b"a: [", 400),
        ("POST", YAML, b"a: &a [*a]", 400),
        ("POST", YAML, b"a: &a [x,x]\n" + b"".join(b"k: &a [*a,*a]\n" for _ in range(30)), 400),
        ("POST", YAML, b"a: " + b"[" * 200_000, 400),
        ("POST", YAML, b"a:\n " + b"- " * 100_000, 400),
        ("POST", YAML, b"\r\n".join(b" " * depth + b"a:" for depth in range(2000)), 400),
        ("POST", YAML, b"!!python/object/apply:os.system ['true']", 400),
        ("POST", YAML, b"\x00\x01", 400),
        ("POST", PROTOBUF, b"", 400),
        ("POST", PROTOBUF, b"k8s\x00", 415),
        ("POST", PROTOBUF, b"k8s\x00\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", 400),
        ("POST", PROTOBUF, b"not protobuf at all", 400),
        ("PATCH", MERGE, b"[1", 400),
        ("PATCH", APPLY, b"a: [", 400),
        ("PATCH", APPLY, b"1", 400),
        ("POST", JSON, b'{"metadata":{"name":"a"},"data":{"a":"' + b"x" * (10 * MIB) + b'"}}', 413),
    ],
)
async def test_a_body_that_makes_no_sense_is_refused_and_nothing_else_happens(
    client: Client, method: str, content_type: str, body: bytes, status: int
) -> None:
    if method == "PATCH":
        await client.raw("POST", PATH, body=json.dumps(config_map("patched")).encode(), headers={"Content-Type": JSON})
    where = PATH if method == "POST" else f"{PATH}/patched?fieldManager=m"
    answer = await client.raw(method, where, body=body, headers={"Content-Type": content_type})
    refusal = json.loads(answer.body)
    assert (answer.status, refusal["kind"], refusal["code"]) == (status, "Status", status), refusal
    assert "Traceback" not in refusal["message"]
    assert (await client.raw("GET", "/readyz")).status == 200


def tls(engine: EngineProcess) -> tuple[ssl.SSLContext, str]:
    config = load_kubeconfig(engine.kubeconfig)
    context = ssl.create_default_context(cadata=config.ca_pem)
    return context, f"Host: 127.0.0.1\r\nAuthorization: Bearer {config.token}\r\n"


async def hang_up(writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()
    with suppress(OSError):
        await writer.wait_closed()


async def test_clients_that_dawdle_keep_nobody_else_waiting(engine: EngineProcess, client: Client) -> None:
    context, head = tls(engine)
    begun = (
        f"GET {PATH} HTTP/1.1\r\nX-Slow: ",
        f"POST {PATH} HTTP/1.1\r\n{head}Content-Type: {JSON}\r\nContent-Length: 1000000\r\n\r\n{{",
        f"POST {PATH} HTTP/1.1\r\n{head}Content-Type: {JSON}\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{{",
    )
    async with AsyncExitStack() as stack:
        for number in range(60):
            _, writer = await asyncio.open_connection("127.0.0.1", engine.port, ssl=context)
            stack.push_async_callback(hang_up, writer)
            writer.write(begun[number % len(begun)].encode())
            await writer.drain()
        for number in range(20):
            await client.create(CONFIG_MAPS, config_map(f"meanwhile-{number}"))
        assert len((await client.list_objects(CONFIG_MAPS, "default"))[0]) >= 20


def test_a_thousand_idle_watches_take_little_memory_and_all_are_told(engine: EngineProcess) -> None:
    context, head = tls(engine)
    post = json.dumps(config_map("seen")), json.dumps(config_map("news"))
    created = [f"POST {PATH} HTTP/1.1\r\n{head}Content-Length: {len(body)}\r\n\r\n{body}".encode() for body in post]
    watch = f"GET {PATH}?watch=true&allowWatchBookmarks=true HTTP/1.1\r\n{head}\r\n".encode()
    process = psutil.Process(engine.pid)
    with ExitStack() as stack:
        session: ssl.SSLSession | None = None

        def connect() -> ssl.SSLSocket:
            plain = socket.create_connection(("127.0.0.1", engine.port), timeout=30)
            return stack.enter_context(context.wrap_socket(plain, server_hostname="127.0.0.1", session=session))

        writer = connect()
        writer.sendall(created[0])
        read_until(writer, b'"uid"')
        session = writer.session
        before = process.memory_info().rss
        watchers = [connect() for _ in range(1000)]
        for watcher in watchers:
            watcher.sendall(watch)
            read_until(watcher, b'"seen"')
        used = process.memory_info().rss - before
        assert used < 1000 * 96 * KIB, f"{used / 1000 / KIB:.0f} KiB for each watch"
        writer.sendall(created[1])
        for watcher in watchers:
            read_until(watcher, b'"news"')


def read_until(connection: ssl.SSLSocket, text: bytes) -> None:
    found = b""
    while text not in found:
        piece = connection.recv(64 * KIB)
        assert piece, found
        found += piece


def limit_files(engine: EngineProcess, most: int) -> None:
    """Let no file of the engine grow beyond so many bytes: what a full disk is to it."""
    resource.prlimit(engine.pid, resource.RLIMIT_FSIZE, (most, resource.RLIM_INFINITY))


async def test_a_full_disk_is_told_and_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    with EngineProcess(tmp_path, "--no-node", "--no-controllers") as engine:
        acknowledged = []
        async with Client(load_kubeconfig(engine.kubeconfig)) as client:
            await client.create(CONFIG_MAPS, config_map("before", k="v"))
            _, version = await client.list_objects(CONFIG_MAPS, "default")
            largest = max(file.stat().st_size for file in (tmp_path / "data").iterdir() if file.is_file())
            limit_files(engine, largest + 64 * KIB)
            refusal = None
            for number in range(200):
                try:
                    await client.create(CONFIG_MAPS, config_map(f"full-{number}", k="x" * 4000))
                except ApiError as error:
                    refusal = error
                    break
                acknowledged.append(f"full-{number}")
            assert refusal is not None
            assert (refusal.status, refusal.reason) == (500, "InternalError")
            assert "make room on its disk" in str(refusal)
            limit_files(engine, 0)
            with pytest.raises(ApiError, match="make room on its disk"):
                await client.delete(CONFIG_MAPS, "before", "default")
            assert (await client.get(CONFIG_MAPS, "before", "default"))["data"] == {"k": "v"}
            limit_files(engine, resource.RLIM_INFINITY)
            await client.create(CONFIG_MAPS, config_map("after"))
            told = []
            async for event in client.watch(CONFIG_MAPS, "default", resource_version=version):
                told.append(event.object["metadata"]["name"])
                if told[-1] == "after":
                    break
            assert told == [*acknowledged, "after"]
        engine.kill()
        engine.start()
        async with Client(load_kubeconfig(engine.kubeconfig)) as client:
            items, _ = await client.list_objects(CONFIG_MAPS, "default")
            assert {item["metadata"]["name"] for item in items} == {"before", *acknowledged, "after"}


async def test_what_was_acknowledged_before_a_sudden_end_is_there_after_it(tmp_path: Path) -> None:
    with EngineProcess(tmp_path, "--no-node", "--no-controllers") as engine:
        acknowledged: dict[str, str] = {}

        async def write(client: Client, writer: int) -> None:
            for number in range(1000):
                name = f"w{writer}-{number % 20}"
                made = await client.apply(CONFIG_MAPS, config_map(name, n=str(number)), field_manager="m")
                acknowledged[name] = made["data"]["n"]

        async with Client(load_kubeconfig(engine.kubeconfig)) as client:
            writers = [asyncio.ensure_future(write(client, writer)) for writer in range(8)]
            while len(acknowledged) < 40:
                await asyncio.sleep(0.01)
            threading.Thread(target=engine.kill).start()
            assert all(isinstance(end, ApiError) for end in await asyncio.gather(*writers, return_exceptions=True))
        engine.start()
        async with Client(load_kubeconfig(engine.kubeconfig)) as client:
            items, _ = await client.list_objects(CONFIG_MAPS, "default")
        kept = {item["metadata"]["name"]: int(item["data"]["n"]) for item in items}
        assert all(kept[name] >= int(number) for name, number in acknowledged.items())
