# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""What it takes to start an engine, as values: facts found beforehand, and the command line that follows from them.

`vllm.py` and `transformers.py` turn the first into the second; `supervise.py` runs it. Pure.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from kaito.api.contracts import Engine
from kaito.api.names import REASON_CONFIG_INVALID, REASON_UNKNOWN_FLAG
from kaito.catalog.engine_options import KV_MEMORY_KEY, file_problem
from kaito.runtime.failure import Failed

GIB = 1024**3

Options = dict[str, Any]
"""Engine options by their long name with dashes; None means "not given"."""

OWNED_BY_FRONT = frozenset(
    {"host", "port", "uds", "root-path", "ssl-keyfile", "ssl-certfile", "grpc", "headless"}
    | {"data-parallel-multi-port-external-lb", "grpc-port"}
)
"""Options of a user's file that would move the engine away from its front; they are dropped."""


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU."""

    name: str
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class Facts:
    """What was found out about the machine and the model before the engine starts."""

    model: str
    """The folder of the weights, or a model id."""
    local: bool
    python: str
    socket: str
    """The Unix socket that the engine is to listen on."""
    cpus: int = 1
    memory_bytes: int = 4 * GIB
    """What is free for this process."""
    model_config: Mapping[str, Any] = field(default_factory=dict)
    """The model's config.json when it is at hand."""
    download_dir: str | None = None
    revision: str | None = None
    rank: int = 0
    """This pod's rank, where the model is spread over several."""
    gpu: Gpu | None = None
    """The first of the machine's GPUs; all are of one kind."""
    kv_memory_share: float = 0.0
    """The share of the free memory that the user's file gives to parts of the KV cache."""
    user_options: Mapping[str, Any] = field(default_factory=dict)
    """The engine's section of the user's inference_config.yaml, names with dashes."""
    lora_rank: int = 0
    """The highest rank of the adapters."""
    cache_dir: str | None = None
    """Where the engine may keep its caches when the user's own folder cannot be written."""
    chat_template: str | None = None
    """The file of the chat template that the config names, when we ship it."""


@dataclass(frozen=True, slots=True)
class Launch:
    """A command line, its additions to the environment, and the names it serves."""

    argv: tuple[str, ...]
    environment: Mapping[str, str]
    socket: str
    served_names: tuple[str, ...]
    sequences: int | None = None
    """How many sequences the engine works on at once; None when that is not known."""
    ignored: tuple[str, ...] = ()
    """Options of the user that were dropped, for the log."""


def cpu_threads(cpus: int) -> dict[str, str]:
    """Variables that give an engine all the CPUs, and let waiting threads sleep rather than spin.

    Spinning is OpenMP's default. A model server shares its CPUs, at least with its own front; then each step waits for
    a thread that was put off by one that spins (measured on two busy cores: 28 ms a token, 8 ms without spinning).
    """
    return {"OMP_NUM_THREADS": str(cpus), "OMP_WAIT_POLICY": "PASSIVE"}


def cache_variables(folder: str | None) -> dict[str, str]:
    """Variables that keep an engine's caches, and those of what it compiles with, in this folder; none without one."""
    if folder is None:
        return {}
    names = {
        "HF_HOME": "huggingface",
        "VLLM_CACHE_ROOT": "vllm",
        "TORCHINDUCTOR_CACHE_DIR": "inductor",
        "TRITON_CACHE_DIR": "triton",
        "FLASHINFER_WORKSPACE_BASE": "flashinfer",
        "NUMBA_CACHE_DIR": "numba",
        "XDG_CACHE_HOME": "cache",
        "XDG_CONFIG_HOME": "config",
    }
    return {name: f"{folder}/{below}" for name, below in names.items()}


def option_name(key: str) -> str:
    """An option's name with dashes; what follows a dot (a field of a nested option) keeps its spelling."""
    head, dot, rest = key.lstrip("-").partition(".")
    return head.replace("_", "-") + dot + rest


def user_options(text: str, section: Engine, *, config_map: str | None = None) -> Options:
    """The engine's section of an inference_config.yaml; raises Failed naming the place: InferenceConfigInvalid, or
    UnknownEngineOption for what the engine does not have."""
    place = f"Key inference_config.yaml of ConfigMap {config_map}" if config_map else "inference_config.yaml"
    fix = f"Correct the ConfigMap {config_map}." if config_map else "Correct the ConfigMap that inference.config names."
    try:
        document = yaml.safe_load(text)
    except yaml.YAMLError as error:
        where = getattr(error, "problem_mark", None)
        line = f" at line {where.line + 1}" if where is not None else ""
        raise Failed(REASON_CONFIG_INVALID, f"{place} is not valid YAML{line}.", fix) from None
    if document is None:
        return {}
    if not isinstance(document, dict):
        raise Failed(REASON_CONFIG_INVALID, f"{place} must be a map with the key `vllm`.", fix)
    problem = file_problem(document, section)
    if problem is not None:
        reason = REASON_UNKNOWN_FLAG if "has no option" in problem else REASON_CONFIG_INVALID
        raise Failed(reason, f"{place}: {problem}", fix)
    return {option_name(str(key)): value for key, value in (document.get(section) or {}).items()}


def kv_memory_share(text: str) -> float:
    """KAITO's key `kv_cache_cpu_memory_utilization` of an inference_config.yaml; 0 where it is not there.

    The file was found to be in order by `user_options`."""
    document = yaml.safe_load(text) or {}
    return max(0.0, float(document.get(KV_MEMORY_KEY) or 0.0))


def merged(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> tuple[Options, tuple[str, ...]]:
    """Our options with the user's on top, and the user's that were dropped because the front owns them."""
    ignored = tuple(sorted(OWNED_BY_FRONT & theirs.keys()))
    return {**ours, **{key: value for key, value in theirs.items() if key not in OWNED_BY_FRONT}}, ignored


def plain(value: Any) -> str:
    """One value as a word of a command line."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (dict, list)):
        return json.dumps(value, sort_keys=True)
    return str(value)
