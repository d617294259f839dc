# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""What every cluster has from its first second: the system namespaces and priority classes, the `kubernetes` Service,
the default roles.
"""

from __future__ import annotations

from kaito.engine.access.rbac import AGGREGATE_TO, AGGREGATED, DEFAULT_BINDINGS, DEFAULT_ROLES, GROUP
from kaito.engine.objects.priorities import SYSTEM_CLASSES
from kaito.engine.objects.registry import Registry
from kaito.engine.wire.context import SYSTEM_USER, WriteContext
from kaito.kube.clock import Clock
from kaito.kube.manifest import Manifest

NAMESPACES = ("default", "kube-system", "kube-public", "kube-node-lease")
ROLE_LABEL = {"kubernetes.io/bootstrapping": "rbac-defaults"}


async def bootstrap(registry: Registry, clock: Clock, *, host: str, port: int, kubernetes_ip: str) -> None:
    """Create what is missing; the `kubernetes` Service's endpoint follows the server's address."""
    for name in NAMESPACES:
        await _ensure(registry, clock, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    for name, (value, description) in SYSTEM_CLASSES.items():
        manifest = {"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": name}}
        await _ensure(registry, clock, {**manifest, "value": value, "description": description})
    for name, rules in DEFAULT_ROLES.items():
        await _ensure(registry, clock, _cluster_role(name, rules))
    for name, group in DEFAULT_BINDINGS.items():
        reference = {"apiGroup": GROUP, "kind": "ClusterRole", "name": name}
        subject = {"apiGroup": GROUP, "kind": "Group", "name": group}
        await _ensure(registry, clock, _rbac("ClusterRoleBinding", name, roleRef=reference, subjects=[subject]))
    labels = {"component": "apiserver", "provider": "kubernetes"}
    meta = {"name": "kubernetes", "namespace": "default", "labels": labels}
    ports = [{"name": "https", "port": 443, "protocol": "TCP", "targetPort": port}]
    spec = {"clusterIP": kubernetes_ip, "ports": ports}
    await _ensure(registry, clock, {"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": spec})
    await _endpoints(registry, clock, host, port)


def _rbac(kind: str, name: str, **parts: object) -> Manifest:
    return {"apiVersion": f"{GROUP}/v1", "kind": kind, "metadata": {"name": name, "labels": ROLE_LABEL}, **parts}


def _cluster_role(name: str, rules: list[Manifest]) -> Manifest:
    """A default role: what it collects, and which one it is a part of."""
    role = _rbac("ClusterRole", name, rules=rules)
    target = name.removeprefix("system:aggregate-to-")
    if name in AGGREGATED:
        selector = {"matchLabels": {f"{AGGREGATE_TO}{name}": "true"}}
        role["aggregationRule"] = {"clusterRoleSelectors": [selector]}
        following = AGGREGATED[AGGREGATED.index(name) + 1 :]
        target = following[0] if following else ""
    if target in AGGREGATED:
        role["metadata"] = {"name": name, "labels": {**ROLE_LABEL, f"{AGGREGATE_TO}{target}": "true"}}
    return role


async def _endpoints(registry: Registry, clock: Clock, host: str, port: int) -> None:
    """Where the `kubernetes` Service leads: this server."""
    meta = {"name": "kubernetes", "namespace": "default", "labels": {"kubernetes.io/service-name": "kubernetes"}}
    ready = {"addresses": [host], "conditions": {"ready": True}}
    manifest: Manifest = {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": meta,
        "addressType": "IPv4",
        "endpoints": [ready],
        "ports": [{"name": "https", "port": port, "protocol": "TCP"}],
    }
    kind = registry.kind("discovery.k8s.io", "endpointslices")
    if not await _ensure(registry, clock, manifest):
        ctx = _context(clock)

        def moved(live: Manifest) -> Manifest:
            return {**live, "endpoints": [ready], "ports": manifest["ports"]}

        await registry.update(kind, "default", "kubernetes", moved, ctx)


def _context(clock: Clock) -> WriteContext:
    return WriteContext(SYSTEM_USER, clock.now(), "kube-apiserver")


async def _ensure(registry: Registry, clock: Clock, manifest: Manifest) -> bool:
    """Create the object unless it exists; says whether it did."""
    kind = registry.kinds.named(manifest["apiVersion"], manifest["kind"])
    assert kind is not None
    namespace = manifest["metadata"].get("namespace", "")
    if registry.store.get(kind.collection, namespace, manifest["metadata"]["name"]) is not None:
        return False
    ctx = _context(clock)
    obj = registry.strategies.of(kind).decoded(manifest, ctx, duplicates=[])
    await registry.create(kind, namespace, obj, ctx)
    return True
