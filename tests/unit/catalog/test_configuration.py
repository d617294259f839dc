# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Configurations of published models, read into facts."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kaito.catalog.configuration import UnreadableConfig, facts_of, quantization, shape_of, token_limit
from kaito.catalog.fit import Demand, fit
from kaito.catalog.gpus import Gpus
from kaito.catalog.models import AttentionLayers, StateLayers

LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 8192,
    "num_hidden_layers": 80,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "max_position_embeddings": 131072,
    "vocab_size": 128256,
    "tie_word_embeddings": False,
}
GPT_OSS = {
    "architectures": ["GptOssForCausalLM"],
    "model_type": "gpt_oss",
    "hidden_size": 2880,
    "num_hidden_layers": 36,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "sliding_window": 128,
    "layer_types": ["sliding_attention", "full_attention"] * 18,
    "max_position_embeddings": 131072,
    "quantization_config": {"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head"]},
}
DEEPSEEK_V32 = {
    "architectures": ["DeepseekV32ForCausalLM"],
    "model_type": "deepseek_v32",
    "hidden_size": 7168,
    "num_hidden_layers": 61,
    "num_attention_heads": 128,
    "num_key_value_heads": 128,
    "kv_lora_rank": 512,
    "qk_rope_head_dim": 64,
    "index_head_dim": 128,
    "max_position_embeddings": 163840,
    "quantization_config": {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [128, 128]},
}


def test_a_plain_transformer() -> None:
    facts = facts_of("meta-llama/Llama-3.3-70B-Instruct", LLAMA, weights_bytes=141_107_412_992, revision="6f6073b")
    assert facts.shape is not None
    assert (facts.weights_gib, facts.architecture, facts.token_limit) == (131.42, "LlamaForCausalLM", 131072)
    assert (facts.shape.attention, facts.shape.head_size, facts.shape.vocab_size) == ("GQA", 128, 128256)
    assert (facts.shape.attention_layers, facts.shape.head_dim) == ((), None)
    assert facts.revision == "6f6073b"


def test_windows_and_full_attention_are_counted_apart() -> None:
    shape = shape_of(GPT_OSS)
    assert shape.attention_layers == (
        AttentionLayers(count=18, kv_heads=8, head_dim=64),
        AttentionLayers(count=18, kv_heads=8, head_dim=64, window=128),
    )
    assert quantization(GPT_OSS) == ("mxfp4", None)


def test_a_sparse_attentions_index_is_kept_beside_the_latent() -> None:
    (layers,) = shape_of(DEEPSEEK_V32).attention_layers
    assert (layers.count, layers.latent, layers.head_dim, layers.index_bytes) == (61, True, 576, 132)


def test_a_language_model_inside_a_model_that_sees() -> None:
    gemma = {
        "architectures": ["Gemma3ForConditionalGeneration"],
        "model_type": "gemma3",
        "text_config": {
            "model_type": "gemma3_text",
            "hidden_size": 5376,
            "num_hidden_layers": 62,
            "num_attention_heads": 32,
            "num_key_value_heads": 16,
            "head_dim": 128,
            "sliding_window": 1024,
        },
        "vision_config": {"hidden_size": 1152, "num_hidden_layers": 27},
    }
    facts = facts_of("google/gemma-3-27b-it", gemma)
    assert facts.shape is not None
    assert facts.architecture == "Gemma3ForConditionalGeneration"
    assert [(one.count, one.window) for one in facts.shape.attention_layers] == [(10, None), (52, 1024)]


def test_letters_of_a_hybrid_pattern() -> None:
    nemotron = {
        "model_type": "nemotron_h",
        "hidden_size": 2688,
        "num_hidden_layers": 52,
        "num_attention_heads": 32,
        "num_key_value_heads": 2,
        "head_dim": 128,
        "hybrid_override_pattern": "MEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEMEM*EMEMEMEME",
        "mamba_num_heads": 64,
        "mamba_head_dim": 64,
        "ssm_state_size": 128,
        "n_groups": 8,
        "conv_kernel": 4,
    }
    shape = shape_of(nemotron)
    assert shape.attention_layers == (AttentionLayers(count=6, kv_heads=2, head_dim=128),)
    assert shape.state_layers == (
        StateLayers(
            count=23, convolved=4096, memory=3, state=64 * 64 * 128, state_bytes=4, groups=8, group_channels=256
        ),
    )


def test_gated_delta_nets_every_fourth_layer_attending() -> None:
    qwen = {
        "model_type": "qwen3_5",
        "text_config": {
            "model_type": "qwen3_5_text",
            "hidden_size": 4096,
            "num_hidden_layers": 32,
            "num_attention_heads": 16,
            "num_key_value_heads": 4,
            "head_dim": 256,
            "linear_num_key_heads": 16,
            "linear_num_value_heads": 32,
            "linear_key_head_dim": 128,
            "linear_value_head_dim": 128,
            "linear_conv_kernel_dim": 4,
        },
    }
    facts = facts_of("Qwen/Qwen3.5-9B", qwen)
    assert facts.shape is not None
    assert facts.shape.attention_layers == (AttentionLayers(count=8, kv_heads=4, head_dim=256),)
    assert facts.shape.state_layers == (StateLayers(count=24, convolved=8192, memory=3, state=32 * 128 * 128),)


@pytest.mark.parametrize(
    ("config", "kv_heads"),
    [
        ({"model_type": "falcon", "multi_query": True}, 1),
        ({"model_type": "falcon", "multi_query": True, "new_decoder_architecture": True, "num_kv_heads": 8}, 8),
        ({"model_type": "gpt_bigcode", "multi_query": True}, 1),
        ({"model_type": "chatglm", "multi_query_attention": True, "multi_query_group_num": 2}, 2),
        ({"model_type": "llama"}, 64),
    ],
)
def test_key_heads_in_the_words_of_each_family(config: dict[str, Any], kv_heads: int) -> None:
    assert shape_of({"hidden_size": 4096, "n_layer": 32, "n_head": 64, **config}).kv_heads == kv_heads


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({"quant_method": "awq", "bits": 4, "group_size": 128}, ("awq", 4)),
        ({"quant_method": "gptq", "bits": 8}, ("gptq", 8)),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}, ("nf4", 4)),
        ({"quant_method": "compressed-tensors", "format": "float-quantized"}, ("float-quantized", None)),
        ({"quant_algo": "NVFP4"}, ("NVFP4", None)),
        ({}, (None, None)),
        ("yes", (None, None)),
    ],
)
def test_how_weights_are_stored(said: object, expected: tuple[str | None, int | None]) -> None:
    assert quantization({"quantization_config": said}) == expected


@pytest.mark.parametrize(
    ("config", "limit"),
    [
        ({"max_position_embeddings": 4096}, 4096),
        ({"n_positions": 1024}, 1024),
        ({"max_position_embeddings": None, "seq_length": 32768}, 32768),
        ({"text_config": {"hidden_size": 64, "max_position_embeddings": 8192}}, 8192),
        ({}, 2048),
    ],
)
def test_the_longest_context(config: dict[str, Any], limit: int) -> None:
    assert token_limit(config) == limit


@pytest.mark.parametrize(
    ("config", "missing"), [({"n_layer": 2}, "hidden_size"), ({"hidden_size": 64}, "num_hidden_layers"), ({}, "hidden")]
)
def test_a_configuration_that_says_too_little_is_refused(config: dict[str, Any], missing: str) -> None:
    with pytest.raises(UnreadableConfig, match=missing):
        facts_of("a/b", config)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
KEYS = st.sampled_from(
    [
        "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim", "kv_lora_rank",
        "layer_types", "layers_block_type", "hybrid_override_pattern", "model_type", "sliding_window", "architectures",
        "text_config", "quantization_config", "attn_layer_indices", "no_rope_layers", "attention_chunk_size",
        "mamba_num_heads", "mamba_d_state", "linear_num_value_heads", "num_kv_shared_layers", "index_head_dim",
        "max_position_embeddings", "vocab_size", "sliding_window_pattern", "attn_layer_period",
    ]
)  # fmt: skip
FAMILIES = st.sampled_from(["llama", "jamba", "bamba", "mamba2", "qwen3_5", "llama4", "gemma3", "falcon", "falcon_h1"])


@given(st.dictionaries(KEYS, JSON | FAMILIES | st.integers(1, 200), max_size=12))
def test_whatever_a_repository_says_is_read_or_refused(config: dict[str, Any]) -> None:
    """Anybody may write a configuration: none may crash what reads it, nor what is reckoned from it."""
    try:
        facts = facts_of("a/b", config, weights_bytes=1024**3)
    except UnreadableConfig:
        return
    assert facts.shape is not None
    assert fit(facts, Gpus(count=2, memory_gib=160, product="NVIDIA A100"), Demand()).max_context >= 0


def test_a_number_of_layers_that_is_meant_to_hurt_is_refused() -> None:
    with pytest.raises(UnreadableConfig, match="says 1000000000 layers"):
        facts_of("a/b", {"hidden_size": 64, "num_hidden_layers": 10**9, "model_type": "mamba"})
