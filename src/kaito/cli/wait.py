# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Watching a Workspace become Ready, phase by phase, with the seconds that each took."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass

from rich.console import Console

from kaito.api.kinds import WORKSPACES
from kaito.cli import phases
from kaito.cli.failure import UserError
from kaito.kube.client import Client
from kaito.kube.errors import NotFound
from kaito.kube.manifest import Key, Manifest
from kaito.kube.resource import PODS

POLL_S = 0.2
GIVE_UP_STUCK_AFTER_S = 3.0
"""How long a state that needs the user may last before we stop waiting: the operator may still correct itself."""


@dataclass(frozen=True, slots=True)
class Step:
    """One look at the Workspace."""

    phase: int
    """Index into phases.PHASES of what is reached."""
    seconds: float
    """Since waiting began."""
    waiting_for: str


async def until_ready(client: Client, key: Key, *, timeout_s: float) -> AsyncIterator[Step]:
    """Yields on every look until Ready. Raises UserError when it cannot become ready, or not in time."""
    began = time.monotonic()
    stuck_since: float | None = None
    while True:
        now = time.monotonic() - began
        workspace, pod = await _read(client, key)
        phase = phases.phase_index(workspace, pod)
        why = phases.trouble(workspace)
        yield Step(phase, now, why.message if why else "")
        if why is None:
            return
        stuck_since = (stuck_since if stuck_since is not None else now) if why.needs_action else None
        if stuck_since is not None and now - stuck_since >= GIVE_UP_STUCK_AFTER_S:
            raise UserError(f"{key.name} cannot become Ready: {why.message}", f"More: kaito get {key.name}")
        if now > timeout_s:
            raise UserError(
                f"{key.name} is not Ready after {timeout_s:g} s: {why.message}", f"Look: kaito logs {key.name}"
            )
        await asyncio.sleep(POLL_S)


async def show_phases(console: Console, client: Client, key: Key, *, timeout_s: float) -> None:
    """Print each phase of a Workspace as it is reached, and what is waited for meanwhile."""
    shown, since = -1, 0.0
    with console.status("Waiting ...") as status:
        async for step in until_ready(client, key, timeout_s=timeout_s):
            while shown < step.phase:
                shown += 1
                console.print(f"  {phases.PHASES[shown]:<16}{step.seconds - since:6.1f} s", highlight=False)
                since = step.seconds
            status.update(f"{step.waiting_for or 'Waiting'} ({step.seconds:.0f} s)")


async def until_gone(client: Client, key: Key) -> None:
    """Return when the Workspace is there no more."""
    while True:
        try:
            await client.get(WORKSPACES, key.name, key.namespace)
        except NotFound:
            return
        await asyncio.sleep(POLL_S)


async def _read(client: Client, key: Key) -> tuple[Manifest, Manifest | None]:
    workspace = await client.get(WORKSPACES, key.name, key.namespace)
    try:
        return workspace, await client.get(PODS, f"{key.name}-0", key.namespace)
    except NotFound:
        return workspace, None
