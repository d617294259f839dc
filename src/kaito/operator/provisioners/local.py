# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""The provisioner of one machine: every node there is serves every Workspace.

Labels and instance types describe a cloud's machines, so they do not restrict here; the condition says so.
"""

from __future__ import annotations

from collections.abc import Sequence

from kaito.kube.manifest import Manifest
from kaito.operator.provisioners.survey import (
    Provisioner,
    fault_of_nodes,
    is_ready,
    names_of,
    nodes_missing,
    nodes_ready,
    why_not_ready,
)
from kaito.operator.provisioners.wish import Verdict, Wish


def select(wish: Wish, nodes: Sequence[Manifest]) -> list[Manifest]:
    """Every node."""
    return list(nodes)


def judge(wish: Wish, nodes: Sequence[Manifest], target: int) -> Verdict:
    """Ready as soon as one node is."""
    ready = [node for node in nodes if is_ready(node)]
    if not ready and not nodes:
        return nodes_missing("Waiting for this machine to register as a node; see the engine's log if it does not.")
    if not ready:
        who = ", ".join(why_not_ready(node) for node in nodes[:3])
        return nodes_missing(f"Waiting for this machine's node to become ready: {who}.", fault_of_nodes(nodes))
    return nodes_ready(f"Served by {names_of(ready, 3)}.{_not_restricting(wish)}")


def _not_restricting(wish: Wish) -> str:
    ignored = ["labelSelector"] if wish.requirements else []
    if wish.instance_type:
        ignored.append(f"instanceType {wish.instance_type}")
    if not ignored:
        return ""
    verb = "does" if len(ignored) == 1 else "do"
    return f" On one machine {' and '.join(ignored)} {verb} not restrict the choice."


def requirements(wish: Wish) -> list[Manifest]:
    """None: the pod may run on any node."""
    return []


LOCAL = Provisioner("local", single_node=True, select=select, judge=judge, requirements=requirements)
