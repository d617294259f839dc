# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""LoRA adapters for the demo model, made on the spot as PEFT would save them: seeded, and strong enough to be seen."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy
from safetensors.numpy import save_file

LAYERS, HIDDEN = 4, 256
TARGET = "o_proj"


def write_adapter(folder: Path, *, seed: int = 1, rank: int = 8, hidden: int = HIDDEN, **config: Any) -> Path:
    """Write an adapter whose weights are noise; `config` overrides fields of its adapter_config.json."""
    folder.mkdir(parents=True)
    noise = numpy.random.default_rng(seed)
    tensors = {}
    for layer in range(LAYERS):
        name = f"base_model.model.model.layers.{layer}.self_attn.{TARGET}"
        tensors[f"{name}.lora_A.weight"] = noise.normal(0, 0.2, (rank, hidden)).astype(numpy.float32)
        tensors[f"{name}.lora_B.weight"] = noise.normal(0, 0.2, (hidden, rank)).astype(numpy.float32)
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    described = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": "kaito/demo-phi-3",
        "r": rank,
        "lora_alpha": 2 * rank,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "target_modules": [TARGET],
        **config,
    }
    (folder / "adapter_config.json").write_text(json.dumps(described, indent=1))
    return folder
