# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Candidates for one Lease on virtual time, against a server that checks resourceVersions."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from kaito.kube.client import Client
from kaito.kube.clock import VirtualClock
from kaito.kube.lease import Election, LostLeadership
from kaito.kube.manifest import Manifest
from kaito.kube.request import Request
from kaito.kube.resource import LEASES
from tests.unit.kube.apiserver import QUICK, ApiServer, refusal, running
from tests.unit.kube.waiting import background, until

PLACE = "/apis/coordination.k8s.io/v1/leases"


class CountingClient(Client):
    """Says how many requests are under way, so that virtual time need not run on while real sockets are read."""

    under_way = 0

    async def _object(self, request: Request) -> Manifest:
        self.under_way += 1
        try:
            return await super()._object(request)
        finally:
            self.under_way -= 1


class World:
    """A server, and any number of candidates whose clock is one."""

    def __init__(self, server: ApiServer, client: CountingClient) -> None:
        self.server, self.client, self.clock = server, client, VirtualClock()
        self.at_work: list[str] = []

    def candidate(self, identity: str) -> Election:
        return Election(self.client, name="op", namespace="sys", identity=identity, clock=self.clock)

    async def work(self, identity: str) -> None:
        self.at_work.append(identity)
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            self.at_work.remove(identity)

    def run(self, identity: str) -> Any:
        return self.candidate(identity).lead(lambda: self.work(identity))

    async def after(self, seconds: float) -> None:
        """Let that much time pass; it stands still while a request is answered."""
        steps = max(1, round(seconds / 0.5))
        await self._settled()
        for _ in range(steps):
            await self.clock.advance(seconds / steps)
            await self._settled()

    async def _settled(self) -> None:
        """Return when every candidate sleeps, or waits for a frozen server."""
        for _ in range(5):
            await asyncio.sleep(0)
            while self.client.under_way and self.server.thawed.is_set():
                await asyncio.sleep(0.001)

    @property
    def spec(self) -> dict[str, Any]:
        found: dict[str, Any] = self.server.objects[PLACE]["op"]["spec"]
        return found


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with running() as server, CountingClient(server.config, timeouts=QUICK) as client:
        yield World(server, client)


async def test_one_leads_and_renews_while_the_other_waits(world: World) -> None:
    async with background(world.run("a")):
        await world.after(1)
        async with background(world.run("b")):
            await world.after(20)
            assert world.at_work == ["a"]
            assert (world.spec["holderIdentity"], world.spec["leaseTransitions"]) == ("a", 0)
            assert world.spec["renewTime"] > world.spec["acquireTime"]


async def test_a_leader_that_ends_in_order_lets_go_at_once(world: World) -> None:
    async with background(world.run("a")):
        await world.after(1)
    assert world.spec["holderIdentity"] == ""
    async with background(world.run("b")):
        await world.after(1)
        assert world.at_work == ["b"]
        assert world.spec["leaseTransitions"] == 1


async def test_a_vanished_leader_is_followed_when_its_lease_has_run_out(world: World) -> None:
    held = {"holderIdentity": "a", "leaseDurationSeconds": 15, "renewTime": "2999-01-01T00:00:00.000000Z"}
    await world.server.put(PLACE, {"metadata": {"name": "op", "namespace": "sys"}, "spec": held})
    async with background(world.run("b")):
        await world.after(14)
        assert world.at_work == []
        await world.after(4)
        assert world.at_work == ["b"]


@pytest.mark.parametrize("trouble", ["frozen", "refusing"])
async def test_a_leader_that_cannot_renew_stops_before_another_may_start(world: World, trouble: str) -> None:
    async with background(_lost(world, "a")) as leading:
        await world.after(1)
        await until(lambda: world.at_work == ["a"])
        if trouble == "frozen":
            world.server.thawed.clear()
        else:
            world.server.answers += [("GET", refusal(500, "InternalError"))] * 100
        await world.after(13)
        assert world.at_work == []
        assert await asyncio.wait_for(leading, 20)
        world.server.thawed.set()


async def test_a_leader_whose_lease_was_taken_stops(world: World) -> None:
    async with background(_lost(world, "a")) as leading:
        await world.after(1)
        current = world.server.objects[PLACE]["op"]
        await world.server.put(PLACE, {**current, "spec": {**current["spec"], "holderIdentity": "thief"}})
        await world.after(3)
        assert world.at_work == []
        assert await asyncio.wait_for(leading, 20)
        assert world.spec["holderIdentity"] == "thief"


async def _lost(world: World, identity: str) -> bool:
    try:
        await world.run(identity)
    except LostLeadership:
        return True
    return False


async def test_of_two_that_see_no_lease_only_one_wins(world: World) -> None:
    async with background(world.run("a")), background(world.run("b")):
        await world.after(5)
        assert len(world.at_work) == 1
    assert world.server.count("POST") <= 2


async def test_what_the_work_raises_is_raised_and_the_lease_let_go(world: World) -> None:
    async def fail() -> None:
        raise ValueError("boom")

    with pytest.raises(ValueError, match="boom"):
        await world.candidate("a").lead(fail)
    lease = await world.client.get(LEASES, "op", "sys")
    assert lease["spec"]["holderIdentity"] == ""


async def test_a_missing_namespace_is_said_once_with_what_to_do_and_waited_for(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.server.answers += [("POST", refusal(404, "NotFound"))] * 100
    async with background(world.run("a")):
        await world.after(20)
        assert not world.at_work
        said = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
        assert len(said) == 1 and "kubectl create namespace sys" in said[0]
        world.server.answers.clear()
        await world.after(5)
        assert world.at_work == ["a"]
