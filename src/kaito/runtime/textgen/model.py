# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Loads a transformers model and says what can be done with it: its tokenizer, its limits, can it be batched."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import xgrammar
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache

from kaito.runtime.serve.memory import available_bytes

CACHE_SHARE = 0.5
"""Of the memory that is free once the model is loaded, what the KV cache may take on a GPU; on a CPU half of it."""
DEFAULT_LENGTH = 4096
PLAIN_LAYERS = frozenset({"full_attention", "sliding_attention", "chunked_attention"})
"""Kinds of layers whose whole memory is keys and values; others cannot be padded and joined."""


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line says."""

    model: str
    revision: str | None
    device: str
    dtype: str
    trust_remote_code: bool
    chat_template: str | None
    max_model_len: int | None
    max_num_seqs: int
    attn_implementation: str | None
    device_map: str | None


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model, ready to answer."""

    model: Any
    tokenizer: Any
    length: int
    """Tokens that a prompt and its answer may have together."""
    most: int
    """Sequences under way at once."""
    budget: int
    """Tokens that the KV cache may hold, padding included."""
    cache: Callable[[], Any]
    ends: frozenset[int]
    defaults: dict[str, Any]
    vocabulary: int
    """Tokens that the model knows."""
    grammars: xgrammar.GrammarCompiler


def load(options: Options) -> Loaded:
    """The model and its tokenizer; what goes wrong is what transformers raises."""
    print("Loading weights", file=sys.stderr, flush=True)  # noqa: T201 - a phase of the start, read by the front
    common = {"revision": options.revision, "trust_remote_code": options.trust_remote_code}
    tokenizer = AutoTokenizer.from_pretrained(options.model, **common)
    if options.chat_template:
        tokenizer.chat_template = Path(options.chat_template).read_text("utf-8")
    device_map = options.device_map or ("auto" if options.device == "auto" else None)
    model = AutoModelForCausalLM.from_pretrained(
        options.model,
        dtype=number_format(options),
        device_map=device_map,
        attn_implementation=options.attn_implementation,
        **common,
    )
    model.eval()
    text = model.config.get_text_config(decoder=True)
    longest = getattr(text, "max_position_embeddings", None) or DEFAULT_LENGTH
    plain = is_plain(model, text)
    vocabulary = getattr(text, "vocab_size", None) or len(tokenizer)
    return Loaded(
        model=model,
        tokenizer=tokenizer,
        length=min(longest, options.max_model_len or longest),
        most=options.max_num_seqs if plain else 1,
        budget=cache_tokens(model, text),
        cache=DynamicCache if plain else lambda: DynamicCache(config=model.config),
        ends=end_tokens(model, tokenizer),
        defaults=generation_defaults(model),
        vocabulary=vocabulary,
        grammars=xgrammar.GrammarCompiler(
            xgrammar.TokenizerInfo.from_huggingface(tokenizer, vocab_size=vocabulary), max_threads=2
        ),
    )


def number_format(options: Options) -> Any:
    """What the model computes in: as asked for, else its own; on a CPU that has no instructions for sixteen bits, 32,
    where there is memory for it (measured: a batch of 16 takes half the time)."""
    if options.dtype != "auto":
        return getattr(torch, options.dtype)
    if options.device != "cpu" or torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return "auto"
    size = sum(file.stat().st_size for file in Path(options.model).glob("*.safetensors"))
    return torch.float32 if 0 < 4 * size < available_bytes() else "auto"


def is_plain(model: Any, text: Any) -> bool:
    """Every layer's memory is keys and values, so that sequences can be computed side by side."""
    kinds = set(getattr(text, "layer_types", None) or ["full_attention"])
    return kinds <= PLAIN_LAYERS and not getattr(model, "_is_stateful", False)


def cache_tokens(model: Any, text: Any) -> int:
    """How many tokens the KV cache may hold; one is 2 (key, value) × layers × heads × head size × a number's bytes."""
    heads = getattr(text, "num_key_value_heads", None) or getattr(text, "num_attention_heads", 1)
    size = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    token = 2 * text.num_hidden_layers * heads * size * model.dtype.itemsize
    on_gpu = model.device.type == "cuda"
    free = int(torch.cuda.mem_get_info()[0] * CACHE_SHARE) if on_gpu else available_bytes() // 4
    # Joining and growing copy the cache once.
    return max(DEFAULT_LENGTH, int(free // (2 * token)))


def end_tokens(model: Any, tokenizer: Any) -> frozenset[int]:
    """The tokens that end an answer."""
    ends = model.generation_config.eos_token_id
    listed = ends if isinstance(ends, list) else [ends]
    return frozenset(one for one in [*listed, tokenizer.eos_token_id] if isinstance(one, int))


def generation_defaults(model: Any) -> dict[str, Any]:
    """The sampling that the model's authors recommend."""
    given: dict[str, Any] = json.loads(model.generation_config.to_json_string(use_diff=True))
    names = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "max_new_tokens")
    return {name: given[name] for name in names if given.get(name) is not None}
