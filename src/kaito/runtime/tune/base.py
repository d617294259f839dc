# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""The base model and its tokenizer, loaded for a tuning; or why this model cannot be tuned."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForCausalLM, AutoTokenizer, PretrainedConfig
from transformers.distributed.configuration_utils import DistributedConfig
from transformers.utils import is_flash_attn_2_available

from kaito.api.names import REASON_TUNING_CONFIG, REASON_TUNING_MODEL
from kaito.api.training import TrainingOptions
from kaito.runtime.failure import Failed
from kaito.runtime.tune.arguments import dtype_named, quantization_config, usable
from kaito.runtime.tune.job import Job
from kaito.runtime.tune.sharding import WHOLE, Sharding

TRAINABLE_QUANTIZATIONS = ("bitsandbytes",)
"""Compressed formats that an adapter can be trained on."""


def source_of(job: Job) -> dict[str, Any]:
    """Where the libraries take files of the model from."""
    found: dict[str, Any] = {"trust_remote_code": job.trust_remote_code}
    if not Path(job.model).is_dir():
        found |= {"revision": job.revision, "cache_dir": job.download_dir}
    return found


def without_foreign_code(job: Job) -> Job:
    """The job; a repository's own code is left alone where the library knows the architecture itself."""
    if not job.trust_remote_code:
        return job
    try:
        facts, _ = PretrainedConfig.get_config_dict(job.model, **{**source_of(job), "trust_remote_code": False})
    except (ValueError, OSError):
        return job
    return job.model_copy(update={"trust_remote_code": facts.get("model_type") not in CONFIG_MAPPING})


def load_config(job: Job) -> Any:
    """The model's configuration; raises Failed (TuningModelUnsupported) when it is none that can be tuned."""
    try:
        config = AutoConfig.from_pretrained(job.model, **source_of(job))
    except (ValueError, KeyError, OSError) as error:
        raise _unsupported(job, _first_line(error)) from None
    compressed = (getattr(config, "quantization_config", None) or {}) if config is not None else {}
    method = compressed.get("quant_method") if isinstance(compressed, dict) else None
    if method and method not in TRAINABLE_QUANTIZATIONS:
        raise _unsupported(job, f"its weights are compressed ({method}), and no training is possible on them")
    if type(config) not in AutoModelForCausalLM._model_mapping and not job.trust_remote_code:
        raise _unsupported(job, f"its architecture {config.model_type} is no language model that can be loaded")
    return config


def load_tokenizer(job: Job, options: TrainingOptions) -> Any:
    """The tokenizer, with the chat template of the configuration where it has one."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(job.model, **source_of(job))
    except (ValueError, KeyError, OSError) as error:
        raise _unsupported(job, f"its tokenizer cannot be loaded: {_first_line(error)}") from None
    if not tokenizer.is_fast:
        raise _unsupported(job, "its tokenizer has no fast form")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    template = options.model.chat_template
    if template:
        tokenizer.chat_template = _template(template)
    return tokenizer


def _template(text: str) -> str:
    if any(mark in text for mark in ("{", "}", "\n")):
        return text
    try:
        return Path(text).read_text("utf-8")
    except (OSError, UnicodeDecodeError):
        what = f"ModelConfig.chat_template names {text}, which cannot be read."
        raise Failed(REASON_TUNING_CONFIG, what, "Write the template itself, or a path in the image.") from None


def outline(job: Job, config: Any) -> Any:
    """The model without weights, to know its size by; None where that takes code of its repository."""
    if job.trust_remote_code:
        return None
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config)


def dtype_of(job: Job, options: TrainingOptions) -> torch.dtype:
    """The type of the weights that are loaded and not compressed."""
    asked = dtype_named(options.model.torch_dtype, fallback=torch.bfloat16)
    if job.method == "full" and job.device == "cuda":
        asked = torch.float32
    return usable(asked, job.device)


def load_model(job: Job, options: TrainingOptions, config: Any, sharding: Sharding = WHOLE) -> Any:
    """The base model on its device, or this process's share of it."""
    dtype = dtype_of(job, options)
    compute = usable(dtype_named(options.quantization.bnb_4bit_compute_dtype, fallback=dtype), job.device)
    more: dict[str, Any] = {}
    quantization = quantization_config(options, compute)
    if quantization is not None:
        more["quantization_config"] = quantization
    if sharding.shards > 1:
        more["distributed_config"] = DistributedConfig(
            fsdp_size=sharding.shards, fsdp_cpu_offload=sharding.is_offloaded
        )
    elif job.device == "cuda":
        more["device_map"] = {"": torch.cuda.current_device()}
    if job.device == "cuda" and is_flash_attn_2_available() and dtype != torch.float32:
        more["attn_implementation"] = "flash_attention_2"
    try:
        model = AutoModelForCausalLM.from_pretrained(
            job.model, config=config, dtype=dtype, use_safetensors=True, **more, **source_of(job)
        )
    except (ValueError, KeyError, ImportError) as error:
        raise _unsupported(job, _first_line(error)) from None
    model.config.use_cache = False
    if sharding.shards > 1:
        model.requires_grad_(False)  # Only adapters are trained on divided weights.
    return model


def _unsupported(job: Job, why: str) -> Failed:
    what = f"{job.model_id} cannot be tuned: {why.rstrip('.')}."
    return Failed(REASON_TUNING_MODEL, what, "Choose a base model that is not compressed and has its own tokenizer.")


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0][:300] or type(error).__name__
