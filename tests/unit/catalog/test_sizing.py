# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Nodes, disk, time and spread of models, against the figures of KAITO v0.12."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from kaito.api.contracts import Parallelism
from kaito.catalog.gpus import Gpus, instance_type
from kaito.catalog.models import ModelFacts, catalogue
from kaito.catalog.sizing import (
    DoesNotFit,
    disk_gib,
    estimate_nodes,
    gpu_memory_utilization,
    kv_bytes_per_token,
    parallelism,
    ready_timeout_s,
)

HERE = Path(__file__).parent
NODE_COUNTS: dict[str, Any] = yaml.safe_load((HERE / "node_count_vectors.yaml").read_text())
DERIVED: list[dict[str, Any]] = yaml.safe_load((HERE / "derived_vectors.yaml").read_text())


def gpus_of(name: str) -> Gpus:
    found = instance_type(name)
    assert found is not None
    return found.gpus


def test_node_counts_are_those_of_kaito_for_every_preset_on_every_kind_of_node() -> None:
    nodes = [Gpus(count=node["gpus"], memory_gib=node["memory_gib"]) for node in NODE_COUNTS["nodes"]]
    wrong = []
    cases = 0
    for id_, expected in NODE_COUNTS["counts"].items():
        for gpus, count in zip(nodes, expected, strict=True):
            cases += 1
            found = estimate_nodes(catalogue().find(id_), gpus).nodes
            if found != count:
                wrong.append((id_, gpus.memory_gib, gpus.count, count, found))
    assert not wrong
    assert cases == 480


@pytest.mark.parametrize("case", DERIVED, ids=lambda case: str(case["id"]))
def test_size_figures_are_those_of_kaito(case: dict[str, Any]) -> None:
    model = catalogue().find(case["id"])
    assert model.shape is not None
    assert kv_bytes_per_token(model.shape) == case["bytes_per_token"]
    assert model.shape.attention == case["attention"]
    assert disk_gib(model) == case["disk_gib"]
    assert round(ready_timeout_s(model) / 60) == case["timeout_min"]


def test_a_longer_context_takes_more_nodes() -> None:
    phi = catalogue().find("phi-3-medium-128k-instruct")
    a100 = gpus_of("Standard_NC24ads_A100_v4")
    assert estimate_nodes(phi, a100).nodes == 1
    assert estimate_nodes(phi, a100, context=131072).nodes == 1
    assert estimate_nodes(phi, a100, context=300_000).nodes > 1


def test_a_gpu_that_is_full_before_the_weights_are_in_is_refused_with_the_next_step() -> None:
    with pytest.raises(DoesNotFit, match="16 GiB of one NVIDIA V100; choose a GPU with more memory or a smaller"):
        estimate_nodes(catalogue().find("phi-3-mini-128k-instruct"), gpus_of("Standard_NC6s_v3"), context=131072)


def test_a_model_without_facts_takes_one_node_and_all_its_gpus() -> None:
    unknown = ModelFacts(id="somebody/something")
    two = gpus_of("Standard_NC48ads_A100_v4")
    assert estimate_nodes(unknown, two).nodes == 1
    assert parallelism(unknown, two) == Parallelism(tensor=2)
    assert ready_timeout_s(unknown) == 30 * 60


@pytest.mark.parametrize(
    ("preset", "machine", "nodes", "expected"),
    [
        ("phi-4-mini-instruct", "Standard_NC24ads_A100_v4", 1, Parallelism()),
        ("phi-4-mini-instruct", "Standard_NC96ads_A100_v4", 1, Parallelism(data=4)),
        ("llama-3.3-70b-instruct", "Standard_ND96isr_H100_v5", 1, Parallelism(tensor=8)),
        ("llama-3.3-70b-instruct", "Standard_NC24ads_A100_v4", 3, Parallelism(pipeline=3)),
        ("deepseek-r1-0528", "Standard_ND96isr_H100_v5", 2, Parallelism(tensor=8, pipeline=2)),
        # 40 heads and 10 key-value heads divide by two, not by four or eight
        ("phi-4", "g5.48xlarge", 1, Parallelism(tensor=2, pipeline=4)),
        # two key-value heads are copied to eight GPUs
        ("Qwen/Qwen3.5-122B-A10B", "Standard_ND96isr_H100_v5", 1, Parallelism(tensor=8)),
        # 24 heads do not divide by 16
        ("Qwen/Qwen3.6-27B", "a2-megagpu-16g", 2, Parallelism(tensor=8, pipeline=4)),
    ],
)
def test_a_model_is_copied_when_small_and_split_by_its_heads_otherwise(
    preset: str, machine: str, nodes: int, expected: Parallelism
) -> None:
    assert parallelism(catalogue().find(preset), gpus_of(machine), nodes) == expected


def test_every_gpu_is_used_however_the_heads_divide() -> None:
    for model in catalogue().models:
        for count in (1, 2, 3, 4, 6, 8, 12, 16):
            for nodes in (1, 2, 5):
                spread = parallelism(model, Gpus(count=count, memory_gib=count * 80), nodes)
                assert spread.tensor * spread.pipeline * spread.data == count * nodes


def test_an_a10_is_started_with_a_little_less_of_its_memory() -> None:
    assert gpu_memory_utilization(gpus_of("Standard_NV36ads_A10_v5")) == 0.82
    assert gpu_memory_utilization(gpus_of("g5.xlarge")) == 0.84
