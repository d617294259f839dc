# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Startup, readiness and liveness probes: a pure state that counts, and small functions that look.

`ProbeState` counts answers against the thresholds; `Prober` asks on time and tells when something changed. HTTP
probes read no more than the status line. gRPC probes ask for a TCP connection only: a gRPC client is not worth its
weight here.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Literal

from kaito.kube.clock import Clock
from kaito.kube.manifest import Manifest

ProbeKind = Literal["startup", "readiness", "liveness"]
KINDS: tuple[ProbeKind, ...] = ("startup", "readiness", "liveness")
LONGEST_ANSWER = 4096


class ProbeFailure(Exception):
    """The container did not answer as it should; the text says how."""


@dataclass(frozen=True, slots=True)
class Timing:
    """A probe's schedule and thresholds, with Kubernetes' defaults."""

    initial_delay_s: float = 0
    period_s: float = 10
    timeout_s: float = 1
    successes: int = 1
    failures: int = 3


@dataclass(frozen=True, slots=True)
class ProbeState:
    """What a probe says so far: `result` changes only when a threshold is reached."""

    result: bool
    successes: int = 0
    failures: int = 0
    message: str = ""

    def after(self, failure: str | None, timing: Timing) -> ProbeState:
        """The state after one more answer; `failure` is None for a success."""
        if failure is None:
            count = self.successes + 1
            passed = self.result or count >= timing.successes
            return ProbeState(passed, successes=count)
        count = self.failures + 1
        return ProbeState(self.result and count < timing.failures, failures=count, message=failure)

    def has_given_up(self, timing: Timing) -> bool:
        """Whether so many answers in a row failed that the container must be restarted (startup, liveness)."""
        return self.failures >= timing.failures


@dataclass(frozen=True, slots=True)
class Health:
    """What the probes of one running container say together."""

    started: bool
    ready: bool
    unhealthy: str = ""


Ask = Callable[[Manifest, float], Awaitable[None]]
"""Carries out one probe within a time; raises ProbeFailure."""
Told = Callable[[ProbeKind, str], None]
"""Told of each failed answer, for the event."""


def gave_up(kind: ProbeKind) -> str:
    """What is said of a container that has to be restarted because of a probe."""
    return f"failed {kind} probe"


def timing_of(probe: Manifest) -> Timing:
    """The schedule that a probe's manifest asks for."""
    return Timing(
        initial_delay_s=probe.get("initialDelaySeconds") or 0,
        period_s=probe.get("periodSeconds") or 10,
        timeout_s=probe.get("timeoutSeconds") or 1,
        successes=probe.get("successThreshold") or 1,
        failures=probe.get("failureThreshold") or 3,
    )


def initial_health(container: Manifest) -> Health:
    """Before the first answer: nothing is started or ready that has a probe for it."""
    started = "startupProbe" not in container
    return Health(started=started, ready=started and "readinessProbe" not in container)


class Prober:
    """Asks a running container's probes on time, from its start until it is cancelled."""

    def __init__(self, container: Manifest, ask: Ask, clock: Clock, *, changed: Callable[[], None], told: Told) -> None:
        self.health = initial_health(container)
        self._container = container
        self._ask = ask
        self._clock = clock
        self._changed = changed
        self._told = told

    async def run(self) -> None:
        """Startup first; readiness and liveness once it has succeeded."""
        startup = self._container.get("startupProbe")
        if startup is not None and not await self._until_started(startup):
            return
        tasks = []
        for kind in ("readiness", "liveness"):
            probe = self._container.get(f"{kind}Probe")
            if probe is not None:
                tasks.append(asyncio.create_task(self._watch(kind, probe)))
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()

    async def _until_started(self, probe: Manifest) -> bool:
        timing, state = timing_of(probe), ProbeState(result=False)
        await self._clock.sleep(timing.initial_delay_s)
        while not state.result:
            state = await self._once("startup", probe, timing, state)
            if state.has_given_up(timing):
                self._set(replace(self.health, unhealthy=gave_up("startup")))
                return False
            if not state.result:
                await self._clock.sleep(timing.period_s)
        self._set(Health(started=True, ready="readinessProbe" not in self._container))
        return True

    async def _watch(self, kind: ProbeKind, probe: Manifest) -> None:
        timing = timing_of(probe)
        state = ProbeState(result=kind == "liveness")
        await self._clock.sleep(timing.initial_delay_s)
        while True:
            state = await self._once(kind, probe, timing, state)
            if kind == "readiness":
                self._set(replace(self.health, ready=state.result))
            elif state.has_given_up(timing):
                self._set(replace(self.health, unhealthy=gave_up("liveness")))
                return
            await self._clock.sleep(timing.period_s)

    async def _once(self, kind: ProbeKind, probe: Manifest, timing: Timing, state: ProbeState) -> ProbeState:
        failure = None
        try:
            await asyncio.wait_for(self._ask(probe, timing.timeout_s), timing.timeout_s)
        except ProbeFailure as error:
            failure = str(error)
        except TimeoutError:
            failure = f"no answer within {timing.timeout_s:g} s"
        if failure is not None:
            self._told(kind, failure)
        return state.after(failure, timing)

    def _set(self, health: Health) -> None:
        if health != self.health:
            self.health = health
            self._changed()


def port_of(container: Manifest, port: int | str) -> int:
    """The number of a port given by number or name. Raises ProbeFailure."""
    if isinstance(port, int) or str(port).isdigit():
        return int(port)
    for item in container.get("ports") or []:
        if item.get("name") == port:
            return int(item["containerPort"])
    raise ProbeFailure(f"the container has no port named {port!r}")


async def http_get(host: str, port: int, action: Manifest) -> None:
    """Raises ProbeFailure unless the answer's status is 200 to 399."""
    scheme = (action.get("scheme") or "HTTP").lower()
    path = action.get("path") or "/"
    address = action.get("host") or host
    context = ssl.create_default_context() if scheme == "https" else None
    if context is not None:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    headers = {"Host": f"{address}:{port}", "User-Agent": "kube-probe/1.36", "Accept": "*/*", "Connection": "close"}
    headers |= {item["name"]: item.get("value", "") for item in action.get("httpHeaders") or []}
    lines = [f"GET /{path.removeprefix('/')} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    async with _connected(address, port, context) as (reader, writer):
        writer.write(("\r\n".join(lines) + "\r\n\r\n").encode())
        line = await reader.readline()
    parts = line.decode(errors="replace").split()
    if len(parts) < 2 or not parts[1].isdigit():
        raise ProbeFailure(f'Get "{scheme}://{address}:{port}{path}": not an HTTP answer')
    if not 200 <= int(parts[1]) < 400:
        raise ProbeFailure(f"HTTP probe failed with statuscode: {parts[1]}")


async def tcp_connect(host: str, port: int) -> None:
    """Raises ProbeFailure unless the port accepts a connection."""
    async with _connected(host, port, None):
        return


class _connected:
    """A connection that is closed at the end; trouble with it is a ProbeFailure."""

    def __init__(self, host: str, port: int, context: ssl.SSLContext | None) -> None:
        self._to = (host, port, context)

    async def __aenter__(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        host, port, context = self._to
        try:
            reader, self._writer = await asyncio.open_connection(host, port, ssl=context, limit=LONGEST_ANSWER)
        except OSError as error:
            raise ProbeFailure(f"dial tcp {host}:{port}: {error.strerror or error}") from error
        return reader, self._writer

    async def __aexit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()
        if isinstance(error, OSError | ValueError) and not isinstance(error, TimeoutError):
            raise ProbeFailure(str(error)) from error
