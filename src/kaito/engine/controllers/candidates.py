# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""The nodes that may take pods of one form, the emptiest first: what keeps a round of the scheduler near linear.

Ten thousand pods of a few ReplicaSets differ in nothing that a node could mind, so the nodes are judged once for each
form of pods. In a round nodes only fill up, so the order is put right as it is used: what comes first is looked at
again, and goes back to its new place if it has filled up since.
"""

from __future__ import annotations

import heapq
import json
from collections.abc import Mapping

from kaito.engine.controllers.capacity import Load, Requests, requests_of, short_of
from kaito.kube.manifest import Manifest


def form_of(p: Manifest) -> str:
    """All of the pod that decides which nodes can take it, as a text that is equal for equal pods."""
    spec = p["spec"]
    requests = {name: str(amount) for name, amount in requests_of(p).items()}
    decisive = [spec.get("nodeSelector"), spec.get("affinity"), spec.get("tolerations"), requests]
    return json.dumps(decisive, sort_keys=True)


class Candidates:
    """Nodes for one form of pods, for one round."""

    def __init__(self, wanted: Requests, dislikes: Mapping[str, float], room: Mapping[str, Load]) -> None:
        """`dislikes` names the nodes that can take a pod now, with what is added to their load; `room` is shared."""
        self._wanted, self._dislikes, self._room = wanted, dislikes, room
        self._queue = [(self.score(name), name) for name in dislikes]
        heapq.heapify(self._queue)
        self.refusal = ""
        """Why there is none, once that was found out."""

    def fitting(self) -> list[str]:
        """The nodes that can take one more pod."""
        return [name for name in self._dislikes if not short_of(self._room[name], self._wanted)]

    def score(self, name: str) -> float:
        """How full the node would be, and what else speaks against it: the lower, the better."""
        return self._room[name].share_with(self._wanted) + self._dislikes[name]

    def best(self) -> str | None:
        """The node with the most room left of those that can take one more pod; None when none can."""
        while self._queue:
            score, name = self._queue[0]
            if short_of(self._room[name], self._wanted):
                heapq.heappop(self._queue)
            elif (current := self.score(name)) > score:
                heapq.heapreplace(self._queue, (current, name))
            else:
                return name
        return None
