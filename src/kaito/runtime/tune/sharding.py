# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Whether the base model's weights are divided among the processes (FSDP2), or each holds all of them (DDP). Pure.

Divided weights cross the network at each step, so they are so only where they do not fit one GPU, or where the
configuration asks for it. The library divides them while it loads them; an adapter is put on afterwards and is whole in
each process, so that checkpoints and results are those of a training that is not divided.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kaito.api.contracts import TuningMethod
from kaito.runtime.tune.estimate import Shape, memory_gib
from kaito.runtime.tune.options import bad

KEYS = ("fsdp", "fsdp_config")
"""The trainer's own keys for it, which say that it is wanted; the trainer itself must not divide again."""
OFFLOAD = "offload"
NEED_WEIGHTS = ("use_dora", "modules_to_save", "trainable_token_indices", "target_parameters", "use_qalora")
"""Of LoraConfig: what computes with the base model's weights, or trains some of them."""
WITHOUT_WEIGHTS = ("true", "false", "gaussian", "orthogonal")
"""Ways for an adapter to begin that do not look at the weights."""
FILLED = 0.8
"""Of the GPU's free memory, what the estimate of a training may take: the rest is for what it does not foresee."""
SHORT = 256
"""Tokens of the shortest training that makes sense."""


@dataclass(frozen=True, slots=True)
class Sharding:
    """How the weights lie."""

    shards: int = 1
    """Processes among which they are divided; 1 for whole in each."""
    is_offloaded: bool = False
    """Each share waits in main memory."""
    note: str = ""
    """What the user should know of it."""


WHOLE = Sharding()


def wish(training: Mapping[str, Any]) -> tuple[bool | None, bool]:
    """What TrainingArguments ask for: whether to divide, None where they leave it open, and whether to offload."""
    given, more = training.get("fsdp"), training.get("fsdp_config")
    more = more if isinstance(more, Mapping) else {}
    words = " ".join(map(str, given)) if isinstance(given, list | tuple) else str(given)
    asked = None if given is None else words.lower() not in ("false", "no", "none", "")
    is_offloaded = OFFLOAD in words or str(more.get("cpu_offload", more.get("fsdp_cpu_offload"))).lower() == "true"
    return asked, is_offloaded


def decide(
    shape: Shape, training: Mapping[str, Any], lora: Mapping[str, Any], *,
    method: TuningMethod, processes: int, length: int, free_gib: float | None,
) -> Sharding:  # fmt: skip
    """How the weights are to lie; `free_gib` is of one GPU, None where there is none. Raises Failed
    (TuningConfigInvalid) when the configuration asks for what cannot be."""
    asked, is_offloaded = wish(training)
    obstacle = _obstacle(method, lora)
    if asked and obstacle:
        raise bad(f"TrainingArguments.fsdp: {obstacle}.", "Take it out, or use the method lora.")
    if asked is False or obstacle or processes == 1:
        return WHOLE
    if not asked and (free_gib is None or memory_gib(shape, batch=1, length=length) <= FILLED * free_gib):
        return WHOLE
    why = "as the configuration asks" if asked else "for they do not fit one"
    what = "GPUs" if free_gib is not None else "processes"
    return Sharding(processes, is_offloaded, f"The weights are divided among {processes} {what} (FSDP2), {why}.")


def _obstacle(method: TuningMethod, lora: Mapping[str, Any]) -> str:
    """Why the weights cannot be divided."""
    if method == "qlora":
        return "weights in four bits are not divided among GPUs: each holds all of them"
    if method == "full":
        return "where all weights are trained, they are not divided among GPUs"
    needing = [key for key in NEED_WEIGHTS if lora.get(key)]
    begins = str(lora.get("init_lora_weights", True)).lower()
    needing += ["init_lora_weights"] if begins not in WITHOUT_WEIGHTS else []
    if needing:
        return f"LoraConfig.{needing[0]} needs weights of the base model whole in each process"
    return ""


def step_where_it_does_not_fit(method: TuningMethod, processes: int) -> str:
    """What to do when the model has no room."""
    if method == "lora":
        more = "more GPUs: the weights are divided among them" if processes == 1 else "more or bigger GPUs"
        return f"Use qlora, or {more}."
    return "Use a GPU with more memory" + (", or lora or qlora." if method == "full" else ", or lora on several GPUs.")
