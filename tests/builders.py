# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Kubernetes objects for tests: plain and valid, overridden only in what a test is about."""

from __future__ import annotations

from typing import Any

from kaito.kube.manifest import Manifest

NOW = "2026-01-01T00:00:00Z"


def merged(base: Manifest, changes: Manifest) -> Manifest:
    """The manifest with the changes laid over it; maps are merged, None takes a key out, all else replaces."""
    result = dict(base)
    for key, value in changes.items():
        if value is None:
            result.pop(key, None)
        elif isinstance(value, dict) and isinstance(result.get(key), dict):
            result[key] = merged(result[key], value)
        else:
            result[key] = value
    return result


def workspace(name: str = "demo", **changes: Any) -> Manifest:
    """A Workspace as a server returns it; preset phi-3-mini-4k-instruct unless changed."""
    base: Manifest = {
        "apiVersion": "kaito.sh/v1beta1",
        "kind": "Workspace",
        "metadata": {
            "name": name,
            "namespace": "default",
            "uid": f"uid-{name}",
            "resourceVersion": "1",
            "generation": 1,
            "creationTimestamp": NOW,
        },
        "resource": {"labelSelector": {"matchLabels": {"apps": "demo"}}},
        "inference": {"preset": {"name": "phi-3-mini-4k-instruct"}},
    }
    return merged(base, changes)


def node(name: str = "laptop", *, ready: bool = True, gpus: int = 0, **changes: Any) -> Manifest:
    """A node; with GPUs it is labelled as eight-times-H200 machines are, GPU count aside."""
    capacity = {"cpu": "2", "memory": "8Gi", "pods": "110"}
    labels = {"kubernetes.io/hostname": name}
    if gpus:
        capacity["nvidia.com/gpu"] = str(gpus)
        labels |= {
            "nvidia.com/gpu.product": "NVIDIA-H200",
            "nvidia.com/gpu.count": str(gpus),
            "nvidia.com/gpu.memory": "143771",
        }
    condition = {"type": "Ready", "status": "True" if ready else "False", "reason": "KubeletReady"}
    if not ready:
        condition["reason"] = "KubeletNotReady"
    base: Manifest = {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "uid": f"uid-{name}", "resourceVersion": "1", "labels": labels},
        "spec": {},
        "status": {"capacity": capacity, "allocatable": dict(capacity), "conditions": [condition]},
    }
    return merged(base, changes)


def pod(name: str = "demo-0", *, owner_uid: str = "uid-sts-demo", **changes: Any) -> Manifest:
    """A pod of Workspace demo's StatefulSet that runs and is not ready yet."""
    base: Manifest = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "namespace": "default",
            "uid": f"uid-{name}",
            "resourceVersion": "1",
            "labels": {"kaito.sh/workspace": "demo"},
            "ownerReferences": [
                {"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "demo", "uid": owner_uid, "controller": True}
            ],
        },
        "spec": {
            "nodeName": "laptop",
            "containers": [{"name": "demo", "readinessProbe": {"httpGet": {"path": "/health", "port": 5000}}}],
        },
        "status": {
            "phase": "Running",
            "conditions": [{"type": "PodScheduled", "status": "True"}, {"type": "Ready", "status": "False"}],
            "containerStatuses": [{"name": "demo", "ready": False, "restartCount": 0, "state": {"running": {}}}],
        },
    }
    return merged(base, changes)


def container_status(*, ready: bool = False, **states: Any) -> Manifest:
    """The status of container demo; `state` and `lastState` as given."""
    return {"name": "demo", "image": "kaito-runtime", "ready": ready, "restartCount": 1, **states}


def config_map(name: str, **data: str) -> Manifest:
    """A ConfigMap of the default namespace."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name, "namespace": "default", "uid": f"uid-{name}", "resourceVersion": "1"},
        "data": data,
    }
