# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""The `scale` subresource: the view of an object as a number of replicas, and a change of that number.

Pure. Built-in workloads have their fixed paths, custom kinds name theirs.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

from kaito.engine.kinds import Kind
from kaito.engine.tables.columns import selector_text
from kaito.kube.manifest import Manifest

SCALE_KIND, SCALE_VERSION = "Scale", "autoscaling/v1"


@dataclass(frozen=True, slots=True)
class ScalePaths:
    """Where an object keeps what its Scale shows."""

    replicas: tuple[str, ...] = ("spec", "replicas")
    status: tuple[str, ...] = ("status", "replicas")
    selector: tuple[str, ...] | None = None
    """For custom kinds; built-in ones have `spec.selector`."""
    is_custom: bool = False


def scale_paths(kind: Kind) -> ScalePaths:
    """The paths for a kind that has the subresource."""
    if not kind.is_custom:
        return ScalePaths()
    found = (kind.version_spec.get("subresources") or {}).get("scale") or {}
    selector = found.get("labelSelectorPath")
    return ScalePaths(
        _split(found["specReplicasPath"]),
        _split(found["statusReplicasPath"]),
        _split(selector) if selector else None,
        is_custom=True,
    )


def _split(path: str) -> tuple[str, ...]:
    return tuple(path.removeprefix(".").split("."))


def at(obj: Any, path: tuple[str, ...]) -> Any:
    """The value at a path, or None."""
    for key in path:
        obj = obj.get(key) if isinstance(obj, dict) else None
    return obj


def scale_of(obj: Manifest, paths: ScalePaths) -> Manifest:
    """The object's Scale."""
    meta = obj["metadata"]
    kept = ("name", "namespace", "uid", "resourceVersion", "creationTimestamp")
    spec: Manifest = {}
    replicas = at(obj, paths.replicas)
    if replicas:
        spec["replicas"] = replicas
    status: Manifest = {"replicas": at(obj, paths.status) or 0}
    selector = _selector(obj, paths)
    if selector:
        status["selector"] = selector
    return {
        "kind": SCALE_KIND,
        "apiVersion": SCALE_VERSION,
        "metadata": {key: meta[key] for key in kept if key in meta},
        "spec": spec,
        "status": status,
    }


def _selector(obj: Manifest, paths: ScalePaths) -> str:
    if paths.is_custom:
        found = at(obj, paths.selector) if paths.selector else None
        return found if isinstance(found, str) else ""
    selector = at(obj, ("spec", "selector"))
    if selector and "matchLabels" not in selector and "matchExpressions" not in selector:
        selector = {"matchLabels": selector}
    text = selector_text(selector)
    return "" if text == "<none>" else text


def scaled(obj: Manifest, paths: ScalePaths, replicas: int) -> Manifest:
    """The object with another number of replicas."""
    changed = copy.deepcopy(obj)
    target = changed
    for key in paths.replicas[:-1]:
        target = target.setdefault(key, {})
    target[paths.replicas[-1]] = replicas
    return changed
