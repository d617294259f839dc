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
from kaito.kube.manifest import Manifest, condition_of, is_deleting
from kaito.operator.workspace.standing import bytes_of, seconds_of
from kaito.operator.workspace.timeline import durations

PHASE_BUCKETS_S = (1.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1200.0, 1800.0, 3600.0, 7200.0)
PHASES = ("succeeded", "error", "pending", "deleting")

Series = Iterable[tuple[str, str, str, Iterable[str]]]
"""Name, type, help, and the lines of each metric."""


class Metrics:
    """Renders the figures of one operator; remembers only how long Workspaces took."""

    def __init__(self, manager: Manager, election: Election | None, lease: str) -> None:
        self._manager = manager
        self._election = election
        self._lease = lease
        self._phases = {step: Histogram(PHASE_BUCKETS_S) for step in names.TIMELINE_STEPS}
        self._started = time.time()
        manager.listen(WORKSPACES, self._seen)

    def _seen(self, before: Manifest | None, after: Manifest | None) -> None:
        """Count the steps that a Workspace has just finished; those of before our time were counted then."""
        if before is None or after is None:
            return
        known = durations(before)
        for step, seconds in durations(after).items():
            if step not in known and step in self._phases:
                self._phases[step].add(seconds)

    def exposition(self) -> str:
        """Everything, in Prometheus' text format."""
        workspaces = self._manager.objects(WORKSPACES) if self._counts else []
        parts = [*_loops(self._manager.stats), *self._leadership(), *_workspaces(workspaces)]
        parts += [*_tunings(workspaces), *self._steps()]
        lines = []
        for name, type_, help_, series in [*parts, *_process(self._started)]:
            lines += [f"# HELP {name} {help_}", f"# TYPE {name} {type_}", *series]
        return "\n".join(lines) + "\n"

    @property
    def _counts(self) -> bool:
        return self._election is None or self._election.is_leader

    def _leadership(self) -> Series:
        held = f'leader_election_master_status{{name="{self._lease}"}} {int(self._counts)}'
        yield "leader_election_master_status", "gauge", "Whether this replica leads.", [held]

    def _steps(self) -> Series:
        lines = [line for step, counts in self._phases.items() for line in _histogram(_STEP, f'step="{step}"', counts)]
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


def _workspaces(workspaces: Iterable[Manifest]) -> Series:
    phases, presets = Counter(dict.fromkeys(PHASES, 0)), Counter[str]()
    for workspace in workspaces:
        phases[phase_of(workspace)] += 1
        preset = ((workspace.get("inference") or workspace.get("tuning") or {}).get("preset") or {}).get("name")
        if preset:
            presets[str(preset)] += 1
    name = "kaito_workspace_count"
    yield name, "gauge", "Workspaces by phase.", [f'{name}{{phase="{phase}"}} {phases[phase]}' for phase in PHASES]
    name = "kaito_workspace_preset_count"
    counted = [f'{name}{{preset_name="{_escaped(preset)}"}} {count}' for preset, count in sorted(presets.items())]
    yield name, "gauge", "Workspaces by the preset that they name.", counted


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


def _tunings(workspaces: Iterable[Manifest]) -> Series:
    tuned = [
        (f'namespace="{workspace["metadata"]["namespace"]}",workspace="{workspace["metadata"]["name"]}"', figures)
        for workspace in workspaces
        if (figures := (workspace.get("status") or {}).get("tuning"))
    ]
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
