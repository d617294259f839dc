# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Which options the engines know, so that a wrong one is told before anything is started. Pure.

vLLM's are a table (`data/vllm_options.json`) that `tools/vllm_options.py` writes from the installed package. A user's
`inference_config.yaml` is checked against it when a Workspace is planned and again when its pod starts.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Any, Literal

from kaito.api.contracts import Engine
from kaito.catalog.models import Record

KV_MEMORY_KEY = "kv_cache_cpu_memory_utilization"
"""KAITO's: the share of the free memory that parts of the KV cache may take which leave the GPU."""
SERVER_KEYS = frozenset({KV_MEMORY_KEY, "max_probe_steps"})
"""Keys of the file beside the engines' own; `max_probe_steps` is KAITO's and has no effect any more."""
ENGINES: tuple[Engine, ...] = ("vllm", "transformers")
SIZE = re.compile(r"(auto|-1|[0-9]+(\.[0-9]+)?[kKmMgGtT]?)")
Kind = Literal["switch", "flag", "integer", "number", "size", "json", "text"]
WORDS: dict[Kind, str] = {
    "switch": "true or false",
    "flag": "true or false",
    "integer": "a whole number",
    "number": "a number",
    "size": "a number such as 4096 or 16k, or auto",
    "json": "a map or a list (or either as JSON in quotes)",
    "text": "a text",
}


class Option(Record):
    """One option of an engine."""

    kind: Kind
    choices: tuple[str, ...] | None = None
    several: bool = False
    """A list gives several words."""


class _Table(Record):
    version: str
    options: dict[str, Option]


TRANSFORMERS: dict[str, Option] = {
    "served-model-name": Option(kind="text"),
    "revision": Option(kind="text"),
    "device": Option(kind="text"),
    "device-map": Option(kind="text"),
    "dtype": Option(kind="text", choices=("auto", "bfloat16", "float16", "float32")),
    "torch-dtype": Option(kind="text", choices=("auto", "bfloat16", "float16", "float32")),
    "trust-remote-code": Option(kind="flag"),
    "chat-template": Option(kind="text"),
    "tool-call-parser": Option(kind="text", choices=("hermes",)),
    "max-model-len": Option(kind="integer"),
    "max-num-seqs": Option(kind="integer"),
    "attn-implementation": Option(kind="text"),
}


def options_of(engine: Engine) -> Mapping[str, Option]:
    """The engine's options by name, with dashes."""
    return _vllm().options if engine == "vllm" else TRANSFORMERS


def file_problem(content: Mapping[Any, Any], engine: Engine) -> str | None:
    """What is wrong with an inference_config.yaml (already a map), in a sentence; None when nothing is."""
    for key in content:
        if key not in SERVER_KEYS and key not in ENGINES:
            hint = _meant(str(key), [*SERVER_KEYS, *ENGINES])
            where = f" Options of the engine stand below `{engine}:`." if _known(str(key), engine) else ""
            return f"it has no key {key}{hint or '.'}{where}"
    share = content.get(KV_MEMORY_KEY)
    if share is not None and (isinstance(share, bool) or not isinstance(share, int | float) or not share <= 1):
        return f"{KV_MEMORY_KEY} must be a number from 0 (none of the free memory) to 1."
    section = content.get(engine)
    if section is None:
        return None
    if not isinstance(section, Mapping):
        return f"{engine} is not a map: give it name: value lines."
    for key, value in section.items():
        problem = option_problem(str(key), value, engine)
        if problem is not None:
            return problem if problem.endswith("?") else f"{problem}."
    return None


def option_problem(key: str, value: Any, engine: Engine) -> str | None:
    """What is wrong with one option, as the end of a sentence without its stop; None when nothing is."""
    name, dot, _ = key.lstrip("-").partition(".")
    name = name.replace("_", "-")
    options = options_of(engine)
    option = options.get(name)
    if option is None and name.startswith("no-") and options.get(name[3:], Option(kind="text")).kind == "switch":
        option = Option(kind="flag")
    if option is None:
        return f"{engine} has no option {name}{_meant(name, list(options))}"
    if dot:
        return None if option.kind in ("json", "text") else f"{name} of {engine} has no fields"
    if value is None or _fits(option, value):
        return None
    if option.choices and option.kind == "text":
        return f"{name} of {engine} must be one of {', '.join(option.choices)}"
    several = " (or a list of them)" if option.several else ""
    return f"{name} of {engine} must be {WORDS[option.kind]}{several}"


def size_of(value: Any) -> int | None:
    """A length as vLLM reads it: 4096, 16k (thousands) or 16K (times 1024); None for `auto` and for anything else."""
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)([kKmMgGtT]?)", str(value)) if not isinstance(value, bool) else None
    if match is None or float(match[1]) <= 0:
        return None
    factor = (1024 if match[2].isupper() else 1000) ** (" kmgt".index(match[2].lower() or " "))
    return int(float(match[1]) * factor)


def _known(key: str, engine: Engine) -> bool:
    return key.replace("_", "-") in options_of(engine)


def _meant(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.7)
    return f"; did you mean {close[0]}?" if close else ""


def _fits(option: Option, value: Any) -> bool:
    if option.several and isinstance(value, list):
        return all(isinstance(one, dict) or _fits(option, one) for one in value)
    if option.kind in ("switch", "flag"):
        return isinstance(value, bool)
    if isinstance(value, bool):
        return False
    if option.kind == "json":
        return isinstance(value, Mapping | list) or _is_json(value)
    if option.choices:
        return str(value) in option.choices
    text = str(value)
    if option.kind == "integer":
        return re.fullmatch(r"[+-]?[0-9]+", text) is not None
    if option.kind == "number":
        return re.fullmatch(r"[+-]?[0-9]*\.?[0-9]+([eE][+-]?[0-9]+)?", text) is not None
    if option.kind == "size":
        return SIZE.fullmatch(text) is not None
    return not isinstance(value, list)


def _is_json(value: Any) -> bool:
    if not isinstance(value, str):
        return False
    try:
        json.loads(value)
    except ValueError:
        return False
    return True


@cache
def _vllm() -> _Table:
    text = resources.files("kaito.catalog").joinpath("data/vllm_options.json").read_text("utf-8")
    return _Table.model_validate_json(text)
