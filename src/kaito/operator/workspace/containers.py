# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Reading what a kubelet reports of a pod's containers: which wait, which ended and how, and what events tell."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from kaito.kube.manifest import Manifest


def statuses(pod: Manifest, *fields: str) -> Iterator[Manifest]:
    """The statuses of the containers, init containers first."""
    status = pod.get("status") or {}
    for field in fields or ("initContainerStatuses", "containerStatuses"):
        yield from status.get(field) or []


def terminations(pod: Manifest, *fields: str) -> Iterator[tuple[Manifest, Manifest]]:
    """Container status and how it last ended in error; containers that are ready (again) are not asked."""
    for status in statuses(pod, *fields):
        if status.get("ready"):
            continue
        for state in ("state", "lastState"):
            terminated = (status.get(state) or {}).get("terminated")
            if terminated and terminated.get("exitCode") != 0:
                yield status, terminated


def waiting(pod: Manifest, reasons: Iterable[str]) -> Iterator[tuple[Manifest, Manifest]]:
    """Container status and waiting state of those that wait for one of the reasons."""
    for status in statuses(pod):
        state = (status.get("state") or {}).get("waiting")
        if state and state.get("reason") in reasons:
            yield status, state


def has_started(pod: Manifest) -> bool:
    """Whether one of the pod's containers runs or has run."""
    return any(
        (status.get(state) or {}).get(kind)
        for status in statuses(pod)
        for state in ("state", "lastState")
        for kind in ("running", "terminated")
    )


def claim_names(pod: Manifest) -> Iterator[str]:
    """The PersistentVolumeClaims that the pod mounts."""
    for volume in (pod.get("spec") or {}).get("volumes") or []:
        name = (volume.get("persistentVolumeClaim") or {}).get("claimName")
        if name:
            yield str(name)


def told_about(subject: Manifest, events: Sequence[Manifest]) -> list[Manifest]:
    """The events about this very object, the latest last."""
    meta = subject["metadata"]
    about = [
        event
        for event in events
        if (involved := event.get("involvedObject") or {}).get("kind") == subject["kind"]
        and involved.get("name") == meta["name"]
        and involved.get("uid", meta.get("uid")) == meta.get("uid")
    ]
    return sorted(about, key=when)


def when(event: Manifest) -> str:
    """When the event was last seen, as a text that sorts."""
    series = event.get("series") or {}
    moments = (series.get("lastObservedTime"), event.get("lastTimestamp"), event.get("eventTime"))
    return next((str(moment) for moment in moments if moment), str(event["metadata"].get("creationTimestamp") or ""))


def text_of(event: Manifest) -> str:
    """What the event says."""
    return " ".join(str(event.get("message") or event.get("reason") or "").split())
