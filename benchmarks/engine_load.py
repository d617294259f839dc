# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""The engine under load, alone on a machine with its clients: writes, watches, reads beside them, lists, memory.

The clients are one other process (`benchmarks.load`), so they take their share of the cores. Everything is as users
have it: TLS, a bearer token, authorization, validation, field owners, and SQLite with the default durability.
"""

from __future__ import annotations

import asyncio
import base64
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import psutil
import yaml
from tests.engine_process import EngineProcess

from benchmarks.load import INDEX_MARK, STAMP_MARK, Job, Seen
from kaito.api.crd import custom_resource_definitions
from kaito.api.kinds import WORKSPACES
from kaito.kube.client import Client
from kaito.kube.config import load_kubeconfig
from kaito.kube.errors import NotFound
from kaito.kube.manifest import Manifest
from kaito.kube.resource import CUSTOM_RESOURCE_DEFINITIONS, Resource

REPOSITORY = Path(__file__).parent.parent
WRITERS = 16
WATCHERS = 20
READS_PER_S = 200
STEADY_PER_S = 3000
CONFIG_MAPS_PATH = "/api/v1/namespaces/default/configmaps"
WORKSPACES_PATH = WORKSPACES.path("default")
PODS_PATH = "/api/v1/namespaces/default/pods"
APPLY = "application/apply-patch+yaml"


@dataclass(frozen=True, slots=True)
class Found:
    """What was measured, a figure for each round."""

    config_maps_per_s: list[float]
    workspaces_per_s: list[float]
    applied_new_per_s: list[float]
    applied_changed_per_s: list[float]
    cpu_us: dict[str, list[float]]
    """Processor time of the engine for one request, by the names of the four above."""
    events_per_s: list[float]
    event_p99_ms: list[float]
    steady_event_p99_ms: list[float]
    read_p99_ms: list[float]
    list_s: list[float]
    extra_kib: dict[str, float]
    """Memory an object beyond the size of its JSON, by kind."""


def config_map(name: str, value: str = "value") -> Manifest:
    """A small ConfigMap that says when it was sent."""
    meta = {"name": name, "annotations": {"sent": STAMP_MARK}}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": {"key": value}}


def workspace(name: str) -> Manifest:
    """A Workspace for one of the presets."""
    return {
        "apiVersion": WORKSPACES.api_version,
        "kind": "Workspace",
        "metadata": {"name": name},
        "resource": {"labelSelector": {"matchLabels": {"app": "bench"}}},
        "inference": {"preset": {"name": "phi-4"}},
    }


def pod(name: str) -> Manifest:
    """A pod that no scheduler looks at."""
    resources = {"requests": {"cpu": "100m", "memory": "64Mi"}}
    container = {"name": "main", "image": "registry.example/server:1", "resources": resources}
    meta = {"name": name, "labels": {"app": "bench"}}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": meta,
        "spec": {"schedulerName": "nobody", "containers": [container]},
    }


class Target:
    """A running engine that jobs are run against."""

    def __init__(self, engine: EngineProcess) -> None:
        login = yaml.safe_load(engine.kubeconfig.read_text())
        self._ca = base64.b64decode(login["clusters"][0]["cluster"]["certificate-authority-data"]).decode()
        self._token = login["users"][0]["user"]["token"]
        self._port = engine.port
        self._process = psutil.Process(engine.pid)

    def run(self, **job: Any) -> Seen:
        """Do a job in a process of its own."""
        wanted = Job(host="127.0.0.1", port=self._port, ca=self._ca, token=self._token, **job)
        argv = [sys.executable, "-m", "benchmarks.load"]
        done = subprocess.run(argv, input=msgspec.json.encode(wanted), capture_output=True, cwd=REPOSITORY, check=True)
        return msgspec.json.decode(done.stdout, type=Seen)

    def write(self, path: str, manifest: Manifest, count: int, **job: Any) -> tuple[Seen, float]:
        """Have `count` writes done by all writers; also the engine's microseconds of processor time for each."""
        before = self.cpu_s()
        seen = self.run(path=path, body=msgspec.json.encode(manifest).decode(), count=count, writers=WRITERS, **job)
        if any(status not in ("200", "201") for status in seen.statuses):
            raise AssertionError(f"{path}: {seen.statuses}")
        return seen, 1e6 * (self.cpu_s() - before) / count

    def cpu_s(self) -> float:
        """Processor time of the engine so far."""
        times = self._process.cpu_times()
        return times.user + times.system

    def rss(self) -> int:
        """The engine's resident memory, in bytes."""
        return self._process.memory_info().rss


def measure(folder: Path, *, rounds: int = 3, count: int = 6000) -> Found:
    """All of it, on three engines: one for the writes, one for watches and lists, one for memory."""
    found = Found([], [], [], [], {}, [], [], [], [], [], {})
    with Loaded(folder / "writes") as engine:
        target = Target(engine)
        target.write(CONFIG_MAPS_PATH, config_map(f"warm-{INDEX_MARK}"), 1000)
        for number in range(rounds):
            measure_writes(target, found, str(number), count)
    with Loaded(folder / "watches") as engine:
        target = Target(engine)
        target.write(CONFIG_MAPS_PATH, config_map(f"warm-{INDEX_MARK}"), 1000)
        for number in range(rounds):
            measure_watches(target, found, str(number), count)
        held = 1000 + 2 * rounds * count
        target.write(CONFIG_MAPS_PATH, config_map(f"more-{INDEX_MARK}"), max(10_000 - held, 1))
        for _ in range(5):
            seen = target.run(method="GET", path=f"{CONFIG_MAPS_PATH}?limit=10000", count=1, writers=1)
            found.list_s.append(seen.seconds)
    for kind, path, manifest in (
        ("ConfigMap", CONFIG_MAPS_PATH, config_map(f"m-{INDEX_MARK}")),
        ("Workspace", WORKSPACES_PATH, workspace(f"m-{INDEX_MARK}")),
        ("Pod", PODS_PATH, pod(f"m-{INDEX_MARK}")),
    ):
        with Loaded(folder / kind) as engine:
            found.extra_kib[kind] = extra_kib(Target(engine), path, manifest)
    return found


def measure_writes(target: Target, found: Found, name: str, count: int) -> None:
    """Creates of both kinds, and server-side applies of what is new and of what is there."""
    apply = {"method": "PATCH", "content_type": APPLY}
    applied = f"{CONFIG_MAPS_PATH}/s{name}-{INDEX_MARK}?fieldManager=bench"
    for what, values, path, manifest, job in (
        ("ConfigMap", found.config_maps_per_s, CONFIG_MAPS_PATH, config_map(f"c{name}-{INDEX_MARK}"), {}),
        ("Workspace", found.workspaces_per_s, WORKSPACES_PATH, workspace(f"w{name}-{INDEX_MARK}"), {}),
        ("apply, new", found.applied_new_per_s, applied, config_map(f"s{name}-{INDEX_MARK}"), apply),
        ("apply, changed", found.applied_changed_per_s, applied, config_map(f"s{name}-{INDEX_MARK}", "other"), apply),
    ):
        seen, cpu_us = target.write(path, manifest, count, **job)
        values.append(count / seen.seconds)
        found.cpu_us.setdefault(what, []).append(cpu_us)


def measure_watches(target: Target, found: Found, name: str, count: int) -> None:
    """Watchers while writers do what they can, then beside writers at a steady rate and a reader."""
    watching = {"watch": CONFIG_MAPS_PATH, "watchers": WATCHERS}
    seen, _ = target.write(CONFIG_MAPS_PATH, config_map(f"f{name}-{INDEX_MARK}"), count, **watching)
    found.events_per_s.append(seen.events / seen.events_seconds)
    found.event_p99_ms.append(p99(seen.event_ms))
    steady = {"rate": float(STEADY_PER_S), "read": f"{CONFIG_MAPS_PATH}/warm-0", "reads_per_s": float(READS_PER_S)}
    seen, _ = target.write(CONFIG_MAPS_PATH, config_map(f"r{name}-{INDEX_MARK}"), count, **watching, **steady)
    found.steady_event_p99_ms.append(p99(seen.event_ms))
    found.read_p99_ms.append(p99(seen.read_ms))


def p99(values: list[float]) -> float:
    """The value that 99 of 100 do not exceed."""
    return statistics.quantiles(values, n=100, method="inclusive")[-1]


def extra_kib(target: Target, path: str, manifest: Manifest, count: int = 20_000) -> float:
    """How much the engine's memory grows for each object, less the size of its JSON.

    The first objects fill what is there however many come: the ring of events, the pages of SQLite.
    """
    before_any, _ = target.write(path, _named(manifest, "first"), count)
    assert before_any.seconds
    filled = target.rss()
    target.write(path, _named(manifest, "more"), count)
    grown = (target.rss() - filled) / count
    seen = target.run(method="GET", path=f"{path}?limit=1000", count=1, writers=1)
    return (grown - seen.answer_bytes / 1000) / 1024


def _named(manifest: Manifest, prefix: str) -> Manifest:
    return {**manifest, "metadata": {**manifest["metadata"], "name": f"{prefix}-{INDEX_MARK}"}}


class Loaded(EngineProcess):
    """An engine without a node, with kaito's kinds."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        super().__init__(folder, "--no-node")

    def __enter__(self) -> EngineProcess:
        self.start()
        asyncio.run(self._define())
        return self

    async def _define(self) -> None:
        async with Client(load_kubeconfig(self.kubeconfig)) as client:
            for definition in custom_resource_definitions():
                await client.create(CUSTOM_RESOURCE_DEFINITIONS, definition)
            await served(client, WORKSPACES)


async def served(client: Client, resource: Resource) -> None:
    """Return once the kind is served."""
    async with asyncio.timeout(10):
        while True:
            try:
                await client.list_objects(resource)
                return
            except NotFound:
                await asyncio.sleep(0.05)
