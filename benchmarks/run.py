# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Measures what the project claims and writes the tables of benchmarks/README.md: `make bench`.

Every row of a table is measured in one run on one machine and shows its spread. Nothing here is asserted: a row that
misses its target says so in the table. Each group of rows is measured by a process of its own, so that none spoils
another; `python -m benchmarks.run engine-load` measures one and leaves the other tables as they are.
"""

from __future__ import annotations

import asyncio
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from tests.e2e.machine import REPOSITORY, Machine
from tests.engine_process import EngineProcess

from benchmarks import engine_load, front, gpu, idle, operator_scale, provisioner, pulling, scale, serving, tuning
from kaito.api.kinds import WORKSPACES
from kaito.engine.node.machine import find_gpus
from kaito.kube.client import Client
from kaito.kube.config import load_kubeconfig
from kaito.kube.resource import STATEFUL_SETS

README = Path(__file__).with_name("README.md")
MARK = "<!-- below: written by make bench -->"


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table."""

    what: str
    unit: str
    values: list[float]
    target: float | None = None
    """The median is to be no more; None where nothing is promised."""
    at_least: float | None = None
    """The median is to be no less."""

    def markdown(self) -> str:
        """Median, best, worst, count, target, and whether the median keeps it."""
        median = statistics.median(self.values)
        target = kept = ""
        if self.target is not None:
            target, kept = f"≤ {self.target:g} {self.unit}", "yes" if median <= self.target else "**no**"
        if self.at_least is not None:
            target, kept = f"≥ {self.at_least:g} {self.unit}", "yes" if median >= self.at_least else "**no**"
        spread = f"{min(self.values):.3g} … {max(self.values):.3g}"
        return f"| {self.what} | {median:.3g} {self.unit} | {spread} | {len(self.values)} | {target} | {kept} |"


def engine_ready(tries: int = 7) -> Row:
    """From the start of the process to the first answer, on an empty data folder."""
    values = []
    for _ in range(tries):
        with tempfile.TemporaryDirectory() as folder:
            engine = EngineProcess(Path(folder))
            values.append(engine.start())
            engine.stop()
    return Row("engine ready, from process start", "s", values, 1.5)


def apply_to_stateful_set(machine: Machine, tries: int = 50) -> Row:
    """From sending a Workspace to its StatefulSet, both seen by one client."""
    values = [1000 * seconds for seconds in asyncio.run(_apply_many(machine.kubeconfig, tries))]
    return Row("Workspace sent to StatefulSet created", "ms", values, 100)


async def _apply_many(kubeconfig: Path, tries: int) -> list[float]:
    found = []
    async with Client(load_kubeconfig(kubeconfig)) as client:
        for number in range(tries):
            name = f"bench-{number}"
            _, version = await client.list_objects(STATEFUL_SETS)
            watch = client.watch(STATEFUL_SETS, "default", resource_version=version)
            # phi-4 has no weights here: the pods end at once, so that they do not disturb the measurement.
            workspace = {
                "apiVersion": WORKSPACES.api_version,
                "kind": "Workspace",
                "metadata": {"name": name, "namespace": "default"},
                "resource": {"labelSelector": {"matchLabels": {"app": name}}},
                "inference": {"preset": {"name": "phi-4"}},
            }
            began = time.perf_counter()
            await client.create(WORKSPACES, workspace)
            async for event in watch:
                if event.object["metadata"]["name"] == name:
                    break
            found.append(time.perf_counter() - began)
            await client.delete(WORKSPACES, name, "default")
            await asyncio.sleep(0.5)
    return found


def first_answer(machine: Machine, runtime: str, *, target: float, tries: int = 3) -> Row:
    """From `kubectl apply` of the quick start to the whole answer of `kaito chat`, with the model built already."""
    quick = (REPOSITORY / "examples" / "quickstart.yaml").read_text()
    values = []
    for number in range(tries):
        name = f"{runtime}-{number}"
        manifest = quick.replace("name: demo", f"name: {name}\n  annotations: {{kaito.sh/runtime: {runtime}}}", 1)
        began = time.monotonic()
        machine.run("kubectl", "apply", "-f", "-", input=manifest)
        machine.wait_ready(name, timeout=300)
        machine.kaito("chat", name, "What is kaito?")
        values.append(time.monotonic() - began)
        machine.kaito("delete", name)
    return Row(f"kubectl apply to first chat answer, {runtime}", "s", values, target)


def first_answers(folder: Path) -> list[Row]:
    """What a user waits for."""
    cache = folder / "cache"
    began = time.monotonic()
    demo_model(cache / "kaito" / "models", {"XDG_CACHE_HOME": str(cache)})
    built_s = time.monotonic() - began
    machine = Machine(folder / "machine", cache=cache)
    machine.up()
    try:
        return [
            engine_ready(),
            Row("demo model built (once)", "s", [built_s], 60),
            apply_to_stateful_set(machine),
            first_answer(machine, "transformers", target=20),
            first_answer(machine, "vllm", target=60),
        ]
    finally:
        machine.down()


def demo_model(folder: Path, environment: Mapping[str, str]) -> None:
    """Put the demo model into the folder; it is copied where the environment's cache holds it already."""
    argv = [sys.executable, "-m", "kaito.runtime", "demo-model", "--out", str(folder)]
    subprocess.run(argv, check=True, capture_output=True, env={**os.environ, **environment})


def front_alone(_: Path) -> list[Row]:
    """The front before an engine that costs nothing."""
    found = front.measure()
    return [
        Row("front alone: requests by its processor time", "/s a core", found.requests_per_core_s, at_least=2000),
        Row("front alone: processor time of a 220 KB request", "ms", found.large_ms),
        Row("front alone: added to events of 2,000 streams, p99", "ms", found.added_p99_ms, 5),
        Row("front alone: memory that stays after the requests above", "MiB", [found.rss_growth_mib], 8),
    ]


def model_servers(folder: Path) -> list[Row]:
    """What the front costs before a real engine, and what batching brings."""
    weights = folder / "models"
    demo_model(weights, {})
    ratios = serving.front_ratios(folder / "front", weights)
    rows = []
    for streams in serving.STREAMS:
        at = f"through the front / vLLM itself, {streams} streams"
        rows += [
            Row(f"throughput {at}", "×", ratios.throughput[streams], at_least=0.97),
            Row(f"1 / TTFT p50 {at}", "×", ratios.ttft_p50[streams], at_least=0.97),
            Row(f"1 / TTFT p99 {at}", "×", ratios.ttft_p99[streams], at_least=0.97),
        ]
    gain = serving.batching_gain(folder / "batching", weights)
    rows.append(Row("transformers: 16 requests at once / one by one", "×", gain, at_least=5))
    rows.append(
        Row("first token after a cold start: added to vLLM's", "s", serving.added_start_s(folder, weights), 1.5)
    )
    return rows


def on_a_gpu(folder: Path) -> list[Row]:
    """The first NVIDIA GPU; without one there is nothing to measure."""
    demo_model(folder / "demo", {})
    found = gpu.measure(folder, folder / "demo" / "kaito" / "demo-phi-3")
    rows = []
    for streams in serving.STREAMS:
        rows += [
            Row(f"transformers, 1.1 B parameters, {streams} streams", "tokens/s", found.tokens_per_s[streams]),
            Row(f"the same: median of the times to the first token, {streams} streams", "ms", found.first_ms[streams]),
        ]
    for method, speed in found.trained_per_s.items():
        rows += [
            Row(f"{method} of the same model", "tokens/s", [speed]),
            Row(f"{method}: largest memory over its estimate", "×", [found.peak_share[method]], 1),
        ]
    return rows


def fine_tuning(folder: Path) -> list[Row]:
    """What is checked before a tuning, and what packing brings."""
    demo_model(folder / "demo", {})
    seconds, gib = tuning.preflight(folder)
    (folder / "train").mkdir()
    faster, loss = tuning.packing(folder / "train", str(folder / "demo" / "kaito" / "demo-phi-3"))
    (folder / "push").mkdir()
    pushed = tuning.pushing(folder / "push")
    return [
        Row("check of a GiB of parquet", "s", [seconds], 20),
        Row("the same: largest memory", "GiB", [gib], 1),
        Row("tokens/s with packing over those of a plain run", "×", [faster], at_least=1.5),
        Row("evaluation loss with packing over that of a plain run", "×", [loss], 1.01),
        Row("push of a GiB over curl's upload to the same registry", "×", [one[0] for one in pushed]),
        Row("push of a GiB over cp", "×", [one[1] for one in pushed], at_least=0.6),
    ]


def artifacts(folder: Path) -> list[Row]:
    """Weights out of a registry."""
    found = pulling.measure(folder)
    what = "pull, check and laying out of a GiB of weights over cp"
    return [
        Row(f"{what}, as a model artifact", "×", [one.cp / one.model for one in found], at_least=0.6),
        Row("the same over sha256 of the files on all cores and curl's download, one after the other", "×",
            [(one.hashed + one.curl) / one.model for one in found], at_least=1),
        Row(f"{what}, as a container image", "×", [one.cp / one.image for one in found]),
        Row("sha256 alone, on all cores, over cp", "×", [one.cp / one.hashed for one in found]),
        Row("curl's download alone over cp", "×", [one.cp / one.curl for one in found]),
    ]  # fmt: skip


def under_load(folder: Path) -> list[Row]:
    """The engine alone, with its clients on the same machine."""
    found = engine_load.measure(folder)
    writers, watchers = f"{engine_load.WRITERS} clients", f"{engine_load.WATCHERS} watchers"
    beside = f"beside {engine_load.STEADY_PER_S} creates/s and {watchers}"
    return [
        Row(f"ConfigMaps created by {writers}", "/s", found.config_maps_per_s, at_least=3000),
        Row(f"Workspaces created by {writers}", "/s", found.workspaces_per_s, at_least=2000),
        Row(f"server-side applies by {writers}, of what is new", "/s", found.applied_new_per_s, at_least=1000),
        Row(
            f"server-side applies by {writers}, of what is there",
            "/s",
            found.applied_changed_per_s,
            at_least=1000,
        ),
        *(Row(f"engine's CPU for a request: {what}", "µs", values) for what, values in found.cpu_us.items()),
        Row(f"events delivered to {watchers}, writers unbounded", "/s", found.events_per_s, at_least=60_000),
        Row("event sent to seen, writers unbounded, 99th percentile", "ms", found.event_p99_ms),
        Row(f"event sent to seen, {beside}, 99th percentile", "ms", found.steady_event_p99_ms, 20),
        Row(f"GET at {engine_load.READS_PER_S}/s {beside}, 99th percentile", "ms", found.read_p99_ms, 5),
        Row("list of 10,000 ConfigMaps", "s", found.list_s, 0.5),
        *(Row(f"memory a {kind} beyond its JSON", "KiB", [kib], 3) for kind, kib in found.extra_kib.items()),
    ]


def at_scale(folder: Path, *, nodes: int = 2000, pods: int = 10_000) -> list[Row]:
    """Many nodes and pods at once."""
    found = asyncio.run(scale.measure(folder, nodes=nodes, pods=pods))
    what = f"{nodes:,} simulated nodes and {pods:,} pods"
    return [
        Row(f"{what} all Ready, from process start", "s", [found.seconds], 120),
        Row(f"{what}: engine's CPU", "s", [found.cpu_s]),
        Row(f"{what}: engine's memory", "MiB", [found.rss_mib], 700),
    ]


def idle_costs(folder: Path, *, workspaces: int = 200, seconds: float = 60) -> list[Row]:
    """Convergence of many Workspaces at once, and what it costs to have them."""
    found = asyncio.run(idle.measure(folder, workspaces=workspaces, seconds=seconds))
    with_them = f"idle with {workspaces} Ready Workspaces"
    return [
        Row(f"{workspaces} Workspaces sent to all Ready", "s", [found.seconds_to_ready]),
        Row(f"operator {with_them}: CPU of one core", "%", [found.operator_cpu_percent], 1),
        Row(f"operator {with_them}: writes in {seconds:g} s", "writes", [float(found.writes)], 0),
        Row(f"engine {with_them}: CPU of one core", "%", [found.engine_cpu_percent]),
    ]


def provisioning(folder: Path, *, claims: int = 500) -> list[Row]:
    """Many claims for nodes at once, on simulated machines."""
    found = asyncio.run(provisioner.measure(folder, claims=claims))
    return [
        Row(f"{claims} NodeClaims sent to all Ready, beyond the boot time", "s", [found.seconds_to_ready], 20),
        Row(f"{claims} NodeClaims deleted to all gone", "s", [found.seconds_to_gone]),
        Row(f"provisioner with {claims} Ready NodeClaims: memory", "MiB", [found.rss_mib], 60),
        Row("calls to the cloud for a claim, from order to end", "calls", [found.calls_per_claim], 4),
    ]


def operator_at_scale(folder: Path, *, count: int = 2000, many: int = 10_000) -> list[Row]:
    """The operator with thousands of Workspaces on an engine of its own; nodes only pretend."""
    found = asyncio.run(operator_scale.measure(folder / str(count), count))
    held = asyncio.run(operator_scale.held(folder / str(many), many))
    reactions = sorted(found.reactions_ms)
    last = reactions[-max(1, len(reactions) // 100)]
    there = f"{count} Workspaces"
    return [
        Row(f"{there} created at once to all Ready", "s", [found.converged_s], 20),
        Row(f"{there}: the operator's processor time until then", "s", [found.cpu_s], 5),
        Row(f"{there}: writes for each", "", [found.writes], 5),
        Row(f"{there}: the operator's largest memory until then", "MiB", [found.peak_mib], 70),
        Row(f"a change to what follows from it, with {there}: median", "ms", reactions, 7),
        Row(f"a change to what follows from it, with {there}: 99th of 100", "ms", [last], 25),
        Row(f"operator started to nothing left to do, with {there}", "s", [found.restart_s], 1),
        Row("kill -9 of the leader to another one leading", "s", [found.failover_s], 10),
        Row(f"{many} Workspaces held: the operator's memory", "MiB", [held], 200),
    ]


GROUPS: Mapping[str, Callable[[Path], list[Row]]] = {
    "first-answer": first_answers,
    "front": front_alone,
    "model-servers": model_servers,
    "engine-load": under_load,
    "engine-scale": at_scale,
    "idle": idle_costs,
    "provisioner": provisioning,
    "operator-scale": operator_at_scale,
    "artifacts": artifacts,
    "tuning": fine_tuning,
    "gpu": on_a_gpu,
}
"""Every table, in the order in which they stand."""


def table(name: str) -> str:
    """Measure a group; its table."""
    with tempfile.TemporaryDirectory() as folder:
        rows = GROUPS[name](Path(folder))
    gpus = ", ".join(one.product for one in find_gpus()) or "no GPU"
    where = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, {gpus}"
    lines = [
        f"Measured {datetime.now(UTC):%Y-%m-%d} on {where}.",
        "",
        "| what | median | spread | tries | target | kept |",
        "|---|---|---|---|---|---|",
        *(row.markdown() for row in rows),
    ]
    return "\n".join(lines)


def with_table(readme: str, name: str, content: str) -> str:
    """The README with the group's table in its place; other tables are kept, those of groups that are gone are not."""
    head, _, below = readme.partition(MARK)
    parts = (section.partition("\n") for section in below.split("\n## ")[1:])
    tables = {title.strip(): text.strip() for title, _, text in parts} | {name: content}
    return f"{head}{MARK}\n\n" + "\n".join(f"## {group}\n\n{tables[group]}\n" for group in GROUPS if group in tables)


def main() -> int:
    """Measure the groups that are named, or all; the exit code."""
    names = sys.argv[1:] or [name for name in GROUPS if name != "gpu" or find_gpus()]
    unknown = [name for name in names if name not in GROUPS]
    if unknown:
        print(f"{unknown[0]} is no group of rows: choose from {', '.join(GROUPS)}.", file=sys.stderr)
        return 2
    if len(names) > 1:
        return max(subprocess.run([sys.executable, "-m", "benchmarks.run", name]).returncode for name in names)
    content = table(names[0])
    README.write_text(with_table(README.read_text(), names[0], content))
    print(f"{names[0]}\n\n{content}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
