# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Where Services' addresses and names lead, and what an HTTP proxy request asks for."""

from __future__ import annotations

from typing import Any

import pytest

from kaito.engine.node.forward import BadRequest, parse
from kaito.engine.node.routing import Front, Routes, Target, routes
from kaito.kube.manifest import Key, Manifest


def service(name: str, ip: str = "127.96.0.5", **spec: Any) -> Manifest:
    return {
        "metadata": {"name": name, "namespace": "apps"},
        "spec": {"clusterIP": ip, "ports": [{"name": "http", "port": 80, "targetPort": 5000}], **spec},
    }


def piece(name: str, *addresses: str, ready: bool = True, hostname: str | None = None) -> Manifest:
    endpoint: Manifest = {"addresses": list(addresses), "conditions": {"ready": ready}}
    if hostname:
        endpoint["hostname"] = hostname
    return {
        "metadata": {"name": f"{name}-x", "namespace": "apps", "labels": {"kubernetes.io/service-name": name}},
        "ports": [{"name": "http", "port": 5000}],
        "endpoints": [endpoint],
    }


def world() -> Routes:
    return routes(
        [
            service("web"),
            service("empty", "127.96.0.6"),
            service("pods", "None"),
            service("ext", "", type="ExternalName"),
        ],
        [
            piece("web", "127.64.0.1"),
            piece("web", "127.64.0.2", ready=False),
            piece("pods", "127.64.0.3", hostname="p-0"),
        ],
    )


def test_only_cluster_addresses_and_node_ports_are_fronts() -> None:
    assert [front.host for front in world().fronts("127.0.0.1")] == ["127.96.0.5", "127.96.0.6"]
    ports = [{"port": 80, "nodePort": 30080}, {"port": 53, "protocol": "UDP"}]
    fronts = routes([service("n", ports=ports)], []).fronts("127.0.0.1")
    assert fronts == [Front(Key("apps", "n"), "", "127.96.0.5", 80), Front(Key("apps", "n"), "", "127.0.0.1", 30080)]


def test_only_ready_endpoints_get_connections() -> None:
    assert world().endpoints(Key("apps", "web"), "http") == [Target("127.64.0.1", 5000)]
    assert world().endpoints(Key("apps", "empty"), "http") == []


@pytest.mark.parametrize(
    ("host", "port", "targets"),
    [
        ("web", 80, [Target("127.64.0.1", 5000)]),
        ("web.apps", 80, [Target("127.64.0.1", 5000)]),
        ("web.apps.svc", 80, [Target("127.64.0.1", 5000)]),
        ("WEB.apps.svc.cluster.local.", 80, [Target("127.64.0.1", 5000)]),
        ("web.other", 80, None),
        ("web", 81, None),
        ("empty", 80, []),
        ("pods.apps", 5000, [Target("127.64.0.3", 5000)]),
        ("p-0.pods.apps.svc.cluster.local", 5000, [Target("127.64.0.3", 5000)]),
        ("p-1.pods.apps", 5000, []),
        ("example.com", 80, None),
        ("a.b.example.com", 80, None),
    ],
)
def test_names_lead_to_endpoints(host: str, port: int, targets: list[Target] | None) -> None:
    assert world().by_name(host, port, "apps") == targets


def test_cluster_addresses_lead_to_endpoints() -> None:
    assert world().by_address("127.96.0.5", 80) == [Target("127.64.0.1", 5000)]
    assert world().by_address("127.96.0.9", 80) is None


def test_a_proxy_request_is_turned_into_a_request_to_the_origin() -> None:
    raw = (
        b"POST http://127.96.0.5/chat?x=1 HTTP/1.1\r\nHost: 127.96.0.5\r\nProxy-Connection: Keep-Alive\r\n"
        b"Proxy-Authorization: Basic YXBwczo=\r\nContent-Length: 2\r\n\r\n"
    )
    target, head, namespace = parse(raw)
    assert target == Target("127.96.0.5", 80)
    assert head == b"POST /chat?x=1 HTTP/1.1\r\nHost: 127.96.0.5\r\nContent-Length: 2\r\nConnection: close\r\n\r\n"
    assert namespace == "apps"


def test_connect_asks_for_a_tunnel() -> None:
    assert parse(b"CONNECT web.apps:5000 HTTP/1.1\r\n\r\n") == (Target("web.apps", 5000), None, "default")


@pytest.mark.parametrize("raw", [b"nonsense\r\n\r\n", b"GET /x HTTP/1.1\r\n\r\n", b"GET http://h:x/ HTTP/1.1\r\n\r\n"])
def test_anything_else_is_refused(raw: bytes) -> None:
    with pytest.raises(BadRequest):
        parse(raw)
