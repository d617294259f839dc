# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Where a Service leads, for the server's own calls of webhooks: to the address of a ready endpoint."""

from __future__ import annotations

from kaito.engine.objects.registry import Registry
from kaito.engine.objects.webhookcall import Resolve
from kaito.kube.manifest import Manifest, labels_of


def service_resolver(registry: Registry) -> Resolve:
    """A function from namespace, service and port to a host and port that answer. It raises LookupError."""

    def resolve(namespace: str, name: str, port: int) -> tuple[str, int]:
        service = registry.object("", "services", name, namespace)
        if service is None:
            raise LookupError(f'service "{name}" not found')
        if service["spec"].get("type") == "ExternalName":
            return service["spec"]["externalName"], port
        wanted = next((p for p in service["spec"].get("ports") or [] if p["port"] == port), None)
        if wanted is None:
            raise LookupError(f'no service port {port} found for service "{name}"')
        slices = registry.objects("discovery.k8s.io", "endpointslices", namespace)
        mine = [entry for entry in slices if labels_of(entry).get("kubernetes.io/service-name") == name]
        for entry in mine:
            found = _ready(entry, wanted.get("name") or "")
            if found is not None:
                return found
        raise LookupError(f'no endpoints available for service "{name}"')

    return resolve


def _ready(entry: Manifest, port_name: str) -> tuple[str, int] | None:
    ports = [p for p in entry.get("ports") or [] if (p.get("name") or "") == port_name]
    for endpoint in entry.get("endpoints") or []:
        if ports and (endpoint.get("conditions") or {}).get("ready", True):
            return endpoint["addresses"][0], int(ports[0]["port"])
    return None
