# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Which machines a claim may become: offers of a cloud against a claim's requirements, cheapest first. Pure.

A requirement is Karpenter's: a label's key, an operator and values. An offer satisfies one with the labels that its
node will have; labels that the claim puts on its node itself count as well.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

from kaito.api.nodeclaims import (
    ARCHITECTURE_LABEL,
    CAPACITY_TYPE_LABEL,
    INSTANCE_TYPE_LABEL,
    OS_LABEL,
    ZONE_LABEL,
)

CapacityType = Literal["on-demand", "spot"]
CAPACITY_TYPES: Final[tuple[CapacityType, ...]] = ("on-demand", "spot")
SPOT_ORDER_FACTOR: Final = 0.4
"""Spot machines are tried as if they cost this share of the list price; against a budget all of it counts."""
MOST_NAMED = 5


@dataclass(frozen=True, slots=True)
class Offer:
    """One kind of machine in one zone under one contract."""

    instance_type: str
    zone: str
    """Empty where the cloud chooses."""
    capacity_type: CapacityType
    dollars: float | None
    """The most that it costs in an hour; None when that is not known."""
    gpus: int
    """How many `nvidia.com/gpu` its node has to show; 0 for none."""
    labels: Mapping[str, str] = field(default_factory=dict, hash=False, compare=False)
    """What the node will carry, the well-known labels included."""

    @property
    def order(self) -> tuple[float, str, str]:
        """Sorts the cheapest first; unknown prices last."""
        price = self.dollars if self.dollars is not None else 1e9
        return price * (SPOT_ORDER_FACTOR if self.capacity_type == "spot" else 1.0), self.instance_type, self.zone

    def __str__(self) -> str:
        return " ".join(part for part in (self.instance_type, self.zone, self.capacity_type) if part)


def offer(
    instance_type: str,
    zone: str,
    capacity_type: CapacityType,
    *,
    dollars: float | None,
    gpus: int,
    labels: Mapping[str, str] | None = None,
) -> Offer:
    """An offer with the well-known labels filled in."""
    known = {
        INSTANCE_TYPE_LABEL: instance_type,
        CAPACITY_TYPE_LABEL: capacity_type,
        OS_LABEL: "linux",
        ARCHITECTURE_LABEL: "amd64",
        **({ZONE_LABEL: zone} if zone else {}),
        **(labels or {}),
    }
    return Offer(instance_type, zone, capacity_type, dollars, gpus, known)


@dataclass(frozen=True, slots=True)
class Requirement:
    """One term that the node's labels have to satisfy."""

    key: str
    operator: str
    values: tuple[str, ...] = ()

    def holds(self, labels: Mapping[str, str]) -> bool:
        """Whether the labels satisfy the term; an operator that does not exist is satisfied by nothing."""
        value = labels.get(self.key)
        match self.operator:
            case "In":
                return value is not None and any(value.lower() == wanted.lower() for wanted in self.values)
            case "NotIn":
                return value not in self.values
            case "Exists":
                return value is not None
            case "DoesNotExist":
                return value is None
            case "Gt" | "Lt" | "Gte" | "Lte":
                return self._compares(value)
        return False

    def _compares(self, value: str | None) -> bool:
        try:
            have, bound = float(value or ""), float(self.values[0])
        except (ValueError, IndexError):
            return False
        return {"Gt": have > bound, "Lt": have < bound, "Gte": have >= bound, "Lte": have <= bound}[self.operator]

    def __str__(self) -> str:
        return f"{self.key} {self.operator} {', '.join(self.values)}".strip()


@dataclass(frozen=True, slots=True)
class Wish:
    """What a claim asks of its machine."""

    requirements: tuple[Requirement, ...]
    labels: tuple[tuple[str, str], ...]
    """Labels that the claim puts on its node: they satisfy terms about keys that no offer has."""


class Market:
    """All offers of a cloud. What satisfies a wish is worked out once and remembered."""

    def __init__(self, offers: Iterable[Offer]) -> None:
        self.offers = tuple(sorted(offers, key=lambda offer: offer.order))
        self._known = frozenset(key for offer in self.offers for key in offer.labels)
        self._found: dict[Wish, tuple[Offer, ...]] = {}
        self._by_name: dict[tuple[str, str, str], Offer] = {
            (o.instance_type.lower(), o.zone, o.capacity_type): o for o in self.offers
        }

    def named(self, instance_type: str, zone: str, capacity_type: str) -> Offer | None:
        """The offer of this type, zone and contract."""
        return self._by_name.get((instance_type.lower(), zone, capacity_type))

    def of_type(self, instance_type: str) -> Offer | None:
        """Any offer of the type: what the type promises is the same everywhere."""
        return next((o for o in self.offers if o.instance_type.lower() == instance_type.lower()), None)

    def matching(self, wish: Wish) -> tuple[Offer, ...]:
        """The offers that satisfy the wish, cheapest first."""
        found = self._found.get(wish)
        if found is None:
            own = {key: value for key, value in wish.labels if key not in self._known}
            found = tuple(o for o in self.offers if all(r.holds({**own, **o.labels}) for r in wish.requirements))
            self._found[wish] = found
        return found

    def complaint(self, wish: Wish) -> tuple[bool, str]:
        """Why nothing satisfies the wish: whether it is the instance type, and what there is instead."""
        own = {key: value for key, value in wish.labels if key not in self._known}
        left: Sequence[Offer] = self.offers
        for requirement in sorted(wish.requirements, key=lambda r: r.key != INSTANCE_TYPE_LABEL):
            kept = [o for o in left if requirement.holds({**own, **o.labels})]
            if not kept:
                is_type = requirement.key == INSTANCE_TYPE_LABEL
                return is_type, _sentence(requirement, left, is_type=is_type)
            left = kept
        return False, "no instance type is offered by this cloud"


def _sentence(requirement: Requirement, left: Sequence[Offer], *, is_type: bool) -> str:
    if is_type:
        return f"no instance type {', '.join(requirement.values)} is known here"
    there = sorted({o.labels[requirement.key] for o in left if requirement.key in o.labels})
    shown = ", ".join(there[:MOST_NAMED]) + (f" and {len(there) - MOST_NAMED} more" if len(there) > MOST_NAMED else "")
    has = f"has {shown}" if there else "does not know that label"
    return f"no instance type satisfies {requirement}: this cloud {has}"
