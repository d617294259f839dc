# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""The provisioner that gives each Workspace a static NodePool of Karpenter's, which makes and replaces the claims.

As KAITO v0.12's karpenter mode, but: the pool's name is unlike that of any other Workspace's, only nodes that the pods
may run on are counted, and replicas go down as well as up. Needs Karpenter's feature gate StaticCapacity.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Final

from kaito.api import names
from kaito.kube.manifest import Key, Manifest, annotations_of, condition_of, is_deleting, key_of, labels_of
from kaito.kube.plan import Delete, Event
from kaito.kube.resource import Resource
from kaito.operator.provisioners import claims, trouble
from kaito.operator.provisioners.claims import LOOK_AGAIN_S
from kaito.operator.provisioners.nodeclaim import (
    INSTANCE_TYPE_LABEL,
    NODE_CLAIMS,
    POOL_LABEL,
    TAINT,
    as_term,
    judge,
    owned_requirements,
    provider_terms,
    select_owned,
    user_labels,
)
from kaito.operator.provisioners.supply import Demand, Stock, Supply
from kaito.operator.provisioners.survey import Provisioner, names_of, owned_labels
from kaito.operator.provisioners.wish import Requirement, Verdict

NODE_POOLS = Resource("karpenter.sh", "v1", "nodepools", "NodePool", namespaced=False)
OWNERSHIP: Final = (names.KARPENTER_WORKSPACE_LABEL, names.KARPENTER_WORKSPACE_NAMESPACE_LABEL)
LONGEST_NAME = 53
"""With a dash and nine characters of a hash that makes 63, the longest label value; nodes carry the pool's name."""
MANAGER: Final = "kaito"


@dataclass(frozen=True, slots=True)
class NodeClass:
    """What the pools' nodes are configured by."""

    group: str = "karpenter.azure.com"
    kind: str = "AKSNodeClass"
    name: str = "default"


def node_pool_provisioner(node_class: NodeClass) -> Provisioner:
    """The provisioner with a node class for all Workspaces; an annotation chooses another one of its kind by name."""
    return Provisioner(
        "karpenter",
        single_node=False,
        select=partial(select_owned, OWNERSHIP),
        judge=judge,
        requirements=partial(owned_requirements, OWNERSHIP),
        kinds=(NODE_POOLS, NODE_CLAIMS),
        ownership=OWNERSHIP,
        supply=partial(supply, node_class=node_class),
    )


def pool_name(owner: Key) -> str:
    """The name of a Workspace's NodePool. The hash keeps a-b/c and a/b-c apart."""
    digest = hashlib.sha256(str(owner).encode()).hexdigest()[:9]
    return f"{f'{owner.namespace}-{owner.name}'[:LONGEST_NAME].rstrip('-.')}-{digest}"


def node_pool(demand: Demand, name: str, replicas: int, node_class: NodeClass) -> Manifest:
    """The NodePool of karpenter.sh/v1."""
    wish = demand.wish
    owner = {**owned_labels(OWNERSHIP, wish.owner), **_set_labels(demand.workspace)}
    terms = [Requirement(INSTANCE_TYPE_LABEL, "In", (wish.instance_type,))]
    if node_class.group == "karpenter.azure.com":
        terms.append(Requirement("karpenter.azure.com/placement-scope", "In", ("regional",)))
    chosen = annotations_of(demand.workspace).get(names.NODE_CLASS_NAME_ANNOTATION, "").strip()
    # The replicas of a set are updated by whoever made the set, one after the other.
    at_once = "0" if names.KARPENTER_INFERENCESET_LABEL in owner else "1"
    return {
        "apiVersion": NODE_POOLS.api_version,
        "kind": NODE_POOLS.kind,
        "metadata": {"name": name, "labels": {names.KARPENTER_MANAGED_BY_LABEL: MANAGER, **owner}},
        "spec": {
            "replicas": replicas,
            "template": {
                "metadata": {"labels": {**user_labels(wish), **owner}},
                "spec": {
                    "nodeClassRef": {
                        "group": node_class.group,
                        "kind": node_class.kind,
                        "name": chosen or node_class.name,
                    },
                    "requirements": [as_term(term) for term in (*terms, *provider_terms(wish))],
                    "taints": [dict(TAINT)],
                },
            },
            "disruption": {"consolidateAfter": "0s", "budgets": [{"nodes": at_once, "reasons": ["Drifted"]}]},
        },
    }


def _set_labels(workspace: Manifest) -> dict[str, str]:
    name = labels_of(workspace).get(names.INFERENCESET_CREATED_BY_LABEL)
    if not name:
        return {}
    namespace = workspace["metadata"].get("namespace", "")
    return {names.KARPENTER_INFERENCESET_LABEL: name, names.KARPENTER_INFERENCESET_NAMESPACE_LABEL: namespace}


def supply(demand: Demand, stock: Stock, now: datetime, *, node_class: NodeClass) -> Supply:
    """The pool that there should be, and how its claims stand."""
    if NODE_POOLS not in stock.served or NODE_CLAIMS not in stock.served:
        return Supply(_no_karpenter(), requeue_after_s=LOOK_AGAIN_S)
    pools = [order for order in stock.orders if order["kind"] == NODE_POOLS.kind]
    live = [order for order in stock.orders if order["kind"] == NODE_CLAIMS.kind and not is_deleting(order)]
    leaving = [pool for pool in pools if is_deleting(pool)]
    need = claims.needed(demand, stock, (POOL_LABEL,))
    if not demand.may_order or leaving:
        return Supply(_verdict(demand, pools, live, need))
    # A pool that KAITO made under its own name goes on as it is named.
    name = pools[0]["metadata"]["name"] if pools else pool_name(demand.wish.owner)
    if not demand.wish.instance_type:
        return Supply(_verdict(demand, pools, live, need), delete=tuple(_delete(pool) for pool in pools))
    wanted = (node_pool(demand, name, need, node_class),) if need or pools else ()
    return Supply(
        verdict=_verdict(demand, pools, live, need),
        apply=wanted,
        patches=tuple(claims.accelerators(demand.wish, stock.ours)),
        events=tuple(_events(demand, pools, wanted)),
    )


def _delete(pool: Manifest) -> Delete:
    return Delete(NODE_POOLS, key_of(pool), uid=pool["metadata"].get("uid"))


def _no_karpenter() -> Verdict:
    message = (
        "Nodes cannot be ordered: this cluster has no nodepools.karpenter.sh. Install Karpenter with the feature gate "
        "StaticCapacity, or start the operator with --provisioner byo and label nodes."
    )
    return Verdict(False, names.REASON_NO_NODE_PROVISIONER, message, is_failure=True)


def _events(demand: Demand, pools: list[Manifest], wanted: Iterable[Manifest]) -> Iterable[Event]:
    for pool in wanted:
        if not pools:
            count = pool["spec"]["replicas"]
            said = f"NodePool {pool['metadata']['name']} orders {count} x {demand.wish.instance_type}."
            yield Event(demand.workspace, names.EVENT_NODE_CLAIM_CREATED, said)


def _verdict(demand: Demand, pools: list[Manifest], live: list[Manifest], need: int) -> Verdict:
    ready = [claim for claim in live if trouble.is_order_ready(claim)]
    if len(ready) >= need:
        said = f"{len(ready)} of {need} NodeClaims are ready: {names_of(ready)}." if ready else "No node is ordered."
        return Verdict(True, names.REASON_NODE_CLAIMS_READY, said)
    count = f"{len(ready)} of {need} ready"
    said, name = trouble.words(claim for claim in live if claim not in ready)
    if said:
        return trouble.verdict(f"NodeClaim {name} is not ready", said, demand.wish.instance_type)
    for pool in pools:
        name = pool["metadata"]["name"]
        if is_deleting(pool):
            return _waiting(f"Waiting until NodePool {name} is gone; then a new one is made ({count}).")
        if "replicas" not in pool["spec"]:
            message = f"Karpenter dropped the replicas of NodePool {name}: it needs the feature gate StaticCapacity."
            return Verdict(False, names.REASON_NO_NODE_PROVISIONER, message, is_failure=True)
        condition = condition_of(pool, "Ready") or {}
        if condition.get("status") == "False" and not live:
            said = trouble.cut(str(condition.get("message") or condition.get("reason")))
            return _waiting(f"NodePool {name} is not ready: {said}. See kubectl describe nodepool {name}.")
    return _waiting(f"Waiting for {demand.wish.instance_type} nodes from Karpenter ({count}).")


def _waiting(message: str) -> Verdict:
    return Verdict(False, names.REASON_NODE_CLAIM_NOT_READY, message)
