# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""What a provisioner is: the pure functions that say which nodes serve a Workspace and whether they suffice.

`local.py` and `byo.py` are the two there are. The node phase (`workspace/nodes.py`) calls them and knows neither.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from kaito.api.names import REASON_NODE_NOT_READY, REASON_NODES_READY
from kaito.kube.manifest import Manifest, condition_of, is_deleting, is_true, labels_of


@dataclass(frozen=True, slots=True)
class Requirement:
    """One term of a label selector."""

    key: str
    operator: str
    values: tuple[str, ...] = ()

    def holds(self, labels: dict[str, str]) -> bool:
        """Whether labels satisfy the term. An operator that does not exist is satisfied by nothing."""
        if self.operator == "In":
            return labels.get(self.key) in self.values
        if self.operator == "NotIn":
            return labels.get(self.key) not in self.values
        if self.operator == "Exists":
            return self.key in labels
        return self.operator == "DoesNotExist" and self.key not in labels

    def __str__(self) -> str:
        match self.operator:
            case "In" | "NotIn":
                values = ",".join(self.values)
                if self.operator == "In" and len(self.values) == 1:
                    return f"{self.key}={values}"
                return f"{self.key} {'in' if self.operator == 'In' else 'notin'} ({values})"
            case "Exists":
                return self.key
            case "DoesNotExist":
                return f"!{self.key}"
            case _:
                return f"{self.key} {self.operator}"


@dataclass(frozen=True, slots=True)
class Wish:
    """What a Workspace says about its nodes."""

    requirements: tuple[Requirement, ...] = ()
    """The label selector without reserved keys: matchLabels first, by key, then matchExpressions."""
    instance_type: str = ""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether an aspect is as it should be, and why not: what becomes a condition."""

    ok: bool
    reason: str
    message: str


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


def nodes_missing(message: str) -> Verdict:
    """They do not (yet)."""
    return Verdict(False, REASON_NODE_NOT_READY, message)


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
