# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""The hard limit on machines and on dollars per hour: who may have one is granted in one object, NodeBudget/default.

Its `spec` holds the limits that people set, its `status` a reservation for each claim. A claim's plan asks the cloud
for nothing that is not reserved. A reservation is made by a write that fails if anybody, another replica or a person
who lowers a limit, has changed the object since it was read; so the sum is never above the limit, however stale the
other caches are. It is dropped only for what stays true: its claim is being deleted and certainly has no machine.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from kaito.api import nodeclaims as names
from kaito.kube.manifest import Key, Manifest
from kaito.kube.plan import Create, Patch, Plan, Reader
from kaito.kube.resource import Resource
from kaito.provisioner.claim import Claim, moment, read_claim, stamp
from kaito.provisioner.fleet import Fleet
from kaito.provisioner.instances import Instance
from kaito.provisioner.launching import next_offer
from kaito.provisioner.observe import BUDGET, CLAIM_KINDS, is_ours
from kaito.provisioner.settings import Settings

MISSING_S: Final = 300.0
"""A claim that was removed by force keeps its reservation for so long: a cache may just not have it yet."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What is allowed; None for no limit."""

    nodes: int | None
    dollars: float | None


@dataclass(frozen=True, slots=True)
class Reservation:
    """What one claim may cost."""

    claim: str
    dollars: float
    missing_since: str = ""


@dataclass(frozen=True, slots=True)
class Books:
    """What the budget looks at."""

    budget: Manifest | None
    claims: tuple[Claim, ...]
    fleet: Fleet


def limits(settings: Settings, budget: Manifest | None) -> Limits:
    """The stricter of the flags and the object, for each of the two."""
    spec = (budget or {}).get("spec") or {}
    nodes = [limit for limit in (settings.max_nodes or None, spec.get("maxNodes")) if limit is not None]
    dollars = [
        limit for limit in (settings.max_dollars_per_hour or None, spec.get("maxDollarsPerHour")) if limit is not None
    ]
    return Limits(min(map(int, nodes), default=None), min(map(float, dollars), default=None))


def granted(budget: Manifest | None, uid: str) -> float | None:
    """The dollars that are reserved for the claim; None without a reservation."""
    found = (((budget or {}).get("status") or {}).get("reservations") or {}).get(uid)
    return None if found is None else float(found.get("dollarsPerHour") or 0.0)


def standing(settings: Settings, budget: Manifest | None) -> str:
    """How full the budget is, in words."""
    status, allowed = (budget or {}).get("status") or {}, limits(settings, budget)
    parts = []
    if allowed.nodes is not None:
        parts.append(f"{status.get('nodes') or 0} of {allowed.nodes} nodes")
    if allowed.dollars is not None:
        parts.append(f"${status.get('dollarsPerHour') or 0:g} of ${allowed.dollars:g} per hour")
    return " and ".join(parts) or "no limit is set"


def observe_books(reader: Reader, key: Key, fleet: Fleet, settings: Settings) -> Books | None:
    """All claims of ours beside the budget; None for a budget of another name, which means nothing."""
    if key.name != BUDGET:
        return None
    claims = [
        read_claim(manifest, kind)
        for kind in CLAIM_KINDS
        for manifest in reader.list(kind)
        if is_ours(manifest, kind, settings)
    ]
    return Books(reader.get(names.NODE_BUDGETS, BUDGET), tuple(claims), fleet)


def plan_budget(books: Books, settings: Settings, now: datetime) -> Plan:
    """Reserve for whoever waits and fits, oldest first; drop what is over."""
    if books.budget is None:
        return Plan(create=(Create(empty_budget()),))
    if not books.fleet.sight("", "").listed:
        return Plan(requeue_after_s=1.0)
    before = _reservations(books.budget)
    claims = {claim.uid: claim for claim in books.claims}
    kept = _kept(before, claims, books.fleet, now)
    after = _granted(kept, claims, books, limits(settings, books.budget), now)
    orphans = _orphans(after, books.fleet)
    status = _status(before, after, orphans, books)
    requeue = 30.0 if any(r.missing_since for r in after.values()) else None
    if not status:
        return Plan(requeue_after_s=requeue)
    body = {"metadata": {"resourceVersion": books.budget["metadata"]["resourceVersion"]}, "status": status}
    return Plan(
        patches=(Patch(names.NODE_BUDGETS, Key("", BUDGET), body, subresource="status"),), requeue_after_s=requeue
    )


def empty_budget() -> Manifest:
    """The object that is made where there is none."""
    kind: Resource = names.NODE_BUDGETS
    return {"apiVersion": kind.api_version, "kind": kind.kind, "metadata": {"name": BUDGET}, "spec": {}}


def _reservations(budget: Manifest) -> dict[str, Reservation]:
    found = ((budget.get("status") or {}).get("reservations") or {}).items()
    return {
        uid: Reservation(
            str(r.get("claim", "")), float(r.get("dollarsPerHour") or 0.0), str(r.get("missingSince") or "")
        )
        for uid, r in found
    }


def _kept(
    before: Mapping[str, Reservation], claims: Mapping[str, Claim], fleet: Fleet, now: datetime
) -> dict[str, Reservation]:
    kept = {}
    for uid, reservation in before.items():
        claim = claims.get(uid)
        if claim is not None and _is_over(claim, fleet):
            continue
        if claim is not None:
            kept[uid] = replace(reservation, missing_since="")
            continue
        since = moment(reservation.missing_since) or now
        if now - since < timedelta(seconds=MISSING_S) or not fleet.is_absent(reservation.claim, uid, since):
            kept[uid] = replace(reservation, missing_since=stamp(since))
    return kept


def _granted(
    kept: Mapping[str, Reservation], claims: Mapping[str, Claim], books: Books, allowed: Limits, now: datetime
) -> dict[str, Reservation]:
    after = dict(kept)
    orphans = _orphans(kept, books.fleet)
    nodes = len(after) + sum(1 for orphan in orphans if orphan.claim_uid not in claims)
    dollars = sum(r.dollars for r in after.values())
    dollars += sum(_price(books.fleet, orphan) for orphan in orphans if orphan.claim_uid not in claims)
    for claim in sorted(claims.values(), key=lambda claim: (claim.created, claim.name)):
        if _is_over(claim, books.fleet):
            continue
        held = after.get(claim.uid)
        wanted, exists = _needs(claim, books.fleet, now)
        if wanted is not None and held is not None and not _is_up(claim, books.fleet):
            wanted = max(wanted, held.dollars)  # only a machine that is there makes a claim cheaper
        if wanted is None or (held is not None and held.dollars == wanted):
            continue
        more_nodes, more_dollars = (0 if held else 1), wanted - (held.dollars if held else 0.0)
        # What exists is written down whatever the limits say, and frees nothing by being ignored.
        if (
            exists
            or (more_dollars <= 0 and not more_nodes)
            or _fits(nodes + more_nodes, dollars + more_dollars, allowed)
        ):
            after[claim.uid] = Reservation(claim.name, wanted)
            nodes, dollars = nodes + more_nodes, dollars + more_dollars
    return after


def _is_over(claim: Claim, fleet: Fleet) -> bool:
    """Whether the claim has no machine and will never have one again: it is being deleted, which is not undone."""
    if claim.deleted is None:
        return False
    return claim.attempt is None or fleet.is_absent(claim.name, claim.uid, claim.deleted)


def _fits(nodes: int, dollars: float, allowed: Limits) -> bool:
    within = allowed.nodes is None or nodes <= allowed.nodes
    return within and (allowed.dollars is None or dollars <= allowed.dollars + 1e-9)


def _needs(claim: Claim, fleet: Fleet, now: datetime) -> tuple[float | None, bool]:
    """The dollars to reserve for a claim, None for nothing (more); and whether its machine may exist already."""
    attempt = claim.attempt
    asked = fleet.market.named(attempt.instance_type, attempt.zone, attempt.capacity_type) if attempt else None
    instance = fleet.of_claim(claim.name, claim.uid)
    if instance is not None and instance.state != "gone":
        return max(_price(fleet, instance), _dollars(asked)), True
    if claim.deleted is not None or claim.complaint:
        return (_dollars(asked), True) if asked is not None else (None, False)
    offer = next_offer(claim, fleet, now)
    if offer is None or (offer.dollars is None and asked is None):
        return (_dollars(asked), True) if asked is not None else (None if offer is None else 0.0, False)
    # Until a refusal is told the machine of the last attempt may exist; a dearer one needs room of its own.
    return max(_dollars(offer), _dollars(asked)), False


def _is_up(claim: Claim, fleet: Fleet) -> bool:
    instance = fleet.of_claim(claim.name, claim.uid)
    return instance is not None and instance.is_up


def _dollars(offer: object) -> float:
    return float(getattr(offer, "dollars", None) or 0.0)


def _price(fleet: Fleet, instance: Instance) -> float:
    return _dollars(fleet.market.of_type(instance.instance_type))


def _orphans(reserved: Mapping[str, Reservation], fleet: Fleet) -> list[Instance]:
    """Machines that nobody has reserved: they cost all the same."""
    return [i for i in fleet.instances() if i.state != "gone" and i.claim_uid and i.claim_uid not in reserved]


def _status(
    before: Mapping[str, Reservation], after: Mapping[str, Reservation], orphans: Iterable[Instance], books: Books
) -> Manifest:
    """What to change of the status; empty when it is as it should be."""
    changed: Manifest = {
        uid: {"claim": r.claim, "dollarsPerHour": r.dollars, "missingSince": r.missing_since or None}
        for uid, r in after.items()
        if before.get(uid) != r
    }
    changed |= {uid: None for uid in before if uid not in after}
    extra = list(orphans)
    sums = {
        "nodes": len(after) + len(extra),
        "dollarsPerHour": round(sum(r.dollars for r in after.values()) + sum(_price(books.fleet, i) for i in extra), 4),
    }
    current = (books.budget or {}).get("status") or {}
    differs = any(current.get(name) != value for name, value in sums.items())
    return {**({"reservations": changed} if changed else {}), **sums} if changed or differs else {}
