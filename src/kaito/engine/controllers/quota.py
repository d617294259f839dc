# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""What is used of ResourceQuotas: sums over everything in the namespace, written into their status.

One key is one namespace, so that a change of any object in it is one look at all its quotas. Refusing what would be too
much is done when objects are created (`kaito.engine.objects.quotas`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial

from kaito.engine.controllers.status import status_patch
from kaito.engine.controllers.usage import concerns, total
from kaito.engine.schema.quantity import canonical
from kaito.kube.manifest import Key, Manifest
from kaito.kube.plan import Controller, Patch, Plan, Reader, Watch
from kaito.kube.resource import NAMESPACES, PERSISTENT_VOLUME_CLAIMS, PODS, RESOURCE_QUOTAS, SERVICES, Resource

NAME = "resourcequota-controller"
MEASURED = (RESOURCE_QUOTAS, PODS, PERSISTENT_VOLUME_CLAIMS, SERVICES)
"""What is looked at as a whole: all else is only counted."""


@dataclass(frozen=True, slots=True)
class Observed:
    """The quotas of a namespace, and what there is to count."""

    quotas: tuple[Manifest, ...]
    objects: tuple[tuple[str, str, Manifest], ...]
    """Group, plural, object."""


def controller(resources: Sequence[Resource]) -> Controller[Observed]:
    """The quota controller; `resources`: everything that is served."""
    counted = tuple(resource for resource in resources if resource.namespaced and resource.plural != "events")
    return Controller(
        name=NAME,
        resource=NAMESPACES,
        observe=partial(observe, resources=counted),
        plan=plan,
        watches=tuple(Watch(r, _namespace, metadata_only=r not in MEASURED) for r in counted),
    )


def _namespace(obj: Manifest) -> Iterable[Key]:
    return (Key("", obj["metadata"]["namespace"]),)


def observe(reader: Reader, key: Key, *, resources: Sequence[Resource]) -> Observed | None:
    """The quotas and the objects that they count; None for a namespace without quotas."""
    quotas = tuple(reader.list(RESOURCE_QUOTAS, key.name))
    if not quotas:
        return None
    named = [r for r in resources if any(concerns(quota, r.group, r.plural) for quota in quotas)]
    return Observed(quotas, tuple((r.group, r.plural, obj) for r in named for obj in reader.list(r, key.name)))


def plan(observed: Observed, now: datetime) -> Plan:
    """The status of each quota."""
    patches: list[Patch] = []
    for quota in observed.quotas:
        hard = (quota.get("spec") or {}).get("hard") or {}
        used = {name: canonical(format(amount, "f")) for name, amount in total(quota, observed.objects).items()}
        used = {name: _like(hard[name], text) for name, text in used.items()}
        patches += status_patch(RESOURCE_QUOTAS, quota, {"hard": dict(hard), "used": used} if hard else {})
    return Plan(patches=tuple(patches))


def _like(hard: str, used: str) -> str:
    """The amount in the family of the limit: memory is told in Ki, Mi and Gi where the limit is."""
    return canonical(f"{int(used) // 1024}Ki") if hard.endswith("i") and used.isdigit() and _is_whole(used) else used


def _is_whole(amount: str) -> bool:
    return int(amount) > 0 and int(amount) % 1024 == 0
