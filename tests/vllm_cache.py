# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Ask vLLM itself how much context a model's KV cache holds. Run as a program: configurations in, its answers out.

Builds each model on PyTorch's meta device, without weights, and hands its layers to the functions that vLLM's engine
plans its cache with. Standard input is a JSON list of requests, standard output a JSON list of answers.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ |= {"VLLM_LOGGING_LEVEL": "ERROR", "HF_HUB_OFFLINE": "1", "VLLM_CPU_KVCACHE_SPACE": ""}

import torch
from vllm.config import VllmConfig, get_layers_from_vllm_config, set_current_vllm_config
from vllm.distributed import ensure_model_parallel_initialized, init_distributed_environment
from vllm.engine.arg_utils import EngineArgs
from vllm.model_executor.layers.attention_layer_base import AttentionLayerBase
from vllm.model_executor.model_loader.utils import initialize_model
from vllm.model_executor.models.registry import ModelRegistry
from vllm.platforms import current_platform
from vllm.v1.attention.backends.utils import get_supported_kv_cache_layouts, resolve_kv_cache_layout
from vllm.v1.core.kv_cache_utils import (
    generate_scheduler_kv_cache_config,
    get_kv_cache_capacity,
    get_kv_cache_configs,
)
from vllm.v1.core.single_type_kv_cache_manager import register_all_kvcache_specs
from vllm.v1.kv_cache_interface import AttentionSpec
from vllm.v1.worker.utils import customize_attention_spec


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """What vLLM makes of one configuration with so many bytes for its cache."""
    # vLLM looks at a model's class in a process of its own, which takes long; one that is registered is looked at here.
    for name in request["config"]["architectures"]:
        ModelRegistry.register_model(name, ModelRegistry.models[name].load_model_cls())
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "config.json").write_text(json.dumps(request["config"]))
        config = EngineArgs(
            model=folder,
            skip_tokenizer_init=True,
            load_format="dummy",
            dtype="bfloat16",
            enforce_eager=True,
            kv_cache_memory_bytes=request["bytes"],
            **request.get("options", {}),
        ).create_engine_config()
    if not torch.distributed.is_initialized():
        # Without a model in the configuration, the groups of every kind of model are made.
        with tempfile.NamedTemporaryFile() as meeting, set_current_vllm_config(VllmConfig()):
            init_distributed_environment(1, 0, f"file://{meeting.name}", 0, "gloo")
            ensure_model_parallel_initialized(1, 1)
    with set_current_vllm_config(config):
        with torch.device("meta"):
            model = initialize_model(config)
        current_platform.update_block_size_for_backend(config)
        register_all_kvcache_specs(config)
        return planned(config, request["bytes"]) | {"parameters": sum(one.numel() for one in model.parameters())}


def planned(config: VllmConfig, available: int) -> dict[str, Any]:
    """The cache that the engine would make."""
    specs, backends = {}, []
    for name, layer in get_layers_from_vllm_config(config, AttentionLayerBase).items():
        if getattr(layer, "kv_sharing_target_layer_name", None):
            continue
        spec = layer.get_kv_cache_spec(config)
        if spec is None:
            continue
        backends.append(layer.get_attn_backend())
        specs[name] = customize_attention_spec(backends[-1], spec) if isinstance(spec, AttentionSpec) else spec
    layouts = [layout.name for layout in get_supported_kv_cache_layouts(dict.fromkeys(backends))]
    resolve_kv_cache_layout(config, [layouts], list(specs.values()))
    cache = generate_scheduler_kv_cache_config(get_kv_cache_configs(config, [specs], [available]))
    tokens, concurrency = get_kv_cache_capacity(config, cache)
    return {
        "blocks": cache.num_blocks,
        "tokens": tokens,
        "concurrency": concurrency,
        "max_model_len": config.model_config.max_model_len,
        "block_size": config.cache_config.block_size,
        "in_flight": config.max_in_flight_tokens,
        "state_dtype": config.cache_config.mamba_ssm_cache_dtype,
        "groups": [
            f"{type(group.kv_cache_spec).__name__} x{len(group.layer_names)}" for group in cache.kv_cache_groups
        ],
    }


def main() -> None:
    """Answer every request. What is being worked on stands on standard error, for when vLLM cannot."""
    answers = []
    for request in json.load(sys.stdin):
        print("asking about", request["config"]["model_type"], file=sys.stderr, flush=True)
        answers.append(answer(request))
    json.dump(answers, sys.stdout)


if __name__ == "__main__":
    main()
