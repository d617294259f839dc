# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""`kubectl top`: what pods and the node use."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.contract.node_cluster import NodeCluster, cluster, eventually, shell


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeCluster]:
    with cluster(tmp_path_factory.mktemp("usage")) as running:
        fill = "exec python3 -c 'x = bytearray(80 << 20); import time; time.sleep(600)'"
        running.apply(shell("large", fill), shell("busy", "while :; do :; done"), shell("over", "true"))
        for name in ("large", "busy"):
            running.ready(name)
        yield running


def used(node: NodeCluster, *arguments: str) -> dict[str, tuple[int, int]]:
    """Millicores and MiB by name."""
    lines = node.kubectl("top", *arguments, "--no-headers").stdout.splitlines()
    rows = [line.split() for line in lines]
    return {row[-3]: (int(row[-2].removesuffix("m")), int(row[-1].removesuffix("Mi"))) for row in rows}


def test_top_tells_what_pods_use(node: NodeCluster) -> None:
    eventually(lambda: used(node, "pods").get("large", (0, 0))[1] >= 80, "the memory is taken")
    eventually(lambda: used(node, "pods").get("busy", (0, 0))[0] >= 50, "it is busy")
    found = used(node, "pods")
    assert found["large"][1] < 200
    assert found["busy"][1] < 20
    assert set(used(node, "pods", "-l", "app=busy")) == {"busy"}
    assert set(used(node, "pod", "busy", "--containers")) == {"main"}


def test_top_tells_what_the_node_uses(node: NodeCluster) -> None:
    name = node.get("nodes")["items"][0]["metadata"]["name"]
    cores, percent, memory, share = node.kubectl("top", "node", "--no-headers").stdout.split()[1:]
    assert cores.endswith("m") and memory.endswith("Mi")
    assert 0 <= int(percent.removesuffix("%")) <= 110
    assert 0 < int(share.removesuffix("%")) <= 100
    assert name in node.kubectl("top", "node", name).stdout


def test_who_does_not_run_uses_nothing(node: NodeCluster) -> None:
    done = node.kubectl("top", "pod", "nobody", check=False)
    assert "NotFound" in done.stderr
    assert "metrics.k8s.io" in node.kubectl("api-versions").stdout
