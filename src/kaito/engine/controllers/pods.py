# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Pods as controllers see them: made from a template, judged by their status.

Names are derived from the owner and a counter, never random: planning twice on the same cache asks for the same pods,
so that a repeated request finds them there already. Knows no workload kind; see `replicaset.py` and its neighbours.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime, timedelta

from kaito.kube.manifest import Manifest, condition_of, is_deleting, is_true, owner_reference, parse_time
from kaito.kube.plan import Event, Plan

# The letters and digits of Kubernetes' generated names: no vowels, so that no words arise
ALPHABET = "bcdfghjklmnpqrstvwxz2456789"
# What Kubernetes cuts `generateName` to, so that the name stays within 63 characters
MAX_GENERATE_NAME = 58


def digest(*parts: str, length: int = 10) -> str:
    """A name part that depends on nothing but `parts`, in the letters of Kubernetes' generated names."""
    number = int.from_bytes(hashlib.sha256("\0".join(parts).encode()).digest()[:16])
    letters = []
    for _ in range(length):
        number, index = divmod(number, len(ALPHABET))
        letters.append(ALPHABET[index])
    return "".join(letters)


def content_hash(content: object, collisions: int = 0) -> str:
    """The hash that names a ReplicaSet or ControllerRevision after its content."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return digest(text, str(collisions)) if collisions else digest(text)


def creation_refused(owner: Manifest) -> Callable[[Manifest, str], Plan]:
    """For `Plan.refused`: tells with the owner why the server does not take its pod, in Kubernetes' words."""

    def told(manifest: Manifest, why: str) -> Plan:
        if manifest.get("kind") != "Pod":
            return Plan()
        text = f"Error creating: {why}"
        if owner["kind"] == "StatefulSet":
            name = owner["metadata"]["name"]
            text = f"create Pod {manifest['metadata']['name']} in StatefulSet {name} failed error: {why}"
        return Plan(events=(Event(owner, "FailedCreate", text, type="Warning"),))

    return told


def generated_names(prefix: str, *seed: str) -> Iterator[str]:
    """An endless row of names `<prefix><5 characters>`, the same for the same seed."""
    count = 0
    while True:
        yield prefix[:MAX_GENERATE_NAME] + digest(*seed, str(count), length=5)
        count += 1


def pod_from_template(
    template: Manifest,
    owner: Manifest,
    *,
    name: str,
    generate_name: str | None = None,
    labels: Mapping[str, str] | None = None,
    annotations: Mapping[str, str] | None = None,
    finalizers: tuple[str, ...] = (),
) -> Manifest:
    """The Pod that a workload's template asks for, controlled by `owner` and in its namespace."""
    meta = template.get("metadata") or {}
    wanted: Manifest = {
        "name": name,
        "namespace": owner["metadata"]["namespace"],
        "labels": {**(meta.get("labels") or {}), **(labels or {})},
        "annotations": {**(meta.get("annotations") or {}), **(annotations or {})},
        "finalizers": [*(meta.get("finalizers") or []), *finalizers],
        "ownerReferences": [owner_reference(owner)],
    }
    if generate_name:
        wanted["generateName"] = generate_name
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {key: value for key, value in wanted.items() if value},
        "spec": dict(template.get("spec") or {}),
    }


def phase(pod: Manifest) -> str:
    """The pod's phase; a pod without one is Pending."""
    found: str = (pod.get("status") or {}).get("phase") or "Pending"
    return found


def is_finished(pod: Manifest) -> bool:
    """Whether its containers have ended for good."""
    return phase(pod) in ("Succeeded", "Failed")


def is_active(pod: Manifest) -> bool:
    """Whether it counts for a ReplicaSet: neither finished nor being deleted."""
    return not is_finished(pod) and not is_deleting(pod)


def is_ready(pod: Manifest) -> bool:
    """Whether the Ready condition is True."""
    return is_true(pod, "Ready")


def ready_since(pod: Manifest) -> datetime | None:
    """When the pod became ready; None while it is not, or when its status does not tell."""
    condition = condition_of(pod, "Ready")
    if condition is None or condition.get("status") != "True" or not condition.get("lastTransitionTime"):
        return None
    return parse_time(condition["lastTransitionTime"])


def available_in_s(pod: Manifest, min_ready_s: int, now: datetime) -> float | None:
    """Seconds until the pod is available: 0 when it is, None while it is not ready.

    Available means ready for `min_ready_s` without a break (`minReadySeconds` of every workload kind).
    """
    if not is_ready(pod):
        return None
    since = ready_since(pod)
    if min_ready_s == 0 or since is None:
        return 0.0
    return max(0.0, (since + timedelta(seconds=min_ready_s) - now).total_seconds())


def is_available(pod: Manifest, min_ready_s: int, now: datetime) -> bool:
    """Whether the pod has been ready for `min_ready_s` seconds."""
    return available_in_s(pod, min_ready_s, now) == 0.0


def next_available_in_s(pods: list[Manifest], min_ready_s: int, now: datetime) -> float | None:
    """Seconds until the next of the ready pods becomes available; None when there is nothing to wait for."""
    waits = [wait for pod in pods if (wait := available_in_s(pod, min_ready_s, now))]
    return min(waits) if waits else None


def created_at(obj: Manifest) -> datetime:
    """The object's creation time, which every object of a server has."""
    return parse_time(obj["metadata"]["creationTimestamp"])


def restarts(pod: Manifest) -> int:
    """The highest restart count of the pod's containers."""
    statuses = (pod.get("status") or {}).get("containerStatuses") or []
    return max((status.get("restartCount", 0) for status in statuses), default=0)
