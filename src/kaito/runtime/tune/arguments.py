# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""The libraries' own arguments from the training configuration, with ours where it says nothing.

Keys are those of TRL's `SFTConfig` or `DPOConfig` and of PEFT's `LoraConfig`; an unknown one is refused with the
nearest that there is. Values may be text, as KAITO hands them on.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

import torch
from peft import LoraConfig
from transformers import BitsAndBytesConfig, DataCollatorForLanguageModeling, HfArgumentParser
from trl import DPOConfig, SFTConfig

from kaito.api.training import TrainingOptions
from kaito.api.training_keys import OLD_COLLATOR, OLD_TRAINING, OWN_TRAINING, PATIENCE, RENAMED, THRESHOLD
from kaito.runtime.tune import sharding
from kaito.runtime.tune.job import Job
from kaito.runtime.tune.options import bad, unknown_key

KEPT_CHECKPOINTS = 2
"""One that is whole stays while the next is written."""
MICRO_BATCH = "per_device_train_batch_size"
ACCUMULATION = "gradient_accumulation_steps"
Arguments: TypeAlias = SFTConfig | DPOConfig
BATCH = 8
"""Rows for each step of the optimizer where nothing is said, as the library has it."""


def training_arguments(job: Job, options: TrainingOptions, *, preference: bool, context: int | None) -> Arguments:
    """The arguments of the trainer; raises Failed (TuningConfigInvalid)."""
    kind = DPOConfig if preference else SFTConfig
    values = as_named_now(options.training)
    values = {key: value for key, value in values.items() if key not in sharding.KEYS and key not in OWN_TRAINING}
    known = {field.name for field in dataclasses.fields(kind)}
    for key in values:
        if key not in known:
            raise unknown_key(key, "TrainingArguments", known)
    merged = {**_defaults(job, options, values, context), **values, **_fixed(job, values)}
    if job.batch_divisor > 1 and MICRO_BATCH in merged:
        merged |= _smaller(merged, job.batch_divisor)
    return _parsed(kind, merged)


def as_named_now(given: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments under the names that they have in this release; those that mean nothing any more are left out."""
    found = {RENAMED.get(key, key): value for key, value in given.items() if key not in OLD_TRAINING}
    if str(given.get("group_by_length")).lower() == "true":
        found.setdefault("train_sampling_strategy", "group_by_length")
    return found


def early_stopping(options: TrainingOptions) -> tuple[int, float] | None:
    """How often the evaluation may show no improvement, and of how much; None for as often as it likes. Raises Failed
    (TuningConfigInvalid)."""
    given = options.training.get(PATIENCE)
    if given is None:
        return None
    try:
        patience, threshold = int(given), float(options.training.get(THRESHOLD) or 0)
    except (TypeError, ValueError):
        patience, threshold = 0, 0.0
    if patience < 1 or threshold < 0:
        raise bad(f"TrainingArguments.{PATIENCE} must be a whole number from 1, and {THRESHOLD} no less than 0.")
    if options.dataset.train_test_split in (None, 1, 1.0):
        what = f"TrainingArguments.{PATIENCE} needs rows to evaluate with, and all are trained on."
        raise bad(what, "Set DatasetConfig.train_test_split below 1.")
    return patience, threshold


def _defaults(job: Job, options: TrainingOptions, given: Mapping[str, Any], context: int | None) -> dict[str, Any]:
    on_gpu = job.device == "cuda"
    length = min(1024, context) if context else 1024
    chosen: dict[str, Any] = {"max_length": length, "logging_steps": 1, "gradient_checkpointing": on_gpu}
    if options.dataset.train_test_split not in (None, 1, 1.0) and "eval_strategy" not in given:
        chosen["eval_strategy"] = "epoch"
    if early_stopping(options) is not None and "save_strategy" not in given:
        # The best checkpoint is the result, so there is one for each evaluation.
        chosen |= {"save_strategy": given.get("eval_strategy", "epoch"), "load_best_model_at_end": True}
        chosen |= {"save_steps": given["eval_steps"]} if "eval_steps" in given else {}
    if not {"bf16", "fp16"} & set(given):
        is_bf16 = on_gpu and torch.cuda.is_bf16_supported(including_emulation=False)
        chosen |= {"bf16": is_bf16, "fp16": on_gpu and not is_bf16}
    if not on_gpu and not {MICRO_BATCH, ACCUMULATION} & set(given):
        chosen |= {MICRO_BATCH: 1, ACCUMULATION: BATCH}  # A CPU gains nothing from more rows at once.
    if job.method != "full" and "learning_rate" not in given:
        chosen["learning_rate"] = 2e-4
    return chosen


def _fixed(job: Job, given: Mapping[str, Any]) -> dict[str, Any]:
    """What a tuning in a pod has no choice about."""
    limit = given.get("save_total_limit")
    kept = max(KEPT_CHECKPOINTS, int(limit)) if limit else KEPT_CHECKPOINTS
    found: dict[str, Any] = {
        "output_dir": job.output_dir,
        "report_to": "none",
        "disable_tqdm": True,
        "push_to_hub": False,
        "save_total_limit": kept,
        "save_only_model": False,
        "dataloader_pin_memory": job.device == "cuda",
    }
    if job.device != "cuda":
        # bf16 and fp16 of a configuration that is made for a GPU are slow or missing on a CPU.
        found |= {"use_cpu": True, "bf16": False, "fp16": False, "tf32": None, "optim": _cpu_optimizer(given)}
    elif given.get("bf16") and not torch.cuda.is_bf16_supported(including_emulation=False):
        found |= {"bf16": False, "fp16": True}
    return found


def _cpu_optimizer(given: Mapping[str, Any]) -> str:
    asked = str(given.get("optim", "adamw_torch"))
    return "adamw_torch" if "8bit" in asked or "paged" in asked or "fused" in asked else asked


def _smaller(merged: Mapping[str, Any], divisor: int) -> dict[str, Any]:
    """A smaller micro batch with more accumulation: the same batch for the optimizer."""
    batch = int(merged[MICRO_BATCH])
    smaller = max(1, batch // divisor)
    steps = int(merged.get(ACCUMULATION, 1)) * (batch // smaller)
    return {MICRO_BATCH: smaller, ACCUMULATION: steps}


def _parsed(kind: type[Arguments], values: Mapping[str, Any]) -> Arguments:
    words: list[str] = []
    for key, value in values.items():
        if value is None:
            continue
        words.append(f"--{key}")
        if isinstance(value, list | tuple):
            words += [str(item) for item in value]
        else:
            words.append(json.dumps(value) if isinstance(value, dict) else str(value))
    parser = HfArgumentParser(kind, exit_on_error=False)
    try:
        (found,) = parser.parse_args_into_dataclasses(words, look_for_args_file=False)
    except SystemExit:
        raise bad("TrainingArguments has a value of a wrong kind.") from None
    except (argparse.ArgumentError, ValueError, TypeError, ImportError) as error:
        raise bad(f"TrainingArguments: {first_line(error)}.") from None
    arguments: Arguments = found
    return arguments


def first_line(error: BaseException) -> str:
    """What an error of a library says first, without its full stop."""
    return str(error).strip().partition("\n")[0].rstrip(".") or type(error).__name__


def lora_config(options: TrainingOptions, targets: Iterable[str]) -> LoraConfig:
    """The adapter's shape; the layers to adapt are `targets` where the configuration names none."""
    known = {field.name for field in dataclasses.fields(LoraConfig)}
    values = {key: _number(value) for key, value in options.lora.items() if value is not None}
    for key in values:
        if key not in known:
            raise unknown_key(key, "LoraConfig", known)
    if not values.get("target_modules"):
        values["target_modules"] = sorted(targets)
    values.setdefault("task_type", "CAUSAL_LM")
    try:
        return LoraConfig(**values)
    except (TypeError, ValueError) as error:
        raise bad(f"LoraConfig: {first_line(error)}.") from None


def _number(value: Any) -> Any:
    """Text that is a number as one."""
    if not isinstance(value, str):
        return value
    for kind in (int, float):
        try:
            return kind(value)
        except ValueError:
            continue
    return {"true": True, "false": False}.get(value.lower(), value)


def quantization_config(options: TrainingOptions, compute: torch.dtype) -> BitsAndBytesConfig | None:
    """How the base model is compressed; None for not at all."""
    if not options.is_quantized:
        return None
    given = options.quantization
    return BitsAndBytesConfig(
        load_in_4bit=bool(given.load_in_4bit),
        load_in_8bit=bool(given.load_in_8bit),
        llm_int8_threshold=given.llm_int8_threshold,
        llm_int8_skip_modules=given.llm_int8_skip_modules,
        llm_int8_enable_fp32_cpu_offload=bool(given.llm_int8_enable_fp32_cpu_offload),
        llm_int8_has_fp16_weight=bool(given.llm_int8_has_fp16_weight),
        bnb_4bit_compute_dtype=compute,
        bnb_4bit_quant_type=given.bnb_4bit_quant_type or "fp4",
        bnb_4bit_use_double_quant=bool(given.bnb_4bit_use_double_quant),
    )


def dtype_named(name: str | None, *, fallback: torch.dtype) -> torch.dtype:
    """The torch type of that name; raises Failed (TuningConfigInvalid)."""
    if name in (None, "", "auto"):
        return fallback
    found = getattr(torch, str(name).removeprefix("torch."), None)
    if not isinstance(found, torch.dtype):
        raise bad(f"{name} is no type of numbers.", "Write bfloat16, float16 or float32.")
    return found


def usable(dtype: torch.dtype, device: str) -> torch.dtype:
    """The type, or the nearest that the device computes with at full speed."""
    if device != "cuda":
        return torch.float32
    if dtype == torch.bfloat16 and not torch.cuda.is_bf16_supported(including_emulation=False):
        return torch.float16
    return dtype


def check_collator(options: TrainingOptions) -> None:
    """Raises Failed for a key that the collator has not. Masked-language training is not for these models."""
    known = {field.name for field in dataclasses.fields(DataCollatorForLanguageModeling)}
    known |= OLD_COLLATOR
    for key in options.collator:
        if key not in known:
            raise unknown_key(key, "DataCollator", known)
