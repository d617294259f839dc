# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""The second and third stage of a claim: its machine becomes a node, and the node becomes usable. Pure.

Conditions and reasons are Karpenter's; that the GPUs of the instance type have to be there, all of them, is ours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from kaito.api import nodeclaims as names
from kaito.kube.manifest import Manifest, annotations_of, is_true, key_of, labels_of, owner_reference
from kaito.kube.plan import Patch
from kaito.kube.resource import NODES
from kaito.provisioner.claim import Claim, Condition, quantity
from kaito.provisioner.instances import Instance
from kaito.provisioner.launching import Stage
from kaito.provisioner.offers import Market

EPHEMERAL_TAINTS = frozenset({
    ("node.kubernetes.io/not-ready", "NoSchedule"), ("node.kubernetes.io/not-ready", "NoExecute"),
    ("node.kubernetes.io/unreachable", "NoSchedule"), ("node.kubernetes.io/unreachable", "NoExecute"),
    ("node.cloudprovider.kubernetes.io/uninitialized", "NoSchedule"), (names.UNREGISTERED_TAINT, "NoExecute"),
})  # fmt: skip
"""Taints that are on a node while it starts."""


def register(claim: Claim, nodes: Sequence[Manifest], instance: Instance, before: str) -> Stage:
    """The node is found and made what the claim says. `before`: why an earlier machine of the claim was given up."""
    if not nodes:
        text = "Node not registered with cluster" + (f"; before: {before}" if before else "")
        return Stage((Condition(names.REGISTERED, "Unknown", names.REASON_NODE_NOT_FOUND, text),))
    if len(nodes) > 1:
        text = f"{len(nodes)} nodes carry the claim's uid: {', '.join(node['metadata']['name'] for node in nodes)}."
        return Stage((Condition(names.REGISTERED, "False", names.REASON_SEVERAL_NODES, text),))
    node = nodes[0]
    provider_id = (node.get("spec") or {}).get("providerID") or instance.provider_id
    status: dict[str, object] = {"nodeName": node["metadata"]["name"]}
    if provider_id:
        status["providerID"] = provider_id
    body = _synced(claim, node)
    if body:
        condition = Condition(names.REGISTERED, "Unknown", names.REASON_WAITING, "The node is being marked.")
        return Stage((condition,), (Patch(NODES, key_of(node), body),), status=status)
    for field in ("capacity", "allocatable"):
        amounts = (node.get("status") or {}).get(field)
        if amounts:
            status[field] = dict(amounts)
    return Stage((Condition(names.REGISTERED, "True"),), status=status, done=True)


def _synced(claim: Claim, node: Manifest) -> Manifest:
    """What to change of a node that has joined; empty when nothing is. Once it is registered, only its finalizer."""
    meta, taints = node["metadata"], list((node.get("spec") or {}).get("taints") or ())
    body: Manifest = {}
    finalizers = list(meta.get("finalizers") or ())
    if names.TERMINATION_FINALIZER not in finalizers and not meta.get("deletionTimestamp"):
        body["finalizers"] = [*finalizers, names.TERMINATION_FINALIZER]
    if labels_of(node).get(names.REGISTERED_LABEL) != "true":
        labels = {**labels_of(claim.manifest), **_marks(claim), names.REGISTERED_LABEL: "true"}
        notes = {k: v for k, v in annotations_of(claim.manifest).items() if not k.startswith("provisioner.kaito.sh/")}
        owner = owner_reference(claim.manifest, controller=False)
        others = [one for one in meta.get("ownerReferences") or () if one.get("uid") != claim.uid]
        body |= {"labels": labels, "annotations": notes, "ownerReferences": [*others, owner]}
    wanted = [taint for taint in taints if not _is(taint, names.UNREGISTERED_TAINT, "NoExecute")]
    if "labels" in body and labels_of(node).get(names.DO_NOT_SYNC_TAINTS_LABEL) != "true":
        for taint in claim.taints:
            if not any(_is(one, taint.get("key"), taint.get("effect")) for one in wanted):
                wanted.append(dict(taint))
    result: Manifest = {"metadata": body} if body else {}
    if wanted != taints:
        result["spec"] = {"taints": wanted}
    if result:
        result.setdefault("metadata", {})["resourceVersion"] = meta["resourceVersion"]
    return result


def _marks(claim: Claim) -> dict[str, str]:
    return {names.CLAIM_LABEL: claim.name, names.CLAIM_UID_LABEL: claim.uid}


def _is(taint: Manifest, key: object, effect: object) -> bool:
    return bool(taint.get("key") == key and taint.get("effect") == effect)


def initialize(claim: Claim, node: Manifest, market: Market, instance: Instance) -> Stage:
    """The node is ready, free of what is there only at the start, and shows what its type promises."""
    waits = _waits_for(claim, node, promised(market, instance))
    if waits is not None:
        reason, text = waits
        return Stage((Condition(names.INITIALIZED, "Unknown", reason, text),))
    patches: tuple[Patch, ...] = ()
    if labels_of(node).get(names.INITIALIZED_LABEL) != "true":
        patches = (Patch(NODES, key_of(node), {"metadata": {"labels": {names.INITIALIZED_LABEL: "true"}}}),)
    return Stage((Condition(names.INITIALIZED, "True"),), patches, done=True)


def promised(market: Market, instance: Instance) -> int:
    """How many `nvidia.com/gpu` the machine's type has; 0 where none, or where that is not known."""
    offer = market.of_type(instance.instance_type)
    return offer.gpus if offer is not None else 0


def shown(node: Manifest) -> int:
    """How many `nvidia.com/gpu` the node has to give."""
    status = node.get("status") or {}
    amounts = [
        quantity((status.get(field) or {}).get(names.GPU_RESOURCE)) or 0 for field in ("capacity", "allocatable")
    ]
    return int(min(amounts))


def gpus_missing(node: Manifest, gpus: int) -> str:
    """What is to be said when a node does not show the GPUs of its type; empty when it does."""
    there = shown(node)
    if there >= gpus:
        return ""
    if not there:
        return f"node {node['metadata']['name']} shows no {names.GPU_RESOURCE} (its type has {gpus})"
    return f"node {node['metadata']['name']} shows {there} of {gpus} {names.GPU_RESOURCE}"


def _waits_for(claim: Claim, node: Manifest, gpus: int) -> tuple[str, str] | None:
    if not is_true(node, "Ready"):
        return names.REASON_NODE_NOT_READY, "Node status is NotReady"
    taints = (node.get("spec") or {}).get("taints") or ()
    for startup in claim.spec.get("startupTaints") or ():
        if any(_is(taint, startup.get("key"), startup.get("effect")) for taint in taints):
            return names.REASON_STARTUP_TAINTS, f'StartupTaint "{_text(startup)}" still exists'
    for taint in taints:
        if (taint.get("key"), taint.get("effect")) in EPHEMERAL_TAINTS:
            return names.REASON_EPHEMERAL_TAINTS, f'KnownEphemeralTaint "{_text(taint)}" still exists'
    missing = gpus_missing(node, gpus)
    if missing:
        before = f"; before: {claim.replaced.why}" if claim.replaced.why else ""
        return (
            names.REASON_GPUS_MISSING,
            f"{missing}: NVIDIA's device plugin is starting, or has to be installed{before}.",
        )
    allocatable: Mapping[str, object] = (node.get("status") or {}).get("allocatable") or {}
    for name, amount in claim.requests.items():
        if "/" in name and quantity(amount) and not quantity(allocatable.get(name)):
            return names.REASON_RESOURCE_MISSING, f'Resource "{name}" was requested but not registered'
    return None


def _text(taint: Manifest) -> str:
    value = f"={taint['value']}" if taint.get("value") else ""
    return f"{taint.get('key')}{value}:{taint.get('effect')}"
