# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""kaito's own engine as a cloud: each machine is a ConfigMap of one namespace.

Simulated ones have the instance types of all clouds that the catalogue knows; the engine, run with
--simulated-machines, plays them. A machine's name follows from claim and attempt, so asking twice finds the same one.

One instance type is real: `local`, the machine that the engine runs on. There is one of it, so its ConfigMap is named
after its node: who makes that first has the machine, until it is deleted. Its node is there before and after; deleting
the Node object is what makes it new, for the engine registers it again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from kaito.api import nodeclaims as names
from kaito.catalog.prices import CLOUDS, Machine, machines
from kaito.kube.client import Client
from kaito.kube.errors import AlreadyExists, ApiError, Forbidden, Invalid, TooManyRequests, Unauthorized
from kaito.kube.errors import NotFound as ApiNotFound
from kaito.kube.manifest import Manifest, labels_of
from kaito.kube.resource import CONFIG_MAPS, NAMESPACES, NODES
from kaito.provisioner import errors
from kaito.provisioner.instances import Instance, Order
from kaito.provisioner.offers import CAPACITY_TYPES, CapacityType, Offer, offer

NAMESPACE = "simulated-machines"
MACHINE_LABEL = "engine.kaito.sh/machine"
"""Its value says which: `true` for a machine that the engine is to play, or `local`."""
LOCAL = "local"
HOSTNAME_LABEL = "kubernetes.io/hostname"


class EngineBackend:
    """A `kaito.provisioner.instances.Backend`."""

    name = "engine"
    list_lag_s = 0.0
    busy_s = 1.0
    idle_s = 10.0
    calls_per_s = 100.0

    def __init__(self, client: Client, *, boot_s: float = 2.0) -> None:
        self._client, self._boot_s = client, boot_s

    async def create(self, order: Order) -> Instance:
        """POST the machine; one of the same name is the same machine, if it is for the same attempt."""
        with translated():
            if order.offer.instance_type != LOCAL:
                return instance(await self._made(machine(order, self._boot_s)))
            nodes, _ = await self._client.list_objects(
                NODES, label_selector=f"{names.INSTANCE_TYPE_LABEL}={LOCAL}", metadata_only=True
            )
            if not nodes:
                raise errors.OutOfCapacity("the engine runs without a node of its own")
            made = instance(await self._made(local_machine(order, nodes[0]["metadata"]["name"])))
            if made.claim_uid != order.claim_uid:
                raise errors.OutOfCapacity(f"claim {made.claim} has this machine")
            return made

    async def _made(self, manifest: Manifest) -> Manifest:
        try:
            return await self._client.create(CONFIG_MAPS, manifest)
        except AlreadyExists:
            return await self._client.get(CONFIG_MAPS, manifest["metadata"]["name"], NAMESPACE)
        except ApiNotFound:
            await self._make_namespace()
            return await self._client.create(CONFIG_MAPS, manifest)

    async def _make_namespace(self) -> None:
        try:
            await self._client.create(
                NAMESPACES, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}
            )
        except AlreadyExists:
            return

    async def get(self, instance_: Instance) -> Instance:
        """GET one."""
        with translated():
            return instance(await self._client.get(CONFIG_MAPS, instance_.id, NAMESPACE))

    async def list(self) -> Sequence[Instance]:
        """One list for all."""
        with translated():
            found, _ = await self._client.list_objects(CONFIG_MAPS, NAMESPACE, label_selector=MACHINE_LABEL)
        return [instance(one) for one in found]

    async def delete(self, instance_: Instance) -> None:
        """DELETE it: the engine stops a simulated machine; the real one is free for another claim."""
        with translated():
            await self._client.delete(CONFIG_MAPS, instance_.id, NAMESPACE)

    async def instance_types(self) -> Sequence[Offer]:
        """Every type of the catalogue, on demand and spot, and the machine that is here. Its GPUs are not promised: its
        node shows them from the first moment, or has none."""
        return [
            with_price(Machine(LOCAL, "", 0, 0.0), "on-demand"),
            *(
                with_price(machine, capacity_type)
                for cloud in CLOUDS
                for machine in machines(cloud)
                for capacity_type in CAPACITY_TYPES
            ),
        ]


def with_price(machine: Machine, capacity_type: CapacityType) -> Offer:
    """The offer of a machine of any cloud, with the labels by which claims for that cloud choose it."""
    labels = {
        "karpenter.azure.com/sku-name": machine.name,
        "karpenter.k8s.aws/instance-gpu-count": str(machine.nvidia_gpus),
    }
    dollars = machine.dollars_per_hour or 0.0
    return offer(machine.name, "", capacity_type, dollars=dollars, gpus=machine.nvidia_gpus, labels=labels)


def machine(order: Order, boot_s: float) -> Manifest:
    """The ConfigMap that describes a machine to the engine."""
    token = hashlib.sha256(f"{order.claim_uid}/{order.attempt}".encode()).hexdigest()[:8]
    name = f"{order.claim[:200]}-{token}"
    labels = {
        **order.labels,
        **order.offer.labels,
        names.CLAIM_LABEL: order.claim[:63],
        names.CLAIM_UID_LABEL: order.claim_uid,
    }
    capacity = {"cpu": "32", "memory": "256Gi", "pods": "110", "ephemeral-storage": f"{max(order.disk_gib, 100)}Gi"}
    if order.offer.gpus:
        capacity[names.GPU_RESOURCE] = str(order.offer.gpus)
    return _config_map(
        order,
        name,
        "true",
        {
            "bootSeconds": f"{boot_s:g}",
            "capacity": json.dumps(capacity),
            "labels": json.dumps(labels),
            "taints": json.dumps(list(order.taints)),
        },
    )


def local_machine(order: Order, node: str) -> Manifest:
    """The ConfigMap that says whose the machine of a node is."""
    return _config_map(order, f"{LOCAL}-{node}", LOCAL, {"node": node})


def _config_map(order: Order, name: str, kind: str, data: Mapping[str, str]) -> Manifest:
    labels = {
        MACHINE_LABEL: kind,
        names.CLAIM_LABEL: order.claim[:63],
        names.CLAIM_UID_LABEL: order.claim_uid,
        names.INSTANCE_TYPE_LABEL: order.offer.instance_type,
        names.CAPACITY_TYPE_LABEL: order.offer.capacity_type,
    }
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name, "namespace": NAMESPACE, "labels": labels},
        "data": {"providerID": f"engine:///{name}", **data},
    }


def instance(found: Manifest) -> Instance:
    """The machine that a ConfigMap describes."""
    labels, meta, data = labels_of(found), found["metadata"], found.get("data") or {}
    return Instance(
        id=meta["name"],
        claim=labels.get(names.CLAIM_LABEL, ""),
        claim_uid=labels.get(names.CLAIM_UID_LABEL, ""),
        state="stopping" if meta.get("deletionTimestamp") else "running",
        instance_type=labels.get(names.INSTANCE_TYPE_LABEL, ""),
        capacity_type=labels.get(names.CAPACITY_TYPE_LABEL, "on-demand"),
        provider_id=str(data.get("providerID", "")),
        node_labels={HOSTNAME_LABEL: data["node"]} if "node" in data else {},
    )


@contextmanager
def translated() -> Iterator[None]:
    """Raise what the API server answers as the errors of a cloud."""
    try:
        yield
    except ApiNotFound as error:
        raise errors.NotFound(str(error)) from error
    except (Unauthorized, Forbidden) as error:
        raise errors.Unauthorised(str(error)) from error
    except TooManyRequests as error:
        raise errors.Throttled(str(error)) from error
    except Invalid as error:
        raise errors.Rejected(str(error)) from error
    except ApiError as error:
        raise errors.Unclear(str(error)) from error
