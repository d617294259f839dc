# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""The last look before the cloud is asked: at what the API server itself holds, not at a cache. Pure.

A cache may lag, and a replica that was paused may go on with an old plan. What counts for the cloud is read afresh.
"""

from __future__ import annotations

from kaito.api import nodeclaims as names
from kaito.kube.manifest import Manifest, annotations_of
from kaito.provisioner.budget import granted
from kaito.provisioner.claim import Attempt, Replaced
from kaito.provisioner.instances import Create, Instance


def may_create(call: Create, claim: Manifest | None, budget: Manifest | None) -> bool:
    """Whether the claim still asks for this very attempt and has room reserved for it."""
    order = call.order
    if claim is None or claim["metadata"]["uid"] != order.claim_uid or claim["metadata"].get("deletionTimestamp"):
        return False
    notes = annotations_of(claim)
    attempt = Attempt.parse(notes.get(names.ATTEMPT_ANNOTATION, ""))
    if attempt != Attempt.of(order.attempt, order.offer):
        return False
    if Replaced.parse(notes.get(names.REPLACED_ANNOTATION, "")).up_to >= order.attempt:
        return False
    grant = granted(budget, order.claim_uid)
    return grant is not None and (order.offer.dollars or 0.0) <= grant + 1e-9


def is_orphan(instance: Instance, claims: list[Manifest | None]) -> bool:
    """Whether none of the objects that have the claim's name is the machine's claim."""
    found = [claim for claim in claims if claim is not None]
    return all(instance.claim_uid and claim["metadata"]["uid"] != instance.claim_uid for claim in found)
