# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""ServeConfig → the command line of vLLM's OpenAI server. Pure; golden-tested.

The server is started as `python -m vllm.entrypoints.openai.api_server`, which works for every build of vLLM. Options
come in three layers: ours, the catalogue's (`extra_args`), the user's `inference_config.yaml`; the last one wins, and a
null takes an option back. Whether an option exists is vLLM's own parser's to say, before it loads a model.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from kaito.api.contracts import MAX_ADAPTERS, ServeConfig
from kaito.runtime.serve.launch import (
    GIB,
    Facts,
    Launch,
    Options,
    cache_variables,
    cpu_threads,
    merged,
    option_name,
    plain,
)
from kaito.runtime.serve.ranks import rank_options

MODULE = "vllm.entrypoints.openai.api_server"
HEADLESS = ("vllm.entrypoints.cli.main", "serve")
"""How a rank without an API is started; the module above knows no such thing."""
ONE_PROCESS_EXECUTOR = "vllm.v1.executor.uniproc_executor.UniProcExecutor"
"""Keeps the worker inside the engine's process: one import of torch and vLLM less, 10 s on two cores."""

SWITCHES = frozenset(
    {
        "aggregate-engine-logging",
        "data-parallel-multi-port-external-lb",
        "disable-log-stats",
        "grpc",
        "headless",
    }
)
"""Options without a `--no-…` form (vLLM 0.32): a false leaves them out."""

JSON_LISTS = frozenset({"allowed-origins", "allowed-methods", "allowed-headers"})
"""Options that take a list as one JSON word rather than as several words."""

KEEP_ALIVE_S = 24 * 3600
"""The engine does not close the front's connections: one that closes while a request is sent would fail it."""

CPU_SEQUENCES = 8
"""On a CPU the KV cache is sized for this many sequences of full length."""


def launch(config: ServeConfig, facts: Facts) -> Launch:
    """The server's command line and environment."""
    extra = {option_name(key): value for key, value in config.extra_args.items()}
    ours = {**base_options(config, facts), **extra}
    options, ignored = merged(ours, facts.user_options)
    names = options.get("served-model-name") or config.served_model_name
    served = tuple(str(name) for name in (names if isinstance(names, list) else [names]))
    options["served-model-name"] = list(served)
    return Launch(
        argv=(facts.python, "-m", *entry(config, facts, options)),
        environment=environment(config, facts),
        socket=facts.socket,
        served_names=(*served, *(adapter.name for adapter in config.adapters)),
        sequences=sequences(config, facts, options),
        ignored=ignored,
    )


def entry(config: ServeConfig, facts: Facts, options: Mapping[str, Any]) -> list[str]:
    """What Python runs: the server on its socket, or for another rank than the first an engine without an API."""
    ranked = {**options, **rank_options(config, facts.rank)}
    if facts.rank == 0:
        return [MODULE, *words({**ranked, "uds": facts.socket})]
    return [*HEADLESS, *words(ranked)]


def sequences(config: ServeConfig, facts: Facts, options: Mapping[str, Any]) -> int:
    """How many sequences vLLM works on at once, over all its data-parallel parts: the option, or its own default
    (vLLM 0.32, `EngineArgs.get_batch_defaults`)."""
    degrees = {name: int(options.get(f"{name}-parallel-size") or 1) for name in ("tensor", "pipeline", "data")}
    given = options.get("max-num-seqs")
    if given is not None:
        return int(given) * degrees["data"]
    world = degrees["tensor"] * degrees["pipeline"]
    if config.device == "cpu":
        most = 128 * world
    else:
        large = facts.gpu is not None and facts.gpu.memory_bytes >= 70 * GIB
        most = 1024 if large and facts.gpu is not None and "a100" not in facts.gpu.name.lower() else 256
    twice = 2 if options.get("performance-mode") == "throughput" else 1
    return most * twice * degrees["data"]


def base_options(config: ServeConfig, facts: Facts) -> Options:
    """What the config asks for, by vLLM's names."""
    options: Options = {
        "model": facts.model,
        "served-model-name": config.served_model_name,
        "dtype": config.dtype,
        "max-model-len": config.max_model_len or "auto",
        "gpu-memory-utilization": config.gpu_memory_utilization,
        "download-dir": facts.download_dir,
        "revision": facts.revision,
        "code-revision": facts.revision if config.trust_remote_code else None,
        "load-format": config.load_format,
        "config-format": config.config_format,
        "tokenizer-mode": config.tokenizer_mode,
        "reasoning-parser": config.reasoning_parser,
        "tool-call-parser": config.tool_call_parser,
        "enable-auto-tool-choice": True if config.tool_call_parser else None,
        "chat-template": facts.chat_template,
        "trust-remote-code": config.trust_remote_code or None,
        "disable-uvicorn-access-log": True,
        **parallel_options(config),
        **adapter_options(config, facts),
        **offload_options(config, facts),
    }
    return {**options, **cpu_options(config)} if config.device == "cpu" else options


def parallel_options(config: ServeConfig) -> Options:
    """How the model is spread; a degree of one is not spelt out."""
    degrees = config.parallelism
    return {
        "tensor-parallel-size": degrees.tensor if degrees.tensor > 1 else None,
        "pipeline-parallel-size": degrees.pipeline if degrees.pipeline > 1 else None,
        "data-parallel-size": degrees.data if degrees.data > 1 else None,
    }


def offload_options(config: ServeConfig, facts: Facts) -> Options:
    """Where the user's file gives the KV cache a share of the machine's memory, parts that leave the GPU are kept there
    (vLLM's own connector; the size is in GiB, for all GPUs together). A connector of the user's own is left alone."""
    gib = round(facts.memory_bytes * facts.kv_memory_share / GIB, 1)
    if not config.kv_offload or gib <= 0 or "kv-transfer-config" in facts.user_options:
        return {}
    return {"kv-offloading-size": gib, "kv-offloading-backend": "native"}


def adapter_options(config: ServeConfig, facts: Facts) -> Options:
    """LoRA modules, each addressed by its name in a request's `model`, and room for those that may come later."""
    if not config.adapters:
        return {}
    modules = [{"name": adapter.name, "path": adapter.path} for adapter in config.adapters]
    return {
        "enable-lora": True,
        "max-lora-rank": room_for(facts.lora_rank),
        "max-loras": len(modules),
        "max-cpu-loras": MAX_ADAPTERS,
        "lora-modules": modules,
    }


def room_for(rank: int) -> int:
    """The highest rank that the engine is to have room for: vLLM's own default, or its next step."""
    return next((step for step in (16, 32, 64, 128, 256, 320, 512) if step >= rank), 512)


def cpu_options(config: ServeConfig) -> Options:
    """On a CPU: start at once rather than compile, and compute in a type that CPUs are good at."""
    alone = config.parallelism.tensor * config.parallelism.pipeline * config.parallelism.data == 1
    return {
        "enforce-eager": True,
        "dtype": "bfloat16" if config.dtype in ("auto", "float16", "half") else config.dtype,
        "distributed-executor-backend": ONE_PROCESS_EXECUTOR if alone else None,
        "gpu-memory-utilization": None,
    }


def environment(config: ServeConfig, facts: Facts) -> dict[str, str]:
    """Variables for the server: no usage reports, no hub when the weights are here, a CPU's threads and memory."""
    values = {"VLLM_NO_USAGE_STATS": "1", "VLLM_DO_NOT_TRACK": "1", "DO_NOT_TRACK": "1", "PYTHONUNBUFFERED": "1"}
    values["VLLM_HTTP_TIMEOUT_KEEP_ALIVE"] = str(KEEP_ALIVE_S)
    if config.adapters:
        values["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] = "1"
    if facts.local:
        values |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    values |= cache_variables(facts.cache_dir)
    if config.device == "cpu":
        values |= {
            "VLLM_CPU_KVCACHE_SPACE": str(
                cpu_kv_cache_gib(facts.model_config, config.max_model_len, facts.memory_bytes)
            ),
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            **cpu_threads(facts.cpus),
        }
    return values


def cpu_kv_cache_gib(model: Mapping[str, Any], max_model_len: int | None, memory_bytes: int) -> int:
    """GiB for the KV cache on a CPU: a few sequences of full length, within a quarter of the free memory, at least 1.

    Bytes of a token: 2 (key and value) × layers × KV heads × head size × 2 (sixteen bits).
    """
    most = max(1, memory_bytes // (4 * GIB))
    layers, heads, hidden = (model.get(key) for key in ("num_hidden_layers", "num_attention_heads", "hidden_size"))
    if not (isinstance(layers, int) and isinstance(heads, int) and isinstance(hidden, int) and heads > 0):
        return min(4, most)
    head_size = model.get("head_dim") or hidden // heads
    token_bytes = 4 * layers * (model.get("num_key_value_heads") or heads) * head_size
    length = max_model_len or model.get("max_position_embeddings") or 4096
    return max(1, min(most, math.ceil(token_bytes * length * CPU_SEQUENCES / GIB)))


def words(options: Mapping[str, Any]) -> list[str]:
    """Options as words, in the order of their names: the same options always give the same command line."""
    result: list[str] = []
    for key in sorted(options):
        result.extend(option_words(key, options[key]))
    return result


def option_words(key: str, value: Any) -> list[str]:
    """One option as words: true is a bare flag, false its `--no-` form, null nothing, a list several words."""
    if value is None:
        return []
    if isinstance(value, bool) and "." not in key:
        if value:
            return [f"--{key}"]
        return [] if key in SWITCHES else [f"--no-{key}"]
    if isinstance(value, list) and key not in JSON_LISTS:
        return [f"--{key}", *(plain(item) for item in value)] if value else []
    return [f"--{key}", json.dumps(value) if key in JSON_LISTS else plain(value)]
