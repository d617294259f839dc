# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""ServeConfig → the command line of `transformers serve`. Pure; golden-tested.

The server is pinned to one model and loads it before it listens. Continuous batching is off unless asked for: as of
transformers 5.19 its first request fixes the sampling of all later ones; one by one, every request has its own.
"""

from __future__ import annotations

from kaito.api.contracts import ServeConfig
from kaito.api.names import REASON_NOT_SUPPORTED_HERE
from kaito.runtime.failure import Failed
from kaito.runtime.serve.launch import Facts, Launch, Options, cpu_threads, merged, option_name
from kaito.runtime.serve.vllm import words

MODULE = "transformers.cli.transformers"


def launch(config: ServeConfig, facts: Facts) -> Launch:
    """The server's command line and environment; raises Failed (NotSupportedHere) for adapters."""
    if config.adapters:
        raise Failed(
            REASON_NOT_SUPPORTED_HERE,
            "The transformers engine cannot serve adapters yet.",
            "Remove the annotation kaito.sh/runtime (the vllm engine serves adapters), or remove the adapters.",
        )
    extra = {option_name(key): value for key, value in config.extra_args.items()}
    options, ignored = merged({**base_options(config), **extra}, facts.user_options)
    own = {"host": "127.0.0.1", "port": facts.port}
    return Launch(
        argv=(facts.python, "-m", MODULE, "serve", pinned_model(facts), *words({**own, **options})),
        environment=environment(config, facts),
        port=facts.port,
        served_names=(config.served_model_name,),
        ignored=ignored,
    )


def pinned_model(facts: Facts) -> str:
    """The model as the server wants it named; a request must carry the very same name."""
    return f"{facts.model}@{facts.revision}" if facts.revision and not facts.local else facts.model


def base_options(config: ServeConfig) -> Options:
    """What the config asks for, by the server's names."""
    return {
        "device": "cpu" if config.device == "cpu" else "auto",
        "dtype": config.dtype,
        "trust-remote-code": config.trust_remote_code or None,
    }


def environment(config: ServeConfig, facts: Facts) -> dict[str, str]:
    """Variables for the server: no questions to a hub when the weights are here, all the CPU's threads."""
    values = {"HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_UPDATE_CHECK": "1", "PYTHONUNBUFFERED": "1"}
    if facts.local:
        values |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    elif facts.download_dir:
        values["HF_HUB_CACHE"] = facts.download_dir
    if facts.cache_dir:
        values["HF_HOME"] = f"{facts.cache_dir}/huggingface"
    if config.device == "cpu":
        values |= cpu_threads(facts.cpus)
    return values
