# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""What `/metrics` tells of fine-tunings is what their status says, as numbers."""

from __future__ import annotations

import re

import pytest

from kaito.api.contracts import TuneProgress
from kaito.kube.client import Client
from kaito.kube.config import ClusterConfig
from kaito.kube.controller import Manager
from kaito.kube.manifest import Manifest
from kaito.kube.resource import Resource
from kaito.operator.metrics import Metrics
from kaito.operator.workspace.standing import duration, seconds_of, tuning_status
from tests.builders import workspace


class Knowing(Manager):
    """A manager that knows these Workspaces."""

    def __init__(self, *workspaces: Manifest) -> None:
        super().__init__(Client(ClusterConfig("http://127.0.0.1:1")), [])
        self.workspaces = list(workspaces)

    def objects(self, resource: Resource) -> list[Manifest]:
        return self.workspaces


def test_each_figure_of_a_fine_tuning_is_a_gauge_of_its_workspace() -> None:
    progress = TuneProgress(
        phase="Training", step=3, steps=10, loss=1.25, eval_loss=1.5, tokens_per_second=210.0, eta_s=3900,
        gpu_memory_gib=2.5, rows=8,
    )  # fmt: skip
    tuned = {**workspace("taught"), "status": {"tuning": tuning_status(progress, None)}}
    text = Metrics(Knowing(tuned, workspace("served")), None, "lease").exposition()
    found = dict(re.findall(r'^kaito_tuning_(\w+){namespace="default",workspace="taught"} (\S+)$', text, re.MULTILINE))
    assert {name: float(value) for name, value in found.items()} == {
        "step": 3, "steps": 10, "loss": 1.25, "eval_loss": 1.5, "tokens_per_second": 210, "rows": 8,
        "eta_seconds": 3900, "gpu_memory_bytes": 2.68435e9,
    }  # fmt: skip
    assert 'workspace="served"' not in text


@pytest.mark.parametrize("seconds", [0, 45, 200, 3900])
def test_a_time_in_words_is_read_back(seconds: int) -> None:
    assert seconds_of(duration(seconds)) == seconds
