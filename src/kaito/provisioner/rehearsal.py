# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""A dry run: says as an event what would be asked of the cloud for a claim, and changes nothing. Pure."""

from __future__ import annotations

from datetime import datetime

from kaito.api import nodeclaims as names
from kaito.kube.plan import Event, Plan
from kaito.provisioner.launching import next_offer
from kaito.provisioner.observe import Observed

AGAIN_S = 300.0


def rehearse(observed: Observed, now: datetime) -> Plan:
    """The plan that only speaks."""
    claim = observed.claim
    if claim is None or not observed.sight.listed:
        return Plan(requeue_after_s=None if claim is None else 5.0)
    instance = observed.sight.instance
    text = ""
    if claim.deleted is not None:
        text = f"would empty the node and delete {instance.id}" if instance is not None else "would let the claim go"
    elif instance is None:
        offer = next_offer(claim, observed.fleet, now)
        if claim.complaint:
            text = f"would refuse the claim: {claim.complaint}"
        elif offer is None:
            text = f"would refuse the claim: {observed.fleet.market.complaint(claim.wish)[1]}"
        else:
            price = f" for up to ${offer.dollars:g} per hour" if offer.dollars is not None else ""
            text = f"would make a {offer}{price}"
    if not text:
        return Plan()
    return Plan(events=(Event(claim.manifest, names.EVENT_DRY_RUN, f"Dry run: {text}."),), requeue_after_s=AGAIN_S)
