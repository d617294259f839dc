# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""A tuning over several pods: what they tell each other, and when an attempt to train is over. Pure.

The pod's index is its rank. Rank 0 leads: it says when an attempt begins and where, and keeps the state. The others ask
it every second what to do. An attempt cannot lose a rank nor take a new one in: when one is lost, all end the attempt,
and the next one begins from the last checkpoint once all are there. `meeting.py` carries the words.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from pydantic import Field

from kaito.api.contracts import Contract
from kaito.api.names import REASON_INVALID_SPEC
from kaito.runtime.failure import Failed

SILENT_AFTER_S = 30.0
"""How long a rank may be silent before it counts as lost."""
_OF_ANOTHER = re.compile(r"by peer|[Cc]onnection|[Bb]roken pipe|NCCL|[Rr]endezvous|Dist\w*Error|[Tt]imed? ?out")
"""What a rank says that ended because another one did."""


class Report(Contract):
    """What a rank says of itself."""

    rank: int = Field(ge=1)
    life: str
    """Names one run of its pod; a new one means that it has started again."""
    is_ready: bool
    """Nothing trains there, and the next attempt may begin."""
    attempt: str = ""
    """The attempt that it trains in, or did last."""
    code: int = 0
    """How that one ended there, by itself; 0 too where it was given up. Of meaning once it is ready again."""
    said: str = Field(default="", max_length=1000)
    """The line that tells why."""


class Order(Contract):
    """What rank 0 answers."""

    attempt: str = ""
    """The attempt to be in; empty for none."""
    address: str = ""
    port: int = 0
    """Where its processes meet."""
    divisor: int = 1
    """Of the micro batch."""
    is_done: bool = False
    """The result is where it should be: nothing more is to be done."""


@dataclass(frozen=True, slots=True)
class Ended:
    """How an attempt ended."""

    code: int
    """0 when rank 0 has the result; else what the first rank ended with that did by itself."""
    rank: int = 0
    said: str = ""
    is_lost: bool = False
    """A rank was lost meanwhile, so that the code says nothing about the training."""


def rank_of(nodes: int, index: str | None, hostname: str) -> int:
    """This pod's rank: the index that Kubernetes gives it; raises Failed when it has none or one too many."""
    rank = int(index) if index is not None and re.fullmatch(r"[0-9]+", index) else -1
    if not 0 <= rank < nodes:
        raise Failed(
            REASON_INVALID_SPEC,
            f"The tuning runs in {nodes} pods, and this one ({hostname}) has no index below that.",
            "Run it in an Indexed Job whose completions are as many as the TuneConfig's nodes.",
        )
    return rank


@dataclass(slots=True)
class Peer:
    """What is known of another rank."""

    report: Report
    seen: float


@dataclass(slots=True)
class Muster:
    """All ranks but the first, as that one sees them."""

    nodes: int
    order: Order = field(default_factory=Order)
    peers: dict[int, Peer] = field(default_factory=dict)
    lives: dict[int, str] = field(default_factory=dict)
    """Who took part when the attempt began."""
    last: str = ""
    """The attempt that began last, also when it is over."""
    ends: list[Ended] = field(default_factory=list)
    """How ranks ended that one badly by themselves, in the order that it was heard of."""

    def heard(self, report: Report, now: float) -> Order:
        """Note what a rank says; what it is to do. Raises ValueError for a rank that there is not."""
        if report.rank >= self.nodes:
            raise ValueError(f"there is no rank {report.rank}")
        self.peers[report.rank] = Peer(report, now)
        if report.is_ready and report.attempt == self.last != "" and report.code != 0:
            self.fail(Ended(report.code, report.rank, report.said))
        return self.order

    def fail(self, ended: Ended) -> None:
        """A rank has ended the attempt badly by itself."""
        if all(one.rank != ended.rank for one in self.ends):
            self.ends.append(ended)

    def culprit(self) -> Ended | None:
        """The rank that the others ended for, as far as it shows: the first that does not complain of another one."""
        own = (one for one in self.ends if not _OF_ANOTHER.search(one.said))
        return next(own, self.ends[0] if self.ends else None)

    def missing(self, now: float) -> list[int]:
        """The ranks that the next attempt waits for."""
        return [rank for rank in range(1, self.nodes) if not self._is_ready(rank, now)]

    def _is_ready(self, rank: int, now: float) -> bool:
        peer = self.peers.get(rank)
        return peer is not None and peer.report.is_ready and not self._is_silent(peer, now)

    def _is_silent(self, peer: Peer, now: float) -> bool:
        return now - peer.seen > SILENT_AFTER_S

    def begin(self, order: Order) -> None:
        """An attempt begins."""
        self.order, self.last, self.ends = order, order.attempt, []
        self.lives = {rank: peer.report.life for rank, peer in self.peers.items()}

    def call_off(self) -> None:
        """The attempt is over: all are to end it."""
        self.order = Order(divisor=self.order.divisor)

    def lost(self, now: float) -> list[int]:
        """The ranks of the attempt that are silent or have started again."""
        return [
            rank
            for rank, peer in sorted(self.peers.items())
            if self._is_silent(peer, now) or peer.report.life != self.lives.get(rank)
        ]

    def trouble(self, now: float) -> str:
        """Why the attempt cannot go on, as the end of a sentence; empty while it can."""
        if not self.order.attempt:
            return ""
        lost = self.lost(now)
        if lost:
            return f"rank {lost[0]} is lost"
        first = self.culprit()
        return f"rank {first.rank} has ended with code {first.code}" if first else ""
