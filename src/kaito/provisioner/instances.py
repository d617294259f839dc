# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""A machine as the cloud tells of it, what is asked about one, and the protocol that every cloud speaks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from kaito.kube.manifest import Manifest
from kaito.kube.resource import Resource
from kaito.provisioner.offers import Offer

Fault = Literal["", "capacity", "quota", "rejected"]
State = Literal["pending", "running", "failed", "stopping", "gone"]
"""`failed`: it will never run and still has to be deleted."""


@dataclass(frozen=True, slots=True)
class Instance:
    """A machine that was made for a claim."""

    id: str
    """What the cloud calls it."""
    claim: str
    """The claim's name."""
    claim_uid: str
    """Empty for one that another provisioner made: then the name decides."""
    state: State
    instance_type: str
    zone: str = ""
    capacity_type: str = "on-demand"
    provider_id: str = ""
    """As its node has it; empty while that is not known."""
    image: str = ""
    note: str = ""
    """The cloud's own words about the state."""
    fault: Fault = ""
    """What kind of trouble a failed one had."""
    node_labels: Mapping[str, str] = field(default_factory=dict)
    """By which its node is found when it does not carry the claim's uid."""

    @property
    def is_up(self) -> bool:
        """Whether it runs or is about to."""
        return self.state in ("pending", "running")


@dataclass(frozen=True, slots=True)
class Order:
    """A machine that a claim asks for."""

    claim: str
    claim_uid: str
    attempt: int
    offer: Offer
    labels: Mapping[str, str] = field(default_factory=dict)
    """For the node, beside those that the provisioner puts on every one."""
    taints: tuple[Manifest, ...] = ()
    disk_gib: int = 0
    """0: as the cloud does it."""
    image_family: str = ""


@dataclass(frozen=True, slots=True)
class Create:
    """A call: make the machine, or find the one that this very attempt has already made."""

    order: Order
    resource: Resource
    """The kind of the claim."""


@dataclass(frozen=True, slots=True)
class Delete:
    """A call: take the machine away."""

    instance: Instance
    orphan_of: tuple[Resource, ...] = ()
    """Only if no object of these kinds has the name and uid of its claim any more, asked of the API server itself."""


class Backend(Protocol):
    """A cloud. Whatever it answers, a method raises nothing but `kaito.provisioner.errors.CloudError`."""

    name: str
    list_lag_s: float
    """For how long after a change a list may not show it yet."""
    busy_s: float
    """How often to list while something is expected to change."""
    idle_s: float
    """And otherwise."""
    calls_per_s: float
    """How many calls in a second the cloud takes well."""

    async def create(self, order: Order) -> Instance:
        """Make the machine. The same claim and attempt give the same machine, however often it is asked for."""

    async def get(self, instance: Instance) -> Instance:
        """The machine as it is now. Raises NotFound."""

    async def list(self) -> Sequence[Instance]:
        """All machines that were made for claims of this cluster, in as few calls as the cloud allows."""

    async def delete(self, instance: Instance) -> None:
        """Begin to take the machine away. Raises NotFound when it is gone."""

    async def instance_types(self) -> Sequence[Offer]:
        """What there is to be had."""
