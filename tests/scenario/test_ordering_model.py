# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Ordering nodes by two operators at once: every history of a small model, and ten thousand of a larger one.

Never two claims for one need, never more than are needed, always enough in the end, and no write from then on.
"""

from __future__ import annotations

import random
from collections import deque
from typing import NamedTuple

import pytest

from tests.scenario.ordering_model import READY, Claim, Server, View, decided, writes

HISTORIES = 10_000
PARTS = 8
STEPS = 16
LATER = 600
"""Seconds after which an order may be repeated, and none is overdue."""


class Small(NamedTuple):
    """A state of the small model. Time stands still in it: all is made at its beginning and looked at `LATER`."""

    claims: tuple[Claim, ...]
    ledger: str
    version: int
    views: tuple[tuple[tuple[Claim, ...], str, int], ...]
    accidents: int
    """How many claims may still be deleted by somebody else."""


def _server(state: Small, target: int) -> Server:
    claims = {claim.name: claim for claim in state.claims}
    uids = max((claim.uid for claim in state.claims), default=0)
    return Server(claims, state.ledger, state.version, target, uids=uids)


def _after(state: Small, server: Server, views: tuple[View, ...], accidents: int | None = None) -> Small:
    return Small(
        tuple(server.claims[name] for name in sorted(server.claims)),
        server.ledger,
        server.version,
        tuple((tuple(view.claims[name] for name in sorted(view.claims)), view.ledger, view.version) for view in views),
        state.accidents if accidents is None else accidents,
    )


def _views(state: Small, target: int) -> tuple[View, ...]:
    return tuple(
        View({claim.name: claim for claim in claims}, ledger, version, target)
        for claims, ledger, version in state.views
    )


def successors(state: Small, target: int) -> list[Small]:
    """Everything that can happen next: each operator sees or sends one thing, the cloud moves, somebody deletes."""
    found = []
    for index in range(len(state.views)):
        for see in (View.see_claims, View.see_workspace):
            server, views = _server(state, target), _views(state, target)
            see(views[index], server)
            found.append(_after(state, server, views))
        wanted = decided(_views(state, target)[index], LATER)
        for kind, what, uid in writes(wanted):
            # A write may be lost, and the operator look again: so each alone is as good as all of them in order.
            server, views = _server(state, target), _views(state, target)
            if kind == "note":
                server.note(what, views[index].version)
            elif kind == "create":
                server.create(what)
            else:
                server.delete(what, uid)
            found.append(_after(state, server, views))
    for claim in state.claims:
        server = _server(state, target)
        server.move(claim.name)
        found.append(_after(state, server, _views(state, target)))
        if state.accidents and not claim.is_deleting:
            server = _server(state, target)
            server.delete(claim.name, str(claim.uid))
            found.append(_after(state, server, _views(state, target), state.accidents - 1))
    return found


@pytest.mark.parametrize(("target", "accidents"), [(1, 1), (2, 0)])
def test_every_history_of_the_small_model_keeps_to_what_is_needed_and_can_end_well(target: int, accidents: int) -> None:
    start = Small((), "", 0, (((), "", 0), ((), "", 0)), accidents)
    before: dict[Small, list[Small]] = {start: []}
    todo = deque([start])
    ended = []
    while todo:
        state = todo.popleft()
        live = [claim for claim in state.claims if not claim.is_deleting]
        assert len(live) <= target, f"{len(live)} claims where {target} are needed"
        assert len({claim.name for claim in state.claims}) == len(state.claims) <= target
        if len(live) == target and all(claim.phase == READY for claim in live):
            ended.append(state)
        for following in successors(state, target):
            if following not in before:
                before[following] = []
                todo.append(following)
            before[following].append(state)
    assert len(before) > 500, "the model is too small to say anything"
    good = set(ended)
    todo = deque(ended)
    while todo:
        for earlier in before[todo.popleft()]:
            if earlier not in good:
                good.add(earlier)
                todo.append(earlier)
    assert good == set(before), "from every state there is a way to enough nodes"


class History:
    """One seed: two operators, a cloud, and everything that can go wrong."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.server = Server(target=self.chance.randint(1, 3))
        self.views = [View(target=self.server.target), View(target=self.server.target)]
        self.deaf = [False, False]
        """Whether an operator's watch is broken without its knowing."""
        self.most = self.server.target

    def step(self) -> None:
        server, chance = self.server, self.chance
        server.now += chance.choice((0, 0, 1, 5, 30, 300, 1500))
        index = chance.randrange(2)
        match chance.randrange(16):
            case 0 | 1 | 2:
                if server.claims:
                    server.move(chance.choice(sorted(server.claims)))
            case 3:
                if server.claims:
                    server.lose(chance.choice(sorted(server.claims)))
            case 4:
                if server.claims:
                    found = server.claims[chance.choice(sorted(server.claims))]
                    server.delete(found.name, str(found.uid))
            case 5:
                self.deaf[index] = not self.deaf[index]
            case 6:
                self.views[index], self.deaf[index] = View(), False  # a restart lists anew
                self.see(index)
            case 7:
                server.target = chance.randint(1, 3)
                server.version += 1
                self.most = max(self.most, server.target)
            case 8 | 9 | 10:
                self.see(index)
            case _:
                self.work(index, trouble=True)
        assert len(server.live) <= self.most, "a node too many"

    def see(self, index: int) -> None:
        if not self.deaf[index]:
            if self.chance.random() < 0.8:
                self.views[index].see_claims(self.server)
            if self.chance.random() < 0.8:
                self.views[index].see_workspace(self.server)

    def work(self, index: int, *, trouble: bool) -> int:
        """One look of an operator; how much it wrote. Each request may be refused, or done without an answer."""
        server, view = self.server, self.views[index]
        wanted = decided(view, server.now)
        self.report(wanted.verdict.ok)
        written = 0
        for kind, what, uid in writes(wanted):
            luck = self.chance.random() if trouble else 1.0
            if luck < 0.1:
                return written  # 429, 500, or a connection that broke before
            written += 1
            if kind == "note":
                if not server.note(what, view.version):
                    return written  # 409
                view.ledger, view.version = server.ledger, server.version
            elif kind == "create":
                server.create(what)
            else:
                server.delete(what, uid)
            if luck < 0.2:
                return written  # done, and the answer was lost
            if kind == "create" and luck < 0.8:
                view.claims[what] = server.claims[what]  # the answer goes into the cache
        return written

    def report(self, is_well: bool) -> None:
        """The status, from which a later look knows since when nodes are missing."""
        if is_well:
            self.server.waiting_since = None
        elif self.server.waiting_since is None:
            self.server.waiting_since = self.server.now

    def settle(self) -> None:
        """Without further trouble: the cloud makes what is ordered, and both operators see everything."""
        for _ in range(40):
            self.server.now += 31 * 60
            for name in sorted(self.server.claims):
                while name in self.server.claims and (
                    self.server.claims[name].is_deleting or self.server.claims[name].phase < READY
                ):
                    self.server.move(name)
            written = 0
            for index, view in enumerate(self.views):
                view.see_claims(self.server)
                view.see_workspace(self.server)
                written += self.work(index, trouble=False)
                assert len(self.server.live) <= max(self.most, self.server.target)
            if not written and all(decided(view, self.server.now).verdict.ok for view in self.views):
                return
        raise AssertionError("it does not come to rest")


@pytest.mark.parametrize("part", range(PARTS))
def test_never_a_node_too_many_and_always_enough_in_the_end(part: int) -> None:
    for seed in range(part * HISTORIES // PARTS, (part + 1) * HISTORIES // PARTS):
        history = History(seed)
        try:
            for _ in range(STEPS):
                history.step()
            history.settle()
            live = history.server.live
            assert len(live) == len(history.server.claims) == history.server.target
            assert all(claim.phase == READY for claim in live)
            for index in range(2):
                assert history.work(index, trouble=False) == 0, "a write without need"
        except AssertionError as error:
            raise AssertionError(f"seed {seed}: {error}") from error
