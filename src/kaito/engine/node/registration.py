# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""The Node object that stands for a machine, its heartbeat, and keeping both in the cluster.

`node_manifest` is pure: machine in, manifest out. `Registration` creates the Node, repairs it when somebody changed
what is ours, and renews the Lease that says "I am alive"; nothing is written in between.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from datetime import UTC, datetime

from kaito.engine.node.machine import Gpu, Machine
from kaito.kube.client import Client
from kaito.kube.clock import Clock
from kaito.kube.errors import AlreadyExists, ApiError, Conflict, NotFound
from kaito.kube.manifest import Manifest, merged_conditions, rfc3339
from kaito.kube.resource import LEASES, NODES

LEASE_NAMESPACE = "kube-node-lease"
LEASE_S = 40
RENEW_S = 10.0
RETRY_S = 1.0
INSTANCE_TYPE = "local"

_log = logging.getLogger(__name__)


def labels(machine: Machine, node_name: str) -> dict[str, str]:
    """The well-known labels of the node; GPU labels as NVIDIA's feature discovery writes them."""
    found = {
        "kubernetes.io/hostname": node_name,
        "kubernetes.io/os": machine.system,
        "kubernetes.io/arch": machine.architecture,
        "beta.kubernetes.io/os": machine.system,
        "beta.kubernetes.io/arch": machine.architecture,
        "node.kubernetes.io/instance-type": INSTANCE_TYPE,
    }
    if machine.gpus:
        first = machine.gpus[0]
        found |= {
            "nvidia.com/gpu.product": _label_value(first),
            "nvidia.com/gpu.count": str(len(machine.gpus)),
            "nvidia.com/gpu.memory": str(first.memory_mib),
            "nvidia.com/gpu.present": "true",
        }
    return found


def _label_value(gpu: Gpu) -> str:
    return "-".join(gpu.product.split())[:63]


def capacity(machine: Machine, pods: int) -> dict[str, str]:
    """What the machine has, as quantities."""
    amounts = {
        "cpu": str(machine.cpus),
        "memory": f"{machine.memory_bytes // 1024}Ki",
        "ephemeral-storage": f"{machine.disk_bytes // 1024}Ki",
        "pods": str(pods),
    }
    if machine.gpus:
        amounts["nvidia.com/gpu"] = str(len(machine.gpus))
    return amounts


def node_manifest(node_name: str, own_labels: Mapping[str, str]) -> Manifest:
    """The Node without its status."""
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": node_name,
            "labels": dict(own_labels),
            "annotations": {"engine.kaito.sh/containers": "local-processes"},
        },
        "spec": {},
    }


def node_status(
    machine: Machine, amounts: Mapping[str, str], address: str, version: str, before: Manifest, now: datetime
) -> Manifest:
    """The Node's status; conditions keep the time since when they hold."""
    good = [
        ("MemoryPressure", "False", "KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
        ("DiskPressure", "False", "KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
        ("PIDPressure", "False", "KubeletHasSufficientPID", "kubelet has sufficient PID available"),
        ("Ready", "True", "KubeletReady", "the node agent runs pods as local processes"),
    ]
    wanted: list[Manifest] = [
        {"type": type_, "status": value, "reason": reason, "message": text, "lastHeartbeatTime": rfc3339(now)}
        for type_, value, reason, text in good
    ]
    info = {
        "architecture": machine.architecture,
        "operatingSystem": machine.system,
        "kernelVersion": machine.kernel,
        "osImage": machine.os_image,
        "machineID": machine.machine_id,
        "systemUUID": machine.machine_id,
        "bootID": machine.boot_id,
        "containerRuntimeVersion": f"kaito://{version}",
        "kubeletVersion": f"v{version}",
        "kubeProxyVersion": "",
    }
    return {
        "capacity": dict(amounts),
        "allocatable": dict(amounts),
        "addresses": [
            {"type": "InternalIP", "address": address},
            {"type": "Hostname", "address": machine.hostname},
        ],
        "conditions": merged_conditions(before.get("conditions") or [], wanted, now),
        "daemonEndpoints": {"kubeletEndpoint": {"Port": 0}},
        "nodeInfo": info,
    }


def lease_manifest(node_name: str, now: datetime) -> Manifest:
    """The heartbeat."""
    return {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"name": node_name, "namespace": LEASE_NAMESPACE},
        "spec": {"holderIdentity": node_name, "leaseDurationSeconds": LEASE_S, "renewTime": micro_time(now)},
    }


def micro_time(moment: datetime) -> str:
    """The moment as a Lease has it: UTC with microseconds."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


StatusOf = Callable[[Manifest, datetime], Manifest]
"""The Node's status, from the one before and the time."""


class Registration:
    """Keeps one Node and its Lease true."""

    def __init__(
        self, client: Client, manifest: Manifest, status_of: StatusOf, *, clock: Clock, renew_s: float = RENEW_S
    ) -> None:
        self._client = client
        self._manifest = manifest
        self._status_of = status_of
        self._clock = clock
        self._renew_s = renew_s
        self._name: str = manifest["metadata"]["name"]
        self.registered = asyncio.Event()
        """Set once the Node is there."""

    async def register(self) -> Manifest:
        """Create the Node or bring it up to date; returns it as the server has it. Raises ApiError."""
        try:
            node = await self._client.create(NODES, self._manifest)
        except AlreadyExists:
            wanted = {key: self._manifest["metadata"][key] for key in ("labels", "annotations")}
            node = await self._client.patch(NODES, self._name, "", {"metadata": wanted})
        status = self._status_of(node.get("status") or {}, self._clock.now())
        return await self._client.patch(NODES, self._name, "", {"status": status}, subresource="status")

    async def run(self) -> None:
        """Register, then renew the Lease until cancelled."""
        registered = False
        while True:
            try:
                if not registered:
                    await self.register()
                    registered = True
                    self.registered.set()
                registered = await self._renew() and registered
                await self._clock.sleep(self._renew_s)
            except NotFound:
                registered = False
                await self._clock.sleep(RETRY_S)
            except ApiError as error:
                _log.warning("node %s: heartbeat failed: %s", self._name, error)
                await self._clock.sleep(RETRY_S)

    async def _renew(self) -> bool:
        """Renew the Lease; says whether the Node still reads as ready."""
        lease = lease_manifest(self._name, self._clock.now())
        try:
            await self._client.patch(LEASES, self._name, LEASE_NAMESPACE, {"spec": lease["spec"]})
        except NotFound:
            try:
                await self._client.create(LEASES, lease)
            except (AlreadyExists, Conflict):
                return True
        node = await self._client.get(NODES, self._name)
        conditions = (node.get("status") or {}).get("conditions") or []
        return any(item["type"] == "Ready" and item["status"] == "True" for item in conditions)
