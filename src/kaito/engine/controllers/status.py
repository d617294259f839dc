# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Writing status: the smallest merge patch that makes what is there what it should be.

Several writers share the status of a built-in kind (a node agent and a controller, say), so a controller patches the
fields that it owns and leaves others alone. Nothing to change means no patch: idle controllers do not write.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any

from kaito.kube.manifest import Manifest, key_of, rfc3339
from kaito.kube.plan import Patch
from kaito.kube.resource import Resource


def merge_patch(current: Manifest, wanted: Manifest) -> Manifest:
    """The JSON merge patch (RFC 7386) that turns `current` into `wanted`; empty when they are equal."""
    patch: Manifest = {key: None for key in current if key not in wanted}
    for key, value in wanted.items():
        before = current.get(key)
        if key in current and before == value:
            continue
        patch[key] = merge_patch(before, value) if isinstance(value, dict) and isinstance(before, dict) else value
    return patch


def status_patch(
    resource: Resource, obj: Manifest, status: Manifest, *, keep: Iterable[str] = (), conditional: bool = False
) -> tuple[Patch, ...]:
    """The patch that makes the object's status `status`, or nothing when it is that already.

    keep: fields of others, left as they are. conditional: fail when the object has changed since it was read.
    """
    current = {key: value for key, value in (obj.get("status") or {}).items() if key not in set(keep)}
    change = merge_patch(current, status)
    if not change:
        return ()
    body: Manifest = {"status": change}
    if conditional:
        body["metadata"] = {"resourceVersion": obj["metadata"]["resourceVersion"]}
    return (Patch(resource, key_of(obj), body, subresource="status"),)


def without_zeros(status: Manifest, *always: str) -> Manifest:
    """The status without zeros, empty texts and None, but for the fields named: what Kubernetes calls omitempty."""
    return {key: value for key, value in status.items() if value or key in always}


def stamped(condition: Manifest, current: Iterable[Manifest], now: datetime, *, updates: str | None = None) -> Manifest:
    """The condition with its times: the old ones if nothing changed.

    updates: a second time (`lastUpdateTime`, `lastProbeTime`) that moves when reason, message or status change.
    """
    old: dict[str, Any] = next((c for c in current if c["type"] == condition["type"]), {})
    same_status = old.get("status") == condition["status"]
    times = {"lastTransitionTime": old["lastTransitionTime"] if same_status else rfc3339(now)}
    if updates:
        same = same_status and all(old.get(key) == condition.get(key) for key in ("reason", "message"))
        times[updates] = old.get(updates, rfc3339(now)) if same else rfc3339(now)
    return {**condition, **times}
