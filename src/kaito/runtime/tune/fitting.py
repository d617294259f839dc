# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""A training fitted to the memory that there is: before the weights are loaded, whether and how they lie; afterwards,
how many rows are taken at once. The arithmetic is `estimate.py`'s, the decision about dividing them `sharding.py`'s."""

from __future__ import annotations

from typing import Any

import torch

from kaito.api.contracts import TuningMethod
from kaito.api.names import REASON_TUNING_MEMORY
from kaito.api.training import TrainingOptions
from kaito.runtime.failure import Failed
from kaito.runtime.tune import base, estimate
from kaito.runtime.tune.arguments import MICRO_BATCH, Arguments
from kaito.runtime.tune.job import Job
from kaito.runtime.tune.progress import say
from kaito.runtime.tune.sharding import FILLED, SHORT, Sharding, decide, step_where_it_does_not_fit
from kaito.runtime.tune.together import least_of_all

GIB = 1024**3
LENGTH = 1024
"""Tokens of a row where no limit is set."""
BYTES_OF_8_BITS, BYTES_OF_4_BITS = 1.0, 0.5 + 4 / 64
"""Of a weight that is compressed: NF4 keeps a number of 32 bits for each block of 64 (arXiv:2305.14314)."""


def plan(job: Job, options: TrainingOptions, arguments: Arguments, config: Any) -> Sharding:
    """How the weights are to lie. Raises Failed (TuningDoesNotFit) when they leave no room however they lie."""
    model = base.outline(job, config)
    shape = None if model is None else shape_of(job, arguments, model, loaded_bytes(job, options, model))
    free = None if job.device != "cuda" else free_gib()[0]
    length = arguments.max_length or LENGTH
    # Of a model that is known by its own code alone, the size shows once it is loaded.
    unknown = estimate.Shape(0, 0, 0, 0, 0, 0.0)
    found = decide(
        shape or unknown, options.training, options.lora,
        method=job.method, processes=arguments.world_size, length=length, free_gib=free,
    )  # fmt: skip
    if shape is not None:
        _check_room(job, shape, found, length)
    return found


def fit(job: Job, options: TrainingOptions, arguments: Arguments, model: Any, sharding: Sharding) -> None:
    """Say what the training will take. On a GPU, as many rows at once as fit it, where the configuration leaves that
    open; raises Failed when the weights alone leave no room."""
    shape = shape_of(job, arguments, model, model.get_memory_footprint())
    length = arguments.max_length or LENGTH
    if job.device == "cuda":
        _check_room(job, shape, sharding, length)
        if MICRO_BATCH not in options.training:
            batch = arguments.per_device_train_batch_size * arguments.gradient_accumulation_steps
            room = free_gib()[0] * FILLED
            fitting = estimate.micro_batch(shape, batch=batch, length=length, free_gib=room, shards=sharding.shards)
            rows = least_of_all(fitting)
            arguments.per_device_train_batch_size = max(1, rows // job.batch_divisor)
            arguments.gradient_accumulation_steps = batch // arguments.per_device_train_batch_size
    rows = arguments.per_device_train_batch_size
    needed = estimate.memory_gib(shape, batch=rows, length=length, shards=sharding.shards)
    say(f"an estimated {needed:.2f} GiB for a micro batch of {rows} x {length} tokens")


def free_gib() -> tuple[float, float]:
    """The GPU's memory that this process may use, what it has of it already included, and all of it."""
    free, total = torch.cuda.mem_get_info()
    return (free + torch.cuda.memory_allocated()) / GIB, total / GIB


def _check_room(job: Job, shape: estimate.Shape, sharding: Sharding, length: int) -> None:
    if job.device != "cuda" or sharding.is_offloaded:
        return
    free, total = free_gib()
    least = estimate.memory_gib(shape, batch=1, length=min(length, SHORT), shards=sharding.shards)
    if least > free:
        shared = f" on each of {sharding.shards} GPUs" if sharding.shards > 1 else ""
        what = f"{job.model_id} with method {job.method} needs at least {least:.1f} GiB{shared}"
        step = step_where_it_does_not_fit(job.method, sharding.shards)
        raise Failed(REASON_TUNING_MEMORY, f"{what}, and the GPU has {total:.1f}.", step)


def loaded_bytes(job: Job, options: TrainingOptions, model: Any) -> float:
    """Bytes of a model's weights once they are loaded, from its outline."""
    size = base.dtype_of(job, options).itemsize
    compressed = 4 if options.quantization.load_in_4bit else 8
    return bytes_with(model, compressed if options.is_quantized else 8 * size, size)


def bytes_with(model: Any, bits: int, size: int) -> float:
    """Bytes of a model with so many bits a weight; those of its ends, which are not compressed, have so many bytes."""
    ends = (model.get_input_embeddings(), model.get_output_embeddings())
    kept = sum({id(part.weight): part.weight.numel() for part in ends if part is not None}.values())
    each = {4: BYTES_OF_4_BITS, 8: BYTES_OF_8_BITS}.get(bits, bits / 8)
    return float(kept * max(size, bits / 8) + (model.num_parameters() - kept) * each)


def shape_of(job: Job, arguments: Arguments, model: Any, weights_bytes: float) -> estimate.Shape:
    """What the memory of the training depends on."""
    return shape_with(model, job.method, weights_bytes, is_checkpointed=bool(arguments.gradient_checkpointing))


def shape_with(model: Any, method: TuningMethod, weights_bytes: float, *, is_checkpointed: bool) -> estimate.Shape:
    """The same of any model and method."""
    sized = model.get_text_config() if hasattr(model, "get_text_config") else model.config
    parameters = model.num_parameters()
    return estimate.Shape(
        parameters=parameters,
        trained=parameters if method == "full" else parameters // 100,
        hidden=getattr(sized, "hidden_size", 4096),
        layers=getattr(sized, "num_hidden_layers", 32),
        vocabulary=getattr(sized, "vocab_size", 32000),
        weight_bytes=weights_bytes / max(1, parameters),
        is_checkpointed=is_checkpointed,
    )
