# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Ordering nodes, as values: what is needed, what there is, and what should be ordered or given back.

A node is ordered by creating an object (a claim) that somebody else, Karpenter or a cloud's provisioner, turns into a
machine. `claims.py` decides; `workspace/ordering.py` fills in these values from what was observed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from kaito.kube.manifest import Manifest
from kaito.kube.plan import Delete, Event, Patch
from kaito.kube.resource import Resource
from kaito.operator.provisioners.ledger import Ledger
from kaito.operator.provisioners.wish import Verdict, Wish


@dataclass(frozen=True, slots=True)
class Demand:
    """The nodes that a Workspace needs."""

    workspace: Manifest
    wish: Wish
    target: int
    """How many."""
    storage_gib: int
    """Disk space on each."""
    may_order: bool = True
    """False while it is not clear that the nodes would be of use: what there is stays, and nothing is ordered."""


@dataclass(frozen=True, slots=True)
class Stock:
    """What there is."""

    nodes: tuple[Manifest, ...] = ()
    """All of the cluster."""
    ours: tuple[Manifest, ...] = ()
    """Those that may serve the Workspace."""
    orders: tuple[Manifest, ...] = ()
    """Those of the Workspace, whatever their kind and whoever made them."""
    served: frozenset[Resource] = frozenset()
    """The kinds that the server has."""
    ledger: Ledger = field(default_factory=Ledger)
    waiting_since: datetime | None = None
    """Since when the status says that nodes are missing; None when it does not."""


@dataclass(frozen=True, slots=True)
class Supply:
    """What should be done about the Workspace's nodes."""

    verdict: Verdict
    """How the orders stand: what becomes NodeClaimReady."""
    create: tuple[Manifest, ...] = ()
    apply: tuple[Manifest, ...] = ()
    delete: tuple[Delete, ...] = ()
    patches: tuple[Patch, ...] = ()
    events: tuple[Event, ...] = ()
    annotations: Mapping[str, str] | None = None
    """What to note on the Workspace; None when nothing new is to be noted."""
    requeue_after_s: float | None = None
