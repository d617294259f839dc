# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""kubectl port-forward to pods that are processes."""

from __future__ import annotations

import hashlib
import re
import socket
import subprocess
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from tests.contract.node_cluster import NodeCluster, cluster, pod

SIZE = 3_000_000
SERVER = f"""
import os, socket, threading
def echo(connection):
    with connection:
        while data := connection.recv(65536):
            connection.sendall(data)
        connection.sendall(b"END")
def flood(connection):
    with connection:
        connection.recv(65536)
        connection.sendall(b"HTTP/1.0 200 OK\\r\\nContent-Length: {SIZE}\\r\\n\\r\\n" + b"x" * {SIZE})
def serve(port, handle):
    with socket.create_server((os.environ["ADDRESS"], port)) as server:
        while True:
            threading.Thread(target=handle, args=(server.accept()[0],)).start()
threading.Thread(target=serve, args=(7000, echo)).start()
serve(8000, flood)
"""


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeCluster]:
    with cluster(tmp_path_factory.mktemp("forward")) as found:
        container = {
            "env": [{"name": "ADDRESS", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}],
            "readinessProbe": {"tcpSocket": {"port": 8000}, "periodSeconds": 1},
        }
        ports = [{"name": "echo", "port": 70, "targetPort": 7000}]
        spec = {"selector": {"app": "server"}, "ports": ports}
        found.apply(
            pod("server", "python3", "-c", SERVER, image="python", container=container),
            {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "server"}, "spec": spec},
        )
        found.ready("server")
        yield found


@contextmanager
def forwarded(node: NodeCluster, what: str, port: int) -> Iterator[int]:
    """A running `kubectl port-forward`; the local port."""
    argv = ["kubectl", "port-forward", what, f":{port}"]
    with subprocess.Popen(argv, env=node.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.search(r"127\.0\.0\.1:(\d+)", line)
        try:
            assert found is not None, line
            yield int(found.group(1))
        finally:
            process.terminate()
            process.communicate()


def echoed(port: int, text: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", port), 10) as connection:
        connection.sendall(text)
        connection.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: connection.recv(65536), b""))


@pytest.mark.parametrize(("what", "port"), [("pod/server", 7000), ("service/server", 70)])
def test_bytes_and_their_end_go_both_ways(node: NodeCluster, what: str, port: int) -> None:
    with forwarded(node, what, port) as local:
        for text in (b"hello", b"", b"y" * 500_000):
            assert echoed(local, text) == text + b"END"


def test_many_connections_share_one_tunnel(node: NodeCluster) -> None:
    with forwarded(node, "pod/server", 8000) as local:

        def digest(_: int) -> str:
            with urllib.request.urlopen(f"http://127.0.0.1:{local}/", timeout=20) as answer:
                return hashlib.sha256(answer.read()).hexdigest()

        with ThreadPoolExecutor(8) as pool:
            assert set(pool.map(digest, range(16))) == {hashlib.sha256(b"x" * SIZE).hexdigest()}


def test_a_port_where_nobody_listens_is_told(node: NodeCluster) -> None:
    argv = ["kubectl", "port-forward", "pod/server", ":9999"]
    with subprocess.Popen(argv, env=node.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        found = re.search(r"127\.0\.0\.1:(\d+)", process.stdout.readline())
        assert found is not None
        assert echoed(int(found.group(1)), b"") == b""
        _, errors = process.communicate(timeout=10)
    assert re.search(r"nothing accepts connections at 127\.[0-9.]+:9999", errors)


def test_a_pod_that_does_not_run_is_refused(node: NodeCluster) -> None:
    node.apply(pod("absent", image="registry.example/unknown"))
    done = node.kubectl("port-forward", "pod/absent", ":80", check=False)
    assert "pod is not running" in done.stderr
