# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""LoRA adapters before an engine sees them: are they there, whole, and made for the model; and their strength.

A LoRA adds `lora_alpha / r` times its product to a weight (LoRA, arXiv:2106.09685, section 4.1), so an adapter of
strength s is the same adapter with `s · lora_alpha`. The scaled one is a folder of links with its own
`adapter_config.json`; the user's files stay as they are. `tensors.py` reads what the files hold, `following.py` does
the same while the engine runs.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kaito.api.contracts import Adapter, ServeConfig
from kaito.api.names import REASON_ADAPTER
from kaito.runtime.failure import Failed
from kaito.runtime.serve.tensors import Shape, Unreadable, shapes_of

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
HIGHEST_RANK = 512
"""The highest that vLLM has kernels for."""
PREFIX = "base_model.model."
PARTS = (".lora_A.", ".lora_B.")
STEP = "An adapter's folder needs adapter_config.json and adapter_model.safetensors, as PEFT saves them."
OTHER_STEP = "Take it out of inference.adapters, or serve the model that it was trained for{base}."
PICKLED_STEP = "Save it again as safetensors (PEFT does by default); other formats can run code when they are loaded."


def refused(adapter: Adapter, what: str, step: str = STEP) -> Failed:
    """A Failed that names the adapter; `what` goes on with the sentence."""
    return Failed(REASON_ADAPTER, f"The adapter {adapter.name} {what}.", step)


def scaled_config(config: Mapping[str, Any], strength: float) -> dict[str, Any]:
    """The adapter's configuration with its effect multiplied by the strength."""
    scaled = {**config, "lora_alpha": config.get("lora_alpha", config.get("r", 8)) * strength}
    if config.get("alpha_pattern"):
        scaled["alpha_pattern"] = {key: value * strength for key, value in config["alpha_pattern"].items()}
    return scaled


def read_config(adapter: Adapter) -> dict[str, Any]:
    """The adapter's configuration; raises Failed naming the adapter."""
    if not Path(adapter.path).is_dir():
        raise refused(adapter, f"is not there: there is no folder {adapter.path}")
    try:
        config = json.loads((Path(adapter.path) / CONFIG).read_text("utf-8"))
    except OSError:
        raise refused(adapter, f"has no readable {CONFIG} in {adapter.path}") from None
    except ValueError:
        raise refused(adapter, f"has an {CONFIG} that is not JSON") from None
    if not isinstance(config, dict):
        raise refused(adapter, f"has an {CONFIG} that is no map")
    return config


def rank_of(config: Mapping[str, Any]) -> int:
    """The highest rank in a configuration; 0 when it has none that can be read."""
    ranks = [config.get("r"), *(config.get("rank_pattern") or {}).values()]
    return max((rank for rank in ranks if isinstance(rank, int) and not isinstance(rank, bool)), default=0)


def check(adapter: Adapter, model: Mapping[str, Shape]) -> None:
    """Raise Failed when the adapter cannot work with the model, whose tensors are given (none: not known yet)."""
    config = read_config(adapter)
    _check_config(adapter, config)
    weights = Path(adapter.path) / WEIGHTS
    if not weights.is_file():
        others = sorted(path.name for path in Path(adapter.path).glob("adapter_model.*"))
        if others:
            raise refused(adapter, f"has its weights in {others[0]}", PICKLED_STEP)
        raise refused(adapter, f"has no {WEIGHTS} in {adapter.path}")
    try:
        found = shapes_of(weights)
    except Unreadable as error:
        raise refused(adapter, f"cannot be used: its {WEIGHTS} {error}", "Push or copy it again.") from None
    modules = {name: shape for name, shape in found.items() if any(part in name for part in PARTS)}
    if not modules:
        raise refused(adapter, f"has no LoRA weights in its {WEIGHTS}")
    if model:
        check_fit(adapter, modules, model, str(config.get("base_model_name_or_path") or ""))


def _check_config(adapter: Adapter, config: Mapping[str, Any]) -> None:
    kind = str(config.get("peft_type") or "LORA").rpartition(".")[2]
    if kind != "LORA":
        raise refused(adapter, f"is of the kind {kind[:40]}", "Only LoRA adapters can be served.")
    rank = rank_of(config)
    if not 1 <= rank <= HIGHEST_RANK:
        raise refused(adapter, f"has the rank {rank}", f"Its {CONFIG} must have an r from 1 to {HIGHEST_RANK}.")
    if adapter.strength == 1.0:
        return
    whole = [key for key in ("use_dora", "modules_to_save") if config.get(key)]
    if config.get("bias") not in (None, "none"):
        whole.append("bias")
    if whole:
        what = f"cannot be given a strength: {whole[0]} in its {CONFIG} changes the model in ways that do not scale"
        raise refused(adapter, what, "Set its strength to 1, or leave it out.")


def check_fit(adapter: Adapter, modules: Mapping[str, Shape], model: Mapping[str, Shape], base: str) -> None:
    """Raise Failed when the shapes of the adapter's weights are not those of the model's."""
    step = OTHER_STEP.format(base=f" ({base[:100]})" if base and not base.startswith("/") else "")
    names = _by_module(model)
    is_known = False
    for name, (length, side) in sorted(_lengths(modules).items()):
        module = name.removeprefix(PREFIX).rpartition(".lora_")[0]
        tensor = names.get(module) or names.get(_end(module))
        if not tensor:
            continue
        is_known = True
        weight = model[tensor]
        if len(weight) == 2 and tensor.endswith(".weight") and weight[side] != length:
            what = f"is made for another model: its {module} has the size {length}, the model's {weight[side]}"
            raise refused(adapter, what, step)
    if not is_known:
        module = next(iter(modules)).removeprefix(PREFIX).rpartition(".lora_")[0]
        raise refused(adapter, f"is made for another model: the model has no {module}", step)


def _lengths(modules: Mapping[str, Shape]) -> dict[str, tuple[int, int]]:
    """The length that each tensor shares with the model's weight, and with which of its sides (out, in)."""
    found = {}
    for name, shape in modules.items():
        if len(shape) == 2:
            found[name] = (shape[1], 1) if ".lora_A." in name else (shape[0], 0)
    return found


def _by_module(model: Mapping[str, Shape]) -> dict[str, str]:
    """A tensor of each module, its weight if it has one, by the module's name, and by its end where that is unique.

    The name that a module has in the files may begin otherwise than the one it has in memory.
    """
    named: dict[str, str] = {}
    for tensor in model:
        module = tensor.rpartition(".")[0]
        if module not in named or tensor.endswith(".weight"):
            named[module] = tensor
    ends = Counter(_end(module) for module in named)
    return {**{_end(module): tensor for module, tensor in named.items() if ends[_end(module)] == 1}, **named}


def _end(module: str) -> str:
    return module.partition("layers.")[2] or module


def with_strength(adapter: Adapter, scratch: Path) -> Adapter:
    """The adapter, or a scaled stand-in below `scratch` when its strength is not one; raises Failed."""
    config = read_config(adapter)
    if adapter.strength == 1.0:
        return adapter
    place = scratch / f"{adapter.name}-{adapter.strength:g}"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    for file in Path(adapter.path).iterdir():
        if file.name != CONFIG:
            (place / file.name).symlink_to(file.resolve())
    (place / CONFIG).write_text(json.dumps(scaled_config(config, adapter.strength)), "utf-8")
    return adapter.model_copy(update={"path": str(place)})


def applied(config: ServeConfig, scratch: Path, model: Mapping[str, Shape]) -> ServeConfig:
    """The config with every adapter checked and its strength applied; raises Failed."""
    for adapter in config.adapters:
        check(adapter, model)
    return config.model_copy(update={"adapters": tuple(with_strength(one, scratch) for one in config.adapters)})


def highest_rank(config: ServeConfig) -> int:
    """The highest LoRA rank of the adapters; 0 when there are none."""
    return max((rank_of(read_config(adapter)) for adapter in config.adapters), default=0)
