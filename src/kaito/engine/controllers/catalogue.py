# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""All of the engine's controllers, ready for a `kaito.kube.controller.Manager`.

`controllers` are there for the engine's life. `collectors` see every served kind: when a custom kind comes or goes,
take the old ones out of the Manager (by `COLLECTOR_NAMES`) and add new ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from kaito.engine.controllers import (
    aggregation,
    cronjob,
    daemonset,
    deployment,
    disruption,
    endpointslice,
    garbage,
    job,
    namespace,
    nodelifecycle,
    podgc,
    quota,
    replicaset,
    scheduler,
    statefulset,
    volume,
)
from kaito.kube.plan import Controller
from kaito.kube.resource import Resource

AnyController = Controller[Any]
COLLECTOR_NAMES = ("garbage-collector", "namespace-controller", quota.NAME)


@dataclass(frozen=True, slots=True)
class Settings:
    """What the controllers need to know of the engine that they run in."""

    started: datetime
    """When this engine started: nodes are not judged for the time before."""
    volume_root: str
    """The folder under which volumes are made."""
    authority: str
    """The server's CA certificate (PEM), which every namespace's `kube-root-ca.crt` holds."""


def controllers(settings: Settings) -> tuple[AnyController, ...]:
    """The controllers that know beforehand which kinds they look at."""
    return (
        replicaset.controller(),
        deployment.controller(),
        statefulset.controller(),
        daemonset.controller(),
        job.controller(),
        cronjob.controller(),
        endpointslice.controller(),
        scheduler.controller(),
        nodelifecycle.controller(settings.started),
        podgc.controller(),
        disruption.controller(),
        aggregation.controller(),
        namespace.furnisher(settings.authority),
        volume.class_installer(),
        volume.binder(settings.volume_root),
        volume.reclaimer(),
    )


def collectors(resources: Sequence[Resource]) -> tuple[AnyController, ...]:
    """The controllers that see everything; `resources`: one for each served kind, in one version."""
    return (garbage.controller(resources), namespace.emptier(resources), quota.controller(resources))
