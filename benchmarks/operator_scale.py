# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""The operator with thousands of Workspaces: convergence, reaction, memory, restart, fail-over.

By default on an engine of its own with simulated nodes. With `--kubeconfig` on any cluster; `--play` then stands in for
the controllers and nodes that a bare kube-apiserver lacks, by reporting every StatefulSet as ready:

    python -m benchmarks.operator_scale --count 2000 [--kubeconfig FILE [--play]]

What is created carries the label `kaito-benchmark` and is deleted at the end.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import psutil
from tests.engine_process import EngineProcess, free_port

from kaito.api.crd import custom_resource_definitions
from kaito.api.kinds import WORKSPACES
from kaito.kube.cache import Cache
from kaito.kube.client import Client
from kaito.kube.config import load_kubeconfig
from kaito.kube.errors import ApiError, Conflict, NotFound
from kaito.kube.manifest import Manifest, is_true
from kaito.kube.resource import CUSTOM_RESOURCE_DEFINITIONS, LEASES, STATEFUL_SETS

LABEL = "kaito-benchmark"
NAMESPACE = "default"
PODS_PER_NODE = 100
CREATORS = 16
WITHIN_S = 900.0
QUIET_S = 5.0


@dataclass(slots=True)
class Scale:
    """What was measured with `count` Workspaces."""

    count: int
    created_s: float = 0.0
    """Until the last Workspace was created."""
    converged_s: float = 0.0
    """From the first creation until all are Ready."""
    cpu_s: float = 0.0
    """The operator's processor time until then, its start left out."""
    peak_mib: float = 0.0
    """The operator's largest resident set until then."""
    idle_mib: float = 0.0
    """Its resident set once all is quiet."""
    writes: float = 0.0
    """Writing requests that it sent for each Workspace."""
    reactions_ms: list[float] = field(default_factory=list)
    """From the answer to a change of a Workspace to the event of the object that follows from it."""
    restart_s: float = 0.0
    """From the start of a process to nothing left to do, all Workspaces being there already."""
    restart_mib: float = 0.0
    failover_s: float = 0.0
    """From `kill -9` of the leader to the first write of the other."""


class OperatorProcess:
    """`python -m kaito.operator` as it runs on a cluster, without the webhook."""

    def __init__(self, kubeconfig: Path, folder: Path, *, elects: bool = False) -> None:
        self.metrics_port = free_port()
        self.log = folder / f"operator-{self.metrics_port}.log"
        self.argv = [
            sys.executable, "-m", "kaito.operator", "--kubeconfig", str(kubeconfig), "--node-provisioner", "byo",
            "--metrics-bind-address", f"127.0.0.1:{self.metrics_port}", "--health-probe-bind-address", "0",
            f"--leader-elect={str(elects).lower()}", "--namespace", NAMESPACE,
        ]  # fmt: skip
        self.pid = 0
        self._process: asyncio.subprocess.Process | None = None

    async def __aenter__(self) -> OperatorProcess:
        with self.log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(*self.argv, stdout=log, stderr=log)
        self.pid = self._process.pid
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._process is not None
        with suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGTERM)
        await self._process.wait()

    async def metric(self, name: str) -> float:
        """The sum of all series of a metric; 0 while nothing answers."""
        text = ""
        with suppress(aiohttp.ClientError):
            async with (
                aiohttp.ClientSession() as session,
                session.get(f"http://127.0.0.1:{self.metrics_port}/metrics") as answer,
            ):
                text = await answer.text()
        return sum(float(value) for value in re.findall(rf"^{name}(?:{{[^}}]*}})? (\S+)$", text, re.MULTILINE))

    async def is_ready(self) -> bool:
        """Whether its caches are filled."""
        with suppress(aiohttp.ClientError):
            async with (
                aiohttp.ClientSession() as session,
                session.get(f"http://127.0.0.1:{self.metrics_port}/readyz") as answer,
            ):
                return answer.status == 200
        return False

    @property
    def cpu_s(self) -> float:
        """Processor time so far."""
        spent = psutil.Process(self.pid).cpu_times()
        return float(spent.user + spent.system)

    def memory_mib(self, which: str = "VmRSS") -> float:
        """Resident set now, or with VmHWM the largest so far."""
        found = re.search(rf"{which}:\s+(\d+)", Path(f"/proc/{self.pid}/status").read_text())
        return int(found.group(1)) / 1024 if found else 0.0


async def held(folder: Path, count: int) -> float:
    """The operator's memory in MiB once that many Workspaces are Ready and all is quiet."""
    folder.mkdir(parents=True, exist_ok=True)
    async with AsyncExitStack() as stack:
        nodes = str(count // PODS_PER_NODE + 2)
        engine = stack.enter_context(EngineProcess(folder, "--no-node", "--simulated-nodes", nodes))
        client = await stack.enter_async_context(Client(load_kubeconfig(engine.kubeconfig)))
        await _install(client)
        workspaces = Cache(client, WORKSPACES, LABEL)
        watching = asyncio.create_task(workspaces.run())
        await workspaces.synced.wait()
        async with OperatorProcess(engine.kubeconfig, folder) as operator:
            found = Scale(count)
            await _converge(client, workspaces, operator, found)
        watching.cancel()
    return found.idle_mib


async def measure(folder: Path, count: int, *, kubeconfig: Path | None = None, play: bool = False) -> Scale:
    """All figures for `count` Workspaces."""
    folder.mkdir(parents=True, exist_ok=True)
    async with AsyncExitStack() as stack:
        if kubeconfig is None:
            nodes = str(count // PODS_PER_NODE + 2)
            engine = stack.enter_context(EngineProcess(folder, "--no-node", "--simulated-nodes", nodes))
            kubeconfig = engine.kubeconfig
        client = await stack.enter_async_context(Client(load_kubeconfig(kubeconfig)))
        await _install(client)
        if play:
            await stack.enter_async_context(_played(client))
        found = Scale(count)
        workspaces = Cache(client, WORKSPACES, LABEL)
        watching = asyncio.create_task(workspaces.run())
        try:
            await workspaces.synced.wait()
            async with OperatorProcess(kubeconfig, folder) as operator:
                await _converge(client, workspaces, operator, found)
                found.reactions_ms = [1000 * s for s in await _reactions(client, count)]
            found.restart_s, found.restart_mib = await _restart(kubeconfig, folder)
            found.failover_s = await _failover(client, kubeconfig, folder)
        finally:
            await _remove(client, workspaces)
            watching.cancel()
    return found


async def _install(client: Client) -> None:
    for definition in custom_resource_definitions():
        await client.apply(CUSTOM_RESOURCE_DEFINITIONS, definition, field_manager=LABEL)
    while True:
        with suppress(NotFound):
            await client.list_objects(WORKSPACES)
            return
        await asyncio.sleep(0.05)


def workspace(name: str) -> Manifest:
    """One Workspace, of a model that needs no GPU on any Linux node."""
    return {
        "apiVersion": WORKSPACES.api_version,
        "kind": WORKSPACES.kind,
        "metadata": {"name": name, "namespace": NAMESPACE, "labels": {LABEL: "yes"}},
        "resource": {"labelSelector": {"matchLabels": {"kubernetes.io/os": "linux"}}},
        "inference": {"preset": {"name": "kaito-demo"}},
    }


async def _converge(client: Client, workspaces: Cache, operator: OperatorProcess, found: Scale) -> None:
    while not await operator.is_ready():
        await asyncio.sleep(0.1)
    spent = operator.cpu_s
    began = time.monotonic()
    numbers = iter(range(found.count))

    async def creator() -> None:
        for number in numbers:
            await client.create(WORKSPACES, workspace(f"bench-{number:05d}"))

    await asyncio.gather(*(creator() for _ in range(CREATORS)))
    found.created_s = time.monotonic() - began
    await _until(lambda: _ready(workspaces) == found.count, "all Workspaces are Ready")
    found.converged_s = time.monotonic() - began
    found.cpu_s = operator.cpu_s - spent
    found.peak_mib = operator.memory_mib("VmHWM")
    await _quiet(operator)
    found.writes = await operator.metric("kaito_operator_writes_total") / found.count
    found.idle_mib = operator.memory_mib()


def _ready(workspaces: Cache) -> int:
    return sum(is_true(obj, "WorkspaceReady") for obj in workspaces.store.select())


async def _until(check: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + WITHIN_S
    while not check():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {WITHIN_S:g} s: {what}")
        await asyncio.sleep(0.2)


async def _quiet(operator: OperatorProcess) -> float:
    """Return once nothing was reconciled for a while; the seconds until the last one."""
    began = since = time.monotonic()
    before = await operator.metric("controller_runtime_reconcile_total")
    while time.monotonic() - since < QUIET_S:
        await asyncio.sleep(0.05)
        now = await operator.metric("controller_runtime_reconcile_total")
        if now != before:
            before, since = now, time.monotonic()
    return since - began


async def _reactions(client: Client, count: int, tries: int = 100) -> list[float]:
    """Change an annotation of a Workspace that its Service or StatefulSet follows, and wait for that."""
    found = []
    for number in range(tries):
        name = f"bench-{number * (count // tries):05d}"
        _, version = await client.list_objects(STATEFUL_SETS, NAMESPACE, field_selector=f"metadata.name={name}")
        watch = client.watch(STATEFUL_SETS, NAMESPACE, resource_version=version, field_selector=f"metadata.name={name}")
        accepted = asyncio.Event()
        seen = asyncio.create_task(_first_change(watch))
        await asyncio.sleep(0.1)
        accepted.set()
        body = {"metadata": {"annotations": {"kaito.sh/tolerations": f"bench-{number}=yes:NoSchedule"}}}
        await client.patch(WORKSPACES, name, NAMESPACE, body)
        began = time.perf_counter()
        found.append(await seen - began)
        await asyncio.sleep(0.05)
    return found


async def _first_change(watch: AsyncIterator[object]) -> float:
    async for _ in watch:
        return time.perf_counter()
    raise TimeoutError("the watch ended")


async def _restart(kubeconfig: Path, folder: Path) -> tuple[float, float]:
    began = time.monotonic()
    async with OperatorProcess(kubeconfig, folder) as operator:
        while not await operator.metric("controller_runtime_reconcile_total"):
            await asyncio.sleep(0.02)
        started = time.monotonic()
        took = await _quiet(operator)
        return started - began + took, operator.memory_mib("VmHWM")


async def _failover(client: Client, kubeconfig: Path, folder: Path) -> float:
    async with AsyncExitStack() as stack:
        first, second = (OperatorProcess(kubeconfig, folder, elects=True) for _ in range(2))
        await stack.enter_async_context(first)
        await _until_metric(first, "leader_election_master_status")
        await stack.enter_async_context(second)
        await _until_metric(second, "process_start_time_seconds")
        await asyncio.sleep(2)  # it has seen the lease by then
        holder = (await client.get(LEASES, "kaito-operator", NAMESPACE))["spec"]["holderIdentity"]
        os.kill(first.pid, signal.SIGKILL)
        began = time.monotonic()
        while (await client.get(LEASES, "kaito-operator", NAMESPACE))["spec"]["holderIdentity"] == holder:
            await asyncio.sleep(0.05)
        return time.monotonic() - began


async def _until_metric(operator: OperatorProcess, name: str) -> None:
    deadline = time.monotonic() + 60
    while not await operator.metric(name):
        if time.monotonic() > deadline:
            raise TimeoutError(f"{name} stays 0: {operator.log.read_text()[-2000:]}")
        await asyncio.sleep(0.05)


async def _remove(client: Client, workspaces: Cache) -> None:
    for obj in workspaces.store.select():
        body = {"metadata": {"finalizers": None}}
        with suppress(ApiError):
            await client.patch(WORKSPACES, obj["metadata"]["name"], NAMESPACE, body)
            await client.delete(WORKSPACES, obj["metadata"]["name"], NAMESPACE)


@asynccontextmanager
async def _played(client: Client) -> AsyncIterator[None]:
    """Report every StatefulSet as ready, as its controller and a cluster's nodes would."""
    changed: asyncio.Queue[Manifest] = asyncio.Queue()

    def listen(old: Manifest | None, new: Manifest | None) -> None:
        if new is not None and (new.get("status") or {}).get("observedGeneration") != new["metadata"]["generation"]:
            changed.put_nowait(new)

    async def play() -> None:
        while True:
            obj = await changed.get()
            replicas = obj["spec"].get("replicas", 1)
            status = dict.fromkeys(("replicas", "readyReplicas", "updatedReplicas", "currentReplicas"), replicas)
            body = {"status": {**status, "observedGeneration": obj["metadata"]["generation"]}}
            with suppress(NotFound, Conflict):
                await client.patch(
                    STATEFUL_SETS, obj["metadata"]["name"], obj["metadata"]["namespace"], body, subresource="status"
                )

    cache = Cache(client, STATEFUL_SETS)
    cache.subscribe(listen)
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(cache.run()), *(group.create_task(play()) for _ in range(4))]
        yield
        for task in tasks:
            task.cancel()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--kubeconfig", type=Path)
    parser.add_argument("--play", action="store_true")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = asyncio.run(measure(Path(folder), given.count, kubeconfig=given.kubeconfig, play=given.play))
    reactions = sorted(found.reactions_ms)
    print(found)
    print("reaction p50", reactions[len(reactions) // 2], "p99", reactions[-max(1, len(reactions) // 100)])


if __name__ == "__main__":
    main()
