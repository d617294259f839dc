# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Logs are looked at only for those who ask, as often as a question is good for, and what was said is kept."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

import pytest
from aiohttp import web

from kaito.kube.client import Client
from kaito.kube.config import ClusterConfig
from kaito.operator.podlogs import PodLogs
from tests.builders import pod


class Server:
    """An API server that has one log."""

    def __init__(self) -> None:
        self.lines = ["started"]
        self.status = 200
        self.asked: list[str] = []

    async def log(self, request: web.Request) -> web.Response:
        self.asked.append(request.path_qs)
        return web.Response(status=self.status, text="\n".join(self.lines))


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
async def client(server: Server) -> AsyncIterator[Client]:
    app = web.Application()
    app.router.add_get("/api/v1/namespaces/default/pods/{name}/log", server.log)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    async with Client(ClusterConfig(f"http://127.0.0.1:{runner.addresses[0][1]}")) as client:
        yield client
    await runner.cleanup()


def number(lines: Sequence[str]) -> int | None:
    return next((int(line) for line in reversed(lines) if line.isdigit()), None)


async def test_a_log_is_looked_at_as_often_as_a_question_is_good_for(server: Server, client: Client) -> None:
    logs = PodLogs(client, number, tail_lines=7, rounds=2)
    await logs.look()
    assert not server.asked
    assert logs.said(pod()) is None
    for _ in range(4):
        await logs.look()
    assert server.asked == ["/api/v1/namespaces/default/pods/demo-0/log?tailLines=7"] * 2


async def test_a_look_may_come_later_and_questions_meanwhile_do_not_put_it_off(server: Server, client: Client) -> None:
    logs = PodLogs(client, number, rounds=1, patience=2)
    looks = []
    for _ in range(6):
        logs.said(pod())
        await logs.look()
        looks.append(len(server.asked))
    assert looks == [0, 0, 1, 1, 1, 2]


async def test_what_was_said_stays_when_the_log_has_nothing_new_or_cannot_be_read(
    server: Server, client: Client
) -> None:
    logs = PodLogs(client, number)
    logs.said(pod())
    server.lines = ["5", "a request"]
    await logs.look()
    server.lines = ["a request"]
    await logs.look()
    server.status = 404
    await logs.look()
    assert logs.said(pod()) == 5
