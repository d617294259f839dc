# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""What clouds share in which a machine is a node pool of one: the pool's name and labels. Pure."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Final

from kaito.api import nodeclaims as names
from kaito.provisioner.instances import Order

ADOPTED_LABEL: Final = "kaito.sh/workspace"
"""On pools that the gpu-provisioner of KAITO made, whose name is their claim's."""


def pool_name(claim: str, pattern: str, longest: int) -> str:
    """The claim's name where it can be a pool's, else a hash of it: 11 characters that can."""
    if len(claim) <= longest and re.fullmatch(pattern, claim):
        return claim
    return "k" + hashlib.sha256(claim.encode()).hexdigest()[:10]


def pool_labels(order: Order) -> dict[str, str]:
    """The labels of a pool's node: the claim's, as far as one may choose them, and whose it is."""
    chosen = {key: value for key, value in order.labels.items() if may_choose(key)}
    return {**chosen, names.CLAIM_LABEL: order.claim[:63], names.CLAIM_UID_LABEL: order.claim_uid}


def may_choose(label: str) -> bool:
    """Whether a label is not one of Kubernetes' or of a cloud, which are theirs to set."""
    domain, slash, _ = label.rpartition("/")
    own = ("kubernetes.io", "k8s.io", "kubernetes.azure.com", "cloud.google.com")
    return not slash or not any(domain == one or domain.endswith(f".{one}") for one in own)


def claim_of(labels: Mapping[str, str], pool: str) -> tuple[str, str] | None:
    """Name and uid of the claim that a pool was made for; None for a pool of somebody else."""
    if names.CLAIM_UID_LABEL in labels:
        return labels.get(names.CLAIM_LABEL, pool), labels[names.CLAIM_UID_LABEL]
    return (pool, "") if ADOPTED_LABEL in labels else None
