# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Thousands of histories in which everything goes wrong: never two machines for a claim, never one above the limit,
nothing left over, and always an end. Two replicas act at the same time, on caches that lag, in half of them.
"""

from __future__ import annotations

import os
from collections import Counter
from datetime import timedelta
from random import Random

import pytest

from kaito.api import nodeclaims as names
from kaito.kube.manifest import Manifest, is_true
from kaito.kube.resource import NODES
from kaito.provisioner.offers import Market
from tests.unit.provisioner.simulation import (
    KINDS,
    OFFERS,
    SETTINGS,
    Objects,
    Replica,
    SimulatedCloud,
    claim_of,
    node_of,
)

HISTORIES = int(os.environ.get("KAITO_SIMULATIONS", "10000"))
PARTS = 4
MOST_ROUNDS, QUIET_ROUNDS = 60, 2
MARKET = Market(OFFERS)
PRICES = {o.instance_type: o.dollars for o in OFFERS}
GPUS = {o.instance_type: o.gpus for o in OFFERS}


class History:
    """One seed."""

    def __init__(self, seed: int) -> None:
        self.chance = Random(seed)
        self.objects = Objects()
        self.cloud = SimulatedCloud(self.chance)
        self.is_alone = seed % 2 == 0
        self.replicas = [self.replica() for _ in range(1 if self.is_alone else 2)]
        self.checked = -1
        self.blind: set[str] = set()

    def replica(self) -> Replica:
        return Replica(self.objects, self.cloud, MARKET, is_alone=self.is_alone)

    def claims(self) -> dict[str, Manifest]:
        return self.objects.kinds[names.NODE_CLAIMS]

    def step(self) -> None:
        chance, replica = self.chance, self.chance.choice(self.replicas)
        roll = chance.random()
        if roll < 0.45:
            replica.work(chance.choice(self.names()))
        elif roll < 0.60:
            replica.view.catch_up(chance.choice(KINDS[:4]))
        elif roll < 0.70:
            replica.budget()
        elif roll < 0.80:
            replica.list()
        elif roll < 0.88:
            self.objects.now += timedelta(seconds=chance.choice([1, 1, 5, 40, 200]))
        elif roll < 0.95:
            self.boot()
        else:
            self.disturb()

    def names(self) -> list[str]:
        labelled = [node["metadata"]["labels"][names.CLAIM_LABEL] for node in self.objects.kinds[NODES].values()]
        alive = [instance.claim for instance in self.cloud.alive(self.objects.now)]
        return list(dict.fromkeys([*self.claims(), *labelled, *alive])) or ["c0"]

    def boot(self) -> None:
        """Machines become nodes; some never show their GPUs."""
        for instance in self.cloud.list(self.objects.now):
            name = f"node-{instance.id}"
            if instance.is_up and name not in self.objects.kinds[NODES]:
                if self.cloud.happens(0.2):
                    self.blind.add(instance.id)
                gpus = 0 if instance.id in self.blind else GPUS[instance.instance_type]
                self.objects.put(NODES, node_of(instance, {}, gpus=gpus))
        there = {f"node-{instance.id}" for instance in self.cloud.alive(self.objects.now)}
        for name, node in list(self.objects.kinds[NODES].items()):
            if name not in there:
                self.objects.put(NODES, {**node, "status": {"conditions": [{"type": "Ready", "status": "False"}]}})

    def disturb(self) -> None:
        """Something from outside."""
        chance, now = self.chance, self.objects.now
        match chance.randrange(5):
            case 0:
                self.order()
            case 1 if self.claims():
                self.objects.delete(names.NODE_CLAIMS, chance.choice(list(self.claims())))
            case 2:
                for instance in self.cloud.list(now)[:1]:
                    self.cloud.machines[instance.id].goes = now
            case 3:
                for machine in list(self.cloud.machines.values())[-1:]:
                    machine.instance = type(machine.instance)(
                        **{f: getattr(machine.instance, f) for f in machine.instance.__slots__} | {"state": "failed"}
                    )
            case 4:
                self.replicas[chance.randrange(len(self.replicas))] = self.replica()

    def order(self) -> None:
        """A new claim, now and then under a name that was used before."""
        name = f"c{self.chance.randrange(4)}"
        if name not in self.claims():
            types = self.chance.choice([["small"], ["small", "large"], ["large"], ["unheard-of"]])
            self.objects.put(names.NODE_CLAIMS, claim_of(name, types))

    def check(self) -> None:
        if self.cloud.changes == self.checked:
            return
        self.checked = self.cloud.changes
        alive = self.cloud.alive(self.objects.now)
        assert len(alive) <= SETTINGS.max_nodes, "more machines than allowed"
        assert sum(PRICES[i.instance_type] for i in alive) <= SETTINGS.max_dollars_per_hour, "dearer than allowed"
        twice = [uid for uid, count in Counter(i.claim_uid for i in alive).items() if count > 1]
        assert not twice, "two machines for one claim"

    def calm(self) -> None:
        """From now on nothing goes wrong: the world comes to rest, and stays so for minutes."""
        self.cloud.trouble = 0.0
        still = 0
        for _ in range(MOST_ROUNDS):
            before = self.objects.version
            self.objects.now += timedelta(seconds=100)
            replica = self.replicas[0]
            replica.list()
            replica.view.catch_up_all()
            replica.budget()
            for name in self.names():
                replica.view.catch_up_all()
                replica.work(name)
            self.boot()
            self.check()
            still = still + 1 if before == self.objects.version else 0
            if still == QUIET_ROUNDS:
                return
        raise AssertionError("the world does not come to rest")


def run(seed: int) -> History:
    history = History(seed)
    for _ in range(history.chance.randint(1, 3)):
        history.order()
    for _ in range(55):
        history.step()
        history.check()
    return history


def ends_well(seed: int) -> None:
    history = run(seed)
    history.calm()
    claims = history.claims()
    ready = [claim for claim in claims.values() if is_true(claim, names.READY)]
    alive = history.cloud.alive(history.objects.now)
    assert {i.claim_uid for i in alive} <= {c["metadata"]["uid"] for c in claims.values()}, "a machine of nobody"
    waiting = [c for c in claims.values() if c not in ready]
    allowed = {names.REASON_BUDGET, names.REASON_NO_TYPE, names.REASON_GPUS_MISSING}
    reasons = {next(k["reason"] for k in c["status"]["conditions"] if k["type"] == "Ready") for c in waiting}
    assert reasons <= allowed, reasons
    for name in list(claims):
        history.objects.delete(names.NODE_CLAIMS, name)
    history.calm()
    budget = history.objects.kinds[names.NODE_BUDGETS]["default"]
    left = (history.claims(), history.cloud.alive(history.objects.now), history.objects.kinds[NODES])
    assert [len(part) for part in left] == [0, 0, 0], left
    assert not (budget.get("status") or {}).get("reservations")


@pytest.mark.parametrize("part", range(PARTS))
def test_never_too_much_nothing_twice_and_nothing_left(part: int) -> None:
    for seed in range(part, HISTORIES, PARTS):
        try:
            ends_well(seed)
        except AssertionError as error:
            raise AssertionError(f"seed {seed}: {error}") from error
