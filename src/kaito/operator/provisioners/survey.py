# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""What a provisioner is: the pure functions that say which nodes serve a Workspace and whether they suffice.

`local.py` and `byo.py` take the nodes there are; `nodeclaim.py` and `nodepool.py` order theirs (`supply.py`). The
phases in `workspace/` call them and know none of them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from kaito.api.names import REASON_NODE_NOT_READY, REASON_NODES_READY
from kaito.catalog.gpus import Machines, machines
from kaito.kube.manifest import Key, Manifest, condition_of, is_deleting, is_true, labels_of
from kaito.kube.resource import Resource
from kaito.operator.faults.fault import Diagnosis
from kaito.operator.faults.table import found
from kaito.operator.provisioners.supply import Demand, Stock, Supply
from kaito.operator.provisioners.wish import Verdict, Wish

PRESSURES = frozenset({"DiskPressure", "MemoryPressure", "PIDPressure"})
_GPU_TROUBLE = re.compile(r"xid|gpu.*(missing|unhealthy|error|fail|fault)|nvlink", re.IGNORECASE)
"""Types of conditions that AKS, GKE and node-problem-detector's GPU monitors set."""


@dataclass(frozen=True, slots=True)
class Provisioner:
    """One way of getting nodes."""

    name: str
    single_node: bool
    """There is one machine: the target is 1 node whatever the model's size."""
    select: Callable[[Wish, Sequence[Manifest]], list[Manifest]]
    """The nodes that may serve the Workspace, ready or not, sorted as given."""
    judge: Callable[[Wish, Sequence[Manifest], int], Verdict]
    """Whether the selected nodes suffice for a target count."""
    requirements: Callable[[Wish], list[Manifest]]
    """What pods demand of their node, as terms of a node affinity."""
    kinds: tuple[Resource, ...] = ()
    """The kinds that it orders nodes with; the server need not have them."""
    ownership: tuple[str, str] = ("", "")
    """The keys of the labels, name and namespace, by which an order, and the node that came of it, is a Workspace's."""
    supply: Callable[[Demand, Stock, datetime], Supply] | None = None
    """What to order and what to give back. Without it the nodes are somebody else's business."""
    machines: Machines = field(default_factory=machines)
    """The machine types and GPUs that are known by name."""

    @property
    def orders(self) -> bool:
        """Whether it gets nodes by ordering them."""
        return self.supply is not None

    def owner_labels(self, owner: Key) -> dict[str, str]:
        """The labels of what belongs to the Workspace."""
        return owned_labels(self.ownership, owner)

    def owner_of(self, order: Manifest) -> Key | None:
        """The Workspace that an order belongs to, if any."""
        name, namespace = (labels_of(order).get(key, "") for key in self.ownership)
        return Key(namespace, name) if name and namespace else None


def owned_labels(ownership: tuple[str, str], owner: Key) -> dict[str, str]:
    """The two labels that say whose something is."""
    return dict(zip(ownership, (owner.name, owner.namespace), strict=True))


def owner_terms(ownership: tuple[str, str], owner: Key) -> list[Manifest]:
    """The same as terms of a node affinity."""
    return [{"key": key, "operator": "In", "values": [value]} for key, value in owned_labels(ownership, owner).items()]


def is_ready(node: Manifest) -> bool:
    """Whether pods can run on the node."""
    return is_true(node, "Ready") and not is_deleting(node)


def matches(wish: Wish, node: Manifest) -> bool:
    """Whether the node carries what the label selector asks for; an empty selector matches every node."""
    labels = labels_of(node)
    return all(requirement.holds(labels) for requirement in wish.requirements)


def nodes_ready(message: str) -> Verdict:
    """The nodes suffice."""
    return Verdict(True, REASON_NODES_READY, message)


def nodes_missing(message: str, diagnosis: Diagnosis | None = None) -> Verdict:
    """They do not (yet), for a fault if there is one."""
    return Verdict(False, REASON_NODE_NOT_READY, message, diagnosis=diagnosis)


def fault_of_nodes(nodes: Sequence[Manifest], *, is_starting: bool = False) -> Diagnosis | None:
    """What is wrong with the first node that is not ready; of nodes that may just be starting only a known cause."""
    for node in nodes:
        if is_ready(node):
            continue
        ready = condition_of(node, "Ready") or {}
        taints = [str(taint.get("key")) for taint in (node.get("spec") or {}).get("taints") or []]
        said = str(ready.get("message") or why_not_ready(node))
        judged = " ".join((said, str(ready.get("reason")), why_not_ready(node), *taints, *_announced(node)))
        cause = found("node", judged, seen=said, lead=f"Node {node['metadata']['name']}: ")
        if not is_starting or cause.reason != REASON_NODE_NOT_READY:
            return cause
    return None


def _announced(node: Manifest) -> list[str]:
    """The conditions by which clouds announce that they take a machine back."""
    return [c["type"] for c in _conditions(node) if c.get("status") == "True" and "Preempt" in str(c.get("type"))]


def strain_of(nodes: Sequence[Manifest]) -> str:
    """What ready nodes say that ails them, as a sentence: too little disk, memory or process ids (as KAITO), or a GPU
    that node-problem-detector or the like has found faulty. Empty where all is well. It changes no verdict: pods may
    run there for long, and the ones that do not tell of it themselves."""
    ailing = [
        f"{node['metadata']['name']} ({', '.join(strains)})"
        for node in nodes
        if is_ready(node) and (strains := [c["type"] for c in _conditions(node) if _is_strain(c)])
    ]
    more = f" and {len(ailing) - 3} more" if len(ailing) > 3 else ""
    return f"Under strain: {', '.join(ailing[:3])}{more}." if ailing else ""


def _is_strain(condition: Manifest) -> bool:
    type_ = str(condition.get("type"))
    return condition.get("status") == "True" and (type_ in PRESSURES or bool(_GPU_TROUBLE.search(type_)))


def _conditions(node: Manifest) -> list[Manifest]:
    return (node.get("status") or {}).get("conditions") or []


def names_of(nodes: Sequence[Manifest], limit: int = 5) -> str:
    """The nodes' names as a sentence has them, cut after a few."""
    names = [node["metadata"]["name"] for node in nodes]
    rest = len(names) - limit
    return ", ".join(names[:limit]) + (f" and {rest} more" if rest > 0 else "")


def why_not_ready(node: Manifest) -> str:
    """The node's name and, where it says so, what is wrong with it."""
    name = str(node["metadata"]["name"])
    if is_deleting(node):
        return f"{name} (is being deleted)"
    reason = (condition_of(node, "Ready") or {}).get("reason")
    return f"{name} ({reason})" if reason else name
