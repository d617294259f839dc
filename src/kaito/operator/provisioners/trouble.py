# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""What is wrong with an order for a node: the provisioner's own words, what kind of trouble it is, and what to do.

Reads the lifecycle conditions that Karpenter's NodeClaims and the older Machines share.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import datetime

from kaito.api import names
from kaito.kube.manifest import Manifest, condition_of, is_true, parse_time
from kaito.operator.faults.table import found
from kaito.operator.provisioners.wish import Verdict

LIFECYCLE = ("Launched", "Registered", "Initialized")
"""In the order in which they become true. A Machine's have the prefix Machine."""
UNSPECIFIC = frozenset({"AwaitingReconciliation"})
MOST_TEXT = 130
"""Of the provisioner's words, so that the next step fits into a condition too."""
_ERROR = re.compile(r"fail|error|denied|wrong|cannot|invalid|unable", re.IGNORECASE)
"""What makes words that are not known those of a failure; the others are said while a machine starts."""


def is_order_ready(order: Manifest) -> bool:
    """Whether its node has come: the Ready condition, or, of a provisioner that writes none, the node's name."""
    if condition_of(order, "Ready") is not None:
        return is_true(order, "Ready")
    return bool(node_of(order))


def node_of(order: Manifest) -> str:
    """The name of the node that came of it; empty before."""
    return str((order.get("status") or {}).get("nodeName") or "")


def stage(order: Manifest, type_: str) -> Manifest | None:
    """A lifecycle condition of the order."""
    return condition_of(order, type_) or condition_of(order, f"Machine{type_}")


def is_registered(order: Manifest) -> bool:
    """Whether its machine has joined the cluster as a node."""
    condition = stage(order, "Registered")
    return condition.get("status") == "True" if condition is not None else bool(node_of(order))


def registered_at(order: Manifest) -> datetime | None:
    """When that was, as far as it is told; else when the order was made."""
    condition = stage(order, "Registered") or {}
    return moment(condition.get("lastTransitionTime")) or created_at(order)


def created_at(order: Manifest) -> datetime | None:
    """When the order was made; None for an object that no server has seen."""
    return moment(order["metadata"].get("creationTimestamp"))


def moment(text: object) -> datetime | None:
    """The time that a condition names, if it does."""
    try:
        found = parse_time(str(text))
    except ValueError:
        return None
    return found if found.tzinfo is not None else None


def words(orders: Iterable[Manifest]) -> tuple[str, str]:
    """What the first order that has something to say says, and its name; empty when none has.

    Of each the first stage that is not reached and has a message counts, and something specific before anything else.
    """
    vague = ("", "")
    for order in orders:
        for type_ in LIFECYCLE:
            condition = stage(order, type_)
            if condition is None or condition.get("status") == "True" or not condition.get("message"):
                continue
            found = (" ".join(str(condition["message"]).split()), str(order["metadata"]["name"]))
            if condition.get("reason") not in UNSPECIFIC and found[0] not in UNSPECIFIC:
                return found
            vague = vague if vague[0] else found
            break
    return vague


def verdict(text: str, said: str, instance_type: str) -> Verdict:
    """The verdict on an order that does not come: what is the matter in our words, then in the provisioner's."""
    cause = found("order", said, seen=cut(said), lead=f"{text}: ", type=instance_type)
    if cause.reason != names.REASON_ORDER_FAILED:
        return Verdict(False, cause.condition, cause.message, is_failure=True, diagnosis=cause)
    message = f"{text}: {cut(said)}." if said else f"{text}."
    is_error = _ERROR.search(said) is not None
    return Verdict(False, names.REASON_NODE_CLAIM_NOT_READY, message, diagnosis=cause if is_error else None)


def cut(text: str) -> str:
    """The text without its last full stop, cut to what leaves room for a next step."""
    text = text.rstrip(". ")
    return text if len(text) <= MOST_TEXT else text[: MOST_TEXT - 1].rstrip() + "…"
