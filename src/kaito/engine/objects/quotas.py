# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Refusing what a namespace's ResourceQuotas have no room for, as Kubernetes' admission plugin does.

What is used is counted anew from the store at each create in a namespace that has quotas: exact, and free of races,
because nothing else runs between the count and the write. Only creations are looked at.
"""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal

from kaito.engine.controllers.usage import Amounts, concerns, covers, total, unasked, usage
from kaito.engine.kinds import Kind
from kaito.engine.objects.registry import Registry
from kaito.engine.schema.quantity import canonical, value_of
from kaito.engine.wire.codec import decode
from kaito.engine.wire.status import forbidden
from kaito.kube.manifest import Manifest


def check_quotas(registry: Registry, kind: Kind, namespace: str, obj: Manifest) -> None:
    """Raises StatusError 403 when a quota of the namespace has no room for the object."""
    if not registry.store.count("/resourcequotas"):
        return
    for quota in registry.objects("", "resourcequotas", namespace):
        if concerns(quota, kind.group, kind.plural) and covers(quota, kind.group, kind.plural, obj):
            _check(registry, quota, kind, obj)


def _check(registry: Registry, quota: Manifest, kind: Kind, obj: Manifest) -> None:
    meta, hard = quota["metadata"], (quota.get("spec") or {}).get("hard") or {}
    name = obj["metadata"].get("name", "")
    if kind.collection == "/pods":
        missing = unasked(quota, obj)
        if missing:
            said = "; ".join(f"{resource} for: {','.join(names)}" for resource, names in missing.items())
            raise forbidden(kind, name, f"failed quota: {meta['name']}: must specify {said}")
    wanted = {key: amount for key, amount in usage(kind.group, kind.plural, obj).items() if key in hard and amount}
    used = total({"spec": {**quota["spec"], "hard": wanted}}, _counted(registry, quota, meta["namespace"]))
    over = sorted(key for key, amount in wanted.items() if used[key] + amount > value_of(hard[key]))
    if over:
        text = (
            f"exceeded quota: {meta['name']}, requested: {_shown(wanted, over)}, used: {_shown(used, over)}, "
            f"limited: {','.join(f'{key}={hard[key]}' for key in over)}"
        )
        raise forbidden(kind, name, text)


def _counted(registry: Registry, quota: Manifest, namespace: str) -> Iterator[tuple[str, str, Manifest]]:
    for kind in registry.kinds.stored():
        if kind.namespaced and concerns(quota, kind.group, kind.plural):
            for record in registry.store.scan(kind.collection, namespace):
                yield kind.group, kind.plural, decode(record.value)


def _shown(amounts: Amounts, names: list[str]) -> str:
    return ",".join(f"{name}={canonical(format(amounts.get(name, Decimal(0)), 'f'))}" for name in names)
