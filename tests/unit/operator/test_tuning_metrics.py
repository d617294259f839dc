# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""What `/metrics` tells of fine-tunings is what their status says, as numbers."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from kaito.api.contracts import TuneProgress
from kaito.kube.client import Client
from kaito.kube.config import ClusterConfig
from kaito.kube.controller import Manager
from kaito.kube.manifest import Manifest
from kaito.kube.resource import Resource
from kaito.operator.metrics import Metrics
from kaito.operator.workspace.figures import duration, seconds_of
from kaito.operator.workspace.standing import tuning_status
from tests.builders import workspace

Listener = Callable[[Manifest | None, Manifest | None], None]


class Telling(Manager):
    """A manager that tells of Workspaces as a test says."""

    def __init__(self) -> None:
        super().__init__(Client(ClusterConfig("http://127.0.0.1:1")), [])
        self.tell: Listener = lambda before, after: None

    def listen(self, resource: Resource, listener: Listener) -> None:
        self.tell = listener


def gauges(metrics: Metrics) -> dict[str, float]:
    """What is said of Workspaces, without the zeros."""
    lines = re.findall(r"^(kaito_\w+{\S+}) (\S+)$", metrics.exposition(), re.MULTILINE)
    return {name: float(value) for name, value in lines if float(value)}


def test_workspaces_are_counted_as_they_come_change_and_go() -> None:
    manager = Telling()
    metrics = Metrics(manager, None, "lease")
    first, second = workspace("first"), workspace("second", inference={"preset": {"name": "phi-4"}})
    done = {**first, "status": {"conditions": [{"type": "WorkspaceSucceeded", "status": "True"}]}}
    for change in ((None, first), (None, second), (first, done)):
        manager.tell(*change)
    assert gauges(metrics) == {
        'kaito_workspace_count{phase="pending"}': 1,
        'kaito_workspace_count{phase="succeeded"}': 1,
        'kaito_workspace_preset_count{preset_name="phi-3-mini-4k-instruct"}': 1,
        'kaito_workspace_preset_count{preset_name="phi-4"}': 1,
    }
    manager.tell(done, None)
    manager.tell(second, None)
    assert gauges(metrics) == {}


def test_each_figure_of_a_fine_tuning_is_a_gauge_of_its_workspace() -> None:
    progress = TuneProgress(
        phase="Training", step=3, steps=10, loss=1.25, eval_loss=1.5, tokens_per_second=210.0, eta_s=3900,
        gpu_memory_gib=2.5, rows=8,
    )  # fmt: skip
    tuned = {**workspace("taught"), "status": {"tuning": tuning_status(progress, None)}}
    manager = Telling()
    metrics = Metrics(manager, None, "lease")
    for one in (tuned, workspace("served")):
        manager.tell(None, one)
    text = metrics.exposition()
    found = dict(re.findall(r'^kaito_tuning_(\w+){namespace="default",workspace="taught"} (\S+)$', text, re.MULTILINE))
    assert {name: float(value) for name, value in found.items()} == {
        "step": 3, "steps": 10, "loss": 1.25, "eval_loss": 1.5, "tokens_per_second": 210, "rows": 8,
        "eta_seconds": 3900, "gpu_memory_bytes": 2.68435e9,
    }  # fmt: skip
    assert 'workspace="served"' not in text
    manager.tell(tuned, None)
    assert "taught" not in metrics.exposition()


@pytest.mark.parametrize("seconds", [0, 45, 200, 3900])
def test_a_time_in_words_is_read_back(seconds: int) -> None:
    assert seconds_of(duration(seconds)) == seconds
