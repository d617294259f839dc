# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""The provisioner of a cluster whose nodes are brought by its owner: those that the label selector matches.

Unlike KAITO v0.12, matchExpressions count as well as matchLabels, here and in the pods' affinity.
"""

from __future__ import annotations

from collections.abc import Sequence

from kaito.api.names import REASON_NODES_MISSING
from kaito.kube.manifest import Manifest
from kaito.operator.faults.table import named
from kaito.operator.provisioners.survey import (
    Provisioner,
    fault_of_nodes,
    is_ready,
    matches,
    names_of,
    nodes_missing,
    nodes_ready,
    why_not_ready,
)
from kaito.operator.provisioners.wish import Verdict, Wish


def select(wish: Wish, nodes: Sequence[Manifest]) -> list[Manifest]:
    """The nodes that the label selector matches, ready or not."""
    return [node for node in nodes if matches(wish, node)]


def judge(wish: Wish, nodes: Sequence[Manifest], target: int) -> Verdict:
    """Ready when as many of the nodes are ready as are needed; else what is missing and how to supply it."""
    ready = [node for node in nodes if is_ready(node)]
    if len(ready) >= target:
        noun = "node is" if len(ready) == 1 else "nodes are"
        return nodes_ready(f"{len(ready)} matching {noun} ready, {target} needed: {names_of(ready)}.")
    labels = ", ".join(str(requirement) for requirement in wish.requirements) or "any labels"
    missing = target - len(ready)
    noun = "node" if missing == 1 else "nodes"
    waiting = [why_not_ready(node) for node in nodes if not is_ready(node)]
    if waiting:
        return nodes_missing(
            f"{missing} more ready {noun} with {labels} needed ({len(ready)} of {target} ready); "
            f"not ready: {', '.join(waiting[:3])}.",
            fault_of_nodes(nodes),
        )
    said = f"{missing} more ready {noun} with {labels} needed ({len(ready)} of {target} ready)"
    cause = named(REASON_NODES_MISSING, said)
    return nodes_missing(cause.message, cause)


def requirements(wish: Wish) -> list[Manifest]:
    """The label selector as node affinity terms."""
    return [_term(requirement.key, requirement.operator, requirement.values) for requirement in wish.requirements]


def _term(key: str, operator: str, values: Sequence[str]) -> Manifest:
    term: Manifest = {"key": key, "operator": operator}
    if values:
        term["values"] = list(values)
    return term


BYO = Provisioner("byo", single_node=False, select=select, judge=judge, requirements=requirements)
