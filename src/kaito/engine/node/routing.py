# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Which endpoints a Service's address or name leads to. Pure: Services and EndpointSlices in, addresses out.

`proxy` listens for it on the cluster addresses, `forward` for HTTP clients that go through a proxy.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from kaito.kube.manifest import Key, Manifest, key_of, labels_of

SERVICE_NAME = "kubernetes.io/service-name"
CLUSTER_SUFFIXES = (".svc.cluster.local", ".svc")


class Target(NamedTuple):
    """Where a connection goes."""

    host: str
    port: int


class Front(NamedTuple):
    """An address on which a Service is to answer."""

    service: Key
    port_name: str
    host: str
    port: int


@dataclass(frozen=True, slots=True)
class Routes:
    """All that is known of Services and their endpoints at one moment."""

    services: dict[Key, Manifest] = field(default_factory=dict)
    slices: dict[Key, list[Manifest]] = field(default_factory=dict)

    def fronts(self, node_address: str) -> list[Front]:
        """The addresses on which Services answer: cluster addresses, and node ports on the node's address."""
        found = []
        for key, service in self.services.items():
            for port in tcp_ports(service):
                name = port.get("name", "")
                found += [Front(key, name, host, port["port"]) for host in cluster_addresses(service)]
                if port.get("nodePort"):
                    found.append(Front(key, name, node_address, port["nodePort"]))
        return found

    def endpoints(self, service: Key, port_name: str) -> list[Target]:
        """The ready endpoints of one port of a Service."""
        found = []
        for piece in self.slices.get(service, []):
            ports = [port["port"] for port in piece.get("ports") or [] if (port.get("name") or "") == port_name]
            for endpoint in piece.get("endpoints") or []:
                if (endpoint.get("conditions") or {}).get("ready", True):
                    found += [Target(host, port) for host in endpoint.get("addresses") or [] for port in ports if port]
        return list(dict.fromkeys(found))

    def by_address(self, host: str, port: int) -> list[Target] | None:
        """The endpoints behind a cluster address and port; None when no Service has them."""
        for key, service in self.services.items():
            if host in cluster_addresses(service):
                return self._through(key, service, port)
        return None

    def by_name(self, host: str, port: int, namespace: str) -> list[Target] | None:
        """The endpoints behind `name`, `name.namespace`, `….svc[.cluster.local]`; None for no Service's name."""
        short = host.lower().rstrip(".")
        for suffix in CLUSTER_SUFFIXES:
            short = short.removesuffix(suffix)
        parts = short.split(".")
        if len(parts) == 3:
            return self._one_pod(parts[0], Key(parts[2], parts[1]), port)
        if len(parts) > 2:
            return None
        key = Key(parts[1] if len(parts) == 2 else namespace, parts[0])
        service = self.services.get(key)
        if service is None:
            return None
        return self._through(key, service, port) if cluster_addresses(service) else self._pods(key, port)

    def _through(self, key: Key, service: Manifest, port: int) -> list[Target] | None:
        for item in tcp_ports(service):
            if item["port"] == port:
                return self.endpoints(key, item.get("name", ""))
        return None

    def _pods(self, key: Key, port: int, hostname: str | None = None) -> list[Target]:
        """The pods of a headless Service: their addresses, with the port as asked for."""
        found = []
        for piece in self.slices.get(key, []):
            for endpoint in piece.get("endpoints") or []:
                ready = (endpoint.get("conditions") or {}).get("ready", True)
                if ready and hostname in (None, endpoint.get("hostname")):
                    found += [Target(host, port) for host in endpoint.get("addresses") or []]
        return found

    def _one_pod(self, hostname: str, service: Key, port: int) -> list[Target] | None:
        return self._pods(service, port, hostname) if service in self.services else None


def routes(services: Iterable[Manifest], slices: Iterable[Manifest]) -> Routes:
    """Index the objects."""
    by_service: dict[Key, list[Manifest]] = {}
    for piece in slices:
        name = labels_of(piece).get(SERVICE_NAME)
        if name:
            by_service.setdefault(Key(key_of(piece).namespace, name), []).append(piece)
    return Routes({key_of(service): service for service in services}, by_service)


def cluster_addresses(service: Manifest) -> list[str]:
    """The IPv4 cluster addresses; none for headless and external ones."""
    spec = service["spec"]
    if spec.get("type") == "ExternalName":
        return []
    addresses = spec.get("clusterIPs") or [spec.get("clusterIP")]
    return [address for address in addresses if address and address != "None" and ":" not in address]


def tcp_ports(service: Manifest) -> list[Manifest]:
    """The Service's TCP ports."""
    return [port for port in service["spec"].get("ports") or [] if port.get("protocol", "TCP") == "TCP"]
