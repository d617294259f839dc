# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""kaito's own engine as a cloud: it plays the machines that are described by ConfigMaps of one namespace.

The engine has to run with --simulated-machines. A machine's name follows from claim and attempt, so asking twice finds
the same one. Instance types are those of all clouds that the catalogue knows.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from kaito.api import nodeclaims as names
from kaito.catalog.prices import CLOUDS, Machine, machines
from kaito.kube.client import Client
from kaito.kube.errors import AlreadyExists, ApiError, Forbidden, Invalid, TooManyRequests, Unauthorized
from kaito.kube.errors import NotFound as ApiNotFound
from kaito.kube.manifest import Manifest, labels_of
from kaito.kube.resource import CONFIG_MAPS, NAMESPACES
from kaito.provisioner import errors
from kaito.provisioner.instances import Instance, Order
from kaito.provisioner.offers import CAPACITY_TYPES, CapacityType, Offer, offer

NAMESPACE = "simulated-machines"
MACHINE_LABEL = "engine.kaito.sh/machine"


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
        """POST the machine; one of the same name is the same machine."""
        manifest = machine(order, self._boot_s)
        with translated():
            try:
                made = await self._client.create(CONFIG_MAPS, manifest)
            except AlreadyExists:
                made = await self._client.get(CONFIG_MAPS, manifest["metadata"]["name"], NAMESPACE)
            except ApiNotFound:
                await self._make_namespace()
                made = await self._client.create(CONFIG_MAPS, manifest)
        return instance(made)

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
        """DELETE it; the engine stops the machine and lets the object go."""
        with translated():
            await self._client.delete(CONFIG_MAPS, instance_.id, NAMESPACE)

    async def instance_types(self) -> Sequence[Offer]:
        """Every type of the catalogue, on demand and spot."""
        return [
            with_price(machine, capacity_type)
            for cloud in CLOUDS
            for machine in machines(cloud)
            for capacity_type in CAPACITY_TYPES
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
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": name,
            "namespace": NAMESPACE,
            "labels": {
                MACHINE_LABEL: "true",
                names.CLAIM_LABEL: order.claim[:63],
                names.CLAIM_UID_LABEL: order.claim_uid,
                names.INSTANCE_TYPE_LABEL: order.offer.instance_type,
                names.CAPACITY_TYPE_LABEL: order.offer.capacity_type,
            },
        },
        "data": {
            "bootSeconds": f"{boot_s:g}",
            "providerID": f"engine:///{name}",
            "capacity": json.dumps(capacity),
            "labels": json.dumps(labels),
            "taints": json.dumps(list(order.taints)),
        },
    }


def instance(found: Manifest) -> Instance:
    """The machine that a ConfigMap describes."""
    labels, meta = labels_of(found), found["metadata"]
    return Instance(
        id=meta["name"],
        claim=labels.get(names.CLAIM_LABEL, ""),
        claim_uid=labels.get(names.CLAIM_UID_LABEL, ""),
        state="stopping" if meta.get("deletionTimestamp") else "running",
        instance_type=labels.get(names.INSTANCE_TYPE_LABEL, ""),
        capacity_type=labels.get(names.CAPACITY_TYPE_LABEL, "on-demand"),
        provider_id=str((found.get("data") or {}).get("providerID", "")),
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
