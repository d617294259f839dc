# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Thousands of simulated nodes and ten thousand pods: how long until all are Ready, and in how much memory."""

from __future__ import annotations

import asyncio
import time
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path

import psutil
from tests.engine_process import EngineProcess

from kaito.kube.client import Client
from kaito.kube.config import load_kubeconfig
from kaito.kube.manifest import Manifest, is_true
from kaito.kube.resource import DEPLOYMENTS, NODES, PODS, STATEFUL_SETS, Resource

WITHIN_S = 600.0
WORKLOADS = 10
"""Deployments, and as many StatefulSets; together they make half of the pods."""
CREATORS = 16


@dataclass(frozen=True, slots=True)
class Scale:
    """What was seen."""

    seconds: float
    """From the start of the engine's process to the last pod Ready."""
    cpu_s: float
    rss_mib: float
    """The engine's memory at the end."""


async def measure(folder: Path, *, nodes: int, pods: int) -> Scale:
    """Half of the pods by Deployments and StatefulSets, half by hand."""
    folder.mkdir(parents=True, exist_ok=True)
    engine = EngineProcess(folder, "--no-node", "--simulated-nodes", str(nodes))
    began = time.monotonic()
    engine.start()
    try:
        process = psutil.Process(engine.pid)
        async with asyncio.timeout(WITHIN_S), Client(load_kubeconfig(engine.kubeconfig)) as client:
            await all_ready(client, NODES, nodes)
            async with asyncio.TaskGroup() as group:
                group.create_task(create_pods(client, pods))
                group.create_task(all_ready(client, PODS, pods))
        times = process.cpu_times()
        return Scale(time.monotonic() - began, times.user + times.system, process.memory_info().rss / 2**20)
    finally:
        engine.stop()


async def all_ready(client: Client, resource: Resource, count: int) -> None:
    """Return once so many objects have the condition Ready."""
    objects, version = await client.list_objects(resource)
    names = {obj["metadata"]["name"] for obj in objects if is_true(obj, "Ready")}
    while len(names) < count:
        async with aclosing(client.watch(resource, resource_version=version)) as events:
            async for event in events:
                version = event.object["metadata"]["resourceVersion"]
                if is_true(event.object, "Ready"):
                    names.add(event.object["metadata"]["name"])
                if len(names) >= count:
                    return


async def create_pods(client: Client, pods: int) -> None:
    """All that is to be created, from several clients at once."""
    each = pods // 2 // (2 * WORKLOADS)
    for number in range(WORKLOADS):
        await client.create(DEPLOYMENTS, workload("Deployment", f"deployment-{number}", each))
        await client.create(STATEFUL_SETS, workload("StatefulSet", f"stateful-{number}", each))
    numbers = iter(range(pods - 2 * WORKLOADS * each))

    async def creator() -> None:
        for number in numbers:
            meta = {"name": f"pod-{number}", "namespace": "default", "labels": {"app": f"app-{number % 50}"}}
            await client.create(PODS, {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": pod_spec()})

    await asyncio.gather(*(creator() for _ in range(CREATORS)))


def workload(kind: str, name: str, replicas: int) -> Manifest:
    """A Deployment, or a StatefulSet that starts its pods at once."""
    labels = {"app": name}
    template = {"metadata": {"labels": labels}, "spec": pod_spec()}
    spec: Manifest = {"replicas": replicas, "selector": {"matchLabels": labels}, "template": template}
    if kind == "StatefulSet":
        spec |= {"serviceName": name, "podManagementPolicy": "Parallel"}
    return {"apiVersion": "apps/v1", "kind": kind, "metadata": {"name": name, "namespace": "default"}, "spec": spec}


def pod_spec() -> Manifest:
    """One small container."""
    resources = {"requests": {"cpu": "100m", "memory": "64Mi"}}
    return {"containers": [{"name": "main", "image": "registry.example/server:1", "resources": resources}]}
