# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""The node agent: registers this machine as a Node and runs the pods bound to it as local processes.

It composes the parts of this package: caches of what pods refer to, one `PodWorker` for each pod, the heartbeat, the
Service proxy. It knows the API server as a client only. The server's side of logs, exec and attach is
`streams.NodeStreams`.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Coroutine, Mapping
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

from kaito.engine.node import addresses, registration
from kaito.engine.node.environment import Placement, api_environment
from kaito.engine.node.folder import PodFolder, Record
from kaito.engine.node.forward import ForwardProxy
from kaito.engine.node.images import ImageMap
from kaito.engine.node.launching import Host
from kaito.engine.node.machine import Machine, this_machine
from kaito.engine.node.objects import ClusterObjects
from kaito.engine.node.proxy import ServiceProxy
from kaito.engine.node.registration import Registration
from kaito.engine.node.streams import NodeStreams
from kaito.engine.node.usage import Meter
from kaito.engine.node.volumes import references
from kaito.engine.node.worker import GONE_GRACE_S, PodWorker, Site
from kaito.engine.stream import LogOptions, NodeUsage, Session, Streams
from kaito.kube.client import Client
from kaito.kube.clock import Clock, RealClock
from kaito.kube.events import Recorder
from kaito.kube.manifest import Manifest
from kaito.kube.plan import Event

SOURCE = "kaito-node"
HOST_ADDRESS = "127.0.0.1"
MAX_PODS = 1000
VERSION = "1.36.0+kaito"
STOP_GRACE_S = 10.0
GPU = "nvidia.com/gpu"
INHERITED = (
    *("PATH", "HOME", "LANG", "LC_ALL", "TZ", "LD_LIBRARY_PATH", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"),
    *("HF_HOME", "HF_ENDPOINT", "HF_HUB_OFFLINE", "HF_HUB_CACHE", "CUDA_HOME", "CUDA_VISIBLE_DEVICES"),
    *("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy"),
)
"""What containers get of the engine's own environment."""

_log = logging.getLogger(__name__)


class NodeAgent:
    """One node, this machine. Implements `kaito.engine.stream.NodeBackend`."""

    def __init__(
        self,
        client: Client,
        *,
        node_name: str = "",
        data_dir: Path,
        images: ImageMap,
        environment: Mapping[str, str],
        api: tuple[str, int] | None = None,
        clock: Clock | None = None,
        machine: Machine | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> None:
        """`api`: the address and port at which pods find the API server, if they are to be told."""
        self._client = client
        self._clock = clock or RealClock()
        self._data_dir = data_dir
        self._pods_dir = data_dir / "pods"
        self._pods_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.machine = machine or this_machine(data_dir)
        self.node_name = node_name or self.machine.hostname
        self._labels = dict(labels or {})
        self._inherited = {name: environment[name] for name in INHERITED if name in environment}
        self._host = Host(images, self._inherited | (api_environment(*api) if api else {}))
        self._recorder = Recorder(client, SOURCE, clock=self._clock)
        self._objects = ClusterObjects(
            client, clock=self._clock, pod=self._pod_changed, referred=self._referred_changed
        )
        self._forward = ForwardProxy(self._objects.routes)
        self._proxy = ServiceProxy(client, self._recorder, self._objects.routes, node_address=HOST_ADDRESS)
        self._objects.services_changed = self._proxy.wake
        self._streams = NodeStreams(self._pods_dir)
        self._meter = Meter(self._pods_dir, self._clock)
        self._workers: dict[str, PodWorker] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._others: set[asyncio.Task[None]] = set()
        self._main: asyncio.Task[None] | None = None
        self._network = addresses.pod_network(data_dir, os.getuid())
        self._own_addresses = addresses.pods_can_have_addresses()
        self._ready = asyncio.Event()

    async def run(self) -> None:
        """Run the node until `stop` or cancellation; pods keep running after a cancellation."""
        self._main = asyncio.create_task(self._run())
        try:
            await self._main
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                await self.stop(kill_pods=False)
                raise

    async def synced(self) -> None:
        """Return once the Node is registered and its pods are known."""
        await self._ready.wait()

    async def stop(self, kill_pods: bool) -> None:
        """End `run`; the pods' processes end too if asked for, else the next engine on the same folder adopts them."""
        workers = list(self._workers.values())
        for task in [*self._tasks.values(), *self._others, *([self._main] if self._main else [])]:
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        self._forward.close()
        if kill_pods:
            await asyncio.gather(*(worker.end(STOP_GRACE_S) for worker in workers))

    async def _run(self) -> None:
        await self._forward.start()
        self._host = replace(self._host, service_proxy=self._forward.address)
        node = registration.node_manifest(
            self.node_name, registration.labels(self.machine, self.node_name) | self._labels
        )
        amounts = registration.capacity(self.machine, MAX_PODS)
        heart = Registration(
            self._client,
            node,
            lambda before, now: registration.node_status(self.machine, amounts, HOST_ADDRESS, VERSION, before, now),
            clock=self._clock,
        )
        async with asyncio.TaskGroup() as group:
            group.create_task(self._objects.run())
            group.create_task(heart.run())
            await self._objects.synced()
            await heart.registered.wait()
            for pod in self._objects.pods():
                self._pod_changed(pod)
            self._sweep()
            group.create_task(self._proxy.run())
            self._ready.set()

    # Pods come and go

    def _pod_changed(self, pod: Manifest) -> None:
        """A pod is new or changed (also called for pods that are gone, with what was last known of them)."""
        if pod["spec"].get("nodeName") != self.node_name or not self._objects.is_synced:
            return
        uid = pod["metadata"]["uid"]
        worker = self._workers.get(uid)
        if not self._objects.has_pod(pod):
            if worker is not None:
                self._spawn(self._clear(worker))
            return
        if worker is not None:
            worker.update(pod)
            return
        worker = self._new_worker(pod)
        self._workers[uid] = worker
        task = asyncio.create_task(worker.run(), name=f"pod {pod['metadata']['name']}")
        self._tasks[uid] = task
        task.add_done_callback(lambda done: self._worker_ended(uid, done))

    def _new_worker(self, pod: Manifest) -> PodWorker:
        meta, uid = pod["metadata"], pod["metadata"]["uid"]
        folder = PodFolder(self._pods_dir / uid)
        record, rejected = folder.read_record(), None
        if record is None:
            gpus = self._free_gpus(pod)
            if gpus is None:
                text = f"Allocate failed due to requested number of devices unavailable for {GPU}, which is unexpected"
                rejected, gpus = ("UnexpectedAdmissionError", text), ()
            record = Record(uid, meta.get("namespace", ""), meta["name"], self._address(pod), gpus)
            folder.write_record(record)
            if record.address == HOST_ADDRESS and not pod["spec"].get("hostNetwork"):
                text = f"this system gives pods no address of their own; the pod shares {HOST_ADDRESS}"
                self._spawn(self._record(Event(pod, "SharedAddress", text, "Warning")))
        proxy = self._host.service_proxy
        host = replace(self._host, service_proxy=f"http://{meta.get('namespace', 'default')}@{proxy}" if proxy else "")
        site = Site(
            self._client, self._clock, host, self._objects, self._recorder, written=self._objects.pod_cache.written
        )
        placement = Placement(
            record.address,
            HOST_ADDRESS,
            self.node_name,
            Decimal(self.machine.cpus),
            Decimal(self.machine.memory_bytes),
        )
        return PodWorker(pod, site, folder, record, placement, self._gpu_env(record.gpus), rejected=rejected)

    def _worker_ended(self, uid: str, task: asyncio.Task[None]) -> None:
        self._workers.pop(uid, None)
        self._tasks.pop(uid, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("the worker of pod %s failed and is started anew", uid, exc_info=error)
            self._spawn(self._restart(uid))

    async def _restart(self, uid: str) -> None:
        await self._clock.sleep(1.0)
        for pod in self._objects.pods():
            if pod["metadata"]["uid"] == uid:
                self._pod_changed(pod)

    async def _clear(self, worker: PodWorker) -> None:
        """The object is gone without us: end what still runs and clean up."""
        uid = worker.record.uid
        task = self._tasks.get(uid)
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        await worker.end(GONE_GRACE_S)
        worker.folder.remove()

    def _sweep(self) -> None:
        """End what an earlier engine left of pods that are gone."""
        for path in self._pods_dir.iterdir():
            if path.name not in self._workers:
                self._spawn(self._streams.remove(PodFolder(path), GONE_GRACE_S))

    def _referred_changed(self, kind: str, namespace: str, name: str) -> None:
        """Something that pods may refer to changed; an empty namespace means a PersistentVolume."""
        for worker in list(self._workers.values()):
            if not namespace or (worker.record.namespace == namespace and (kind, name) in references(worker.pod)):
                worker.refresh()

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._others.add(task)
        task.add_done_callback(self._others.discard)

    async def _record(self, event: Event) -> None:
        await self._recorder.record(event)

    # What a pod gets

    def _address(self, pod: Manifest) -> str:
        if pod["spec"].get("hostNetwork") or not self._own_addresses:
            return HOST_ADDRESS
        taken = {worker.record.address for worker in self._workers.values()}
        return addresses.pod_address(pod["metadata"]["uid"], self._network, taken)

    def _free_gpus(self, pod: Manifest) -> tuple[int, ...] | None:
        """The GPUs for a new pod; None when there are not enough."""
        wanted = sum(_gpus_of(container) for container in pod["spec"]["containers"])
        busy = {index for worker in self._workers.values() if not worker.is_over for index in worker.record.gpus}
        free = [gpu.index for gpu in self.machine.gpus if gpu.index not in busy]
        return tuple(free[:wanted]) if len(free) >= wanted else None

    def _gpu_env(self, gpus: tuple[int, ...]) -> dict[str, str]:
        if not self.machine.gpus:
            return {}
        devices = ",".join(str(index) for index in gpus)
        return {"CUDA_VISIBLE_DEVICES": devices, "NVIDIA_VISIBLE_DEVICES": devices or "void"}

    # NodeBackend

    @property
    def name(self) -> str:
        """The name of the Node."""
        return self.node_name

    async def usage(self) -> NodeUsage:
        """What the machine and the containers use."""
        return await self._meter.usage()

    def logs(self, pod: Manifest, options: LogOptions) -> AsyncIterator[bytes]:
        """The container's output in pieces."""
        return self._streams.logs(pod, options)

    async def exec(self, pod: Manifest, container: str, command: list[str], streams: Streams) -> Session:
        """Start a process beside the container's."""
        return await self._streams.exec(pod, container, command, streams)

    async def attach(self, pod: Manifest, container: str, streams: Streams) -> Session:
        """Connect to the container's own process."""
        return await self._streams.attach(pod, container, streams)

    async def connect(self, pod: Manifest, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A TCP connection to a port of the pod."""
        return await self._streams.connect(pod, port)


def _gpus_of(container: Manifest) -> int:
    resources = container.get("resources") or {}
    amount = (resources.get("limits") or {}).get(GPU) or (resources.get("requests") or {}).get(GPU) or 0
    return int(amount)
