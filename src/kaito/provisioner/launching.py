# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""The first stage of a claim: its machine. Which one to ask for, when, and what to say while there is none. Pure.

An attempt is written on the claim before the cloud hears of it, and the cloud is asked for that very attempt until it
has answered for certain. So however often the answer is lost, and whoever asks again, there is one machine.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from kaito.api import nodeclaims as names
from kaito.kube.manifest import Key, Manifest, labels_of
from kaito.kube.plan import Event, Patch
from kaito.provisioner import errors
from kaito.provisioner.claim import Attempt, Claim, Condition
from kaito.provisioner.fleet import Fleet, Outcome
from kaito.provisioner.instances import Create, Instance, Order
from kaito.provisioner.offers import Market, Offer

REASONS: Mapping[type[errors.CloudError], tuple[str, str]] = {
    errors.OutOfCapacity: (names.REASON_CAPACITY, "insufficient capacity"),
    errors.QuotaExceeded: (names.REASON_QUOTA, "quota exceeded"),
    errors.Unauthorised: (names.REASON_UNAUTHORISED, "not authorized"),
    errors.NameTaken: (names.REASON_NAME_TAKEN, "the machine's name is taken by another owner"),
    errors.Rejected: (names.REASON_REJECTED, "the cloud refuses the request"),
    errors.Throttled: (names.REASON_THROTTLED, "the cloud asks to slow down"),
    errors.Unclear: (names.REASON_UNCLEAR, "the cloud did not answer"),
}
"""The condition's reason and how its message begins, by how a call ended."""
UNREGISTERED = {"key": names.UNREGISTERED_TAINT, "effect": "NoExecute"}
MOST_TEXT = 600


@dataclass(frozen=True, slots=True)
class Stage:
    """What a stage makes of a claim."""

    conditions: tuple[Condition, ...]
    patches: tuple[Patch, ...] = ()
    calls: tuple[Create, ...] = ()
    events: tuple[Event, ...] = ()
    status: Mapping[str, object] = field(default_factory=dict)
    again_s: float | None = None
    done: bool = False
    """Whether the next stage may start."""


def next_offer(claim: Claim, fleet: Fleet, now: datetime) -> Offer | None:
    """The cheapest machine that the claim allows and that is not known to be out of stock."""
    for offer in fleet.market.matching(claim.wish):
        if fleet.stockout(offer, now) is None:
            return offer
    return None


def launch(claim: Claim, instance: Instance | None, outcome: Outcome | None, fleet: Fleet, *, grant: float | None,
           room: str, needs_price: bool, now: datetime) -> Stage:  # fmt: skip
    """The stage, for a claim that is to have a machine. `grant`: the dollars reserved for it, if any are; `room`: how
    full the budget is, in words; `needs_price`: there is a limit on dollars."""
    if instance is not None and instance.is_up:
        return _launched(claim, instance, fleet.market)
    if claim.complaint:
        return _said("False", names.REASON_IMPOSSIBLE, f"incompatible with this provisioner: {claim.complaint}.")
    if not fleet.market.matching(claim.wish):
        is_type, text = fleet.market.complaint(claim.wish)
        return _said("False", names.REASON_NO_TYPE if is_type else names.REASON_IMPOSSIBLE, f"{text}.")
    waits_s = (outcome.retry_at - now).total_seconds() if outcome is not None else 0.0
    if waits_s > 0:
        return _waiting(claim, outcome, waits_s)
    if is_open(claim, outcome):
        attempt = claim.live_attempt
        assert attempt is not None
        return _ask_again(claim, attempt, fleet.market, outcome)
    return _ask_anew(claim, outcome, fleet, grant=grant, room=room, needs_price=needs_price, now=now)


def is_open(claim: Claim, outcome: Outcome | None) -> bool:
    """Whether there is an attempt whose end is not known for certain."""
    attempt = claim.live_attempt
    if attempt is None:
        return False
    return outcome is None or outcome.attempt != attempt.number or not isinstance(outcome.error, errors.Refused)


def _said(status: str, reason: str, message: str, again_s: float | None = None) -> Stage:
    return Stage((Condition(names.LAUNCHED, status, reason, message[:MOST_TEXT]),), again_s=again_s)


def _launched(claim: Claim, instance: Instance, market: Market) -> Stage:
    labels = {
        names.INSTANCE_TYPE_LABEL: instance.instance_type,
        names.CAPACITY_TYPE_LABEL: instance.capacity_type,
        **({names.ZONE_LABEL: instance.zone} if instance.zone else {}),
    }
    missing = {key: value for key, value in labels.items() if labels_of(claim.manifest).get(key) != value}
    patches = (Patch(claim.resource, Key("", claim.name), {"metadata": {"labels": missing}}),) if missing else ()
    status: dict[str, object] = {}
    if instance.provider_id:
        status["providerID"] = instance.provider_id
    if instance.image:
        status["imageID"] = instance.image
    offer = market.of_type(instance.instance_type)
    if offer is not None and offer.gpus:
        status["capacity"] = {names.GPU_RESOURCE: str(offer.gpus)}
    events: tuple[Event, ...] = ()
    if not claim.reached(names.LAUNCHED):
        text = f"{instance.id}: a {instance.instance_type}, {instance.capacity_type}, starts"
        events = (
            Event(claim.manifest, names.EVENT_LAUNCHED, f"{text} in {instance.zone}." if instance.zone else f"{text}."),
        )
    return Stage((Condition(names.LAUNCHED, "True"),), patches, events=events, status=status, done=True)


def _waiting(claim: Claim, outcome: Outcome | None, waits_s: float) -> Stage:
    assert outcome is not None
    reason, message = explained(outcome.error, claim.live_attempt)
    return _said("Unknown", reason, message, again_s=waits_s)


def explained(error: errors.CloudError | None, attempt: Attempt | None) -> tuple[str, str]:
    """The condition's reason and message for an error: ours, then the cloud's own words."""
    if error is None:
        return names.REASON_WAITING, "The cloud is asked for the machine."
    reason, lead = REASONS.get(type(error), (names.REASON_LAUNCH_FAILED, "launching failed"))
    text = " ".join(str(error).split())
    what = " ".join(part for part in (attempt.instance_type, attempt.zone) if part) if attempt else ""
    return reason, f"{what}: {lead}: {text}" if what else f"{lead}: {text}"


def _ask_again(claim: Claim, attempt: Attempt, market: Market, outcome: Outcome | None) -> Stage:
    offer = market.named(attempt.instance_type, attempt.zone, attempt.capacity_type)
    if offer is None:
        offer = Offer(
            attempt.instance_type, attempt.zone, "spot" if attempt.capacity_type == "spot" else "on-demand", None, 0
        )
    error = outcome.error if outcome is not None and outcome.attempt == attempt.number else None
    reason, message = explained(error, attempt)
    condition = Condition(names.LAUNCHED, "Unknown", reason, message[:MOST_TEXT])
    return Stage((condition,), calls=(Create(_order(claim, attempt, offer), claim.resource),))


def _ask_anew(claim: Claim, outcome: Outcome | None, fleet: Fleet, *, grant: float | None, room: str,
              needs_price: bool, now: datetime) -> Stage:  # fmt: skip
    offer = next_offer(claim, fleet, now)
    if offer is None:
        return _out_of_stock(claim, fleet, now)
    if needs_price and offer.dollars is None:
        text = f"{offer.instance_type}: no price is known and dollars are limited: lift the limit, or use another type."
        return _said("False", names.REASON_PRICE, text)
    if grant is None or (offer.dollars or 0.0) > grant + 1e-9:
        price = f", this one takes up to ${offer.dollars:g}" if offer.dollars else ""
        text = f"waits for room in NodeBudget default ({room}{price}): raise its limit, or delete what is not needed."
        return _said("Unknown", names.REASON_BUDGET, text)
    last = claim.attempt.number if claim.attempt is not None else 0
    attempt = Attempt.of(max(last, claim.replaced.up_to) + 1, offer)
    reason, message = explained(outcome.error if outcome is not None else None, claim.attempt)
    return Stage(
        (Condition(names.LAUNCHED, "Unknown", reason, message[:MOST_TEXT]),),
        patches=(annotated(claim, {names.ATTEMPT_ANNOTATION: str(attempt)}),),
        calls=(Create(_order(claim, attempt, offer), claim.resource),),
    )


def _out_of_stock(claim: Claim, fleet: Fleet, now: datetime) -> Stage:
    found = [(offer, fleet.stockout(offer, now)) for offer in fleet.market.matching(claim.wish)]
    known = [(offer, stockout) for offer, stockout in found if stockout is not None]
    soonest = min(stockout.until for _, stockout in known)
    offer, stockout = known[0]
    others = f" (and {len(known) - 1} other offers)" if len(known) > 1 else ""
    text = f"{offer}{others}: insufficient capacity: {' '.join(stockout.text.split())}"
    return _said("Unknown", names.REASON_CAPACITY, text, again_s=max(1.0, (soonest - now) / timedelta(seconds=1)))


def annotated(claim: Claim, notes: Mapping[str, str | None]) -> Patch:
    """Write annotations, if nobody has changed the claim since it was read."""
    meta: Manifest = {"resourceVersion": claim.manifest["metadata"]["resourceVersion"], "annotations": dict(notes)}
    return Patch(claim.resource, Key("", claim.name), {"metadata": meta})


def _order(claim: Claim, attempt: Attempt, offer: Offer) -> Order:
    return Order(
        claim=claim.name,
        claim_uid=claim.uid,
        attempt=attempt.number,
        offer=offer,
        labels=labels_of(claim.manifest),
        taints=(*claim.taints, UNREGISTERED),
        disk_gib=claim.disk_gib,
        image_family=claim.image_family,
    )
