# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""What running tunings say of their progress, read from the ends of their pods' logs through the API server.

Pods do not talk to the API server, and the operator may be where no pod can be reached; logs it can read everywhere.
Planning asks for what is known and never waits; whoever is asked for is looked at from then on, while it is asked for.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from kaito.api.contracts import TuneProgress
from kaito.api.training import latest_progress
from kaito.kube.client import Client
from kaito.kube.clock import Clock
from kaito.kube.errors import ApiError
from kaito.kube.manifest import Key, Manifest, key_of
from kaito.kube.resource import PODS

PERIOD_S = 4.0
TAIL_LINES = "60"
FORGOTTEN_AFTER = 20
"""Rounds in which nobody asked."""


@dataclass(slots=True)
class _Followed:
    key: Key
    progress: TuneProgress | None = None
    unasked: int = 0


@dataclass(slots=True)
class TuningLogs:
    """The latest progress of every pod that was asked for."""

    client: Client
    _pods: dict[str, _Followed] = field(default_factory=dict)

    def progress(self, pod: Manifest) -> TuneProgress | None:
        """What the pod said last, as far as it is known; None before the first look."""
        followed = self._pods.setdefault(pod["metadata"]["uid"], _Followed(key_of(pod)))
        followed.unasked = 0
        return followed.progress

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
        for uid, followed in list(self._pods.items()):
            followed.unasked += 1
            if followed.unasked > FORGOTTEN_AFTER:
                del self._pods[uid]
                continue
            path = PODS.path(followed.key.namespace, followed.key.name, subresource="log")
            with contextlib.suppress(ApiError):
                answer = await self.client.raw("GET", path, params={"tailLines": TAIL_LINES})
                if answer.status == 200:
                    lines = answer.body.decode(errors="replace").splitlines()
                    followed.progress = latest_progress(lines) or followed.progress
