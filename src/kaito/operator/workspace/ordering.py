# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""The phase that orders nodes: from what was observed to the provisioner's question, and its answer to a plan's parts.

Knows no provisioner. That orders are given back when the Workspace goes, and which ones it waits for, is here too.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta

from kaito.api import names
from kaito.catalog.sizing import disk_gib
from kaito.kube.manifest import Manifest, annotations_of, condition_of, is_deleting, key_of
from kaito.kube.plan import Delete, Plan
from kaito.kube.resource import resource_of
from kaito.operator.provisioners.ledger import Ledger
from kaito.operator.provisioners.supply import Demand, Stock, Supply
from kaito.operator.provisioners.survey import Provisioner, names_of
from kaito.operator.provisioners.trouble import created_at, moment
from kaito.operator.workspace.nodes import Placement, wish_of
from kaito.operator.workspace.observe import Observed
from kaito.operator.workspace.wanted import Wanted

ORPHAN_AFTER_S = 60.0
DEFAULT_STORAGE_GIB = 1024
"""As KAITO orders where the model's size is not known."""


def supplied(
    observed: Observed, asked: Wanted, placement: Placement, provisioner: Provisioner, now: datetime, *, may_order: bool
) -> Supply | None:
    """What to order for the Workspace; None where its nodes are not ordered."""
    wish = wish_of(asked.workspace)
    if provisioner.supply is None or not (wish.instance_type or observed.orders):
        return None
    known = asked.model is not None and asked.model.weights_gib is not None
    demand = Demand(
        workspace=observed.manifest,
        wish=wish,
        target=placement.target,
        storage_gib=disk_gib(asked.model) if asked.model and known else DEFAULT_STORAGE_GIB,
        may_order=may_order,
    )
    ours = set(placement.nodes)
    stock = Stock(
        nodes=observed.nodes,
        ours=tuple(node for node in observed.nodes if node["metadata"]["name"] in ours),
        orders=observed.orders,
        served=observed.served,
        ledger=Ledger.parse(annotations_of(observed.manifest).get(names.NODE_ORDERS_ANNOTATION, "")),
        waiting_since=_waiting_since(observed.manifest),
    )
    return provisioner.supply(demand, stock, now)


def _waiting_since(workspace: Manifest) -> datetime | None:
    condition = condition_of(workspace, names.NODES_READY)
    if condition is None or condition.get("status") != "False":
        return None
    return moment(condition.get("lastTransitionTime"))


def give_back(orders: Iterable[Manifest], provisioner: Provisioner) -> tuple[Delete, ...]:
    """The deletion of all orders that are not being deleted yet, but those that go with another one."""
    return tuple(
        Delete(resource_of(order, provisioner.kinds), key_of(order), uid=order["metadata"].get("uid"))
        for order in orders
        if not is_deleting(order) and not order["metadata"].get("ownerReferences")
    )


def orphans_returned(orders: Iterable[Manifest], provisioner: Provisioner, now: datetime) -> Plan:
    """Give back what a Workspace left behind that was removed by force, or while nobody looked.

    Only what is no newer than a moment: a Workspace may have been created since we were told of all of them.
    """
    due = now - timedelta(seconds=ORPHAN_AFTER_S)
    old = [order for order in orders if (created_at(order) or now) <= due]
    left = any(order not in old for order in orders)
    return Plan(delete=give_back(old, provisioner), requeue_after_s=ORPHAN_AFTER_S if left else None)


def waits_for(orders: tuple[Manifest, ...]) -> str:
    """What a deletion waits for, as the end of a sentence about it; empty when for nothing."""
    if not orders:
        return ""
    return f" Waiting until {orders[0]['kind']} {names_of(orders, 3)} is gone: its machine is being deleted."


def is_order(manifest: Manifest, supply: Supply | None) -> bool:
    """Whether the manifest orders a node."""
    return supply is not None and manifest in (*supply.create, *supply.apply)
