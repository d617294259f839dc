# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""When the base model's weights are divided among GPUs."""

from __future__ import annotations

from typing import Any

import pytest

from kaito.runtime.failure import Failed
from kaito.runtime.tune.estimate import Shape, memory_gib
from kaito.runtime.tune.sharding import WHOLE, Sharding, decide, step_where_it_does_not_fit

LLAMA_70B = Shape(70_600_000_000, 706_000_000, 8192, 80, 128256, weight_bytes=2.0)
PHI = Shape(3_800_000_000, 38_000_000, 3072, 32, 32064, weight_bytes=2.0)


def decided(shape: Shape, **changes: Any) -> Sharding:
    given: dict[str, Any] = {
        "training": {}, "lora": {}, "method": "lora", "processes": 4, "length": 1024, "free_gib": 79.0,
    } | changes  # fmt: skip
    return decide(shape, given.pop("training"), given.pop("lora"), **given)


def test_only_what_does_not_fit_one_gpu_is_divided() -> None:
    found = decided(LLAMA_70B)
    assert (found.shards, found.is_offloaded) == (4, False)
    assert found.note == "The weights are divided among 4 GPUs (FSDP2), for they do not fit one."
    assert decided(PHI) == WHOLE
    assert decided(LLAMA_70B, processes=1) == WHOLE
    assert decided(PHI, free_gib=8.0).shards == 4


def test_a_share_of_each_gpu_is_less_the_more_there_are() -> None:
    needs = [memory_gib(LLAMA_70B, batch=1, length=1024, shards=shards) for shards in (1, 2, 4, 8)]
    assert needs == sorted(needs, reverse=True)
    assert needs[0] > 130 and needs[2] < 79


@pytest.mark.parametrize(
    ("training", "expected"),
    [
        ({"fsdp": True}, (4, False)),
        ({"fsdp": "full_shard auto_wrap"}, (4, False)),
        ({"fsdp": ["full_shard", "offload"]}, (4, True)),
        ({"fsdp": True, "fsdp_config": {"fsdp_cpu_offload": "true"}}, (4, True)),
        ({"fsdp": False}, (1, False)),
        ({"fsdp": ""}, (1, False)),
        ({"fsdp_config": {}}, (1, False)),
    ],
)
def test_the_configuration_may_ask_for_it(training: dict[str, Any], expected: tuple[int, bool]) -> None:
    found = decided(PHI, training=training, free_gib=None)
    assert (found.shards, found.is_offloaded) == expected
    assert found.shards == 1 or "as the configuration asks" in found.note


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"method": "qlora"}, "four bits"),
        ({"method": "full"}, "all weights are trained"),
        ({"lora": {"use_dora": True}}, "use_dora"),
        ({"lora": {"modules_to_save": ["lm_head"]}}, "modules_to_save"),
        ({"lora": {"init_lora_weights": "pissa"}}, "init_lora_weights"),
    ],
)
def test_what_cannot_be_divided_is_not_and_says_so_when_asked(changes: dict[str, Any], says: str) -> None:
    assert decided(LLAMA_70B, **changes) == WHOLE
    with pytest.raises(Failed, match=says):
        decided(LLAMA_70B, training={"fsdp": True}, **changes)
    assert decided(PHI, lora={"use_dora": False, "init_lora_weights": "gaussian"}, free_gib=4.0).shards == 4


def test_what_does_not_fit_says_what_would_help() -> None:
    assert "divided among them" in step_where_it_does_not_fit("lora", 1)
    assert "lora on several GPUs" in step_where_it_does_not_fit("qlora", 1)
