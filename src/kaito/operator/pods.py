# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Parts of a pod, each as a value: volumes with their mounts, probes, environment, tolerations, affinity, GPUs.

Knows Kubernetes' words for these things and the paths of `kaito.api.contracts`; which parts a workload needs is
decided in `workspace/serving.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kaito.api.contracts import HTTP_PORT
from kaito.kube.manifest import Manifest

GPU_RESOURCE = "nvidia.com/gpu"
RUNTIME_USER = 10001
"""The user of the runtime image."""
HEALTH_PATH = "/health"
STARTUP_PERIOD_S = 1
READINESS_PERIOD_S = 5
LIVENESS_PERIOD_S = 10
PROBE_TIMEOUT_S = 5
"""A model server under load answers late; a second, Kubernetes' default, would end it for being busy."""


@dataclass(frozen=True, slots=True)
class Mounted:
    """A volume together with the place where the main container sees it."""

    volume: Manifest
    mount: Manifest


def empty_dir(name: str, path: str, *, in_memory: bool = False) -> Mounted:
    """A folder that lives as long as the pod."""
    return mounted(name, path, {"emptyDir": {"medium": "Memory"} if in_memory else {}})


def config_map(name: str, path: str, config_map_name: str) -> Mounted:
    """The keys of a ConfigMap as files."""
    return mounted(name, path, {"configMap": {"name": config_map_name}}, read_only=True)


def host_path(name: str, path: str, folder: str, *, create: bool = False) -> Mounted:
    """A folder of the node: read-only, or made on demand and writable."""
    source = {"hostPath": {"path": folder, "type": "DirectoryOrCreate" if create else "Directory"}}
    return mounted(name, path, source, read_only=not create)


def mounted(name: str, path: str, source: Manifest, *, read_only: bool = False) -> Mounted:
    """Any volume source under a name and a path."""
    mount: Manifest = {"name": name, "mountPath": path}
    if read_only:
        mount["readOnly"] = True
    return Mounted({"name": name, **source}, mount)


def probes(startup_timeout_s: int) -> dict[str, Manifest]:
    """The three probes of a model server, which may take `startup_timeout_s` until it first answers.

    Readiness starts without delay: the startup probe already holds it back, and a server that is up is to be used.
    """
    get = {"path": HEALTH_PATH, "port": HTTP_PORT, "scheme": "HTTP"}
    failures = -(-startup_timeout_s // STARTUP_PERIOD_S)
    return {
        "startupProbe": _probe(get, STARTUP_PERIOD_S, failures),
        "readinessProbe": _probe(get, READINESS_PERIOD_S, 3),
        "livenessProbe": _probe(get, LIVENESS_PERIOD_S, 3),
    }


def _probe(get: Manifest, period_s: int, failures: int) -> Manifest:
    return {
        "httpGet": dict(get),
        "periodSeconds": period_s,
        "timeoutSeconds": PROBE_TIMEOUT_S,
        "successThreshold": 1,
        "failureThreshold": failures,
    }


def container_security() -> Manifest:
    """A container that writes to its volumes only and can gain no rights; what it needs to write is mounted."""
    return {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": True,
    }


def pod_security(*, root: bool) -> Manifest:
    """An ordinary user, to whom the pod's volumes belong. A folder of the node (`root`) belongs to the node's root as
    the kubelet makes it, so that only root, without any capability, can write there."""
    profile = {"seccompProfile": {"type": "RuntimeDefault"}}
    if root:
        return profile
    return {
        "fsGroup": RUNTIME_USER,
        "runAsGroup": RUNTIME_USER,
        "runAsNonRoot": True,
        "runAsUser": RUNTIME_USER,
        **profile,
    }


def gpu_resources(gpus: int, resource: str = GPU_RESOURCE) -> Manifest:
    """GPUs, or slices of them under a name of their own; requests equal limits, as extended resources demand. Empty on
    a node without GPUs."""
    if gpus <= 0:
        return {}
    return {"requests": {resource: str(gpus)}, "limits": {resource: str(gpus)}}


def tolerations() -> list[Manifest]:
    """The taints of GPU nodes that a workload of ours accepts."""
    return [
        {"key": GPU_RESOURCE, "operator": "Exists", "effect": "NoSchedule"},
        {"key": "sku", "operator": "Equal", "value": "gpu", "effect": "NoSchedule"},
    ]


def spot_toleration() -> Manifest:
    """The taint that Azure puts on machines that it may take back."""
    return {
        "key": "kubernetes.azure.com/scalesetpriority",
        "operator": "Equal",
        "value": "spot",
        "effect": "NoSchedule",
    }


def node_affinity(requirements: Sequence[Manifest]) -> Manifest:
    """The affinity that pins a pod to nodes on which all requirements hold; empty without requirements."""
    if not requirements:
        return {}
    terms = [{"matchExpressions": list(requirements)}]
    return {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}}


def one_a_node(labels: Mapping[str, str]) -> Manifest:
    """Keeps pods with these labels on nodes of their own."""
    term = {"labelSelector": {"matchLabels": dict(labels)}, "topologyKey": "kubernetes.io/hostname"}
    return {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}


def narrowed_affinity(affinity: Manifest, requirements: Sequence[Manifest]) -> Manifest:
    """The user's own affinity with our requirements added to each of its terms (terms are alternatives)."""
    own = affinity.get("nodeAffinity") or {}
    terms = (own.get("requiredDuringSchedulingIgnoredDuringExecution") or {}).get("nodeSelectorTerms") or []
    if not requirements or not terms:
        node = {**own, **node_affinity(requirements).get("nodeAffinity", {})}
        return {**affinity, **({"nodeAffinity": node} if node else {})}
    narrowed = [{**term, "matchExpressions": [*(term.get("matchExpressions") or []), *requirements]} for term in terms]
    required = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": narrowed}}
    return {**affinity, "nodeAffinity": {**own, **required}}


def secret_env(name: str, secret: str, key: str) -> Manifest:
    """An environment variable from a Secret, absent while the Secret or its key is."""
    return {"name": name, "valueFrom": {"secretKeyRef": {"name": secret, "key": key, "optional": True}}}


def appended(ours: Iterable[Any], theirs: Iterable[Any]) -> list[Any]:
    """`theirs` followed by those of `ours` that are not in it."""
    kept = list(theirs)
    return [*kept, *(item for item in ours if item not in kept)]
