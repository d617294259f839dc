# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Two engines on one machine: the same manifests in both, and each answers for itself."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.contract.node_cluster import Object, cluster, eventually, shell


def web(text: str) -> list[Object]:
    env = [{"name": "ADDRESS", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}]
    script = f"echo {text} > index.html; exec python3 -m http.server --bind $ADDRESS 5000"
    container = {"env": env, "readinessProbe": {"tcpSocket": {"port": 5000}, "periodSeconds": 1}}
    spec = {
        "selector": {"app": "web"},
        "type": "NodePort",
        "ports": [{"port": 80, "targetPort": 5000, "nodePort": 31080}],
    }
    service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"}, "spec": spec}
    return [shell("web", script, image="python", container=container), service]


def curl(url: str) -> str:
    return subprocess.run(["curl", "-s", "-m", "5", url], capture_output=True, text=True).stdout


def test_engines_side_by_side_keep_apart(tmp_path: Path) -> None:
    with cluster(tmp_path / "a") as one, cluster(tmp_path / "b") as other:
        networks = []
        for node, text in ((one, "one"), (other, "other")):
            node.apply(*web(text))
            node.ready("web")
            service = node.get("service", "web")
            address = service["spec"]["clusterIP"]
            eventually(lambda a=address, t=text: curl(f"http://{a}/") == f"{t}\n", f"{text} answers")  # type: ignore[misc]
            networks.append((address.rsplit(".", 2)[0], node.get("pod", "web")["status"]["podIP"]))
        assert networks[0] != networks[1]
        moved = other.get("service", "web")["metadata"]["annotations"]["engine.kaito.sh/reachable-at"]
        assert moved.startswith("31080=127.0.0.1:"), "the node port was taken, and that is said"
        assert curl("http://127.0.0.1:31080/") == "one\n"
        assert curl(f"http://{moved.removeprefix('31080=')}/") == "other\n"
