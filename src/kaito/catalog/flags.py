# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Which options the engines are started with for a model: parsers, template, tokenizer, number format.

The rules are tables (`data/flags.yaml`): by the prefix of the model's name first, the longest winning, then by its
architecture. The result fills the engine part of a `ServeConfig`; how a ServeConfig becomes a command line is the
runtime's business.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Literal, TypedDict

from kaito.api.contracts import Engine
from kaito.catalog.files import read_data
from kaito.catalog.gpus import Gpus
from kaito.catalog.models import ModelFacts, Record

BFLOAT16_SINCE = 8.0
"""The first compute capability that computes in bfloat16 (NVIDIA's Ampere); older GPUs take float16."""


class EngineOptions(TypedDict):
    """The fields of a ServeConfig that follow from the model: `ServeConfig(..., **engine_flags(...).options())`."""

    dtype: str
    tool_call_parser: str | None
    reasoning_parser: str | None
    chat_template: str | None
    load_format: str | None
    config_format: str | None
    tokenizer_mode: str | None
    trust_remote_code: bool
    extra_args: dict[str, str | bool | int | float]


class EngineFlags(Record):
    """What a model needs said when it is started."""

    dtype: str
    tool_call_parser: str | None = None
    reasoning_parser: str | None = None
    chat_template: str | None = None
    """The file name of a template that the runtime ships; None takes the model's own."""
    load_format: Literal["mistral"] | None = None
    """None lets the engine find out, as for the next two."""
    config_format: Literal["mistral"] | None = None
    tokenizer_mode: str | None = None
    trust_remote_code: bool = True
    extra_args: tuple[tuple[str, str | bool | int | float], ...] = ()
    kv_offload: bool = True
    """Whether parts of the KV cache may be moved to the CPU's memory."""
    deep_gemm: bool = False
    """Uses DeepGEMM kernels (`VLLM_USE_DEEP_GEMM=1`)."""
    cuda_toolkit: bool = False
    """Compiles kernels at start-up, for which the CUDA toolkit must be there."""

    def options(self) -> EngineOptions:
        """The part that a ServeConfig carries."""
        return EngineOptions(
            dtype=self.dtype,
            tool_call_parser=self.tool_call_parser,
            reasoning_parser=self.reasoning_parser,
            chat_template=self.chat_template,
            load_format=self.load_format,
            config_format=self.config_format,
            tokenizer_mode=self.tokenizer_mode,
            trust_remote_code=self.trust_remote_code,
            extra_args=dict(self.extra_args),
        )


class _Tables(Record):
    """`data/flags.yaml`; every rule maps a value to the prefixes or architectures that get it."""

    tool_call_parser_by_prefix: dict[str, tuple[str, ...]]
    tool_call_parser_by_architecture: dict[str, tuple[str, ...]]
    reasoning_parser_by_prefix: dict[str, tuple[str, ...]]
    reasoning_parser_by_architecture: dict[str, tuple[str, ...]]
    no_reasoning_parser: frozenset[str]
    chat_template_by_prefix: dict[str, tuple[str, ...]]
    tokenizer_mode_by_prefix: dict[str, tuple[str, ...]]
    engine_options_by_prefix: dict[str, dict[str, str | bool | int | float]]
    no_kv_offload: frozenset[str]
    deep_gemm: frozenset[str]


def engine_flags(model: ModelFacts, engine: Engine = "vllm", *, gpus: Gpus | None = None) -> EngineFlags:
    """The options to start the model with. `gpus` is the node's hardware where it is known; it decides the number
    format. A model without facts gets what its name says, and the engine finds out the rest.
    """
    if engine == "transformers":
        return _transformers_flags(model, gpus)
    tables = _tables()
    deep_gemm = model.architecture in tables.deep_gemm
    mistral: Literal["mistral"] | None = "mistral" if model.format == "mistral" else None
    return EngineFlags(
        dtype=_dtype(model, gpus),
        # A repository's own code runs only where somebody has looked at the model.
        trust_remote_code=model.is_known and model.reviewed,
        tool_call_parser=tool_call_parser(model),
        reasoning_parser=reasoning_parser(model),
        chat_template=_by_prefix(model.name, tables.chat_template_by_prefix),
        load_format=mistral,
        config_format=mistral,
        tokenizer_mode=_by_prefix(model.name, tables.tokenizer_mode_by_prefix) or mistral,
        extra_args=_extra_args(model),
        kv_offload=model.architecture not in tables.no_kv_offload,
        deep_gemm=deep_gemm,
        cuda_toolkit=deep_gemm or model.cuda_toolkit,
    )


def tool_call_parser(model: ModelFacts) -> str | None:
    """The parser that reads the model's tool calls; None where none is known."""
    tables = _tables()
    return _by_prefix(model.name, tables.tool_call_parser_by_prefix) or _by_architecture(
        model.architecture, tables.tool_call_parser_by_architecture
    )


def reasoning_parser(model: ModelFacts) -> str | None:
    """The parser that tells the model's reasoning from its answer; None for a model that does not reason."""
    tables = _tables()
    if model.name in tables.no_reasoning_parser:
        return None
    return _by_prefix(model.name, tables.reasoning_parser_by_prefix) or _by_architecture(
        model.architecture, tables.reasoning_parser_by_architecture
    )


def _transformers_flags(model: ModelFacts, gpus: Gpus | None) -> EngineFlags:
    family = model.transformers
    return EngineFlags(
        dtype=_supported(family.dtype if family else "auto", gpus),
        chat_template=family.chat_template if family else None,
        trust_remote_code=family.trust_remote_code if family else False,
    )


def _dtype(model: ModelFacts, gpus: Gpus | None) -> str:
    if model.dtype is not None:
        return model.dtype
    if model.quantization is not None or not model.is_known:
        return "auto"
    return _supported("bfloat16", gpus)


def _supported(dtype: str, gpus: Gpus | None) -> str:
    capability = gpus.compute_capability if gpus else None
    too_old = capability is not None and capability < BFLOAT16_SINCE
    return "float16" if dtype == "bfloat16" and too_old else dtype


def _extra_args(model: ModelFacts) -> tuple[tuple[str, str | bool | int | float], ...]:
    options: dict[str, str | bool | int | float] = {}
    for prefix, wanted in _tables().engine_options_by_prefix.items():
        if model.name.startswith(prefix):
            options |= wanted
    return tuple(sorted(options.items()))


def _by_prefix(name: str, rules: Mapping[str, tuple[str, ...]]) -> str | None:
    matching = [
        (len(prefix), value) for value, prefixes in rules.items() for prefix in prefixes if name.startswith(prefix)
    ]
    return max(matching)[1] if matching else None


def _by_architecture(architecture: str | None, rules: Mapping[str, tuple[str, ...]]) -> str | None:
    for value, architectures in rules.items():
        if architecture in architectures:
            return value
    return None


@cache
def _tables() -> _Tables:
    return _Tables.model_validate(read_data("flags.yaml"))
