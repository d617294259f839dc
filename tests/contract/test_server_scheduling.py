# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""What the scheduler does on a running server, with nodes that only pretend."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from kaito.kube.client import Client
from kaito.kube.config import load_kubeconfig
from kaito.kube.errors import NotFound
from kaito.kube.manifest import Manifest
from kaito.kube.resource import PODS, Resource
from tests.engine_process import EngineProcess

CLASSES = Resource("scheduling.k8s.io", "v1", "priorityclasses", "PriorityClass", namespaced=False)
WITHIN_S = 60.0


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[Client]:
    with EngineProcess(tmp_path, "--no-node", "--simulated-nodes", "2") as engine:
        async with Client(load_kubeconfig(engine.kubeconfig)) as made:
            yield made


def pod(name: str, cpu: str, **spec: Any) -> Manifest:
    container = {"name": "c", "image": "i", "resources": {"requests": {"cpu": cpu}}}
    meta = {"name": name, "namespace": "default", "labels": {"app": name}}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": {"containers": [container], **spec}}


async def until(client: Client, name: str, holds: Callable[[Manifest], bool]) -> Manifest:
    """The pod, once this holds for it."""
    deadline = time.monotonic() + WITHIN_S
    while True:
        found: Manifest = {}
        with suppress(NotFound):
            found = await client.get(PODS, name, "default")
        if holds(found):
            return found
        assert time.monotonic() < deadline, found
        await asyncio.sleep(0.05)


def is_running(found: Manifest) -> bool:
    return bool((found.get("status") or {}).get("phase") == "Running")


async def test_a_more_important_pod_gets_the_room_of_others(client: Client) -> None:
    for name, value in (("high", 1000), ("low", 10)):
        meta = {"name": name}
        await client.create(
            CLASSES,
            {"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": meta, "value": value},
        )
    capacity = (await client.get(Resource("", "v1", "nodes", "Node", namespaced=False), "simulated-0000"))["status"]
    cpu = capacity["allocatable"]["cpu"]
    for name in ("a", "b"):
        await client.create(PODS, pod(name, cpu, priorityClassName="low"))
    placed = {(await until(client, name, is_running))["spec"]["nodeName"] for name in ("a", "b")}
    assert len(placed) == 2
    await client.create(PODS, pod("new", cpu, priorityClassName="high"))
    made = await until(client, "new", is_running)
    assert made["spec"]["priority"] == 1000
    assert "nominatedNodeName" not in made["status"]
    left, _ = await client.list_objects(PODS, "default")
    assert len({found["metadata"]["name"] for found in left} & {"a", "b"}) == 1


async def test_pods_that_keep_apart_are_on_different_nodes(client: Client) -> None:
    term = {"labelSelector": {"matchExpressions": [{"key": "app", "operator": "Exists"}]}}
    rule = {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}
    term["topologyKey"] = "kubernetes.io/hostname"  # type: ignore[assignment]
    for name in ("a", "b", "c"):
        await client.create(PODS, pod(name, "1m", affinity=rule))
    await until(client, "c", lambda found: "anti-affinity" in str(found.get("status")))
    placed = {(await until(client, name, is_running))["spec"]["nodeName"] for name in ("a", "b")}
    assert len(placed) == 2


async def test_who_asks_for_pods_that_are_refused_is_told_why(client: Client) -> None:
    labels = {"app": "x"}
    spec = {**pod("x", "1m")["spec"], "serviceAccountName": "worker", "restartPolicy": "Always"}
    template = {"metadata": {"labels": labels}, "spec": spec}
    for kind in ("ReplicaSet", "StatefulSet", "DaemonSet", "Job"):
        wanted: Manifest = {"template": template, "selector": {"matchLabels": labels}}
        if kind == "StatefulSet":
            wanted["serviceName"] = "x"
        if kind == "Job":
            wanted = {"template": {"spec": {**spec, "restartPolicy": "Never"}}}
        resource = Resource("batch" if kind == "Job" else "apps", "v1", f"{kind.lower()}s", kind)
        meta = {"name": "x", "namespace": "default"}
        made = {"apiVersion": f"{resource.group}/v1", "kind": kind, "metadata": meta, "spec": wanted}
        await client.create(resource, made)
    why = 'error looking up service account default/worker: serviceaccount "worker" not found'
    events = Resource("", "v1", "events", "Event")
    told: set[str] = set()
    deadline = time.monotonic() + WITHIN_S
    while len(told) < 4:
        assert time.monotonic() < deadline, told
        await asyncio.sleep(0.05)
        found, _ = await client.list_objects(events, "default")
        told = {e["involvedObject"]["kind"] for e in found if e["reason"] == "FailedCreate" and why in e["message"]}
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "worker", "namespace": "default"}}
    await client.create(Resource("", "v1", "serviceaccounts", "ServiceAccount"), account)
    await until(client, "x-0", is_running)
