# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""ServeConfig → the command line of our server for transformers models (`kaito.runtime.textgen`). Pure; golden-tested.

`transformers serve` is not used: as of 5.19 it ignores most of OpenAI's fields, and its continuous batching takes the
sampling of the first request for all.
"""

from __future__ import annotations

from kaito.api.contracts import ServeConfig
from kaito.runtime.serve.launch import Facts, Launch, Options, cache_variables, cpu_threads, merged, option_name
from kaito.runtime.serve.vllm import words

MODULE = "kaito.runtime.textgen"
DEFAULT_SEQUENCES = 64
"""As its command line has it."""
RENAMED = {"torch-dtype": "dtype"}
"""Options of KAITO's transformers runtime under the names that they have here."""


def launch(config: ServeConfig, facts: Facts) -> Launch:
    """The server's command line and environment."""
    extra = {option_name(key): value for key, value in config.extra_args.items()}
    options, ignored = merged({**base_options(config, facts), **extra}, facts.user_options)
    options = {RENAMED.get(key, key): value for key, value in options.items()}
    name = str(options.get("served-model-name") or config.served_model_name)
    return Launch(
        argv=(facts.python, "-m", MODULE, *words({**options, "uds": facts.socket})),
        environment=environment(config, facts),
        socket=facts.socket,
        served_names=(name, *(adapter.name for adapter in config.adapters)),
        sequences=int(options.get("max-num-seqs") or DEFAULT_SEQUENCES),
        ignored=ignored,
    )


def base_options(config: ServeConfig, facts: Facts) -> Options:
    """What the config asks for, by the server's names."""
    return {
        "model": facts.model,
        "revision": facts.revision,
        "served-model-name": config.served_model_name,
        "device": "cpu" if config.device == "cpu" else "auto",
        "dtype": config.dtype,
        "max-model-len": config.max_model_len,
        "chat-template": facts.chat_template,
        "tool-call-parser": config.tool_call_parser,
        "trust-remote-code": config.trust_remote_code or None,
        "lora-modules": [{"name": adapter.name, "path": adapter.path} for adapter in config.adapters] or None,
    }


def environment(config: ServeConfig, facts: Facts) -> dict[str, str]:
    """Variables for the server: no questions to a hub when the weights are here, all the CPU's threads."""
    values = {"HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_UPDATE_CHECK": "1", "PYTHONUNBUFFERED": "1"}
    if facts.local:
        values |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    elif facts.download_dir:
        values["HF_HUB_CACHE"] = facts.download_dir
    values |= cache_variables(facts.cache_dir)
    if config.device == "cpu":
        values |= cpu_threads(facts.cpus)
    return values
