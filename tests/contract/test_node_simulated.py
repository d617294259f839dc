# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Nodes that only pretend: many pods Ready quickly, no writes when idle, GPUs that can be asked for."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from tests.contract.node_cluster import NodeCluster, Object, cluster, eventually

PODS = 200
GPU = "nvidia.com/gpu"


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeCluster]:
    options = ("--no-node", "--simulated-nodes", "2", "--simulated-gpus", "8")
    with cluster(tmp_path_factory.mktemp("simulated"), *options) as found:
        yield found


def deployment(name: str, replicas: int, **limits: str) -> Object:
    container = {"name": "main", "image": "anything.example/at-all:1", "resources": {"limits": limits}}
    labels = {"app": name}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [container]}}
    spec = {"replicas": replicas, "selector": {"matchLabels": labels}, "template": template}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name}, "spec": spec}


def test_two_nodes_take_two_hundred_pods_and_then_keep_quiet(node: NodeCluster) -> None:
    began = time.monotonic()
    node.apply(deployment("many", PODS))
    node.kubectl("rollout", "status", "deployment/many", "--timeout=60s", timeout=70)
    print(f"{PODS} simulated pods Ready after {time.monotonic() - began:.1f} s")
    pods = node.get("pods")["items"]
    assert {pod["spec"]["nodeName"] for pod in pods} == {"simulated-0000", "simulated-0001"}

    def versions() -> dict[str, str]:
        kinds = ("pods", "nodes", "deployments", "replicasets", "events")
        items = [item for kind in kinds for item in node.get(kind, "-A")["items"]]
        return {item["metadata"]["uid"]: item["metadata"]["resourceVersion"] for item in items}

    time.sleep(1)
    before = versions()
    time.sleep(5)
    assert versions() == before
    node.kubectl("delete", "deployment", "many")
    eventually(lambda: not node.get("pods")["items"], "every pod is gone", within=30)


def test_gpus_are_handed_out_as_far_as_they_go(node: NodeCluster) -> None:
    assert [item["status"]["allocatable"][GPU] for item in node.get("nodes")["items"]] == ["8", "8"]
    node.apply(deployment("large", 3, **{GPU: "8"}))
    eventually(
        lambda: (
            sorted(pod["status"]["phase"] for pod in node.get("pods")["items"]) == ["Pending", "Running", "Running"]
        ),
        "two pods have all GPUs and one waits",
    )
    assert f"Insufficient {GPU}" in node.kubectl("describe", "pods", "-l", "app=large").stdout
