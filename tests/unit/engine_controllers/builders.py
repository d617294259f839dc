# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Manifests for tests, with only what a test is about spelt out."""

from __future__ import annotations

from typing import Any

from kaito.kube.manifest import Manifest


def template(app: str = "web", image: str = "app:1", **spec: Any) -> Manifest:
    return {"metadata": {"labels": {"app": app}}, "spec": {"containers": [{"name": "main", "image": image}], **spec}}


def workload(kind: str, name: str = "web", *, image: str = "app:1", api: str = "apps/v1", **spec: Any) -> Manifest:
    return {
        "apiVersion": api,
        "kind": kind,
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"selector": {"matchLabels": {"app": name}}, "template": template(name, image), **spec},
    }


def job(name: str = "one", **spec: Any) -> Manifest:
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "parallelism": 1,
            "completions": 1,
            "backoffLimit": 6,
            "template": {
                "metadata": {"labels": {"batch.kubernetes.io/job-name": name}},
                "spec": {"restartPolicy": "Never", "containers": [{"name": "main", "image": "app:1"}]},
            },
            **spec,
        },
    }


def node(
    name: str = "n1", *, ready: str | None = "True", labels: dict[str, str] | None = None, gpus: str = "0", **room: str
) -> Manifest:
    conditions = (
        [] if ready is None else [{"type": "Ready", "status": ready, "lastTransitionTime": "2026-01-01T00:00:00Z"}]
    )
    allocatable = {"cpu": "4", "memory": "8Gi", "pods": "20", "nvidia.com/gpu": gpus, **room}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": labels or {}},
        "spec": {},
        "status": {"allocatable": allocatable, "conditions": conditions},
    }


def pod(
    name: str = "p", *, requests: dict[str, str] | None = None, labels: dict[str, str] | None = None, **spec: Any
) -> Manifest:
    container = {"name": "main", "image": "app:1", "resources": {"requests": requests or {}}}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "default", "labels": labels or {}},
        "spec": {"schedulerName": "default-scheduler", "containers": [container], **spec},
        "status": {"phase": "Pending"},
    }


def config_map(name: str, *owners: Manifest, **meta: Any) -> Manifest:
    references = [
        {"apiVersion": o["apiVersion"], "kind": o["kind"], "name": o["metadata"]["name"], "uid": o["metadata"]["uid"]}
        for o in owners
    ]
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name, "namespace": "default", "ownerReferences": references, **meta},
    }
