# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""A model over several nodes that somebody brings along starts when there are nodes for all of its pods, or not at all.

Two such models that each hold a part of the nodes and wait for the rest would wait for ever. So the pods are made once
the nodes suffice for this model beside all that hold theirs already or have waited for longer. Where nodes are ordered
each Workspace has its own, and nobody waits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kaito.api import names
from kaito.kube.manifest import Manifest, is_true, key_of
from kaito.operator.faults.table import named
from kaito.operator.provisioners.wish import Verdict

LOOK_AGAIN_S = 10.0
"""Nothing wakes a Workspace when another one lets go of its nodes."""


@dataclass(frozen=True, slots=True)
class Rival:
    """Another Workspace that takes nodes as it finds them, and more than one, as far as that is known."""

    workspace: Manifest
    has_started: bool
    """Its pods have been asked for."""

    @property
    def target(self) -> int:
        """How many nodes it takes, as far as it is known."""
        return int((self.workspace.get("status") or {}).get("targetNodeCount") or 0)

    @property
    def is_known(self) -> bool:
        """Whether it was looked at yet."""
        return bool((self.workspace.get("status") or {}).get("conditions"))

    @property
    def may_start(self) -> bool:
        """Whether there are nodes enough for it, were it alone: who waits for more nodes keeps nobody waiting."""
        return self.has_started or is_true(self.workspace, names.NODES_READY)

    @property
    def nodes(self) -> frozenset[str]:
        """Those that it may take."""
        return frozenset((self.workspace.get("status") or {}).get("workerNodes") or ())


def held_back(workspace: Manifest, target: int, ready: Sequence[str], rivals: Sequence[Rival]) -> Verdict | None:
    """Why the pods of a model over `target` nodes, of those that are ready for it, are not made yet; None when they
    may be."""
    first = [rival for rival in rivals if rival.has_started or _order(rival.workspace) < _order(workspace)]
    unknown = [rival for rival in first if not rival.is_known]
    if unknown:
        said = f"Waiting until {_names(unknown)} is looked at, which was made earlier and may take the same nodes."
        return Verdict(False, names.REASON_INFERENCE_PENDING, said)
    there = frozenset(ready)
    sharing = [rival for rival in first if rival.target > 1 and rival.may_start and rival.nodes & there]
    free = len(there) - sum(min(rival.target, len(rival.nodes & there)) for rival in sharing)
    if free >= target or not sharing:
        return None
    said = (
        f"{target} of the {len(there)} ready nodes are needed at once, with {max(free, 0)} left beside "
        f"{_names(sharing)}, which {'takes' if len(sharing) == 1 else 'take'} several too"
    )
    cause = named(names.REASON_NODES_HELD, said)
    return Verdict(False, cause.condition, cause.message, diagnosis=cause)


def _order(workspace: Manifest) -> tuple[str, str, str]:
    """Who comes first: the older one; of two of one second, whose name does."""
    return (str(workspace["metadata"].get("creationTimestamp") or ""), *key_of(workspace))


def _names(rivals: Sequence[Rival]) -> str:
    shown = sorted(str(key_of(rival.workspace)) for rival in rivals)
    return ", ".join(shown[:3]) + (f" and {len(shown) - 3} more" if len(shown) > 3 else "")
