# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Pods, views and sources for the tests of this folder; override only what a test is about."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from kaito.engine.node.model import Attempt, ContainerView, PodView
from kaito.kube.manifest import Manifest

NOW = datetime(2026, 1, 1, 12, 0, 0, tzinfo=UTC)


def container(name: str = "main", **fields: Any) -> Manifest:
    """A container."""
    return {"name": name, "image": "busybox", **fields}


def pod(
    *containers: Manifest, init: list[Manifest] | None = None, status: Manifest | None = None, **spec: Any
) -> Manifest:
    """A pod bound to a node."""
    made: Manifest = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "web-0", "namespace": "default", "uid": "u-1", "labels": {"app": "web"}},
        "spec": {
            "nodeName": "here",
            "restartPolicy": "Always",
            "containers": list(containers) or [container()],
            **spec,
        },
        "status": status or {},
    }
    if init:
        made["spec"]["initContainers"] = init
    return made


def deleting(manifest: Manifest, *, grace_s: int = 30) -> Manifest:
    """The pod with deletion asked for just now."""
    end = (NOW + timedelta(seconds=grace_s)).strftime("%Y-%m-%dT%H:%M:%SZ")
    manifest["metadata"] |= {"deletionTimestamp": end, "deletionGracePeriodSeconds": grace_s}
    return manifest


def running(number: int = 0, **fields: Any) -> ContainerView:
    """A container whose process lives."""
    return ContainerView(current=Attempt(number, f"c/{number}", started_at=NOW), **fields)


def ended(
    exit_code: int = 0, number: int = 0, *, ago_s: float = 1, ran_s: float = 5, backoff_s: float = 0
) -> ContainerView:
    """A container whose process has ended."""
    finished = NOW - timedelta(seconds=ago_s)
    attempt = Attempt(
        number,
        f"c/{number}",
        backoff=timedelta(seconds=backoff_s),
        started_at=finished - timedelta(seconds=ran_s),
        finished_at=finished,
        exit_code=exit_code,
    )
    return ContainerView(current=attempt)


def view(manifest: Manifest, *, volumes_ready: bool = True, **containers: ContainerView) -> PodView:
    """What the node sees of the pod; a container that is not named never ran."""
    return PodView(manifest, containers, "127.64.0.9", "127.0.0.1", volumes_ready=volumes_ready)


@dataclass
class FakeSources:
    """Objects by name, whatever the namespace."""

    config_maps: dict[str, Manifest] = field(default_factory=dict)
    secrets: dict[str, Manifest] = field(default_factory=dict)
    claims: dict[str, Manifest] = field(default_factory=dict)
    volumes: dict[str, Manifest] = field(default_factory=dict)

    def config_map(self, namespace: str, name: str) -> Manifest | None:
        return self.config_maps.get(name)

    def secret(self, namespace: str, name: str) -> Manifest | None:
        return self.secrets.get(name)

    def claim(self, namespace: str, name: str) -> Manifest | None:
        return self.claims.get(name)

    def volume(self, name: str) -> Manifest | None:
        return self.volumes.get(name)


def config_map(name: str, **data: str) -> Manifest:
    """A ConfigMap."""
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": "default"}, "data": data}


def secret(name: str, **data: str) -> Manifest:
    """A Secret; `data` is base64."""
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": "default"}, "data": data}
