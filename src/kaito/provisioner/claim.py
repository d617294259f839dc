# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Reading a claim, whether a NodeClaim or the older Machine, and writing its status. Pure.

A claim that cannot be understood is not an exception: `Claim.complaint` says what is wrong.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from kaito.api import nodeclaims as names
from kaito.kube.manifest import Manifest, annotations_of, labels_of, merged_conditions, parse_time, rfc3339
from kaito.kube.resource import Resource
from kaito.provisioner.offers import Offer, Requirement, Wish

STAGES: Final = (names.LAUNCHED, names.REGISTERED, names.INITIALIZED)
IMAGE_FAMILY_ANNOTATION: Final = "kaito.sh/node-image-family"
_DURATION = re.compile(r"(\d+)(h|m|s)")
_QUANTITY = re.compile(r"(\d+(?:\.\d+)?)(Ki|Mi|Gi|Ti|k|M|G|T|)")
_FACTORS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_FACTORS |= {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}


@dataclass(frozen=True, slots=True)
class Attempt:
    """The machine that is asked for: written on the claim before the cloud hears of it."""

    number: int
    instance_type: str
    zone: str
    capacity_type: str

    @classmethod
    def of(cls, number: int, offer: Offer) -> Attempt:
        """The attempt to have this offer."""
        return cls(number, offer.instance_type, offer.zone, offer.capacity_type)

    @classmethod
    def parse(cls, text: str) -> Attempt | None:
        """What an annotation says; None when that cannot be read."""
        parts = text.split()
        if len(parts) != 4 or not parts[0].isdigit():
            return None
        return cls(int(parts[0]), parts[1], "" if parts[2] == "-" else parts[2], parts[3])

    def __str__(self) -> str:
        return f"{self.number} {self.instance_type} {self.zone or '-'} {self.capacity_type}"


@dataclass(frozen=True, slots=True)
class Replaced:
    """Machines of the claim that were given up."""

    up_to: int = 0
    """The last attempt whose machine is to go."""
    count: int = 0
    why: str = ""

    @classmethod
    def parse(cls, text: str) -> Replaced:
        """What an annotation says; nothing when that cannot be read."""
        up_to, _, rest = text.partition(" ")
        count, _, why = rest.partition(" ")
        return cls(int(up_to), int(count), why) if up_to.isdigit() and count.isdigit() else cls()

    def __str__(self) -> str:
        return f"{self.up_to} {self.count} {self.why}".rstrip()


@dataclass(frozen=True, slots=True)
class Claim:
    """A claim as read."""

    manifest: Manifest
    resource: Resource
    attempt: Attempt | None
    replaced: Replaced
    complaint: str
    """What is wrong with its spec; empty when nothing is."""

    @property
    def name(self) -> str:
        return str(self.manifest["metadata"]["name"])

    @property
    def uid(self) -> str:
        return str(self.manifest["metadata"]["uid"])

    @property
    def spec(self) -> Manifest:
        found: Manifest = self.manifest.get("spec") or {}
        return found

    @property
    def status(self) -> Manifest:
        found: Manifest = self.manifest.get("status") or {}
        return found

    @property
    def created(self) -> datetime:
        return moment(self.manifest["metadata"].get("creationTimestamp")) or datetime.min

    @property
    def deleted(self) -> datetime | None:
        """When its deletion was asked for."""
        return moment(self.manifest["metadata"].get("deletionTimestamp"))

    @property
    def has_finalizer(self) -> bool:
        return names.TERMINATION_FINALIZER in (self.manifest["metadata"].get("finalizers") or ())

    @property
    def live_attempt(self) -> Attempt | None:
        """The attempt, unless its machine is given up."""
        return self.attempt if self.attempt is not None and self.attempt.number > self.replaced.up_to else None

    @property
    def wish(self) -> Wish:
        """What it asks of its machine. One that the cloud may take back has to be asked for."""
        terms = _requirements(self.spec)
        if all(term.key != names.CAPACITY_TYPE_LABEL for term in terms):
            terms = (*terms, Requirement(names.CAPACITY_TYPE_LABEL, "In", ("on-demand",)))
        return Wish(terms, tuple(sorted(labels_of(self.manifest).items())))

    @property
    def taints(self) -> list[Manifest]:
        """Those that its node is to have when it has joined."""
        return [*(self.spec.get("taints") or ()), *(self.spec.get("startupTaints") or ())]

    @property
    def requests(self) -> Mapping[str, Any]:
        found: Mapping[str, Any] = (self.spec.get("resources") or {}).get("requests") or {}
        return found

    @property
    def disk_gib(self) -> int:
        """Disk space asked for, rounded up; 0 when none is."""
        asked = quantity(self.requests.get("storage") or self.requests.get("ephemeral-storage"))
        return -(-int(asked or 0) // 2**30)

    @property
    def image_family(self) -> str:
        return annotations_of(self.manifest).get(IMAGE_FAMILY_ANNOTATION, "").strip().lower()

    @property
    def expires(self) -> datetime | None:
        after = duration_s(self.spec.get("expireAfter"))
        return None if after is None else self.created + timedelta(seconds=after)

    def condition(self, type_: str) -> Manifest | None:
        """Its condition; a Machine's stages have a prefix."""
        wanted = self.type_of(type_)
        for condition in self.status.get("conditions") or ():
            if condition.get("type") == wanted:
                found: Manifest = condition
                return found
        return None

    def type_of(self, type_: str) -> str:
        """What the kind calls a condition."""
        return f"Machine{type_}" if self.resource.kind == "Machine" and type_ in STAGES else type_

    def reached(self, type_: str) -> bool:
        """Whether the condition is True."""
        found = self.condition(type_)
        return found is not None and found.get("status") == "True"

    def since(self, type_: str) -> datetime | None:
        """When the condition took its present value."""
        return moment((self.condition(type_) or {}).get("lastTransitionTime"))


@dataclass(frozen=True, slots=True)
class Condition:
    """One condition as it should be. `status`: True, False, Unknown."""

    type: str
    status: str
    reason: str = ""
    message: str = ""


def read_claim(manifest: Manifest, resource: Resource) -> Claim:
    """The claim that the manifest is."""
    notes = annotations_of(manifest)
    return Claim(
        manifest,
        resource,
        Attempt.parse(notes.get(names.ATTEMPT_ANNOTATION, "")),
        Replaced.parse(notes.get(names.REPLACED_ANNOTATION, "")),
        _complaint(manifest.get("spec")),
    )


def conditions(claim: Claim, wanted: Sequence[Condition], now: datetime) -> list[Manifest]:
    """The conditions with times, and Ready, which follows from the stages."""
    by_type = {condition.type: condition for condition in wanted}
    stages = [by_type[type_] for type_ in STAGES if type_ in by_type]
    rest = [condition for condition in wanted if condition.type not in STAGES]
    generation = claim.manifest["metadata"].get("generation")
    found = [
        {
            "type": claim.type_of(condition.type),
            "status": condition.status,
            "reason": condition.reason or condition.type,
            "message": condition.message,
            **({"observedGeneration": generation} if generation else {}),
        }
        for condition in (*stages, _ready(stages), *rest)
    ]
    return merged_conditions(claim.status.get("conditions") or (), found, now)


def _ready(stages: Sequence[Condition]) -> Condition:
    for status in ("False", "Unknown"):
        for stage in stages:
            if stage.status == status:
                return Condition(names.READY, status, stage.reason or stage.type, stage.message)
    return Condition(names.READY, "True")


def _complaint(spec: Any) -> str:
    if not isinstance(spec, dict):
        return "spec is missing"
    terms = spec.get("requirements")
    if not isinstance(terms, list) or not terms:
        return "spec.requirements is empty: name at least node.kubernetes.io/instance-type"
    for number, term in enumerate(terms):
        if not isinstance(term, dict) or not term.get("key") or not term.get("operator"):
            return f"spec.requirements[{number}] lacks key or operator"
    for field in ("expireAfter", "terminationGracePeriod"):
        text = spec.get(field)
        if text not in (None, "Never") and duration_s(text) is None:
            return f"spec.{field} is {text}: write it like 720h"
    return ""


def _requirements(spec: Manifest) -> tuple[Requirement, ...]:
    return tuple(
        Requirement(str(term["key"]), str(term["operator"]), tuple(str(value) for value in term.get("values") or ()))
        for term in spec.get("requirements") or ()
    )


def moment(text: object) -> datetime | None:
    """The time that a text names, if it does."""
    if not isinstance(text, str):
        return None
    try:
        return parse_time(text)
    except ValueError:
        return None


def duration_s(text: object) -> float | None:
    """Go's way to write a duration, such as 1h30m; None for Never and for what is none."""
    if not isinstance(text, str):
        return None
    parts = _DURATION.findall(text)
    if not parts or "".join(f"{n}{unit}" for n, unit in parts) != text:
        return None
    return float(sum(int(n) * {"h": 3600, "m": 60, "s": 1}[unit] for n, unit in parts))


def quantity(value: object) -> float | None:
    """A Kubernetes quantity as a number; None for what is none."""
    match = _QUANTITY.fullmatch(str(value)) if value is not None else None
    return float(match[1]) * _FACTORS[match[2]] if match else None


def stamp(now: datetime) -> str:
    """The time as Kubernetes writes it."""
    return rfc3339(now)
