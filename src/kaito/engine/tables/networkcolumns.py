# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""The columns of Services, their endpoints, and the networking.k8s.io kinds. Pure."""

from __future__ import annotations

from datetime import datetime

from kaito.engine.tables.columns import AGE, NAME, Column, at, first, joined, label_text, selector_text
from kaito.kube.manifest import Manifest


def _service_ports(obj: Manifest, now: datetime) -> str:
    parts = []
    for port in obj["spec"].get("ports") or []:
        node_port = f":{port['nodePort']}" if port.get("nodePort") else ""
        parts.append(f"{port['port']}{node_port}/{port.get('protocol', 'TCP')}")
    return joined(parts)


def _external_ip(obj: Manifest, now: datetime) -> str:
    spec = obj["spec"]
    ips = list(spec.get("externalIPs") or [])
    if spec.get("type") == "ExternalName":
        return str(spec.get("externalName", ""))
    if spec.get("type") == "LoadBalancer":
        ips = _entrances(obj, now) + ips
        return ",".join(ips) or "<pending>"
    return joined(ips)


def _entrances(obj: Manifest, now: datetime) -> list[str]:
    """The addresses of a load balancer."""
    ingress = at("status", "loadBalancer", "ingress", default=[])(obj, now)
    return [entry.get("ip") or entry.get("hostname", "") for entry in ingress]


def _endpoints(obj: Manifest, now: datetime) -> str:
    found = []
    for subset in obj.get("subsets") or []:
        ports = [port["port"] for port in subset.get("ports") or []]
        for address in subset.get("addresses") or []:
            found += [f"{address['ip']}:{port}" for port in ports] or [address["ip"]]
    return first(found)


def _slice_ports(obj: Manifest, now: datetime) -> str:
    ports = obj.get("ports")
    return first([port.get("port") or port.get("name") or "*" for port in ports]) if ports else "<unset>"


def _slice_endpoints(obj: Manifest, now: datetime) -> str:
    endpoints = obj.get("endpoints")
    return first([a for e in endpoints for a in e.get("addresses", ())]) if endpoints else "<unset>"


def _hosts(obj: Manifest, now: datetime) -> str:
    hosts = [rule["host"] for rule in obj["spec"].get("rules") or [] if rule.get("host")]
    return first(hosts) if hosts else "*"


def _parameters(obj: Manifest, now: datetime) -> str:
    found = obj["spec"].get("parameters")
    if not found:
        return "<none>"
    group = f".{found['apiGroup']}" if found.get("apiGroup") else ""
    return f"{found['kind']}{group}/{found['name']}"


_SERVICE = "core.v1.ServiceSpec"
_SLICE = "discovery.v1.EndpointSlice"

NETWORK_COLUMNS: dict[tuple[str, str], tuple[Column, ...]] = {
    ("", "endpoints"): (NAME, Column("Endpoints", _endpoints, documents="core.v1.Endpoints.subsets"), AGE),
    ("", "services"): (
        NAME,
        Column("Type", at("spec", "type"), documents=f"{_SERVICE}.type"),
        Column("Cluster-IP", lambda o, n: o["spec"].get("clusterIP") or "<none>", documents=f"{_SERVICE}.clusterIP"),
        Column("External-IP", _external_ip, documents=f"{_SERVICE}.externalIPs"),
        Column("Port(s)", _service_ports, documents=f"{_SERVICE}.ports"),
        AGE,
        Column(
            "Selector",
            lambda o, n: label_text(o["spec"].get("selector")),
            priority=1,
            documents=f"{_SERVICE}.selector",
        ),
    ),
    ("discovery.k8s.io", "endpointslices"): (
        NAME,
        Column("AddressType", at("addressType"), documents=f"{_SLICE}.addressType"),
        Column("Ports", _slice_ports, documents=f"{_SLICE}.ports"),
        Column("Endpoints", _slice_endpoints, documents=f"{_SLICE}.endpoints"),
        AGE,
    ),
    ("networking.k8s.io", "ingresses"): (
        NAME,
        Column(
            "Class",
            at("spec", "ingressClassName", default="<none>"),
            description="The name of the IngressClass resource that should be used for additional configuration",
        ),
        Column(
            "Hosts",
            _hosts,
            description="Hosts that incoming requests are matched against before the ingress rule",
        ),
        Column(
            "Address",
            lambda o, n: ",".join(_entrances(o, n)),
            description="Address is a list containing ingress points for the load-balancer",
        ),
        Column(
            "Ports",
            lambda o, n: "80, 443" if o["spec"].get("tls") else "80",
            description="Ports of TLS configurations that open",
        ),
        AGE,
    ),
    ("networking.k8s.io", "ingressclasses"): (
        NAME,
        Column(
            "Controller",
            at("spec", "controller"),
            description="Controller that is responsible for handling this class",
        ),
        Column("Parameters", _parameters, description="A reference to a resource with additional parameters"),
        AGE,
    ),
    ("networking.k8s.io", "networkpolicies"): (
        NAME,
        Column(
            "Pod-Selector",
            lambda o, n: selector_text(o["spec"].get("podSelector")),
            documents="networking.v1.NetworkPolicySpec.podSelector",
        ),
        AGE,
    ),
}
