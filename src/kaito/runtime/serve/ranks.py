# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""A model over several pods: who has which rank, what each engine is told, and when a rank is taken to be lost. Pure.

The pod's index is its rank. Rank 0 has the API; the others run a headless engine that computes for it (vLLM's own
`--nnodes`, over its multiprocessing executor; no Ray). An engine cannot go on without one of its ranks, and cannot take
a new one in: when one is lost, all end and meet again.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from kaito.api.contracts import ServeConfig
from kaito.api.names import REASON_INVALID_SPEC
from kaito.runtime.failure import Failed

SILENT_AFTER_S = 30.0
"""How long another pod may be silent once all have met; a pod that is moved takes longer, and its rank is lost then."""
MEET_WITHIN_S = 1800.0
"""How long pods wait for each other at first: images are pulled and nodes come at their own speed."""


def rank_of(config: ServeConfig, index: str | None, hostname: str) -> int:
    """This pod's rank: the index that Kubernetes gives it, else the number at the end of its name; raises Failed when
    it has none or one too many."""
    if config.nodes == 1:
        return 0
    match = re.fullmatch(r"[0-9]+", index or "") or re.search(r"(?<=-)[0-9]+$", hostname)
    rank = int(match[0]) if match else -1
    if not 0 <= rank < config.nodes:
        raise Failed(
            REASON_INVALID_SPEC,
            f"The model is spread over {config.nodes} pods, and this one ({hostname}) has no index below that.",
            "Run it in a StatefulSet whose replicas are as many as the ServeConfig's nodes.",
        )
    return rank


def rank_options(config: ServeConfig, rank: int) -> dict[str, Any]:
    """What the engine of this rank is told; nothing where one pod has all of the model."""
    if config.nodes == 1:
        return {}
    options: dict[str, Any] = {
        "nnodes": config.nodes,
        "node-rank": rank,
        "master-addr": config.peers[0],
        "master-port": config.rendezvous_port,
        "distributed-executor-backend": "mp",
    }
    return options if rank == 0 else {**options, "headless": True}


@dataclass(slots=True)
class Peer:
    """What is known of another pod."""

    life: str | None = None
    """Names one run of it; a new one means that it has started again."""
    seen: float = 0.0


@dataclass(slots=True)
class Company:
    """The other pods, as this one sees them."""

    ranks: tuple[int, ...]
    started: float
    peers: dict[int, Peer] = field(default_factory=dict)

    def heard(self, rank: int, report: Mapping[str, Any] | None, now: float) -> str | None:
        """Note an answer (None: there was none); why the rank is lost, as a sentence, or None while it is not."""
        peer = self.peers.setdefault(rank, Peer())
        life = report.get("life") if report is not None else None
        if isinstance(life, str) and report is not None and report.get("status") != "stopping":
            if peer.life is not None and peer.life != life:
                return f"Rank {rank} has started again."
            peer.life, peer.seen = life, now
            return None
        if peer.life is None:
            waited = now - self.started
            return f"Rank {rank} has not come within {waited:.0f} s." if waited > MEET_WITHIN_S else None
        silent = now - peer.seen
        return f"Rank {rank} has been silent for {silent:.0f} s." if silent > SILENT_AFTER_S else None
