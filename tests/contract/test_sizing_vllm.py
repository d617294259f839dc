# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Our arithmetic of the KV cache against vLLM's own: for each family of models, built small, without weights."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml

from kaito.catalog.configuration import facts_of
from kaito.catalog.kvcache import Cache, cache_of

TESTS = Path(__file__).parents[1]
SMALL: dict[str, dict[str, Any]] = yaml.safe_load((TESTS / "small_models.yaml").read_text())["models"]
AVAILABLE = 64 * 1024**2
CONTEXT = 2048

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed"),
]


@pytest.fixture(scope="module")
def answers() -> dict[str, dict[str, Any]]:
    """What vLLM says of every family, asked in one process."""
    requests = [
        {"config": config, "bytes": AVAILABLE, "options": {"max_model_len": CONTEXT}} for config in SMALL.values()
    ]
    asked = subprocess.run(
        [sys.executable, str(TESTS / "vllm_cache.py")],
        input=json.dumps(requests),
        capture_output=True,
        text=True,
        check=False,
    )
    assert asked.returncode == 0, asked.stderr[-2000:]
    return dict(zip(SMALL, json.loads(asked.stdout), strict=True))


def our_cache(name: str, answer: dict[str, Any]) -> Cache:
    """Ours, with the numbers that are the device's and not the model's."""
    shape = facts_of("a/b", SMALL[name]).shape
    assert shape is not None
    if answer["state_dtype"] == "float32":  # What vLLM resets it to on processors with AVX512-BF16.
        layers = tuple(one.model_copy(update={"state_bytes": 4}) for one in shape.state_layers)
        shape = shape.model_copy(update={"state_layers": layers})
    # With states vLLM has raised the block size itself, which is ours to find out too.
    device_block = 16 if any(layers.latent for layers in shape.attending) else 128
    return cache_of(shape, block_tokens=device_block, in_flight=answer["in_flight"])


@pytest.mark.parametrize("name", SMALL)
def test_no_more_is_promised_than_vllm_has_and_at_most_a_twentieth_less(
    name: str, answers: dict[str, dict[str, Any]]
) -> None:
    answer = answers[name]
    cache = our_cache(name, answer)
    tokens = int(cache.concurrency(AVAILABLE, CONTEXT) * CONTEXT)
    assert 0.95 * answer["tokens"] <= tokens <= answer["tokens"]
    assert 0.95 * answer["blocks"] <= cache.blocks(AVAILABLE) <= answer["blocks"]
