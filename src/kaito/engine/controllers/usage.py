# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""What an object uses of a ResourceQuota: counts, and the CPU, memory and storage that it asks for.

Pure arithmetic; `quota.py` writes the sums down, `kaito.engine.objects.quotas` refuses what would be too much.
"""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal

from kaito.engine.controllers import pods as pod
from kaito.engine.controllers.quantities import quantity
from kaito.kube.manifest import Manifest

Amounts = dict[str, Decimal]

ONE = Decimal(1)
COUNTED = frozenset(
    (
        "configmaps",
        "persistentvolumeclaims",
        "pods",
        "replicationcontrollers",
        "resourcequotas",
        "secrets",
        "services",
    )
)
"""Kinds of the core group that quotas count under their bare name."""

COMPUTE = frozenset(("cpu", "memory", "requests.cpu", "requests.memory", "limits.cpu", "limits.memory"))
"""What every container must ask for in a namespace whose quota names it."""


def usage(group: str, plural: str, obj: Manifest) -> Amounts:
    """What the object uses, under every name that a quota may have for it."""
    used: Amounts = {f"count/{plural}.{group}" if group else f"count/{plural}": ONE}
    if group:
        return used
    if plural == "pods":
        return used if pod.is_finished(obj) else {**used, **_of_pod(obj)}
    if plural in COUNTED:
        used[plural] = ONE
    if plural == "services":
        used |= _of_service(obj)
    if plural == "persistentvolumeclaims":
        used |= _of_claim(obj)
    return used


def _of_pod(obj: Manifest) -> Amounts:
    spec = obj["spec"]
    used: Amounts = {"pods": ONE}
    for part in ("requests", "limits"):
        for name, amount in _asked(spec, part).items():
            if part == "requests" and name in ("cpu", "memory", "ephemeral-storage"):
                used[name] = amount
            used[f"{part}.{name}"] = amount
    return used


def _asked(spec: Manifest, part: str) -> Amounts:
    """The sum over containers, or the largest init container where that is more."""
    total: Amounts = {}
    for container in spec.get("containers") or []:
        for name, text in ((container.get("resources") or {}).get(part) or {}).items():
            total[name] = total.get(name, Decimal(0)) + quantity(text)
    for container in spec.get("initContainers") or []:
        for name, text in ((container.get("resources") or {}).get(part) or {}).items():
            total[name] = max(total.get(name, Decimal(0)), quantity(text))
    return total


def _of_service(obj: Manifest) -> Amounts:
    spec = obj.get("spec") or {}
    ports = Decimal(len(spec.get("ports") or []))
    match spec.get("type"):
        case "NodePort":
            return {"services.nodeports": ports}
        case "LoadBalancer":
            has_ports = spec.get("allocateLoadBalancerNodePorts", True)
            return {"services.loadbalancers": ONE, "services.nodeports": ports if has_ports else Decimal(0)}
    return {}


def _of_claim(obj: Manifest) -> Amounts:
    spec = obj.get("spec") or {}
    size = quantity(((spec.get("resources") or {}).get("requests") or {}).get("storage"))
    used = {"requests.storage": size}
    if spec.get("storageClassName"):
        prefix = f"{spec['storageClassName']}.storageclass.storage.k8s.io"
        used |= {f"{prefix}/requests.storage": size, f"{prefix}/persistentvolumeclaims": ONE}
    return used


def covers(quota: Manifest, group: str, plural: str, obj: Manifest) -> bool:
    """Whether the quota's scopes include the object. Only pods have scopes; a quota with scopes is about pods alone."""
    scopes = (quota.get("spec") or {}).get("scopes") or []
    if not scopes:
        return True
    if group or plural != "pods":
        return False
    spec = obj["spec"]
    is_best_effort = not _asked(spec, "requests") and not _asked(spec, "limits")
    is_terminating = spec.get("activeDeadlineSeconds") is not None
    facts = {
        "BestEffort": is_best_effort,
        "NotBestEffort": not is_best_effort,
        "Terminating": is_terminating,
        "NotTerminating": not is_terminating,
    }
    return all(facts.get(scope, True) for scope in scopes)


def total(quota: Manifest, objects: Iterable[tuple[str, str, Manifest]]) -> Amounts:
    """The sums of what the quota names, over objects with their group and plural; zero for what nobody uses."""
    sums: Amounts = {name: Decimal(0) for name in (quota.get("spec") or {}).get("hard") or {}}
    for group, plural, obj in objects:
        if not covers(quota, group, plural, obj):
            continue
        for name, amount in usage(group, plural, obj).items():
            if name in sums:
                sums[name] += amount
    return sums


def concerns(quota: Manifest, group: str, plural: str) -> bool:
    """Whether the quota names anything that objects of the kind use."""
    counted = f"count/{plural}.{group}" if group else f"count/{plural}"
    hard = (quota.get("spec") or {}).get("hard") or {}
    if counted in hard:
        return True
    if group:
        return False
    prefixes = {
        "pods": ("pods", "cpu", "memory", "ephemeral-storage", "requests.", "limits."),
        "services": ("services",),
        "persistentvolumeclaims": ("persistentvolumeclaims", "requests.storage"),
    }.get(plural, (plural,) if plural in COUNTED else ())
    return any(name.startswith(prefixes) or (plural == "persistentvolumeclaims" and "/" in name) for name in hard)


def unasked(quota: Manifest, obj: Manifest) -> dict[str, list[str]]:
    """What the quota names and containers of the pod do not ask for: resource to containers."""
    missing: dict[str, list[str]] = {}
    for name in sorted(COMPUTE & ((quota.get("spec") or {}).get("hard") or {}).keys()):
        part, _, resource = name.rpartition(".")
        for container in obj["spec"].get("containers") or []:
            if resource not in ((container.get("resources") or {}).get(part or "requests") or {}):
                missing.setdefault(name, []).append(container["name"])
    return missing
