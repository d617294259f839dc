# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Orders for machines, for the tests of the clouds."""

from __future__ import annotations

from kaito.api import nodeclaims as names
from kaito.provisioner.instances import Order
from kaito.provisioner.launching import UNREGISTERED
from kaito.provisioner.offers import CapacityType, offer


def order(
    claim: str, instance_type: str, *, zone: str = "", capacity_type: CapacityType = "on-demand", attempt: int = 1,
    disk_gib: int = 0, gpus: int = 1,
) -> Order:  # fmt: skip
    """An order of a claim whose uid is uid-NAME."""
    return Order(
        claim=claim,
        claim_uid=f"uid-{claim}",
        attempt=attempt,
        offer=offer(instance_type, zone, capacity_type, dollars=1.0, gpus=gpus),
        labels={"kaito.sh/workspace": "demo", names.ZONE_LABEL: "mine-to-set"},
        taints=({"key": "sku", "value": "gpu", "effect": "NoSchedule"}, UNREGISTERED),
        disk_gib=disk_gib,
    )
