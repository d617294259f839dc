# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""The node phase: which nodes serve a Workspace, how many it takes, and what hardware its pods get.

Asks the provisioner whose nodes they are and `kaito.catalog.sizing` how many are needed. Computed anew on every pass:
a changed context length or a better node changes the target.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from kaito.api.contracts import Parallelism
from kaito.api.names import BYPASS_RESOURCE_CHECKS_ANNOTATION, REASON_GPU_TOO_SMALL, REASON_INVALID_SPEC
from kaito.api.workspace import PartitionSpec, Workspace
from kaito.catalog.fit import Demand, Fit, fit, instead, least_gpus
from kaito.catalog.gpus import Gpus, Machines
from kaito.catalog.models import ModelFacts
from kaito.catalog.sizing import DEFAULT_CONTEXT, DoesNotFit, estimate_nodes, parallelism
from kaito.kube.manifest import Manifest, labels_of
from kaito.operator.faults.table import named
from kaito.operator.pods import GPU_RESOURCE, spot_toleration
from kaito.operator.provisioners.survey import (
    Provisioner,
    is_ready,
    nodes_missing,
    strain_of,
)
from kaito.operator.provisioners.wish import Requirement, Verdict, Wish
from kaito.operator.workspace.wanted import Wanted

PRODUCT_LABEL = "nvidia.com/gpu.product"
MEMORY_LABEL = "nvidia.com/gpu.memory"
MIB_PER_GIB = 1024
_MIG_MEMORY = re.compile(r"\.(\d+)gb")


def without_heartbeat(node: Manifest) -> Manifest:
    """The node without what its kubelet writes again and again and no plan reads: its images, and when it was heard.

    Every Workspace that takes nodes as it finds them is planned anew when a node changes.
    """
    status = {key: value for key, value in (node.get("status") or {}).items() if key != "images"}
    if "conditions" in status:
        status["conditions"] = [
            {key: value for key, value in condition.items() if key != "lastHeartbeatTime"}
            for condition in status["conditions"] or ()
        ]
    return {**node, "status": status}


class NoSuchPart(DoesNotFit):
    """The part of a node that the Workspace asks for cannot be had of such nodes."""


@dataclass(frozen=True, slots=True)
class Hardware:
    """What one node offers a model server. No GPUs means that the CPU computes."""

    gpus: int = 0
    memory_gib: float | None = None
    """Of all GPUs together; None where the node does not say."""
    product: str = ""
    compute_capability: float | None = None
    resource: str = GPU_RESOURCE
    """What a pod asks for to get one of them."""

    @property
    def known(self) -> Gpus | None:
        """The GPUs as sizing needs them; None without GPUs or without their memory."""
        if not self.gpus or self.memory_gib is None:
            return None
        return Gpus(
            count=self.gpus,
            memory_gib=self.memory_gib,
            product=self.product,
            compute_capability=self.compute_capability,
        )

    def shared(self, gpus: int) -> Hardware:
        """A part of the node's GPUs."""
        share = None if self.memory_gib is None else self.memory_gib * gpus / self.gpus
        return replace(self, gpus=gpus, memory_gib=share)


@dataclass(frozen=True, slots=True)
class Placement:
    """Where the workload goes."""

    verdict: Verdict
    target: int
    """How many nodes it takes."""
    nodes: tuple[str, ...]
    """The names of the nodes that may serve it."""
    hardware: Hardware
    """What each pod gets of its node."""
    parallelism: Parallelism
    is_sized: bool
    """The target follows from the model's size, not from what the user wrote."""
    requirements: tuple[Manifest, ...]
    """What its pods demand of a node."""
    tolerations: tuple[Manifest, ...] = ()
    """The taints that they accept beside those of GPU nodes."""
    spread: int = 1
    """Over how many pods, each on a node of its own, one model is laid or trained."""
    fits: bool = True
    """The model can be served by nodes of this kind at all."""
    advice: str = ""
    """Which single machine would do where it takes several, as a sentence; empty where none is known."""


def wish_of(workspace: Workspace) -> Wish:
    """What the Workspace says about nodes, without the keys that are ours."""
    resource = workspace.resource
    if resource is None:
        return Wish(owner=workspace.key)
    labels = (Requirement(key, "In", (value,)) for key, value in sorted(resource.node_labels().items()))
    terms = (Requirement(term.key, term.operator, term.values) for term in resource.label_selector.match_expressions)
    return Wish((*labels, *terms), resource.instance_type, workspace.key)


def place(wanted: Wanted, nodes: Sequence[Manifest], provisioner: Provisioner, max_model_len: int | None) -> Placement:
    """Where the workload of a Workspace goes, given all nodes of the cluster."""
    resource = wanted.workspace.resource
    wish = wish_of(wanted.workspace)
    ours = provisioner.select(wish, nodes)
    ordered = provisioner.orders and bool(wish.instance_type)
    offered = (
        _ordered_hardware(wish.instance_type, ours, provisioner.machines)
        if ordered
        else _best_hardware(ours, provisioner.machines)
    )
    context = max_model_len or DEFAULT_CONTEXT
    count = resource.count if resource else 1
    partition = resource.partition if resource else None
    fits = True
    try:
        if partition is not None:
            offered = _part(partition, offered, ours, provisioner.machines, is_ordered=ordered)
            target, hardware = _size_of_part(wanted.model, offered, partition, context), offered
        elif wanted.tuning is not None:
            target, hardware = (1, _one_gpu(offered)) if provisioner.single_node else (max(count, 1), offered)
        else:
            target, hardware = _size(wanted.model, offered, provisioner, context=context, count=count)
        verdict = provisioner.judge(wish, ours, target)
    except NoSuchPart as error:
        cause = named(REASON_INVALID_SPEC, str(error))
        target, hardware, verdict, fits = 1, offered, nodes_missing(f"{error}.", cause), False
    except DoesNotFit as error:
        said = " ".join(
            filter(None, (f"{error}.", _advice(wanted.model, wish.instance_type, context, provisioner.machines)))
        )
        target, hardware = max(count, 1), offered
        if BYPASS_RESOURCE_CHECKS_ANNOTATION in wanted.workspace.annotations:
            judged = provisioner.judge(wish, ours, target)
            verdict = replace(judged, message=f"{judged.message} It is tried although by our sums {error}.")
        else:
            verdict, fits = nodes_missing(said, named(REASON_GPU_TOO_SMALL, said.removesuffix("."))), False
    advice = ""
    if (target > 1 and wanted.tuning is None) or not fits:
        advice = _advice(wanted.model, wish.instance_type, context, provisioner.machines)
    if fits and advice:
        verdict = replace(verdict, message=f"{verdict.message} {advice}")
    strain = strain_of(ours)
    if strain:
        verdict = replace(verdict, message=f"{verdict.message} {strain}")
    is_sized = _is_sizable(wanted.model, offered) and not provisioner.single_node
    return Placement(
        verdict=verdict,
        target=target,
        nodes=tuple(sorted(node["metadata"]["name"] for node in ours)),
        hardware=hardware,
        parallelism=_spread(wanted.model, hardware, target),
        is_sized=is_sized,
        spread=_pods_together(wanted, target, count=max(count, 1), is_sized=is_sized),
        requirements=tuple(provisioner.requirements(wish)),
        tolerations=(*wanted.tolerations, *_tolerations(wish, hardware)),
        fits=fits,
        advice=advice,
    )


def _pods_together(wanted: Wanted, target: int, *, count: int, is_sized: bool) -> int:
    """How many pods work on one model. Those of a tuning are as many as it asks for, side by side on one machine."""
    if wanted.tuning is not None:
        return count
    return target if is_sized and wanted.engine == "vllm" else 1


def _part(
    partition: PartitionSpec, offered: Hardware, nodes: Sequence[Manifest], machines: Machines, *, is_ordered: bool
) -> Hardware:
    """The part of a node that is asked for. Raises NoSuchPart."""
    if is_ordered:
        raise NoSuchPart(
            "resource.partition takes a part of a node that is there: label it, and leave instanceType out"
        )
    if partition.mode == "accelerator":
        asked = partition.count or 1
        if offered.gpus and asked > offered.gpus:
            raise NoSuchPart(f"resource.partition.count is {asked}, and a node has {offered.gpus} GPUs: ask for fewer")
        return offered.shared(asked) if offered.gpus else Hardware(asked)
    labels = [labels_of(node).get(PRODUCT_LABEL, "").partition("-MIG-")[0] for node in nodes]
    known = next((found for label in labels if (found := machines.gpu_product(label)) is not None), None)
    slice_gb = _MIG_MEMORY.search(partition.profile)
    return Hardware(
        gpus=1,
        memory_gib=float(slice_gb[1]) if slice_gb else None,
        product=known.product if known else "",
        compute_capability=known.compute_capability if known else None,
        resource=f"nvidia.com/mig-{partition.profile}",
    )


def _size_of_part(model: ModelFacts | None, part: Hardware, partition: PartitionSpec, context: int) -> int:
    """One node: parts of several do not work together. Raises DoesNotFit."""
    if model is None or part.known is None or not _is_sizable(model, part):
        return 1
    nodes = estimate_nodes(model, part.known, context=context).nodes
    if nodes > 1 and not _alone(model, part.known, context).fits:
        what = f"a slice {partition.profile}" if partition.mode == "mig" else f"{part.gpus} of a node's GPUs"
        raise DoesNotFit(f"{model.id} with a context of {context} tokens does not fit {what}")
    return 1


def hardware_of(node: Manifest, machines: Machines) -> Hardware:
    """What a node offers, by its capacity and the labels that NVIDIA's feature discovery puts on it."""
    status = node.get("status") or {}
    gpus = _whole((status.get("allocatable") or status.get("capacity") or {}).get(GPU_RESOURCE))
    if not gpus:
        return Hardware()
    labels = labels_of(node)
    known = machines.gpu_product(labels.get(PRODUCT_LABEL, ""))
    memory_mib = _whole(labels.get(MEMORY_LABEL))
    per_gpu = round(memory_mib / MIB_PER_GIB) if memory_mib else known.memory_gib if known else None
    return Hardware(
        gpus=gpus,
        memory_gib=None if per_gpu is None else float(per_gpu * gpus),
        product=known.product if known else labels.get(PRODUCT_LABEL, ""),
        compute_capability=known.compute_capability if known else None,
    )


def _whole(text: object) -> int:
    try:
        return max(0, int(str(text)))
    except ValueError:
        return 0


def _best_hardware(nodes: Sequence[Manifest], machines: Machines) -> Hardware:
    """That of the first ready node with GPUs; without one, a CPU."""
    offers = (hardware_of(node, machines) for node in nodes if is_ready(node))
    return next((offer for offer in offers if offer.gpus), Hardware())


def _ordered_hardware(type_: str, nodes: Sequence[Manifest], machines: Machines) -> Hardware:
    """That of the type that is ordered, so that the target does not change with the nodes that come.

    A type that no table has is sized by the Workspace's own count, for the same reason: only the number of its GPUs is
    taken from a node.
    """
    known = machines.instance_type(type_)
    if known is None:
        return replace(_best_hardware(nodes, machines), memory_gib=None)
    gpus = known.gpus
    return Hardware(gpus.count, gpus.memory_gib, gpus.product, gpus.compute_capability)


def _size(
    model: ModelFacts | None, offered: Hardware, provisioner: Provisioner, *, context: int, count: int
) -> tuple[int, Hardware]:
    """Target node count and each pod's share of a node. Raises DoesNotFit.

    On a cluster a pod takes all GPUs of its node, as KAITO has it. On one machine it takes the fewest that hold the
    model, so that another Workspace finds some left, and a model that seems too big is tried all the same: the weights
    that lie on the machine may be a smaller stand-in.
    """
    gpus = offered.known
    if provisioner.single_node:
        return 1, _least(model, offered, context) if model and gpus else offered
    if model is None or gpus is None or not _is_sizable(model, offered):
        return max(count, 1), offered
    nodes = estimate_nodes(model, gpus, context=context).nodes
    if model.shape is None:
        return nodes, offered
    alone = _alone(model, gpus, context)
    if nodes == 1 and alone.is_impossible:
        raise DoesNotFit(f"{model.id} does not fit: {alone.why}")
    # KAITO's formula counts files that are there twice and knows no windows: one node may do where it asks for several.
    return (1 if alone.fits else nodes), offered


@lru_cache(maxsize=1024)
def _alone(model: ModelFacts, gpus: Gpus, context: int) -> Fit:
    """What the model comes to on one such node; remembered, as every pass asks."""
    return fit(model, gpus, Demand(context=context))


@lru_cache(maxsize=1024)
def _advice(model: ModelFacts | None, type_: str, context: int, machines: Machines) -> str:
    """Which machines would do: of the cloud that the Workspace's own type is of, or where nodes are brought along, the
    GPUs that one of them would need."""
    known = machines.instance_type(type_) if type_ else None
    if model is None or not model.is_known or (type_ and known is None):
        return ""
    demand = Demand(context=context)
    if known is not None:
        found = instead(model, machines.instance_types(known.cloud), demand)
        return f"What serves it: {found}." if found else ""
    gpus = least_gpus(model, machines.instance_types(), demand)
    return f"One node with {' or '.join(gpus)} serves it." if gpus else ""


def _tolerations(wish: Wish, hardware: Hardware) -> list[Manifest]:
    """The taints of the nodes that are asked for, beside those of all GPU nodes."""
    sliced = {"key": hardware.resource, "operator": "Exists", "effect": "NoSchedule"}
    return [*([spot_toleration()] if wish.is_spot else []), *([sliced] if hardware.resource != GPU_RESOURCE else [])]


def _one_gpu(offered: Hardware) -> Hardware:
    """A tuning on somebody's own machine leaves the other GPUs to others."""
    return offered.shared(1) if offered.gpus > 1 else offered


def _is_sizable(model: ModelFacts | None, offered: Hardware) -> bool:
    return model is not None and model.weights_gib is not None and offered.known is not None


def _least(model: ModelFacts, offered: Hardware, context: int) -> Hardware:
    gpus = offered.known
    if gpus is None:
        return offered
    try:
        needed = estimate_nodes(model, gpus, context=context).gpus if model.weights_gib is not None else 1
    except DoesNotFit:
        return offered
    share = 1
    while share < needed:
        share *= 2
    return offered.shared(min(share, offered.gpus))


def _spread(model: ModelFacts | None, hardware: Hardware, nodes: int) -> Parallelism:
    if model is None or not hardware.gpus:
        return Parallelism()
    gpus = hardware.known or Gpus(count=hardware.gpus, memory_gib=0.0)
    return parallelism(model, gpus, nodes if model.weights_gib is not None and hardware.known else 1)
