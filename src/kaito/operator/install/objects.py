# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Everything that stands on a cluster where the operator runs, as manifests: what `kaito install` prints.

The Helm chart (charts/kaito) renders the same objects from values; a test compares the two.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from kaito.api.crd import custom_resource_definitions
from kaito.api.release import image
from kaito.kube.manifest import Manifest
from kaito.operator.admission import Address, webhook_configuration
from kaito.operator.authority import SECRET
from kaito.operator.install.access import cluster_rules, namespace_rules
from kaito.operator.provisioners.byo import BYO
from kaito.operator.provisioners.nodeclaim import node_claim_provisioner
from kaito.operator.provisioners.nodepool import NodeClass, node_pool_provisioner
from kaito.operator.provisioners.survey import Provisioner
from kaito.operator.settings import DEFAULT_RUNTIME_IMAGE, CloudName

NAME = "kaito-operator"
WEBHOOK_SERVICE = "kaito-webhook"
OPERATOR_IMAGE = image("operator")
WEBHOOK_PORT, METRICS_PORT, HEALTH_PORT = 9443, 8080, 8081
SELECTOR = {"app.kubernetes.io/name": NAME}

MACHINES_MOUNT, MACHINES_KEY = "/etc/kaito/machines", "machines.yaml"

Source = Literal["byo", "nodeclaim", "karpenter"]
PROVISIONERS: dict[Source, Provisioner] = {
    "byo": BYO,
    "nodeclaim": node_claim_provisioner("azure"),
    "karpenter": node_pool_provisioner(NodeClass()),
}


@dataclass(frozen=True, slots=True)
class Installation:
    """What can be chosen."""

    namespace: str = "kaito-system"
    image: str = OPERATOR_IMAGE
    runtime_image: str = DEFAULT_RUNTIME_IMAGE
    provisioner: Source = "byo"
    cloud: CloudName = "azure"
    node_class: str = "karpenter.azure.com/AKSNodeClass/default"
    replicas: int = 2
    machines_config_map: str = ""
    """A ConfigMap of the namespace whose key machines.yaml has GPUs and machine types of one's own."""


def installed(choice: Installation) -> list[Manifest]:
    """All objects in the order in which they can be applied, the CustomResourceDefinitions first."""
    return [
        *custom_resource_definitions(),
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": choice.namespace, "labels": _RESTRICTED}},
        *operator_objects(choice),
    ]


_RESTRICTED = {"pod-security.kubernetes.io/enforce": "restricted"}


def operator_objects(choice: Installation) -> list[Manifest]:
    """The operator itself: what the Helm chart renders."""
    return [
        _named("v1", "ServiceAccount", choice),
        *access(choice),
        _named("v1", "Secret", choice, name=SECRET) | {"type": "Opaque"},
        *_services(choice),
        _admission(choice),
        _deployment(choice),
        _disruption_budget(choice),
        _network_policy(choice),
    ]


def access(choice: Installation) -> list[Manifest]:
    """The roles, and their bindings to the operator's ServiceAccount."""
    subject = {"kind": "ServiceAccount", "name": NAME, "namespace": choice.namespace}
    bound = [("ClusterRole", cluster_rules(PROVISIONERS[choice.provisioner])), ("Role", namespace_rules())]
    found = []
    for kind, rules in bound:
        within = choice if kind == "Role" else None
        reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": NAME}
        found.append(_named("rbac.authorization.k8s.io/v1", kind, within) | {"rules": rules})
        binding = _named("rbac.authorization.k8s.io/v1", f"{kind}Binding", within)
        found.append(binding | {"roleRef": reference, "subjects": [subject]})
    return found


def _named(api_version: str, kind: str, choice: Installation | None, *, name: str = NAME) -> Manifest:
    meta: Manifest = {"name": name, "labels": dict(SELECTOR)}
    if choice is not None:
        meta["namespace"] = choice.namespace
    return {"apiVersion": api_version, "kind": kind, "metadata": meta}


def _services(choice: Installation) -> list[Manifest]:
    ports = {WEBHOOK_SERVICE: ("webhook", 443), "kaito-metrics": ("metrics", METRICS_PORT)}
    return [
        _named("v1", "Service", choice, name=name)
        | {"spec": {"selector": dict(SELECTOR), "ports": [{"name": port, "port": number, "targetPort": port}]}}
        for name, (port, number) in ports.items()
    ]


def _admission(choice: Installation) -> Manifest:
    """The registration without its caBundle, which the operator fills in: what is installed is what is removed."""
    address = Address(service=WEBHOOK_SERVICE, namespace=choice.namespace)
    configuration = webhook_configuration(address, "", must_answer=True)
    del configuration["webhooks"][0]["clientConfig"]["caBundle"]
    configuration["metadata"]["labels"] = dict(SELECTOR)
    return configuration


def arguments(choice: Installation) -> list[str]:
    """The operator's command line."""
    machines = [f"--machines={MACHINES_MOUNT}/{MACHINES_KEY}"] if choice.machines_config_map else []
    return [
        f"--provisioner={choice.provisioner}",
        f"--cloud={choice.cloud}",
        f"--node-class={choice.node_class}",
        f"--runtime-image={choice.runtime_image}",
        "--install-crds",
        f"--webhook-port={WEBHOOK_PORT}",
        f"--webhook-service={WEBHOOK_SERVICE}",
        f"--metrics-port={METRICS_PORT}",
        "--metrics-host=0.0.0.0",
        f"--health-port={HEALTH_PORT}",
        "--health-host=0.0.0.0",
        "--shutdown-delay-seconds=3",
        "--log-level=info",
        "--log-format=json",
        *machines,
    ]


def _deployment(choice: Installation) -> Manifest:
    container: Manifest = {
        "name": "operator",
        "image": choice.image,
        "imagePullPolicy": "IfNotPresent",
        "args": arguments(choice),
        "env": [{"name": "POD_NAMESPACE", "valueFrom": {"fieldRef": {"fieldPath": "metadata.namespace"}}}],
        "ports": [
            {"name": "webhook", "containerPort": WEBHOOK_PORT},
            {"name": "metrics", "containerPort": METRICS_PORT},
            {"name": "health", "containerPort": HEALTH_PORT},
        ],
        "livenessProbe": {"httpGet": {"path": "/healthz", "port": "health"}, "periodSeconds": 10},
        "readinessProbe": {"httpGet": {"path": "/readyz", "port": "health"}, "periodSeconds": 5},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "resources": {"requests": {"cpu": "50m", "memory": "96Mi"}, "limits": {"memory": "384Mi"}},
    }
    spec: Manifest = {
        "serviceAccountName": NAME,
        "priorityClassName": "system-cluster-critical",
        "securityContext": {"runAsNonRoot": True, "runAsUser": 10001, "seccompProfile": {"type": "RuntimeDefault"}},
        "nodeSelector": {"kubernetes.io/os": "linux"},
        "affinity": {
            "podAntiAffinity": {
                "preferredDuringSchedulingIgnoredDuringExecution": [
                    {
                        "weight": 100,
                        "podAffinityTerm": {
                            "topologyKey": "kubernetes.io/hostname",
                            "labelSelector": {"matchLabels": dict(SELECTOR)},
                        },
                    }
                ]
            }
        },
        "containers": [container],
    }
    if choice.machines_config_map:
        container["volumeMounts"] = [{"name": "machines", "mountPath": MACHINES_MOUNT, "readOnly": True}]
        spec["volumes"] = [{"name": "machines", "configMap": {"name": choice.machines_config_map}}]
    return _named("apps/v1", "Deployment", choice) | {
        "spec": {
            "replicas": choice.replicas,
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1}},
            "selector": {"matchLabels": dict(SELECTOR)},
            "template": {"metadata": {"labels": dict(SELECTOR)}, "spec": spec},
        }
    }


def _disruption_budget(choice: Installation) -> Manifest:
    budget = _named("policy/v1", "PodDisruptionBudget", choice)
    return budget | {"spec": {"maxUnavailable": 1, "selector": {"matchLabels": dict(SELECTOR)}}}


def _network_policy(choice: Installation) -> Manifest:
    """In: the webhook (of the API server, which is no pod and cannot be selected), metrics and probes. Out: names, the
    API server, and model servers that are asked how far they are."""
    return _named("networking.k8s.io/v1", "NetworkPolicy", choice) | {
        "spec": {
            "podSelector": {"matchLabels": dict(SELECTOR)},
            "policyTypes": ["Ingress", "Egress"],
            "ingress": [
                {"ports": [{"protocol": "TCP", "port": port} for port in (WEBHOOK_PORT, METRICS_PORT, HEALTH_PORT)]}
            ],
            "egress": [
                {"ports": [{"protocol": "UDP", "port": 53}, {"protocol": "TCP", "port": 53}]},
                {"ports": [{"protocol": "TCP", "port": port} for port in (443, 6443, 5000)]},
            ],
        }
    }
