# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""The two Services of a Workspace: the address that clients use, and the pods' DNS names.

Rendered on every pass and applied, so that an annotation or a port changed later rolls out (KAITO v0.12 creates them
once and never looks again).
"""

from __future__ import annotations

from kaito.api.contracts import HTTP_PORT, KV_EVENTS_PORT
from kaito.api.names import ENABLE_LB_ANNOTATION, POD_INDEX_LABEL, WORKSPACE_LABEL
from kaito.kube.manifest import Manifest, annotations_of, owner_reference
from kaito.kube.resource import SERVICES
from kaito.operator.workspace.observe import headless_name

SERVICE_PORT = 80
RENDEZVOUS_PORT = 29500
"""torch's rendezvous port of KAITO's early releases; clients of that time look for it on the Service."""


def main_service(workspace: Manifest, *, publishes: bool = False) -> Manifest:
    """The Service that clients use: the first pod, once it is ready. Where the pods publish what their KV caches hold,
    it has that port too, but never towards a load balancer."""
    name = workspace["metadata"]["name"]
    balanced = annotations_of(workspace).get(ENABLE_LB_ANNOTATION) == "True"
    events = {"name": "kv-events", "port": KV_EVENTS_PORT, "protocol": "TCP", "targetPort": KV_EVENTS_PORT}
    return _service(
        workspace,
        name,
        {
            "type": "LoadBalancer" if balanced else "ClusterIP",
            "ports": [
                {"name": "http", "port": SERVICE_PORT, "protocol": "TCP", "targetPort": HTTP_PORT},
                {"name": "rendezvous", "port": RENDEZVOUS_PORT, "protocol": "TCP", "targetPort": HTTP_PORT},
                *([events] if publishes and not balanced else []),
            ],
            "selector": {WORKSPACE_LABEL: name, POD_INDEX_LABEL: "0"},
        },
    )


def headless_service(workspace: Manifest) -> Manifest:
    """The Service that names the pods, ready or not: they find each other by it before they serve."""
    name = workspace["metadata"]["name"]
    spec = {"clusterIP": "None", "publishNotReadyAddresses": True, "selector": {WORKSPACE_LABEL: name}}
    return _service(workspace, headless_name(name), spec)


def _service(workspace: Manifest, name: str, spec: Manifest) -> Manifest:
    meta = workspace["metadata"]
    return {
        "apiVersion": SERVICES.api_version,
        "kind": SERVICES.kind,
        "metadata": {
            "name": name,
            "namespace": meta.get("namespace", ""),
            "labels": {WORKSPACE_LABEL: meta["name"]},
            "ownerReferences": [owner_reference(workspace)],
        },
        "spec": spec,
    }
