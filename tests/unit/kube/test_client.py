# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import asyncio
import json
import stat
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from aiohttp import web

from kaito.kube import errors
from kaito.kube.answer import decode_event
from kaito.kube.auth import parse_credential
from kaito.kube.client import Client, Timeouts
from kaito.kube.clock import VirtualClock
from kaito.kube.config import ConfigError, ExecPlugin
from kaito.kube.manifest import Manifest
from kaito.kube.resource import CONFIG_MAPS, NODES
from kaito.kube.transport import AT_ONCE
from tests.unit.kube.apiserver import QUICK, ApiServer, refusal, running
from tests.unit.kube.waiting import background, until

PLACE = "/api/v1/configmaps"


def config_map(name: str) -> Manifest:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}}


@pytest.fixture
async def server() -> AsyncIterator[ApiServer]:
    async with running() as started:
        yield started


async def test_an_object_goes_through_its_life(server: ApiServer) -> None:
    async with server.client() as client:
        created = await client.create(CONFIG_MAPS, config_map("a"))
        assert server.requests[-1][1] == "/api/v1/namespaces/default/configmaps"
        with pytest.raises(errors.AlreadyExists):
            await client.create(CONFIG_MAPS, config_map("a"))
        patched = await client.patch(CONFIG_MAPS, "a", "", {"data": {"k": "v"}})
        with pytest.raises(errors.Conflict):
            await client.replace(CONFIG_MAPS, created)
        assert (await client.get(CONFIG_MAPS, "a"))["data"] == {"k": "v"}
        await client.replace(CONFIG_MAPS, patched)
        items, version = await client.list_objects(CONFIG_MAPS)
        assert [(item["kind"], item["metadata"]["name"]) for item in items] == [("ConfigMap", "a")]
        assert version == str(server.version)
        await client.delete(CONFIG_MAPS, "a")
        with pytest.raises(errors.NotFound):
            await client.get(CONFIG_MAPS, "a")


async def test_a_cluster_scoped_object_has_no_namespace_in_its_path(server: ApiServer) -> None:
    async with server.client() as client:
        await client.create(NODES, {"metadata": {"name": "n"}})
    assert server.requests[-1][1] == "/api/v1/nodes"


async def test_a_list_is_read_page_by_page_and_anew_when_the_pages_expire(server: ApiServer) -> None:
    def page(name: str, token: str) -> web.Response:
        meta = {"resourceVersion": "7", "continue": token}
        return web.json_response({"metadata": meta, "items": [{"metadata": {"name": name}}]})

    async with server.client() as client:
        server.answers += [("list", lambda request: page("a", "t1")), ("list", lambda request: page("b", ""))]
        items, _ = await client.list_objects(CONFIG_MAPS, page_size=1)
        assert [(item["metadata"]["name"], item["kind"]) for item in items] == [("a", "ConfigMap"), ("b", "ConfigMap")]
        server.answers += [("list", lambda request: page("a", "t1")), ("list", refusal(410, "Expired"))]
        await server.put(PLACE, config_map("c"))
        items, _ = await client.list_objects(CONFIG_MAPS, page_size=1)
        assert [item["metadata"]["name"] for item in items] == ["c"]
        assert "limit" not in server.requests[-1][2]


async def test_a_busy_server_is_asked_again_when_it_says(server: ApiServer) -> None:
    clock = VirtualClock()
    server.answers += [("GET", refusal(429, "TooManyRequests", Retry_After="7"))] * 2
    async with server.client(clock) as client, background(client.list_objects(CONFIG_MAPS)) as asking:
        await until(lambda: server.count("GET") == 1)
        await asyncio.sleep(0.02)
        await clock.advance(6.9)
        assert server.count("GET") == 1
        await clock.advance(0.2)
        await until(lambda: server.count("GET") == 2)
        await asyncio.sleep(0.02)
        await clock.advance(7)
        await asking


async def test_a_server_that_stays_busy_is_an_error_in_the_end(server: ApiServer) -> None:
    server.answers += [("GET", refusal(429, "TooManyRequests", Retry_After="0"))] * 10
    async with server.client() as client:
        with pytest.raises(errors.TooManyRequests):
            await client.list_objects(CONFIG_MAPS)
    assert server.count("GET") == 5


async def test_no_connection_no_answer_and_a_lost_one_are_unavailable(server: ApiServer) -> None:
    async with Client(server.config, timeouts=Timeouts(request_s=0.2)) as client:
        server.thawed.clear()
        with pytest.raises(errors.Unavailable, match="no answer in time") as caught:
            await client.list_objects(CONFIG_MAPS)
        assert caught.value.is_connection_trouble
        server.thawed.set()
        await server.kill()
        with pytest.raises(errors.Unavailable, match="no connection"):
            await client.list_objects(CONFIG_MAPS)
        await server.start()
        await client.list_objects(CONFIG_MAPS)


async def test_a_large_object_goes_through(server: ApiServer) -> None:
    async with server.client() as client:
        created = await client.create(CONFIG_MAPS, {**config_map("a"), "data": {"k": "x" * 2_000_000}})
        assert len(created["data"]["k"]) == 2_000_000


async def test_raw_answers_whatever_comes_and_stream_gives_pieces(server: ApiServer) -> None:
    async with server.client() as client:
        answer = await client.raw("GET", f"{PLACE}/absent")
        assert (answer.status, json.loads(answer.body)["reason"]) == (404, "NotFound")
        answer = await client.raw("POST", PLACE, body=config_map("a"))
        assert answer.status == 201
        async with client.stream("GET", PLACE, params={"watch": "true", "resourceVersion": "0"}) as stream:
            assert stream.status == 200
            pieces = [piece async for piece in _first(stream.chunks)]
        assert b'"ADDED"' in b"".join(pieces)


async def _first(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    async for chunk in chunks:
        yield chunk
        return


async def test_a_watch_gives_changes_and_no_bookmarks_unless_asked(server: ApiServer) -> None:
    async with server.client() as client:
        await server.put(PLACE, config_map("a"))
        await server.bookmark(PLACE)
        await server.remove(PLACE, "a")
        kinds = []
        async for event in client.watch(CONFIG_MAPS, resource_version="0"):
            kinds.append(event.type)
            if event.type == "DELETED":
                break
        assert kinds == ["ADDED", "DELETED"]


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        (b'{"type":"ERROR","object":{"kind":"Status","code":410,"reason":"Expired"}}', errors.Gone),
        (b'{"type":"ERROR","object":{"kind":"Status","code":500,"reason":"InternalError"}}', errors.Unavailable),
        (b'{"type":"ERROR","object":{}}', errors.Unavailable),
        (b'{"type":"ADDED","object":{"metadata":{}}}', errors.ApiError),
        (b'{"type":"ADDED"}', errors.ApiError),
        (b'{"type":"NEW","object":{"metadata":{"resourceVersion":"1"}}}', errors.ApiError),
        (b'{"type":"ADDED","obj', errors.ApiError),
        (b"[]", errors.ApiError),
    ],
)
def test_a_line_that_is_no_event_is_an_error(line: bytes, kind: type[errors.ApiError]) -> None:
    with pytest.raises(kind):
        decode_event(line)


def plugin_script(folder: Path, *, expires: str = "") -> ExecPlugin:
    """A credential plugin whose token tells how often it has run."""
    script = folder / "login"
    script.write_text(
        f"#!{sys.executable}\n"
        "import json, os, pathlib\n"
        f"runs = pathlib.Path({str(folder / 'runs')!r})\n"
        "runs.write_text(runs.read_text() + 'x' if runs.exists() else 'x')\n"
        "assert json.loads(os.environ['KUBERNETES_EXEC_INFO'])['kind'] == 'ExecCredential'\n"
        "status = {'token': os.environ['PREFIX'] + runs.read_text()}\n"
        f"status.update({{'expirationTimestamp': {expires!r}}} if {expires!r} else {{}})\n"
        "print(json.dumps({'kind': 'ExecCredential', 'status': status}))\n"
    )
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    return ExecPlugin("client.authentication.k8s.io/v1", str(script), env=(("PREFIX", "run-"),))


async def test_a_plugin_runs_once_and_again_after_a_401(server: ApiServer, tmp_path: Path) -> None:
    tokens: list[str] = []

    def refuse(request: web.Request) -> web.Response:
        tokens.append(request.headers["Authorization"])
        return refusal(401, "Unauthorized")(request)

    def accept(request: web.Request) -> web.Response:
        tokens.append(request.headers["Authorization"])
        return web.json_response({"metadata": {}, "items": []})

    config = replace(server.config, token=None, exec_plugin=plugin_script(tmp_path))
    async with Client(config, timeouts=QUICK) as client:
        server.answers += [("GET", accept), ("GET", accept), ("GET", refuse), ("GET", accept)]
        for _ in range(3):
            await client.list_objects(CONFIG_MAPS)
    assert tokens == ["Bearer run-x", "Bearer run-x", "Bearer run-x", "Bearer run-xx"]


async def test_a_plugin_runs_again_when_what_it_printed_has_expired(server: ApiServer, tmp_path: Path) -> None:
    clock = VirtualClock()
    config = replace(server.config, token=None, exec_plugin=plugin_script(tmp_path, expires="2026-01-01T01:00:00Z"))
    async with Client(config, timeouts=QUICK, clock=clock) as client:
        await client.list_objects(CONFIG_MAPS)
        await clock.advance(3000)
        await client.list_objects(CONFIG_MAPS)
        assert (tmp_path / "runs").read_text() == "x"
        await clock.advance(595)
        await client.list_objects(CONFIG_MAPS)
        assert (tmp_path / "runs").read_text() == "xx"


@pytest.mark.parametrize(
    ("command", "complaint"), [("/no/such/login", "cannot start .*; brew install it"), ("false", "failed: exit code 1")]
)
async def test_a_plugin_that_fails_is_an_unauthorized_in_one_sentence(
    server: ApiServer, command: str, complaint: str
) -> None:
    plugin = ExecPlugin("client.authentication.k8s.io/v1", command, install_hint="brew install it")
    async with Client(replace(server.config, token=None, exec_plugin=plugin), timeouts=QUICK) as client:
        with pytest.raises(errors.Unauthorized, match=complaint):
            await client.list_objects(CONFIG_MAPS)


@pytest.mark.parametrize("output", [b"", b"token: x", b"{}", b'{"status": {}}', b'{"status": 1}', b'{"status": null}'])
def test_a_plugin_that_prints_no_credential_is_refused(output: bytes) -> None:
    with pytest.raises(ConfigError, match="'login'"):
        parse_credential(ExecPlugin("v1", "login"), output)


async def test_a_token_in_a_file_is_read_again_after_a_minute(server: ApiServer, tmp_path: Path) -> None:
    tokens: list[str] = []

    def note(request: web.Request) -> web.Response:
        tokens.append(request.headers["Authorization"])
        return web.json_response({"metadata": {}, "items": []})

    clock = VirtualClock()
    (tmp_path / "token").write_text("one\n")
    config = replace(server.config, token=None, token_file=tmp_path / "token")
    async with Client(config, timeouts=QUICK, clock=clock) as client:
        for _ in range(3):
            server.answers.append(("GET", note))
            await client.list_objects(CONFIG_MAPS)
            (tmp_path / "token").write_text("two\n")
            await clock.advance(40)
    assert tokens == ["Bearer one", "Bearer one", "Bearer two"]


async def test_requests_that_wait_for_their_turn_get_it(server: ApiServer) -> None:
    """However busy those are that have theirs: who asks again at once goes to the end of the queue."""
    done = [0] * (AT_ONCE + 4)
    enough = asyncio.Event()

    async def ask(client: Client, number: int) -> None:
        while not enough.is_set():
            await client.list_objects(CONFIG_MAPS)
            done[number] += 1
            if sum(done) >= 10 * len(done):
                enough.set()

    async with server.client() as client:
        await asyncio.gather(*(ask(client, number) for number in range(len(done))))
    assert min(done) >= 5, done
