# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Built-in kinds that are served in two versions with different fields: events, and horizontal pod autoscalers.

The store holds one of the two (`STORED_AS`). Each function returns a new object and leaves its argument alone. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from kaito.kube.manifest import Manifest

STORED_AS: Final[Mapping[tuple[str, str], str]] = {
    ("events.k8s.io/v1", "Event"): "v1",
    ("autoscaling/v1", "HorizontalPodAutoscaler"): "autoscaling/v2",
}
"""The version that the store holds, by apiVersion and kind; kinds that are not here are stored as they come."""

SHARED_COLLECTIONS: Final[Mapping[str, str]] = {"events.k8s.io/events": "/events"}
"""Resources whose objects are those of another group."""

_EVENT_NAMES: Final = (
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
    ("reportingComponent", "reportingController"),
)


def converted(obj: Manifest, api_version: str) -> Manifest:
    """The object in another version of its kind; as it is when there is nothing to convert."""
    if obj["apiVersion"] == api_version:
        return obj
    match obj["kind"], api_version:
        case "Event", "v1":
            return _renamed(obj, {new: old for old, new in _EVENT_NAMES}, api_version)
        case "Event", _:
            return _renamed(obj, dict(_EVENT_NAMES), api_version)
        case "HorizontalPodAutoscaler", "autoscaling/v1":
            return _autoscaler_v1(obj)
        case "HorizontalPodAutoscaler", _:
            return _autoscaler_v2(obj)
    return obj


def _renamed(obj: Manifest, names: Mapping[str, str], api_version: str) -> Manifest:
    return {**{names.get(key, key): value for key, value in obj.items()}, "apiVersion": api_version}


def _is_cpu(entry: Manifest, part: str) -> bool:
    return entry.get("type") == "Resource" and entry["resource"]["name"] == "cpu" and part in _inner(entry)


def _inner(entry: Manifest) -> dict[str, Any]:
    found: dict[str, Any] = entry["resource"].get("target") or entry["resource"].get("current") or {}
    return found


def _autoscaler_v1(obj: Manifest) -> Manifest:
    """Only the CPU target has a place in v1; other metrics are left out of it."""
    spec, status = dict(obj.get("spec") or {}), dict(obj.get("status") or {})
    metrics, current = spec.pop("metrics", None) or [], status.pop("currentMetrics", None) or []
    for field in ("behavior", "conditions"):
        spec.pop(field, None)
        status.pop(field, None)
    for entry in metrics:
        if _is_cpu(entry, "averageUtilization"):
            spec["targetCPUUtilizationPercentage"] = _inner(entry)["averageUtilization"]
    for entry in current:
        if _is_cpu(entry, "averageUtilization"):
            status["currentCPUUtilizationPercentage"] = _inner(entry)["averageUtilization"]
    status = {"currentReplicas": 0, "desiredReplicas": 0, **status}
    return {**obj, "apiVersion": "autoscaling/v1", "spec": spec, "status": status}


def _autoscaler_v2(obj: Manifest) -> Manifest:
    spec, status = dict(obj.get("spec") or {}), dict(obj.get("status") or {})
    wanted = spec.pop("targetCPUUtilizationPercentage", None)
    current = status.pop("currentCPUUtilizationPercentage", None)
    if wanted is not None:
        target = {"type": "Utilization", "averageUtilization": wanted}
        spec["metrics"] = [{"type": "Resource", "resource": {"name": "cpu", "target": target}}]
    if current is not None:
        source = {"name": "cpu", "current": {"averageUtilization": current}}
        status["currentMetrics"] = [{"type": "Resource", "resource": source}]
    status = {"currentMetrics": None, "desiredReplicas": 0, **status}
    return {**obj, "apiVersion": "autoscaling/v2", "spec": spec, "status": status}
