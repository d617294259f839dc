# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""What the operator measures, as Prometheus text: its loops, the Workspaces, and how long they took.

Names are those of controller-runtime and KAITO v0.12 where they mean the same. Only a leader counts Workspaces, so that
sums over replicas are true. `monitoring.py` serves what this renders; docs/metrics.md tells of each name.
"""

from __future__ import annotations

import os
import resource
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from kaito.api import names
from kaito.api.meta import WORKSPACES
from kaito.kube.controller import Histogram, Manager, Stats
from kaito.kube.lease import Election
from kaito.kube.manifest import Key, Manifest, condition_of, is_deleting, key_of
from kaito.operator.workspace.figures import bytes_of, seconds_of
from kaito.operator.workspace.timeline import durations

PHASE_BUCKETS_S = (1.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1200.0, 1800.0, 3600.0, 7200.0)
PHASES = ("succeeded", "error", "pending", "deleting")

Series = Iterable[tuple[str, str, str, Iterable[str]]]
"""Name, type, help, and the lines of each metric."""


class Metrics:
    """Renders the figures of one operator. Keeps count of the Workspaces as they change: to go through all of them for
    each scrape would hold everything else up."""

    def __init__(self, manager: Manager, election: Election | None, lease: str) -> None:
        self._manager = manager
        self._election = election
        self._lease = lease
        self._steps = {step: Histogram(PHASE_BUCKETS_S) for step in names.TIMELINE_STEPS}
        self._phases, self._presets = Counter[str](), Counter[str]()
        self._tunings: dict[Key, Manifest] = {}
        """`status.tuning` of each Workspace that has one."""
        self._started = time.time()
        manager.listen(WORKSPACES, self._seen)

    def _seen(self, before: Manifest | None, after: Manifest | None) -> None:
        if before is not None:
            self._count(before, -1)
            self._tunings.pop(key_of(before), None)
        if after is not None:
            self._count(after, 1)
            if figures := (after.get("status") or {}).get("tuning"):
                self._tunings[key_of(after)] = figures
        if before is not None and after is not None:
            self._count_steps(before, after)

    def _count(self, workspace: Manifest, how_many: int) -> None:
        self._phases[phase_of(workspace)] += how_many
        preset = ((workspace.get("inference") or workspace.get("tuning") or {}).get("preset") or {}).get("name")
        if preset:
            self._presets[str(preset)] += how_many

    def _count_steps(self, before: Manifest, after: Manifest) -> None:
        """Count the steps that a Workspace has just finished; those of before our time were counted then."""
        known = durations(before)
        for step, seconds in durations(after).items():
            if step not in known and step in self._steps:
                self._steps[step].add(seconds)

    def exposition(self) -> str:
        """Everything, in Prometheus' text format."""
        counted = (self._phases, self._presets, self._tunings) if self._counts else (Counter(), Counter(), {})
        phases, presets, tunings = counted
        parts = [*_loops(self._manager.stats), *self._leadership(), *_workspaces(phases, presets), *_tuned(tunings)]
        lines = []
        for name, type_, help_, series in [*parts, *self._timeline(), *_process(self._started)]:
            lines += [f"# HELP {name} {help_}", f"# TYPE {name} {type_}", *series]
        return "\n".join(lines) + "\n"

    @property
    def _counts(self) -> bool:
        return self._election is None or self._election.is_leader

    def _leadership(self) -> Series:
        held = f'leader_election_master_status{{name="{self._lease}"}} {int(self._counts)}'
        yield "leader_election_master_status", "gauge", "Whether this replica leads.", [held]

    def _timeline(self) -> Series:
        lines = [line for step, counts in self._steps.items() for line in _histogram(_STEP, f'step="{step}"', counts)]
        yield _STEP, "histogram", "Seconds from the creation of a Workspace until a step of its timeline.", lines


_STEP = "kaito_workspace_step_seconds"
_RECONCILE = "controller_runtime_reconcile_time_seconds"


def _loops(stats: Mapping[str, Stats]) -> Series:
    def each(name: str, value: str) -> list[str]:
        return [f'{name}{{controller="{controller}"}} {getattr(stats[controller], value):g}' for controller in stats]

    results = [
        f'controller_runtime_reconcile_total{{controller="{name}",result="{result}"}} {count}'
        for name, one in stats.items()
        for result, count in (
            ("error", one.errors),
            ("requeue", one.retries),
            ("success", one.reconciles - one.errors - one.retries),
        )
    ]
    yield "controller_runtime_reconcile_total", "counter", "Reconciles that ended, by how.", results
    name = "controller_runtime_reconcile_errors_total"
    yield name, "counter", "Reconciles that ended in an error.", each(name, "errors")
    times = [line for name, one in stats.items() for line in _histogram(_RECONCILE, f'controller="{name}"', one.work)]
    yield _RECONCILE, "histogram", "Seconds that a reconcile took.", times
    name = "kaito_operator_writes_total"
    yield name, "counter", "Requests sent that may change something.", each(name, "writes")
    depth = [f'workqueue_depth{{name="{name}"}} {one.queue_depth}' for name, one in stats.items()]
    yield "workqueue_depth", "gauge", "Objects that wait to be reconciled.", depth
    name = "kaito_operator_wait_seconds_total"
    yield name, "counter", "Seconds that objects have waited to be reconciled.", each(name, "wait_s")


def _workspaces(phases: Mapping[str, int], presets: Mapping[str, int]) -> Series:
    name = "kaito_workspace_count"
    lines = [f'{name}{{phase="{phase}"}} {phases.get(phase, 0)}' for phase in PHASES]
    yield name, "gauge", "Workspaces by phase.", lines
    name = "kaito_workspace_preset_count"
    named = ((preset, count) for preset, count in sorted(presets.items()) if count)
    lines = [f'{name}{{preset_name="{_escaped(preset)}"}} {count}' for preset, count in named]
    yield name, "gauge", "Workspaces by the preset that they name.", lines


_TUNING: Mapping[str, tuple[str, str, Callable[[Any], float]]] = {
    "step": ("step", "Steps of a fine-tuning that were trained.", float),
    "totalSteps": ("steps", "Steps that a fine-tuning has in all.", float),
    "loss": ("loss", "The loss of a fine-tuning's last logged step.", float),
    "evalLoss": ("eval_loss", "The last loss of a fine-tuning on what is held back.", float),
    "tokensPerSecond": ("tokens_per_second", "How fast a fine-tuning trains.", float),
    "rows": ("rows", "The rows of the data set that a fine-tuning uses.", float),
    "eta": ("eta_seconds", "How much longer a fine-tuning takes.", seconds_of),
    "gpuMemory": ("gpu_memory_bytes", "The most memory of a GPU that a fine-tuning used.", bytes_of),
}
"""What `status.tuning` has of each field, as a metric: the end of its name, its help, and the number in the field."""


def _tuned(tunings: Mapping[Key, Manifest]) -> Series:
    tuned = [(f'namespace="{key.namespace}",workspace="{key.name}"', tunings[key]) for key in sorted(tunings)]
    for field, (name, help_, number) in _TUNING.items():
        metric = f"kaito_tuning_{name}"
        lines = [f"{metric}{{{labels}}} {number(figures[field]):g}" for labels, figures in tuned if field in figures]
        yield metric, "gauge", help_, lines


def phase_of(workspace: Manifest) -> str:
    """The word of KAITO's metrics for how a Workspace is; one that is on its way is pending, not an error."""
    if is_deleting(workspace):
        return "deleting"
    whole = condition_of(workspace, names.WORKSPACE_SUCCEEDED) or {}
    if whole.get("status") == "True":
        return "succeeded"
    return "error" if whole.get("reason") == names.REASON_FAILED else "pending"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _histogram(name: str, labels: str, counts: Histogram) -> Iterator[str]:
    total = 0
    for bound, count in zip((*map(str, counts.bounds), "+Inf"), counts.counts, strict=True):
        total += count
        yield f'{name}_bucket{{{labels},le="{bound}"}} {total}'
    yield f"{name}_sum{{{labels}}} {counts.total:.6g}"
    yield f"{name}_count{{{labels}}} {total}"


def _process(started: float) -> Series:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    name = "process_cpu_seconds_total"
    yield name, "counter", "Processor time.", [f"{name} {usage.ru_utime + usage.ru_stime:.2f}"]
    name = "process_resident_memory_bytes"
    yield name, "gauge", "Resident memory.", [f"{name} {_resident_bytes(usage.ru_maxrss)}"]
    name = "process_start_time_seconds"
    yield name, "gauge", "When the process started.", [f"{name} {started:.2f}"]


def _resident_bytes(most_kib: int) -> int:
    """The memory in use; where the system does not tell it, the most there was."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return most_kib * 1024
