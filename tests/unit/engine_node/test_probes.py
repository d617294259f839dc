# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Probes: counting answers, and asking on time."""

from __future__ import annotations

import asyncio

import pytest

from kaito.engine.node.probes import Health, ProbeFailure, Prober, ProbeState, Timing, port_of, timing_of
from kaito.kube.clock import VirtualClock
from kaito.kube.manifest import Manifest
from tests.unit.engine_node.pods import container


def after(answers: str, *, result: bool, successes: int = 1, failures: int = 3) -> list[bool]:
    """What a probe says after each answer: + is a success, - a failure."""
    timing, state, said = Timing(successes=successes, failures=failures), ProbeState(result), []
    for answer in answers:
        state = state.after(None if answer == "+" else "no", timing)
        said.append(state.result)
    return said


@pytest.mark.parametrize(
    ("answers", "successes", "failures", "expected"),
    [
        ("+", 1, 3, "t"),
        ("-+", 1, 3, "ft"),
        ("++-++", 2, 3, "ftttt"),
        ("+---+", 1, 3, "tttft"),
        ("+--+--", 1, 3, "tttttt"),
        ("+-+-", 2, 1, "ffff"),
    ],
)
def test_readiness_changes_at_its_thresholds(answers: str, successes: int, failures: int, expected: str) -> None:
    said = after(answers, result=False, successes=successes, failures=failures)
    assert "".join("t" if value else "f" for value in said) == expected


def test_kubernetes_defaults_hold() -> None:
    assert timing_of({}) == Timing(0, 10, 1, 1, 3)


def test_a_port_may_be_named() -> None:
    made = container(ports=[{"name": "http", "containerPort": 5000}])
    assert [port_of(made, "http"), port_of(made, 80), port_of(made, "81")] == [5000, 80, 81]
    with pytest.raises(ProbeFailure, match="no port named 'none'"):
        port_of(made, "none")


class Scripted:
    """A container that fails the given probes until a time on the clock, and its prober."""

    def __init__(self, manifest: Manifest, fails_until: dict[str, float]) -> None:
        self.clock = VirtualClock()
        self.asked: list[tuple[str, float]] = []
        self._fails_until = fails_until
        self.changes: list[Health] = []
        self.prober = Prober(
            manifest,
            self._ask,
            self.clock,
            changed=lambda: self.changes.append(self.prober.health),
            told=lambda kind, text: None,
        )

    async def _ask(self, probe: Manifest, timeout_s: float) -> None:
        name = probe["name"]
        self.asked.append((name, self.clock.monotonic()))
        if self.clock.monotonic() < self._fails_until[name]:
            raise ProbeFailure("not yet")

    async def advance(self, seconds: int) -> None:
        for _ in range(seconds):
            for _ in range(20):
                await asyncio.sleep(0)
            await self.clock.advance(1)
        for _ in range(20):
            await asyncio.sleep(0)


async def test_startup_comes_first_and_readiness_after_it() -> None:
    manifest = container(
        startupProbe={"name": "s", "periodSeconds": 2, "failureThreshold": 30},
        readinessProbe={"name": "r", "periodSeconds": 5},
    )
    scripted = Scripted(manifest, {"s": 4, "r": 8})
    assert scripted.prober.health == Health(started=False, ready=False)
    task = asyncio.create_task(scripted.prober.run())
    await scripted.advance(10)
    task.cancel()
    assert scripted.asked == [("s", 0), ("s", 2), ("s", 4), ("r", 4), ("r", 9)]
    assert scripted.changes == [Health(started=True, ready=False), Health(started=True, ready=True)]


async def test_a_startup_that_never_comes_gives_up() -> None:
    scripted = Scripted(container(startupProbe={"name": "s", "periodSeconds": 1, "failureThreshold": 3}), {"s": 99})
    task = asyncio.create_task(scripted.prober.run())
    await scripted.advance(5)
    await task
    assert scripted.prober.health.unhealthy == "failed startup probe"
    assert len(scripted.asked) == 3


async def test_liveness_is_asked_after_its_delay_and_gives_up() -> None:
    manifest = container(
        livenessProbe={"name": "l", "periodSeconds": 2, "failureThreshold": 2, "initialDelaySeconds": 3}
    )
    scripted = Scripted(manifest, {"l": 99})
    assert scripted.prober.health == Health(started=True, ready=True)
    task = asyncio.create_task(scripted.prober.run())
    await scripted.advance(8)
    await task
    assert scripted.asked == [("l", 3), ("l", 5)]
    assert scripted.prober.health.unhealthy == "failed liveness probe"
