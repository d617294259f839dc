# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""A model of ordering nodes, small enough to be looked at whole: claims in a few phases, operators with views that lag.

The decisions are the operator's own (`claims.supply`); here are only the API server (names exist once, writes may be
conditional), the cloud, and what an operator sees of both. Manifests are made once and kept, so that thousands of
histories take seconds.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import NamedTuple

from kaito.api import names
from kaito.kube.manifest import Key, Manifest, rfc3339
from kaito.operator.provisioners.claims import Shape, supply
from kaito.operator.provisioners.ledger import Ledger
from kaito.operator.provisioners.nodeclaim import NODE_CLAIMS, POOL_LABEL
from kaito.operator.provisioners.supply import Demand, Stock, Supply
from kaito.operator.provisioners.wish import Wish
from tests.builders import node, workspace

NEW, JOINED, READY, LOST = range(4)
"""An order; a machine that joined; a node that is ready; a node that is gone."""
EPOCH = datetime(2026, 1, 1, tzinfo=UTC)
DEMO = Key("default", "demo")
WISH = Wish(instance_type="Standard_NC24ads_A100_v4", owner=DEMO)
WORKSPACE = workspace()


class Claim(NamedTuple):
    """One claim as the API server has it."""

    name: str
    uid: int
    born: int
    """Seconds since the epoch of the model, as all times here."""
    phase: int = NEW
    since: int = 0
    is_deleting: bool = False


def at(seconds: int) -> str:
    return rfc3339(EPOCH + timedelta(seconds=seconds))


@lru_cache(maxsize=100_000)
def manifest(claim: Claim) -> Manifest:
    meta: Manifest = {"name": claim.name, "uid": str(claim.uid), "creationTimestamp": at(claim.born)}
    if claim.is_deleting:
        meta["deletionTimestamp"] = at(claim.since)
    found: Manifest = {"apiVersion": NODE_CLAIMS.api_version, "kind": NODE_CLAIMS.kind, "metadata": meta, "status": {}}
    if claim.phase != NEW:
        stages = {"Launched": True, "Registered": True, "Ready": claim.phase == READY}
        found["status"] = {
            "nodeName": f"node-{claim.uid}",
            "conditions": [
                {"type": type_, "status": str(reached), "lastTransitionTime": at(claim.since)}
                for type_, reached in stages.items()
            ],
        }
    return found


@lru_cache(maxsize=100_000)
def machine(claim: Claim) -> Manifest:
    made = node(f"node-{claim.uid}", ready=claim.phase == READY, metadata={"labels": {POOL_LABEL: "kaito"}})
    made["metadata"]["labels"][names.ACCELERATOR_LABEL] = "nvidia"
    made["status"]["conditions"][0]["lastTransitionTime"] = at(claim.since)
    return made


def _claim(demand: Demand, name: str) -> Manifest:
    return {"apiVersion": NODE_CLAIMS.api_version, "kind": NODE_CLAIMS.kind, "metadata": {"name": name}}


SHAPES = (Shape(NODE_CLAIMS, POOL_LABEL, _claim),)


@dataclass(slots=True)
class Server:
    """The API server's truth."""

    claims: dict[str, Claim] = field(default_factory=dict)
    ledger: str = ""
    version: int = 0
    """Of the Workspace, which carries the ledger."""
    target: int = 1
    waiting_since: int | None = None
    uids: int = 0
    now: int = 0

    @property
    def live(self) -> list[Claim]:
        return [claim for claim in self.claims.values() if not claim.is_deleting]

    def create(self, name: str) -> None:
        """A name that is taken stays as it is."""
        if name not in self.claims:
            self.uids += 1
            self.claims[name] = Claim(name, self.uids, self.now, since=self.now)

    def delete(self, name: str, uid: str | None) -> None:
        found = self.claims.get(name)
        if found is not None and str(found.uid) == uid and not found.is_deleting:
            self.claims[name] = found._replace(is_deleting=True, since=self.now)

    def note(self, ledger: str, version: int) -> bool:
        """A conditional write; whether it was taken."""
        if version != self.version:
            return False
        self.ledger, self.version = ledger, version + 1
        return True

    def move(self, name: str) -> None:
        """The cloud takes a claim one step further; a deleted one goes for good."""
        claim = self.claims[name]
        if claim.is_deleting:
            del self.claims[name]
        elif claim.phase < READY:
            self.claims[name] = claim._replace(phase=claim.phase + 1, since=self.now)

    def lose(self, name: str) -> None:
        claim = self.claims[name]
        if claim.phase in (JOINED, READY):
            self.claims[name] = claim._replace(phase=LOST, since=self.now)


@dataclass(slots=True)
class View:
    """What one operator knows."""

    claims: dict[str, Claim] = field(default_factory=dict)
    ledger: str = ""
    version: int = 0
    target: int = 1
    waiting_since: int | None = None

    def see_claims(self, server: Server) -> None:
        self.claims = dict(server.claims)

    def see_workspace(self, server: Server) -> None:
        self.ledger, self.version, self.target = server.ledger, server.version, server.target
        self.waiting_since = server.waiting_since


def decided(view: View, now: int) -> Supply:
    """What the operator would do, from what it sees."""
    return _decided(tuple(view.claims.values()), view.ledger, view.target, view.waiting_since, now)


@lru_cache(maxsize=200_000)
def _decided(claims: tuple[Claim, ...], ledger: str, target: int, waiting_since: int | None, now: int) -> Supply:
    nodes = tuple(machine(claim) for claim in claims if claim.phase in (JOINED, READY))
    stock = Stock(
        nodes=nodes,
        ours=nodes,
        orders=tuple(manifest(claim) for claim in claims),
        served=frozenset({NODE_CLAIMS}),
        ledger=Ledger.parse(ledger),
        waiting_since=None if waiting_since is None else EPOCH + timedelta(seconds=waiting_since),
    )
    return supply(Demand(WORKSPACE, WISH, target, 100), stock, EPOCH + timedelta(seconds=now), SHAPES)


def writes(wanted: Supply) -> Iterable[tuple[str, str, str | None]]:
    """What would be sent, in the order of a plan."""
    for text in (wanted.annotations or {}).values():
        yield "note", text, None
    for made in wanted.create:
        yield "create", made["metadata"]["name"], None
    for gone in wanted.delete:
        yield "delete", gone.key.name, gone.uid
