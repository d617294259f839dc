# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""The values that the node agent's decisions are made of: what runs, how it ended, what is in the way.

Plain frozen data, shared by the modules that look (`process`, `worker`), that decide (`lifecycle`, `status`) and that
do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from kaito.kube.manifest import Manifest


def all_containers(pod: Manifest) -> list[Manifest]:
    """Init containers, containers and ephemeral containers, in this order."""
    spec = pod["spec"]
    return [*(spec.get("initContainers") or []), *spec["containers"], *(spec.get("ephemeralContainers") or [])]


@dataclass(frozen=True, slots=True)
class Attempt:
    """One run of a container; a restart is the next attempt."""

    number: int
    container_id: str
    backoff: timedelta = timedelta(0)
    """How long this attempt had to wait after the end of the one before."""
    started_at: datetime | None = None
    finished_at: datetime | None = None
    exit_code: int | None = None
    signal: int = 0
    reason: str = ""
    message: str = ""

    @property
    def is_running(self) -> bool:
        """Whether the process lives."""
        return self.exit_code is None


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a container cannot be started now: the `waiting` reason and message that the user sees."""

    reason: str
    message: str
    since: datetime
    tries: int = 1


@dataclass(frozen=True, slots=True)
class ContainerView:
    """What is known of one container of a pod."""

    current: Attempt | None = None
    previous: Attempt | None = None
    problem: Problem | None = None
    started: bool = True
    """Whether the startup probe (if any) and the postStart hook have succeeded for the current attempt."""
    ready: bool = True
    """What the readiness probe (if any) says of the current attempt."""
    unhealthy: str = ""
    """Set when a startup or liveness probe or the postStart hook gave up: the message for the event."""
    stopping: bool = False
    image_id: str = ""

    @property
    def is_running(self) -> bool:
        """Whether its process lives."""
        return self.current is not None and self.current.is_running


@dataclass(frozen=True, slots=True)
class PodView:
    """Everything that `lifecycle.decide` looks at."""

    pod: Manifest
    containers: Mapping[str, ContainerView]
    address: str
    host_address: str
    volumes_ready: bool = True
    rejected: tuple[str, str] | None = None
    """Set when the node gives the pod up for good: the reason and message for its status."""


@dataclass(frozen=True, slots=True)
class Start:
    """Start the next attempt of a container."""

    container: str
    attempt: int
    backoff: timedelta = timedelta(0)


@dataclass(frozen=True, slots=True)
class Stop:
    """Ask a container's process to end, and kill it after the grace period."""

    container: str
    grace_s: float
    why: str = ""
    unhealthy: bool = False


@dataclass(frozen=True, slots=True)
class Remove:
    """Nothing runs any more and deletion was asked for: clean up and let the object go."""


Action = Start | Stop | Remove


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do now, what to tell, and when to look again at the latest."""

    status: Manifest
    actions: tuple[Action, ...] = ()
    wake_after_s: float | None = None
    prepare: bool = False
    """The volumes are needed."""
    waiting: Mapping[str, str] = field(default_factory=dict)
    """Containers in back-off, with the message for the event."""
