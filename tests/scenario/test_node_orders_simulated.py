# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Ordering nodes while everything goes wrong at once: two operators with caches that lag, lost nodes, failing orders.

Each seed is one history. At every moment there are at most as many live claims as nodes are needed, and once the
trouble ends, exactly as many, ready, with nothing left to write. KAITO_SIMULATIONS=10000 runs that many histories.
"""

from __future__ import annotations

import os
import random
from datetime import timedelta
from functools import partial

import pytest

from kaito.api import names
from kaito.api.meta import WORKSPACES
from kaito.kube.manifest import Key, Manifest, annotations_of, is_deleting, key_of
from kaito.kube.plan import RetryLater
from kaito.kube.resource import NODES
from kaito.operator.provisioners.ledger import Ledger
from kaito.operator.provisioners.nodeclaim import NODE_CLAIMS
from tests.scenario.cloud import Cloud
from tests.scenario.test_node_orders import CONTROLLER, begun, ordering, settle
from tests.scenario.world import World

HISTORIES = int(os.environ.get("KAITO_SIMULATIONS", "60"))
LAGGING = (WORKSPACES, NODE_CLAIMS, NODES)


class Operator:
    """One that sees each resource as it was when it last caught up; its own writes are no exception."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.view = World(known=world.known)
        for resource in LAGGING:
            self.catch_up(resource)

    def catch_up(self, resource: object) -> None:
        for known in LAGGING:
            if known == resource:
                self.view.objects[known] = dict(self.world.objects.get(known, {}))

    def work(self, key: Key) -> None:
        for resource in set(self.world.objects) - set(LAGGING):
            self.view.objects[resource] = self.world.objects[resource]
        observed = CONTROLLER.observe(self.view, key)
        if observed is None:
            return
        try:
            self.world.carry_out(CONTROLLER.plan(observed, self.world.now), WORKSPACES, key)
        except RetryLater:
            self.catch_up(WORKSPACES)


def disturb(chance: random.Random, cloud: Cloud) -> None:
    """Something happens to one of the claims."""
    claims: list[Manifest] = cloud.claims()
    if not claims:
        return
    claim = chance.choice(claims)
    match chance.randrange(8):
        case 0:
            cloud.lose(claim, remove=True)
        case 1:
            cloud.lose(claim, remove=False)
        case 2:
            cloud.world.delete(NODE_CLAIMS, key_of(claim))
        case 3:
            cloud.failure = chance.choice(["", "quota exceeded"])
        case _:
            cloud.advance(NODE_CLAIMS, claim)


def scaled(count: int, workspace: Manifest) -> None:
    workspace["resource"]["count"] = count


@pytest.mark.parametrize("seed", range(HISTORIES))
def test_never_a_claim_too_many_and_always_enough_in_the_end(seed: int) -> None:
    chance = random.Random(seed)
    target = chance.randint(1, 4)
    here, cloud = begun(ordering(target))
    operators = [Operator(here), Operator(here)]
    most = target
    for _ in range(60):
        here.now += timedelta(seconds=chance.choice([0, 1, 1, 5, 30, 300, 1500]))
        match chance.randrange(6):
            case 0 | 1:
                disturb(chance, cloud)
            case 2 | 3:
                chance.choice(operators).catch_up(chance.choice(LAGGING))
            case _:
                chance.choice(operators).work(Key("default", "demo"))
        if seed % 3 == 0 and chance.random() < 0.05:
            target = chance.randint(1, 4)
            here.change(WORKSPACES, "demo", partial(scaled, target))
            most = max(most, target)
        live = [claim for claim in cloud.claims() if not is_deleting(claim)]
        assert len(live) <= most, "a node too many"
    cloud.failure = ""
    for _ in range(8):
        here.now += timedelta(minutes=31)
        settle(here)
    (workspace,) = here.list(WORKSPACES)
    assert len(cloud.claims()) == target
    assert workspace["status"]["state"] == "Ready"
    assert here.reconcile(CONTROLLER) == 0
    ledger = Ledger.parse(annotations_of(workspace)[names.NODE_ORDERS_ANNOTATION])
    assert str(ledger) == annotations_of(workspace)[names.NODE_ORDERS_ANNOTATION]
