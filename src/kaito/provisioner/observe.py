# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Everything that a claim's plan looks at, read in one go from the caches and from what is known of the cloud."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kaito.api import nodeclaims as names
from kaito.kube.manifest import Key, Manifest, is_deleting, labels_of
from kaito.kube.plan import Reader
from kaito.kube.resource import NODES, POD_DISRUPTION_BUDGETS, PODS, Resource
from kaito.provisioner.claim import Claim, read_claim
from kaito.provisioner.fleet import Fleet, Sight
from kaito.provisioner.instances import Instance
from kaito.provisioner.settings import Settings

CLAIM_KINDS = (names.NODE_CLAIMS, names.MACHINES)
VOLUME_ATTACHMENTS = Resource("storage.k8s.io", "v1", "volumeattachments", "VolumeAttachment", namespaced=False)
BUDGET = "default"
"""The name of the NodeBudget that counts."""


@dataclass(frozen=True, slots=True)
class Workload:
    """What is on the nodes, read only where they are about to go."""

    pods: tuple[Manifest, ...] = ()
    disruption_budgets: tuple[Manifest, ...] = ()
    attachments: tuple[Manifest, ...] = ()


@dataclass(frozen=True, slots=True)
class Observed:
    """A name of a claim and all that goes by it."""

    name: str
    claim: Claim | None
    """None: there is a machine or a node without a claim."""
    nodes: tuple[Manifest, ...]
    sight: Sight
    fleet: Fleet
    """Only read."""
    strangers: tuple[Instance, ...]
    """Machines of the name that are not the claim's."""
    budget: Manifest | None
    work: Workload

    @property
    def node(self) -> Manifest | None:
        """The node, if there is exactly one."""
        return self.nodes[0] if len(self.nodes) == 1 else None


def is_ours(manifest: Manifest, resource: Resource, settings: Settings) -> bool:
    """Whether the claim is for us to fill."""
    if resource == names.MACHINES:
        return True
    reference = (manifest.get("spec") or {}).get("nodeClassRef") or {}
    node_class = f"{reference.get('group', '')}/{reference.get('kind', '')}"
    if node_class not in settings.node_classes:
        return False
    return reference.get("kind") != "EC2NodeClass" or labels_of(manifest).get("karpenter.sh/nodepool") == "kaito"


def observe(reader: Reader, key: Key, resource: Resource, fleet: Fleet, settings: Settings) -> Observed | None:
    """What there is by this name; None when that is nothing, or nothing of ours."""
    manifests = {kind: reader.get(kind, key.name) for kind in CLAIM_KINDS}
    manifest = manifests[resource]
    if manifest is not None and not is_ours(manifest, resource, settings):
        return None
    uids = [found["metadata"]["uid"] for found in manifests.values() if found is not None]
    strangers = tuple(fleet.strangers(key.name, uids))
    if manifest is None:
        # One of the two controllers looks after what has no claim of either kind.
        if uids or resource != names.NODE_CLAIMS:
            return None
        nodes = tuple(reader.list(NODES, labels={names.CLAIM_LABEL: key.name}))
        if not (strangers or nodes):
            return None
        work = _workload(reader, nodes)
        return Observed(key.name, None, nodes, fleet.sight(key.name, ""), fleet, strangers, None, work)
    claim = read_claim(manifest, resource)
    sight = fleet.sight(claim.name, claim.uid)
    nodes = _nodes(reader, claim, sight.instance)
    is_ending = is_deleting(manifest) or (claim.attempt is not None and claim.live_attempt is None)
    return Observed(
        name=key.name,
        claim=claim,
        nodes=nodes,
        sight=sight,
        fleet=fleet,
        strangers=strangers,
        budget=reader.get(names.NODE_BUDGETS, BUDGET),
        work=_workload(reader, nodes) if is_ending else Workload(),
    )


def _nodes(reader: Reader, claim: Claim, instance: Instance | None) -> tuple[Manifest, ...]:
    found: Sequence[Manifest] = reader.list(NODES, labels={names.CLAIM_UID_LABEL: claim.uid})
    if not found and instance is not None and instance.node_labels:
        candidates = reader.list(NODES, labels=instance.node_labels)
        found = [node for node in candidates if labels_of(node).get(names.CLAIM_UID_LABEL, claim.uid) == claim.uid]
    if not found and instance is not None and not instance.claim_uid:
        name = claim.status.get("nodeName")
        node = reader.get(NODES, str(name)) if name else None
        found = [node] if node is not None else []
    return tuple(found)


def _workload(reader: Reader, nodes: Sequence[Manifest]) -> Workload:
    names_of = [node["metadata"]["name"] for node in nodes]
    if not names_of:
        return Workload()
    attachments = [
        one for one in reader.list(VOLUME_ATTACHMENTS) if (one.get("spec") or {}).get("nodeName") in names_of
    ]
    return Workload(
        pods=tuple(pod for name in names_of for pod in reader.on_node(PODS, name)),
        disruption_budgets=tuple(reader.list(POD_DISRUPTION_BUDGETS)),
        attachments=tuple(attachments),
    )
