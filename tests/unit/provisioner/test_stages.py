# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""The stages of one claim against a cloud where nothing else goes wrong: what ends each of them, and what it says."""

from __future__ import annotations

from datetime import timedelta
from random import Random
from typing import Any

from kaito.api import nodeclaims as names
from kaito.kube.manifest import Manifest, condition_of, is_true
from kaito.kube.resource import NODES
from kaito.provisioner import errors
from kaito.provisioner.offers import Market
from tests.unit.provisioner.simulation import OFFERS, SETTINGS, Objects, Replica, SimulatedCloud, claim_of, node_of


class World:
    """A cluster with the one claim `c`, a cloud, and a provisioner whose caches are never behind."""

    def __init__(self, *types: str, **spec: Any) -> None:
        self.objects, self.cloud = Objects(), SimulatedCloud(Random(0), trouble=0.0)
        self.replica = Replica(self.objects, self.cloud, Market(OFFERS), is_alone=True)
        self.objects.put(names.NODE_CLAIMS, claim_of("c", types or ["small"], **spec))

    def goes_on(self, seconds: float = 1.0, rounds: int = 4) -> None:
        """Let time pass, and the provisioner work until all that follows is written."""
        self.objects.now += timedelta(seconds=seconds)
        for _ in range(rounds):
            self.replica.list()
            self.replica.view.catch_up_all()
            self.replica.budget()
            self.replica.view.catch_up_all()
            self.replica.work("c")

    def boots(self, gpus: int = 1) -> None:
        """The machine that is there becomes a node."""
        (instance,) = self.cloud.alive(self.objects.now)
        self.objects.put(NODES, node_of(instance, {}, gpus=gpus))

    @property
    def claim(self) -> Manifest:
        return self.objects.kinds[names.NODE_CLAIMS]["c"]

    def told(self, type_: str) -> tuple[str, str, str]:
        """Status, reason and message of a condition."""
        found = condition_of(self.claim, type_) or {}
        return found.get("status", ""), found.get("reason", ""), found.get("message", "")

    def is_gone(self) -> bool:
        """Whether claim, node and machine are, after the time that certainty takes."""
        self.goes_on(120)
        self.goes_on(120)
        kinds = self.objects.kinds
        return not (kinds[names.NODE_CLAIMS] or kinds[NODES] or self.cloud.alive(self.objects.now))


def ready(*types: str, **spec: Any) -> World:
    world = World(*types, **spec)
    world.goes_on()
    world.boots()
    world.goes_on()
    assert is_true(world.claim, names.READY)
    return world


def test_a_machine_that_never_becomes_a_node_is_given_back_with_its_claim() -> None:
    world = World()
    world.goes_on()
    assert world.told(names.LAUNCHED)[0] == "True"
    world.goes_on(SETTINGS.timing.registration_s - 10)
    assert world.told(names.REGISTERED)[0] == "Unknown"
    world.goes_on(20, rounds=1)
    status, reason, message = world.told(names.REGISTERED)
    assert (status, reason) == ("False", names.REASON_REGISTRATION_TIMEOUT)
    assert "did not become a node in time" in message
    assert world.is_gone()


def test_a_claim_for_which_there_is_no_machine_ends_so_that_its_maker_can_choose_another() -> None:
    world = World()
    world.cloud.refuses = errors.OutOfCapacity("we have none left")
    world.goes_on()
    status, reason, message = world.told(names.LAUNCHED)
    assert (status, reason) == ("Unknown", names.REASON_CAPACITY)
    assert "we have none left" in message
    world.goes_on(SETTINGS.timing.launch_s + 1, rounds=1)
    assert world.told(names.LAUNCHED)[:2] == ("False", names.REASON_LAUNCH_TIMEOUT)
    assert world.is_gone()


def test_a_claim_that_waits_for_a_quota_is_not_given_up() -> None:
    world = World()
    world.cloud.refuses = errors.QuotaExceeded("you may have 0 of these")
    world.goes_on()
    world.goes_on(SETTINGS.timing.launch_s * 3)
    status, reason, message = world.told(names.LAUNCHED)
    assert (status, reason) == ("Unknown", names.REASON_QUOTA)
    assert "you may have 0 of these" in message
    world.cloud.refuses = None
    world.goes_on(3600)
    assert world.told(names.LAUNCHED)[0] == "True"


def test_a_claim_ends_when_it_is_older_than_it_may_become() -> None:
    world = ready(expireAfter="1h")
    world.goes_on(3500)
    assert is_true(world.claim, names.READY)
    world.goes_on(200)
    assert world.is_gone()


def test_what_no_longer_fits_the_claim_is_told_and_left_in_peace() -> None:
    world = ready("small", "large")
    assert condition_of(world.claim, names.DRIFTED) is None
    terms = [*world.claim["spec"]["requirements"]]
    terms[0] = {**terms[0], "values": ["large"]}
    world.objects.put(names.NODE_CLAIMS, {**world.claim, "spec": {**world.claim["spec"], "requirements": terms}})
    world.goes_on()
    status, reason, message = world.told(names.DRIFTED)
    assert (status, reason) == ("True", names.REASON_REQUIREMENTS_DRIFTED)
    assert "small" in message
    assert is_true(world.claim, names.READY)


def test_a_node_without_its_gpus_is_replaced_as_often_as_allowed_and_then_stays_with_the_reason() -> None:
    world = World()
    world.goes_on()
    first = world.cloud.alive(world.objects.now)
    world.boots(gpus=0)
    world.goes_on()
    assert world.told(names.INITIALIZED)[:2] == ("Unknown", names.REASON_GPUS_MISSING)
    world.goes_on(SETTINGS.timing.gpus_s + 1)
    for _ in range(6):
        world.goes_on(100)
    second = world.cloud.alive(world.objects.now)
    assert first != second
    assert len(second) == 1
    world.boots(gpus=0)
    world.goes_on()
    world.goes_on(SETTINGS.timing.gpus_s + 1)
    assert world.cloud.alive(world.objects.now) == second
    status, reason, message = world.told(names.INITIALIZED)
    assert (status, reason) == ("False", names.REASON_GPUS_MISSING)
    assert "replaced 1 time for that" in message
