# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""What pods ask for and what nodes have left: sums over resource requests."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal

from kaito.engine.controllers.quantities import quantity
from kaito.kube.manifest import Manifest

Requests = dict[str, Decimal]


@dataclass(slots=True)
class Load:
    """A node's room and what is taken of it; a round of the scheduler adds to it as it goes."""

    allocatable: Requests
    taken: Requests

    def add(self, requests: Requests) -> None:
        """One more pod."""
        for name, amount in requests.items():
            self.taken[name] = self.taken.get(name, Decimal(0)) + amount

    def left(self, name: str) -> Decimal:
        """What is left of a resource; none of one that the node does not have."""
        return self.allocatable.get(name, Decimal(0)) - self.taken.get(name, Decimal(0))

    def share_with(self, requests: Requests) -> float:
        """The fullest of CPU, memory and pods (0 to 1) if the pod were here too: the lower, the better."""
        shares = []
        for name in ("cpu", "memory", "pods"):
            total = self.allocatable.get(name, Decimal(0))
            if total:
                shares.append(float((self.taken.get(name, Decimal(0)) + requests.get(name, Decimal(0))) / total))
        return max(shares, default=0.0)


def _sum(containers: Iterable[Manifest]) -> Requests:
    total: Requests = {}
    for container in containers:
        for name, amount in _container_requests(container).items():
            total[name] = total.get(name, Decimal(0)) + amount
    return total


def _container_requests(container: Manifest) -> Requests:
    """Requests, with limits standing in where there is no request."""
    resources = container.get("resources") or {}
    merged = {**(resources.get("limits") or {}), **(resources.get("requests") or {})}
    return {name: quantity(text) for name, text in merged.items()}


def requests_of(p: Manifest) -> Requests:
    """What the pod takes of a node: the sum of its containers, or its largest init container if that is more.

    Sidecars (init containers that stay) count with the containers. Every pod takes one of the node's `pods`.
    """
    spec = p["spec"]
    inits = spec.get("initContainers") or []
    sidecars = [c for c in inits if c.get("restartPolicy") == "Always"]
    total = _sum([*spec["containers"], *sidecars])
    for container in inits:
        if container in sidecars:
            continue
        for name, amount in _container_requests(container).items():
            total[name] = max(total.get(name, Decimal(0)), amount)
    for name, text in (spec.get("overhead") or {}).items():
        total[name] = total.get(name, Decimal(0)) + quantity(text)
    return {**total, "pods": Decimal(1)}


class Placed:
    """What the pods on nodes take. Each pod is summed up once, not in every round: there may be ten thousand."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, object], Requests] = {}

    def of(self, pods: Iterable[Manifest]) -> tuple[tuple[str, Requests], ...]:
        """The node and the requests of each pod; a pod that is not among them any more is forgotten."""
        known, found = {}, []
        for p in pods:
            key = (p["metadata"]["uid"], p["metadata"].get("generation"))
            known[key] = requests = self._known.get(key) or requests_of(p)
            found.append((p["spec"]["nodeName"], requests))
        self._known = known
        return tuple(found)


def loads(nodes: Iterable[Manifest], placed: Iterable[tuple[str, Requests]]) -> dict[str, Load]:
    """Each node's load from what is placed on it."""
    room = {}
    for node in nodes:
        status = node.get("status") or {}
        allocatable = status.get("allocatable") or status.get("capacity") or {}
        room[node["metadata"]["name"]] = Load({name: quantity(text) for name, text in allocatable.items()}, {})
    for name, requests in placed:
        load = room.get(name)
        if load is not None:
            load.add(requests)
    return room


def short_of(load: Load, wanted: Requests) -> list[str]:
    """The resources of which too little is left."""
    return [name for name, amount in wanted.items() if amount > 0 and load.left(name) < amount]
