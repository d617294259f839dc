# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""What pods say of themselves, read from the ends of their logs through the API server: how far a tuning is, how fast
a model server is.

Pods do not talk to the API server, and the operator may be where no pod can be reached; logs it can read everywhere.
Planning asks for what is known and never waits; whoever is asked for is looked at then, for some rounds.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from kaito.kube.client import Client
from kaito.kube.clock import Clock
from kaito.kube.errors import ApiError
from kaito.kube.manifest import Key, Manifest, key_of
from kaito.kube.resource import PODS

T = TypeVar("T")

PERIOD_S = 4.0
FORGOTTEN_AFTER = 300
"""Rounds since the last question."""


@dataclass(slots=True)
class _Followed(Generic[T]):
    key: Key
    container: str
    said: T | None = None
    unasked: int = 0
    """Rounds since the question that is being followed."""


@dataclass(slots=True)
class PodLogs(Generic[T]):
    """The latest that every pod said which was asked for."""

    client: Client
    read: Callable[[Sequence[str]], T | None]
    """What the lines of a log tell; None when they tell nothing."""
    tail_lines: int = 60
    rounds: int = 20
    """How often a log is looked at for one question."""
    patience: int = 0
    """How many rounds pass between a question and the first look."""
    _pods: dict[tuple[str, str], _Followed[T]] = field(default_factory=dict)
    """By the pod's uid and the container."""

    def said(self, pod: Manifest, container: str = "") -> T | None:
        """What the pod (or one container of several) said last, as far as it is known; None before the first look."""
        followed = self._pods.setdefault((pod["metadata"]["uid"], container), _Followed(key_of(pod), container))
        if followed.unasked >= self.patience + self.rounds:
            followed.unasked = 0
        return followed.said

    @asynccontextmanager
    async def followed(self, clock: Clock) -> AsyncIterator[None]:
        """Look at the logs as long as this lasts."""
        task = asyncio.create_task(self._follow(clock))
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def _follow(self, clock: Clock) -> None:
        while True:
            await self.look()
            await clock.sleep(PERIOD_S if self._pods else 1.0)

    async def look(self) -> None:
        """Read the end of every log once; a log that cannot be read tells nothing new."""
        for place, followed in list(self._pods.items()):
            followed.unasked += 1
            if followed.unasked > FORGOTTEN_AFTER:
                del self._pods[place]
            if not self.patience < followed.unasked <= self.patience + self.rounds:
                continue
            path = PODS.path(followed.key.namespace, followed.key.name, subresource="log")
            with contextlib.suppress(ApiError):
                params = {"tailLines": str(self.tail_lines)}
                if followed.container:
                    params["container"] = followed.container
                answer = await self.client.raw("GET", path, params=params)
                if answer.status == 200:
                    found = self.read(answer.body.decode(errors="replace").splitlines())
                    followed.said = followed.said if found is None else found
