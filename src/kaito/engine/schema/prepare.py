# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""What Kubernetes' admission plugins and strategies set in a new built-in object, after defaults.

Nobody owns these fields: call `prepare_create` after `apply.track_update` or `apply.apply`.
"""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Any, Final

from kaito.engine.schema.quantity import value_of
from kaito.kube.manifest import Manifest, rfc3339

_TOLERATED_S: Final = 300
_UNREACHABLE: Final = ("node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable")
_COUNTED: Final = ("cpu", "memory")


def prepare_create(obj: Manifest, now: datetime) -> None:
    """Set what the server sets in a new object of the kind, in place."""
    match obj.get("kind"):
        case "Pod":
            _pod(obj)
        case "Namespace":
            obj.setdefault("spec", {}).setdefault("finalizers", ["kubernetes"])
        case "PersistentVolumeClaim":
            _finalizer(obj, "kubernetes.io/pvc-protection")
        case "PersistentVolume":
            obj.setdefault("status", {}).setdefault("lastPhaseTransitionTime", rfc3339(now))
        case "Job":
            _job(obj)
        case "Role" | "ClusterRole":
            obj["rules"] = obj.get("rules") or None


_WITH_ADDRESS: Final = ("ClusterIP", "NodePort", "LoadBalancer")
_WITH_PORTS: Final = ("NodePort", "LoadBalancer")
_OF_TYPES: Final = (
    (_WITH_ADDRESS, ("clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy", "internalTrafficPolicy")),
    (_WITH_PORTS, ("externalTrafficPolicy",)),
    (("LoadBalancer",), ("allocateLoadBalancerNodePorts", "loadBalancerClass", "healthCheckNodePort")),
)
"""Which types of Services some fields belong to."""


def without_former_type(spec: Manifest, old: Manifest) -> Manifest:
    """The Service's spec without what only its former type had, unless the update sets it anew."""
    before, after = old.get("type", "ClusterIP"), spec.get("type", "ClusterIP")
    if before == after:
        return spec
    kept = dict(spec)
    for types, fields in _OF_TYPES:
        if before in types and after not in types:
            for name in fields:
                if kept.get(name) == old.get(name):
                    kept.pop(name, None)
    if before in _WITH_PORTS and after not in _WITH_PORTS:
        had = {port.get("nodePort") for port in old.get("ports") or []}
        kept["ports"] = [
            {key: value for key, value in port.items() if key != "nodePort" or value not in had}
            for port in kept.get("ports") or []
        ]
        if not kept["ports"]:
            del kept["ports"]
    return kept


def _finalizer(obj: Manifest, name: str) -> None:
    finalizers = obj["metadata"].setdefault("finalizers", [])
    if name not in finalizers:
        finalizers.append(name)


def _pod(obj: Manifest) -> None:
    spec = obj["spec"]
    spec.setdefault("priority", 0)
    spec.setdefault("preemptionPolicy", "PreemptLowerPriority")
    tolerations = spec.setdefault("tolerations", [])
    for key in _UNREACHABLE:
        if not any(_tolerates(toleration, key) for toleration in tolerations):
            tolerations.append(
                {"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": _TOLERATED_S}
            )
    obj.setdefault("status", {})["qosClass"] = qos_class(spec)


def _tolerates(toleration: Manifest, key: str) -> bool:
    return toleration.get("key", "") in ("", key) and toleration.get("effect", "") in ("", "NoExecute")


def qos_class(spec: Manifest) -> str:
    """Guaranteed, Burstable or BestEffort, by the limits and requests of all containers."""
    containers = [*(spec.get("initContainers") or []), *(spec.get("containers") or [])]
    guaranteed, any_set = True, False
    for container in containers:
        resources = container.get("resources") or {}
        limits, requests = _amounts(resources.get("limits")), _amounts(resources.get("requests"))
        any_set = any_set or bool(limits or requests)
        guaranteed = guaranteed and set(limits) == set(_COUNTED) and limits == requests
    if not any_set:
        return "BestEffort"
    return "Guaranteed" if guaranteed else "Burstable"


def _amounts(values: Any) -> dict[str, Decimal]:
    found = {name: value_of(amount) for name, amount in (values or {}).items() if name in _COUNTED}
    return {name: amount for name, amount in found.items() if amount}


def _job(obj: Manifest) -> None:
    """Labels and selector by the Job's uid, which must be set; old and new label names as Kubernetes does."""
    spec, meta = obj["spec"], obj["metadata"]
    uid = meta.get("uid")
    if spec.get("manualSelector") or not uid:
        return
    labels = spec["template"].setdefault("metadata", {}).setdefault("labels", {})
    follows = (meta.get("labels") or {}) == labels  # a Job without labels of its own has those of its template
    for prefix in ("", "batch.kubernetes.io/"):
        labels[f"{prefix}controller-uid"] = uid
        labels[f"{prefix}job-name"] = meta["name"]
    if follows:
        meta["labels"] = dict(labels)
    selector = spec.setdefault("selector", {})
    selector.setdefault("matchLabels", {})["batch.kubernetes.io/controller-uid"] = uid
