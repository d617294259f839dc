# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""The provisioner that orders each node by a claim: Karpenter's NodeClaim, or the Machine that came before it.

Here is what a claim looks like in each cloud (as KAITO v0.12 and v0.2 make them) and which nodes count; how many claims
there should be is decided in `claims.py`. A Workspace without instanceType brings its own nodes, as with `byo`.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from functools import partial
from typing import Final, Literal

from kaito.api import names
from kaito.catalog.gpus import instance_type
from kaito.kube.manifest import Manifest, annotations_of, has_labels, labels_of
from kaito.kube.resource import Resource
from kaito.operator.faults.table import named
from kaito.operator.pods import GPU_RESOURCE
from kaito.operator.provisioners import byo, claims
from kaito.operator.provisioners.claims import Shape
from kaito.operator.provisioners.supply import Demand, Stock, Supply
from kaito.operator.provisioners.survey import (
    Provisioner,
    fault_of_nodes,
    is_ready,
    names_of,
    nodes_missing,
    nodes_ready,
    owned_labels,
    owner_terms,
    why_not_ready,
)
from kaito.operator.provisioners.wish import CAPACITY_TYPE_LABEL, Requirement, Verdict, Wish

Cloud = Literal["azure", "aws", "arc"]
ImageFamily = Literal["ubuntu", "azurelinux"]
IMAGE_FAMILIES: Final = ("ubuntu", "azurelinux")

NODE_CLAIMS = Resource("karpenter.sh", "v1", "nodeclaims", "NodeClaim", namespaced=False)
MACHINES = Resource("karpenter.sh", "v1alpha5", "machines", "Machine", namespaced=False)
OWNERSHIP: Final = (names.WORKSPACE_LABEL, names.WORKSPACE_NAMESPACE_LABEL)
POOL_LABEL: Final = "karpenter.sh/nodepool"
POOL: Final = "kaito"
"""A pool that does not exist: Karpenter leaves claims of it alone."""
PROVISIONER_LABEL: Final = "karpenter.sh/provisioner-name"
INSTANCE_TYPE_LABEL: Final = "node.kubernetes.io/instance-type"
OS_LABEL: Final = "kubernetes.io/os"
PROVIDER_DOMAINS: Final = ("kubernetes.io", "k8s.io", "karpenter.sh", "karpenter.azure.com", "karpenter.k8s.aws")
"""Labels under these are the provider's to set: a claim has to ask for them."""
OWN_REQUIREMENTS: Final = frozenset({POOL_LABEL, PROVISIONER_LABEL, INSTANCE_TYPE_LABEL, OS_LABEL})
NODE_CLASSES: Final[dict[str, tuple[str, str]]] = {
    "azure": ("kaito.sh", "KaitoNodeClass"),
    "aws": ("karpenter.k8s.aws", "EC2NodeClass"),
    "arc": ("", ""),
}
"""Group and kind of the node class, by cloud."""
TAINT: Final = {"key": "sku", "value": "gpu", "effect": "NoSchedule"}


def node_claim_provisioner(cloud: Cloud = "azure", image_family: ImageFamily = "ubuntu") -> Provisioner:
    """The provisioner for a cloud; the image family is that of Workspaces without the annotation."""
    shapes = (
        Shape(NODE_CLAIMS, POOL_LABEL, partial(node_claim, cloud=cloud, image_family=image_family)),
        Shape(MACHINES, PROVISIONER_LABEL, machine),
    )

    def supply(demand: Demand, stock: Stock, now: datetime) -> Supply:
        return claims.supply(demand, stock, now, shapes)

    return Provisioner(
        "nodeclaim",
        single_node=False,
        select=partial(select_owned, OWNERSHIP),
        judge=judge,
        requirements=partial(owned_requirements, OWNERSHIP),
        kinds=(NODE_CLAIMS, MACHINES),
        ownership=OWNERSHIP,
        supply=supply,
    )


def node_claim(demand: Demand, name: str, *, cloud: Cloud, image_family: ImageFamily) -> Manifest:
    """A NodeClaim of karpenter.sh/v1."""
    wish = demand.wish
    labels = {POOL_LABEL: POOL, **user_labels(wish), **owned_labels(OWNERSHIP, wish.owner)}
    group, kind = NODE_CLASSES[cloud]
    terms = [
        Requirement(POOL_LABEL, "In", (labels[POOL_LABEL],)),
        Requirement(INSTANCE_TYPE_LABEL, "In", (wish.instance_type,)),
        Requirement(OS_LABEL, "In", ("linux",)),
        *_cloud_terms(cloud, wish.instance_type),
        *provider_terms(wish),
    ]
    return {
        "apiVersion": NODE_CLAIMS.api_version,
        "kind": NODE_CLAIMS.kind,
        "metadata": {
            "name": name,
            "labels": labels,
            "annotations": {
                "karpenter.sh/do-not-disrupt": "true",
                names.NODE_IMAGE_FAMILY_ANNOTATION: _image_family(demand.workspace, image_family),
            },
        },
        "spec": {
            "nodeClassRef": {"group": group, "kind": kind, "name": "default"},
            "requirements": [as_term(term) for term in terms],
            "resources": {"requests": {"storage": f"{demand.storage_gib}Gi"}},
            "taints": [dict(TAINT)],
        },
    }


def machine(demand: Demand, name: str) -> Manifest:
    """A Machine of karpenter.sh/v1alpha5."""
    wish = demand.wish
    terms = [
        Requirement(INSTANCE_TYPE_LABEL, "In", (wish.instance_type,)),
        Requirement(PROVISIONER_LABEL, "In", ("default",)),
        Requirement(OS_LABEL, "In", ("linux",)),
        *provider_terms(wish),
    ]
    return {
        "apiVersion": MACHINES.api_version,
        "kind": MACHINES.kind,
        "metadata": {
            "name": name,
            "labels": {PROVISIONER_LABEL: "default", **user_labels(wish), **owned_labels(OWNERSHIP, wish.owner)},
            "annotations": {"karpenter.sh/do-not-consolidate": "true"},
        },
        "spec": {
            "machineTemplateRef": {"name": name},
            "requirements": [as_term(term) for term in terms],
            "resources": {"requests": {"storage": f"{demand.storage_gib}Gi"}},
            "taints": [dict(TAINT)],
        },
    }


def _cloud_terms(cloud: Cloud, type_: str) -> tuple[Requirement, ...]:
    match cloud:
        case "azure":
            return (Requirement("karpenter.azure.com/sku-name", "In", (type_,)),)
        case "aws":
            return (Requirement("karpenter.k8s.aws/instance-gpu-count", "Gt", ("0",)),)
        case "arc":
            return ()


def _image_family(workspace: Manifest, default: ImageFamily) -> str:
    asked = annotations_of(workspace).get(names.NODE_IMAGE_FAMILY_ANNOTATION, "").strip().lower()
    return asked if asked in IMAGE_FAMILIES else default


def user_labels(wish: Wish) -> dict[str, str]:
    """Labels with which a node satisfies the label selector; what the provider sets itself is left to it."""
    labels: dict[str, str] = {}
    for term in wish.requirements:
        if term.operator == "In" and term.values and (len(term.values) == 1 or not is_provider_label(term.key)):
            labels.setdefault(term.key, term.values[0])
        elif term.operator == "Exists" and not is_provider_label(term.key):
            labels.setdefault(term.key, "true")
    return labels


def provider_terms(wish: Wish) -> list[Requirement]:
    """The terms of the label selector that choose among machines: zone, capacity type (spot) and the like."""
    asked = [term for term in wish.requirements if is_provider_label(term.key) and term.key not in OWN_REQUIREMENTS]
    if wish.is_spot and CAPACITY_TYPE_LABEL not in {term.key for term in asked}:
        asked.append(Requirement(CAPACITY_TYPE_LABEL, "In", ("spot",)))
    return asked


def is_provider_label(key: str) -> bool:
    """Whether the label is one that nodes have by what they are, not one that anybody chooses."""
    domain, slash, _ = key.partition("/")
    return bool(slash) and any(domain == known or domain.endswith(f".{known}") for known in PROVIDER_DOMAINS)


def as_term(requirement: Requirement) -> Manifest:
    """The requirement as Kubernetes writes it."""
    term: Manifest = {"key": requirement.key, "operator": requirement.operator}
    return {**term, "values": list(requirement.values)} if requirement.values else term


def select_owned(ownership: tuple[str, str], wish: Wish, nodes: Sequence[Manifest]) -> list[Manifest]:
    """The nodes that carry the Workspace's ownership labels and what its label selector asks for."""
    matching = byo.select(wish, nodes)
    if not wish.instance_type:
        return matching
    wanted = owned_labels(ownership, wish.owner)
    return [node for node in matching if has_labels(node, wanted)]


def owned_requirements(ownership: tuple[str, str], wish: Wish) -> list[Manifest]:
    """The same as demands of a pod."""
    owner = owner_terms(ownership, wish.owner) if wish.instance_type else []
    return [*owner, *byo.requirements(wish)]


def judge(wish: Wish, nodes: Sequence[Manifest], target: int) -> Verdict:
    """Ready when enough nodes of the type are ready and show their GPUs; else what is waited for."""
    if not wish.instance_type:
        return byo.judge(wish, nodes, target)
    typed = [node for node in nodes if _is_of_type(node, wish.instance_type)]
    ready = [node for node in typed if is_ready(node)]
    blind = [node for node in ready if _lacks_gpus(node, wish.instance_type)]
    usable = [node for node in ready if node not in blind]
    count = f"{len(usable)} of {target} ready"
    if len(usable) >= target:
        return nodes_ready(f"{count}: {names_of(usable)}.")
    if blind:
        said = f"Node {names_of(blind)} is ready but shows no {GPU_RESOURCE} ({count})"
        message = f"{said}: NVIDIA's device plugin is starting, or has to be installed."
        cause = named(names.REASON_NO_GPU_PLUGIN, said)
        return Verdict(False, names.REASON_NO_GPU_PLUGIN, message, diagnosis=cause)
    waiting = ", ".join(why_not_ready(node) for node in typed[:3] if not is_ready(node))
    return nodes_missing(
        f"Waiting for {wish.instance_type} nodes ({count}{f'; not ready: {waiting}' if waiting else ''}).",
        fault_of_nodes(typed, is_starting=True),
    )


def _is_of_type(node: Manifest, type_: str) -> bool:
    return labels_of(node).get(INSTANCE_TYPE_LABEL, type_).lower() == type_.lower()


def _lacks_gpus(node: Manifest, type_: str) -> bool:
    known = instance_type(type_)
    if known is None or not known.gpus.is_nvidia:
        return False
    return str(((node.get("status") or {}).get("capacity") or {}).get(GPU_RESOURCE, "0")) == "0"
