# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Nodes that exist in the cluster only: their pods become Running and Ready after a modelled delay, without processes.

For trying the control plane at a size that no single machine has. Many nodes share one watch, so an idle one costs a
lease renewal now and then and nothing else.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from kaito.engine.node import registration
from kaito.engine.node.addresses import POD_NETWORK
from kaito.engine.node.machine import Machine
from kaito.engine.node.model import Attempt, ContainerView, PodView
from kaito.engine.node.registration import Registration
from kaito.engine.node.status import pod_status
from kaito.kube.cache import Cache
from kaito.kube.client import Client
from kaito.kube.clock import Clock, RealClock
from kaito.kube.errors import ApiError, Conflict, NotFound
from kaito.kube.manifest import Manifest, is_deleting
from kaito.kube.resource import NODES, PODS

VERSION = "1.36.0+kaito-simulated"
HEARTBEAT_S = 30.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SimulatedCapacity:
    """What each simulated node claims to have."""

    cpu: str = "32"
    memory: str = "256Gi"
    pods: str = "110"
    gpus: int = 0
    gpu_product: str = "NVIDIA-H100-80GB-HBM3"
    gpu_memory_mib: int = 81559
    labels: Mapping[str, str] = field(default_factory=dict)

    def amounts(self) -> dict[str, str]:
        """The capacity as quantities."""
        found = {"cpu": self.cpu, "memory": self.memory, "pods": self.pods, "ephemeral-storage": "1Ti"}
        return found | ({"nvidia.com/gpu": str(self.gpus)} if self.gpus else {})

    def gpu_labels(self) -> dict[str, str]:
        """The labels that tell a node's GPUs."""
        if not self.gpus:
            return {}
        return {
            "nvidia.com/gpu.product": self.gpu_product,
            "nvidia.com/gpu.count": str(self.gpus),
            "nvidia.com/gpu.memory": str(self.gpu_memory_mib),
        }


@dataclass(frozen=True, slots=True)
class SimulatedSpec:
    """One node that is unlike the others."""

    capacity: Mapping[str, str]
    labels: Mapping[str, str] = field(default_factory=dict)
    taints: tuple[Manifest, ...] = ()
    provider_id: str = ""


def node_name(number: int) -> str:
    """The name of the n-th simulated node."""
    return f"simulated-{number:04d}"


def simulated_address(uid: str) -> str:
    """An address for show; nothing answers there."""
    number = int.from_bytes(hashlib.sha256(uid.encode()).digest()[:4], "big") % POD_NETWORK.num_addresses
    return str(POD_NETWORK[number])


def running_status(pod: Manifest, now: datetime) -> Manifest:
    """The status of a pod whose containers all run and are ready (init containers have succeeded)."""
    uid, spec = pod["metadata"]["uid"], pod["spec"]
    containers = {}
    for container in spec.get("initContainers") or []:
        exit_code = None if container.get("restartPolicy") == "Always" else 0
        attempt = Attempt(
            0,
            f"{uid}/{container['name']}/0",
            started_at=now,
            exit_code=exit_code,
            finished_at=now if exit_code == 0 else None,
        )
        containers[container["name"]] = ContainerView(current=attempt)
    for container in spec["containers"]:
        containers[container["name"]] = ContainerView(
            current=Attempt(0, f"{uid}/{container['name']}/0", started_at=now)
        )
    view = PodView(pod, containers, simulated_address(uid), "127.0.0.1")
    return pod_status(view, "Running", {}, now, initialized=True)


def _essence(pod: Manifest) -> Manifest:
    """What has still to be known of a pod: little, once it runs. Ten thousand of them fit in a few megabytes so."""
    phase = (pod.get("status") or {}).get("phase")
    if phase not in ("Running", "Succeeded", "Failed"):
        return pod
    meta = {key: value for key, value in pod["metadata"].items() if key in _ESSENTIAL}
    return {"metadata": meta, "spec": {"nodeName": pod["spec"].get("nodeName")}, "status": {"phase": phase}}


_ESSENTIAL = ("name", "namespace", "uid", "resourceVersion", "deletionTimestamp")


class SimulatedNodes:
    """A number of simulated nodes; more can come, and any can go, while they run."""

    def __init__(
        self,
        client: Client,
        *,
        count: int,
        capacity: SimulatedCapacity | None = None,
        start_delay_s: float = 0.5,
        stop_delay_s: float = 0.1,
        clock: Clock | None = None,
    ) -> None:
        self._client = client
        self._capacity = capacity or SimulatedCapacity()
        self._specs: dict[str, SimulatedSpec | None] = {node_name(number): None for number in range(count)}
        self._kubelets: dict[str, asyncio.Task[None]] = {}
        self._group: asyncio.TaskGroup | None = None
        self._start_delay_s = start_delay_s
        self._stop_delay_s = stop_delay_s
        self._clock = clock or RealClock()
        self._pods = Cache(client, PODS, clock=self._clock, trim=_essence)
        self._pods.subscribe(self._changed)
        self._tasks: dict[tuple[str, bool], asyncio.Task[None]] = {}

    async def run(self) -> None:
        """Register the nodes and play their pods' lives until cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                for name in sorted(self._specs):
                    self._start(name)
                group.create_task(self._pods.run())
        finally:
            self._group = None
            for task in self._tasks.values():
                task.cancel()

    def add(self, name: str, spec: SimulatedSpec) -> None:
        """One more node from now on."""
        self._specs[name] = spec
        if self._group is not None:
            self._start(name)
        for pod in self._pods.store.on_node(name):
            self._changed(None, pod)

    def remove(self, name: str) -> None:
        """The node's machine ends: nothing reports for it any more. Its Node object stays, and is not ready."""
        if self._specs.pop(name, None) is None:
            return
        kubelet = self._kubelets.pop(name, None)
        if kubelet is not None:
            kubelet.cancel()
        if self._group is not None:
            self._group.create_task(self._tell_end(name))

    def _start(self, name: str) -> None:
        assert self._group is not None
        self._kubelets[name] = self._group.create_task(self._registration(name).run())

    async def _tell_end(self, name: str) -> None:
        try:
            node = await self._client.get(NODES, name)
            conditions = (node.get("status") or {}).get("conditions") or []
            gone = {"status": "Unknown", "reason": "NodeStatusUnknown", "message": "The machine has ended."}
            told = [{**one, **gone} if one["type"] == "Ready" else one for one in conditions]
            await self._client.patch(NODES, name, "", {"status": {"conditions": told}}, subresource="status")
        except NotFound:
            return
        except ApiError as error:
            _log.warning("simulated node %s: its end is not told: %s", name, error)

    def _registration(self, name: str) -> Registration:
        capacity, spec = self._capacity, self._specs[name]
        machine = Machine(
            *(name, "linux", "amd64", "simulated", "simulated", "", ""), cpus=0, memory_bytes=0, disk_bytes=0
        )
        labels = registration.labels(machine, name) | capacity.gpu_labels() | dict(capacity.labels)
        if spec is not None:
            labels |= spec.labels
        manifest = registration.node_manifest(name, labels)
        if spec is not None:
            manifest["spec"] = {"taints": [dict(taint) for taint in spec.taints], "providerID": spec.provider_id}
        manifest["metadata"]["annotations"] = {"engine.kaito.sh/containers": "simulated"}
        amounts = capacity.amounts() if spec is None else dict(spec.capacity)

        def status(before: Manifest, now: datetime) -> Manifest:
            return registration.node_status(machine, amounts, "127.0.0.1", VERSION, before, now)

        return Registration(self._client, manifest, status, clock=self._clock, renew_s=HEARTBEAT_S)

    def _changed(self, old: Manifest | None, new: Manifest | None) -> None:
        if new is None or new["spec"].get("nodeName") not in self._specs:
            return
        phase = (new.get("status") or {}).get("phase")
        if is_deleting(new):
            self._later(new, self._stop_delay_s, ending=True)
        elif phase not in ("Running", "Succeeded", "Failed"):
            self._later(new, self._start_delay_s, ending=False)

    def _later(self, pod: Manifest, delay_s: float, *, ending: bool) -> None:
        key = (pod["metadata"]["uid"], ending)
        if key in self._tasks:
            return
        task = asyncio.create_task(self._act(pod, delay_s, ending=ending))
        self._tasks[key] = task
        task.add_done_callback(lambda _: self._tasks.pop(key, None))

    async def _act(self, pod: Manifest, delay_s: float, *, ending: bool) -> None:
        await self._clock.sleep(delay_s)
        meta = pod["metadata"]
        try:
            if ending:
                await self._client.delete(PODS, meta["name"], meta["namespace"], uid=meta["uid"], grace_period_s=0)
            else:
                body = {"metadata": {"uid": meta["uid"]}, "status": running_status(pod, self._clock.now())}
                await self._client.patch(PODS, meta["name"], meta["namespace"], body, subresource="status")
        except (NotFound, Conflict):
            return
        except ApiError as error:
            _log.warning("simulated pod %s/%s: %s", meta["namespace"], meta["name"], error)
