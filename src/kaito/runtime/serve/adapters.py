# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""LoRA adapters with a strength, for engines that know none.

A LoRA adds `lora_alpha / r` times its product to a weight (LoRA, arXiv:2106.09685, section 4.1), so an adapter of
strength s is the same adapter with `s · lora_alpha`. The scaled one is a folder of links with its own
`adapter_config.json`; the user's files stay as they are.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from kaito.api.contracts import Adapter, ServeConfig
from kaito.api.names import REASON_WEIGHTS_NOT_FOUND
from kaito.runtime.failure import Failed

CONFIG = "adapter_config.json"
STEP = "An adapter's folder needs adapter_config.json and adapter_model.safetensors, as PEFT saves them."


def scaled_config(config: dict[str, Any], strength: float) -> dict[str, Any]:
    """The adapter's configuration with its effect multiplied by the strength."""
    scaled = {**config, "lora_alpha": config.get("lora_alpha", config.get("r", 8)) * strength}
    if config.get("alpha_pattern"):
        scaled["alpha_pattern"] = {key: value * strength for key, value in config["alpha_pattern"].items()}
    return scaled


def read_config(adapter: Adapter) -> dict[str, Any]:
    """The adapter's configuration; raises Failed naming the adapter."""
    try:
        config = json.loads((Path(adapter.path) / CONFIG).read_text("utf-8"))
    except (OSError, ValueError):
        what = f"The adapter {adapter.name} has no readable {CONFIG} in {adapter.path}."
        raise Failed(REASON_WEIGHTS_NOT_FOUND, what, STEP) from None
    if not isinstance(config, dict):
        raise Failed(REASON_WEIGHTS_NOT_FOUND, f"The {CONFIG} of the adapter {adapter.name} is no map.", STEP)
    return config


def with_strength(adapter: Adapter, scratch: Path) -> Adapter:
    """The adapter, or a scaled stand-in below `scratch` when its strength is not one; raises Failed."""
    config = read_config(adapter)
    if adapter.strength == 1.0:
        return adapter
    place = scratch / adapter.name
    place.mkdir(parents=True)
    for file in Path(adapter.path).iterdir():
        if file.name != CONFIG:
            (place / file.name).symlink_to(file.resolve())
    (place / CONFIG).write_text(json.dumps(scaled_config(config, adapter.strength)), "utf-8")
    return adapter.model_copy(update={"path": str(place)})


def applied(config: ServeConfig, scratch: Path) -> ServeConfig:
    """The config with every adapter's strength applied; raises Failed."""
    return config.model_copy(update={"adapters": tuple(with_strength(one, scratch) for one in config.adapters)})


def highest_rank(config: ServeConfig) -> int:
    """The highest LoRA rank of the adapters; 0 when there are none."""
    ranks = [read_config(adapter).get("r") for adapter in config.adapters]
    return max((rank for rank in ranks if isinstance(rank, int)), default=0)
