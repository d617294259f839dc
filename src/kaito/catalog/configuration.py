# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""From a model's own `config.json` to its facts: the spellings of many families, read into one shape.

A repository says what it holds in the words of its family: `n_embd` or `hidden_size`, a list of layer types or a
pattern of letters, the language model at the top or in `text_config`. Here is the one place that knows them. A kind
of layer that is not known counts as full attention, which takes the most memory: what is promised is then less than
what there is, never more. Pure: fetching is `kaito.catalog.hub`'s.

Sources: the configuration classes of Hugging Face transformers 5 and the layers of vLLM 0.32, by which a test
checks the result.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, Final, Literal

from pydantic import ValidationError

from kaito.catalog.models import AttentionLayers, ModelFacts, Shape, StateLayers

Config = Mapping[str, Any]

DEFAULT_TOKEN_LIMIT: Final = 2048
MOST_LAYERS: Final = 10_000
"""More than any model has; a larger number is a mistake, or meant to hurt."""
NESTED: Final = ("text_config", "llm_config", "language_config", "language_model", "thinker_config")
"""Where configurations of models that also see or hear keep that of their language model."""
TOKEN_LIMITS: Final = (
    "max_position_embeddings",
    "n_positions",
    "n_ctx",
    "seq_length",
    "max_seq_len",
    "max_sequence_length",
    "model_max_length",
)
SLIDING: Final = frozenset({"sliding_attention", "sliding", "local", "sliding_window"})
CHUNKED: Final = frozenset({"chunked_attention"})
STATES: Final = frozenset({"linear_attention", "mamba", "mamba2", "conv", "M", "recurrent"})
EMPTY: Final = frozenset({"mlp", "moe", "-", "E", "none"})
"""Layers of a pattern that keep nothing."""
FLOAT_BYTES: Final = {"float32": 4, "float16": 2, "bfloat16": 2}
INDEX_SCALE_BYTES: Final = 4
"""DeepSeek V3.2's index keeps a byte for each of its dimensions and a 32-bit scale for every 128 of them."""


class UnreadableConfig(ValueError):
    """A configuration that says too little to size the model; the text names what is missing."""


def facts_of(
    id_: str,
    config: Config,
    *,
    weights_bytes: int | None = None,
    revision: str | None = None,
    format_: Literal["hf", "mistral"] = "hf",
    license_: str | None = None,
    pipeline: str | None = None,
    gated: bool = False,
) -> ModelFacts:
    """The facts of a model that is not in the catalogue. Raises UnreadableConfig where the layers or the hidden
    size are not said."""
    try:
        shape, limit = shape_of(language_part(config)), token_limit(config)
        method, bits = quantization(config)
        architecture = _architecture(config)
    except (TypeError, LookupError, ArithmeticError, RecursionError, ValidationError) as error:
        raise UnreadableConfig(f"the configuration makes no sense: {type(error).__name__}") from error
    return ModelFacts(
        id=id_,
        license=license_,
        pipeline=pipeline,
        weights_gib=None if weights_bytes is None else round(weights_bytes / 1024**3, 2),
        architecture=architecture,
        token_limit=limit,
        shape=shape,
        quantization=method,
        quantization_bits=bits,
        format=format_,
        revision=revision,
        gated=gated,
        reviewed=False,
    )


def language_part(config: Config) -> Config:
    """The configuration of the language model, with what only the outer one says."""
    for key in NESTED:
        inner = config.get(key)
        if isinstance(inner, Mapping) and (
            _first(inner, "hidden_size", "n_embd", "d_model") or key == "thinker_config"
        ):
            merged = {**{name: value for name, value in config.items() if name not in NESTED}, **inner}
            return language_part(merged) if any(isinstance(inner.get(name), Mapping) for name in NESTED) else merged
    return config


def token_limit(config: Config) -> int:
    """The longest context that the model was made for."""
    text = language_part(config)
    limits = (text.get(key) for key in TOKEN_LIMITS)
    return next((int(limit) for limit in limits if isinstance(limit, int | float) and limit > 0), DEFAULT_TOKEN_LIMIT)


def quantization(config: Config) -> tuple[str | None, int | None]:
    """How the weights are stored if not in 16 bits, and in how many bits, where that is said."""
    said = config.get("quantization_config") or language_part(config).get("quantization_config") or {}
    if not isinstance(said, Mapping):
        return None, None
    method = _first(said, "quant_method", "quant_algo", "format")
    if method == "compressed-tensors" and said.get("format"):
        method = said["format"]
    bits = said.get("bits") or said.get("w_bit")
    if said.get("load_in_4bit"):
        return "nf4" if said.get("bnb_4bit_quant_type") == "nf4" else "bitsandbytes", 4
    return (str(method) if method else None), (int(bits) if isinstance(bits, int) else None)


def shape_of(config: Config) -> Shape:
    """The shape that a language model's configuration describes. Raises UnreadableConfig."""
    hidden = _whole(config, "hidden_size", "n_embd", "d_model", "dim")
    kinds = layer_kinds(config)
    layers = len(kinds) or _layer_count(config)
    if not hidden or not layers:
        missing = "hidden_size" if not hidden else "num_hidden_layers"
        raise UnreadableConfig(f"the configuration does not say {missing}")
    heads = _whole(config, "num_attention_heads", "n_head", "n_heads") or 1
    kv_heads = _kv_heads(config, heads)
    head_dim = _whole(config, "head_dim", "attention_head_dim") or None
    latent = _whole(config, "kv_lora_rank") or None
    return Shape(
        layers=layers,
        hidden_size=hidden,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim if head_dim != hidden // heads else None,
        kv_lora_rank=latent,
        qk_rope_head_dim=_whole(config, "qk_rope_head_dim") or None if latent else None,
        attention_layers=_attention_layers(config, kinds, kv_heads, head_dim or hidden // heads),
        state_layers=_state_layers(config, kinds, hidden),
        vocab_size=_whole(config, "vocab_size") or None,
        tied_embeddings=bool(config.get("tie_word_embeddings", False)),
        experts_per_token=_whole(config, "num_experts_per_tok", "num_experts_per_token", "moe_topk") or None,
    )


def layer_kinds(config: Config) -> tuple[str, ...]:
    """What each layer is, in transformers' words; empty where the configuration has no such list and all are
    alike."""
    for key in ("layer_types", "layers_block_type"):
        said = config.get(key)
        if isinstance(said, list | tuple) and said:
            return tuple(str(kind) for kind in said)
    pattern = config.get("hybrid_override_pattern")
    if isinstance(pattern, str) and pattern:
        return tuple(pattern)
    return _by_family(config, _layer_count(config))


def _by_family(config: Config, count: int) -> tuple[str, ...]:
    """The layers of families that say a period instead of a list."""
    family = str(config.get("model_type", ""))
    if family in ("mamba", "mamba2", "falcon_mamba"):
        return ("mamba",) * count
    if family == "jamba":
        period, offset = _whole(config, "attn_layer_period") or 8, _whole(config, "attn_layer_offset")
        return _where(count, "attention", "mamba", lambda index: index % period == offset)
    if family == "bamba":
        attending = set(config.get("attn_layer_indices") or ())
        return _where(count, "attention", "mamba", lambda index: index in attending)
    if family == "falcon_h1":
        return ("hybrid",) * count
    if family.startswith(("qwen3_next", "qwen3_5")):
        interval = _whole(config, "full_attention_interval") or 4
        return _where(count, "full_attention", "linear_attention", lambda index: (index + 1) % interval == 0)
    if family.startswith("llama4") and config.get("attention_chunk_size"):
        ropes = config.get("no_rope_layers") or [(index + 1) % 4 for index in range(count)]
        return _where(count, "full_attention", "chunked_attention", lambda index: not ropes[index])
    if config.get("sliding_window") and _slides(config, family):
        period = _sliding_period(config, family)
        return _where(
            count, "full_attention", "sliding_attention", lambda index: bool(period and (index + 1) % period == 0)
        )
    return ()


def _where(count: int, if_so: str, else_: str, is_so: Callable[[int], bool]) -> tuple[str, ...]:
    return tuple(if_so if is_so(index) else else_ for index in range(count))


def _slides(config: Config, family: str) -> bool:
    return not (family.startswith("qwen2") and not config.get("use_sliding_window"))


def _sliding_period(config: Config, family: str) -> int:
    """Every how manieth layer attends to all; 0 for none of them."""
    said = _whole(config, "sliding_window_pattern", "_sliding_window_pattern")
    if said:
        return said
    return {"gemma2": 2, "gemma3": 6, "gemma3_text": 6, "cohere2": 4, "gpt_oss": 2, "gemma4": 6, "gemma4_text": 6}.get(
        family, 0
    )


def _kv_heads(config: Config, heads: int) -> int:
    family = str(config.get("model_type", ""))
    if family in ("falcon", "RefinedWeb", "RefinedWebModel"):
        if config.get("new_decoder_architecture"):
            return _whole(config, "num_kv_heads", "n_head_kv") or heads
        return 1 if config.get("multi_query") else heads
    said = _whole(config, "num_key_value_heads", "n_head_kv", "n_kv_heads", "num_kv_heads", "multi_query_group_num")
    return said or (1 if config.get("multi_query") else heads)


def _attention_layers(
    config: Config, kinds: tuple[str, ...], kv_heads: int, head_dim: int
) -> tuple[AttentionLayers, ...]:
    """The layers with a cache by kind; empty where all layers are alike and keep everything."""
    index = _whole(config, "index_head_dim")
    index_bytes = index + (index + 127) // 128 * INDEX_SCALE_BYTES if index else 0
    rank = _whole(config, "kv_lora_rank")
    if not kinds and not index_bytes:
        return ()
    kept = kinds[: len(kinds) - _whole(config, "num_kv_shared_layers")] if kinds else ("full_attention",)
    counts = Counter(_keeps(kind) for kind in kept)
    if not kinds:
        counts = Counter({"full": _layer_count(config)})
    found = []
    for kind, count in sorted(counts.items()):
        if kind == "nothing" or not count:
            continue
        width = rank + _whole(config, "qk_rope_head_dim") if rank else head_dim
        heads = 1 if rank else kv_heads
        if kind == "full" and not rank:
            width = _whole(config, "global_head_dim") or width
            if config.get("attention_k_eq_v"):
                heads = _whole(config, "num_global_key_value_heads") or heads
        found.append(
            AttentionLayers(
                count=count,
                kv_heads=heads,
                head_dim=width,
                window=_window(config, kind),
                chunked=kind == "chunked",
                latent=bool(rank),
                index_bytes=index_bytes,
            )
        )
    return tuple(found)


def _keeps(kind: str) -> Literal["full", "sliding", "chunked", "nothing"]:
    if kind in SLIDING:
        return "sliding"
    if kind in CHUNKED:
        return "chunked"
    return "nothing" if kind in STATES or kind in EMPTY else "full"


def _window(config: Config, kind: str) -> int | None:
    if kind == "sliding":
        return _whole(config, "sliding_window", "sliding_window_size") or None
    return _whole(config, "attention_chunk_size") or None if kind == "chunked" else None


def _state_layers(config: Config, kinds: tuple[str, ...], hidden: int) -> tuple[StateLayers, ...]:
    """The layers with a state of fixed size."""
    count = sum(1 for kind in kinds if kind in STATES or kind == "hybrid")
    if not count:
        return ()
    if "conv" in kinds:
        width = _whole(config, "conv_dim") or hidden
        return (StateLayers(count=count, convolved=width, memory=(_whole(config, "conv_L_cache") or 3) - 1),)
    if _whole(config, "linear_num_value_heads"):
        return (_delta_net(config, count),)
    if _whole(config, "mamba_num_heads", "mamba_n_heads") or config.get("model_type") == "mamba2":
        return (_mamba2(config, count, hidden),)
    inner = _whole(config, "intermediate_size") if config.get("model_type") in ("mamba", "falcon_mamba") else 0
    inner = inner or (_whole(config, "mamba_expand", "expand") or 2) * hidden
    kernel = _whole(config, "mamba_d_conv", "conv_kernel") or 4
    return (
        StateLayers(
            count=count,
            convolved=inner,
            memory=kernel - 1,
            state=inner * (_whole(config, "mamba_d_state", "state_size") or 16),
        ),
    )


def _delta_net(config: Config, count: int) -> StateLayers:
    keys = _whole(config, "linear_num_key_heads") * _whole(config, "linear_key_head_dim")
    heads, width = _whole(config, "linear_num_value_heads"), _whole(config, "linear_value_head_dim")
    return StateLayers(
        count=count,
        convolved=2 * keys + heads * width,
        memory=(_whole(config, "linear_conv_kernel_dim") or 4) - 1,
        state=heads * width * _whole(config, "linear_key_head_dim"),
        state_bytes=_state_bytes(config),
    )


def _mamba2(config: Config, count: int, hidden: int) -> StateLayers:
    heads = _whole(config, "mamba_num_heads", "mamba_n_heads", "num_heads")
    width = _whole(config, "mamba_head_dim", "mamba_d_head")
    if not width:
        expanded = (_whole(config, "mamba_expand", "expand") or 2) * hidden // heads
        width = (_whole(config, "head_dim") if config.get("model_type") == "mamba2" else 0) or expanded
    size = _whole(config, "ssm_state_size", "mamba_d_state", "state_size") or 128
    return StateLayers(
        count=count,
        convolved=_whole(config, "mamba_d_ssm") or heads * width,
        memory=(_whole(config, "conv_kernel", "mamba_d_conv") or 4) - 1,
        state=heads * width * size,
        state_bytes=_state_bytes(config) or (4 if config.get("model_type") == "nemotron_h" else None),
        groups=_whole(config, "n_groups", "mamba_n_groups") or 1,
        group_channels=2 * size,
    )


def _state_bytes(config: Config) -> int | None:
    return FLOAT_BYTES.get(str(config.get("mamba_ssm_cache_dtype") or config.get("mamba_ssm_dtype")))


def _architecture(config: Config) -> str | None:
    said = config.get("architectures") or language_part(config).get("architectures")
    return str(said[0]) if isinstance(said, list | tuple) and said else None


def _layer_count(config: Config) -> int:
    count = _whole(config, "num_hidden_layers", "n_layer", "n_layers", "num_layers")
    if count > MOST_LAYERS:
        raise UnreadableConfig(f"the configuration says {count} layers")
    return count


def _first(config: Config, *keys: str) -> Any:
    return next((config[key] for key in keys if config.get(key) is not None), None)


def _whole(config: Config, *keys: str) -> int:
    """The first of the keys that is a whole number above 0; 0 where none is."""
    values = (config.get(key) for key in keys)
    return next((one for one in values if isinstance(one, int) and not isinstance(one, bool) and one > 0), 0)
