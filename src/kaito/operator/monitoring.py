# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""What the operator tells about itself over HTTP: /metrics, /healthz and /readyz, on one port or two.

/healthz answers while the process works at all. /readyz says of each part whether it is ready, one a line, and 503 when
one is not; a replica that stands by is ready when it could take over.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager

from aiohttp import web

from kaito.operator.settings import Settings

Check = Callable[[], str]
"""What is not ready about a part; empty when it is."""

_log = logging.getLogger(__name__)


class CannotListen(Exception):
    """A port cannot be had; the text says which and why."""


class Readiness:
    """The parts that have to be ready, as they become known."""

    def __init__(self) -> None:
        self._checks: dict[str, Check] = {}

    def add(self, name: str, check: Check) -> None:
        """One more part, or another check of it."""
        self._checks[name] = check

    def set(self, name: str, problem: str) -> None:
        """A part whose state is known."""
        self._checks[name] = lambda: problem

    def problems(self) -> Mapping[str, str]:
        """What is not ready, by part; the values of those that are ready are empty."""
        return {name: check() for name, check in self._checks.items()}


def told(problems: Mapping[str, str]) -> str:
    """One line a part, as Kubernetes' own components write them."""
    lines = [f"[-]{name} not ready: {why}" if why else f"[+]{name} ok" for name, why in problems.items()]
    return "\n".join([*lines, "readyz check failed" if any(problems.values()) else "readyz check passed", ""])


@asynccontextmanager
async def monitoring(settings: Settings, readiness: Readiness, metrics: Callable[[], str]) -> AsyncIterator[None]:
    """Serve while it lasts. Raises CannotListen."""
    health = [web.get("/healthz", _healthy), web.get("/readyz", _ready(readiness))]
    exposition = [web.get("/metrics", _metrics(metrics))]
    async with AsyncExitStack() as stack:
        if settings.health_port is not None:
            await _listen(stack, "health", settings.health_host, settings.health_port, health)
        if settings.metrics_port is not None:
            routes = exposition if settings.health_port is not None else [*exposition, *health]
            await _listen(stack, "metrics", settings.metrics_host, settings.metrics_port, routes)
        yield


async def _listen(stack: AsyncExitStack, what: str, host: str, port: int, routes: list[web.RouteDef]) -> None:
    app = web.Application()
    app.add_routes(routes)
    runner = web.AppRunner(app, access_log=None)
    stack.push_async_callback(runner.cleanup)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
    except OSError as error:
        raise CannotListen(f"--{what}-port {port} cannot be listened on: {error.strerror}.") from error
    shown, number = runner.addresses[0][:2]
    _log.info("%s on http://%s:%s%s", what, shown, number, "/metrics" if what == "metrics" else "/readyz")


def _metrics(exposition: Callable[[], str]) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    async def answer(request: web.Request) -> web.Response:
        return web.Response(text=exposition(), content_type="text/plain", charset="utf-8")

    return answer


async def _healthy(request: web.Request) -> web.Response:
    return web.Response(text="ok")


def _ready(readiness: Readiness) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    async def answer(request: web.Request) -> web.Response:
        problems = readiness.problems()
        return web.Response(text=told(problems), status=503 if any(problems.values()) else 200)

    return answer
