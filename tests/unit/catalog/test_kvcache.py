# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""The KV cache of well-known models, worked out by hand."""

from __future__ import annotations

import pytest

from kaito.catalog.kvcache import BLOCK_TOKENS, Cache, cache_of
from kaito.catalog.models import AttentionLayers, Shape, StateLayers, catalogue
from kaito.catalog.sizing import kv_bytes_per_token

GIB = 1024**3
LLAMA_70B = Shape(layers=80, hidden_size=8192, heads=64, kv_heads=8)
DEEPSEEK_R1 = Shape(layers=61, hidden_size=7168, heads=128, kv_heads=128, kv_lora_rank=512, qk_rope_head_dim=64)
QWEN3_235B = Shape(layers=94, hidden_size=4096, heads=64, kv_heads=4, head_dim=128)
GPT_OSS_120B = Shape(
    layers=36,
    hidden_size=2880,
    heads=64,
    kv_heads=8,
    head_dim=64,
    attention_layers=(
        AttentionLayers(count=18, kv_heads=8, head_dim=64),
        AttentionLayers(count=18, kv_heads=8, head_dim=64, window=128),
    ),
)


def per_token(cache: Cache) -> float:
    return cache.block_bytes / BLOCK_TOKENS


@pytest.mark.parametrize(
    ("shape", "tensor", "element_bytes", "bytes_per_token"),
    [
        (LLAMA_70B, 1, 2, 327_680),  # 80 layers x 8 heads x 128 x (key + value) x 2 bytes
        (LLAMA_70B, 4, 2, 81_920),  # two heads each
        (LLAMA_70B, 8, 2, 40_960),  # one head each
        (LLAMA_70B, 16, 2, 40_960),  # and the same on two GPUs each
        (LLAMA_70B, 1, 1, 163_840),  # in 8 bits
        (QWEN3_235B, 4, 2, 48_128),  # 94 x 1 x 128 x 2 x 2
        (QWEN3_235B, 8, 2, 48_128),  # four heads cannot be split in eight
    ],
)
def test_dense_attention_takes_a_key_and_a_value_of_each_head(
    shape: Shape, tensor: int, element_bytes: float, bytes_per_token: int
) -> None:
    assert per_token(cache_of(shape, tensor=tensor, element_bytes=element_bytes)) == bytes_per_token


@pytest.mark.parametrize("tensor", [1, 8, 16])
def test_latent_attention_is_whole_on_every_gpu(tensor: int) -> None:
    cache = cache_of(DEEPSEEK_R1, tensor=tensor)
    assert cache.block_bytes == 61 * 576 * 2 * 64  # 61 layers x (512 + 64) x 2 bytes, 64 tokens to a block
    assert cache.bytes_for(64) == cache.block_bytes
    assert cache.bytes_for(65) == 2 * cache.block_bytes


def test_pipeline_stages_have_their_layers_only() -> None:
    assert per_token(cache_of(LLAMA_70B, tensor=8, pipeline=2)) == 20_480
    assert cache_of(DEEPSEEK_R1, tensor=8, pipeline=2).block_bytes == 31 * 576 * 2 * 64  # 31 of 61 layers


def test_windows_hold_their_own_tokens_and_those_under_way() -> None:
    cache = cache_of(GPT_OSS_120B, in_flight=2048)
    assert cache.block_bytes == 18 * 8 * 64 * 2 * 2 * 16
    full, window = cache.groups
    assert (full.blocks(131_072, 2048), window.blocks(131_072, 2048)) == (8192, 137)  # ceil((127 + 2048) / 16) + 1
    assert cache.bytes_for(131_072) == (8192 + 137) * cache.block_bytes
    assert window.blocks(16, 2048) == 2


def test_states_take_a_fixed_number_of_blocks_and_make_blocks_large() -> None:
    # Qwen3-Next 80B: 12 layers of attention with 2 heads of 256, 36 gated delta nets
    shape = Shape(
        layers=48,
        hidden_size=2048,
        heads=16,
        kv_heads=2,
        head_dim=256,
        attention_layers=(AttentionLayers(count=12, kv_heads=2, head_dim=256),),
        state_layers=(StateLayers(count=36, convolved=8192, memory=3, state=32 * 128 * 128),),
    )
    cache = cache_of(shape)
    state = 8192 * 3 * 2 + 32 * 128 * 128 * 2
    attention, *states = cache.groups
    # 2048 bytes a token: 536 tokens hold a state of 1,097,728 bytes, 544 are the next multiple of 16
    assert (state, attention.block_tokens) == (1_097_728, 544)
    assert [group.layers for group in cache.groups] == [12, 12, 12, 12]
    assert cache.bytes_for(544) == cache.block_bytes * (1 + 3 * 2)
    assert {group.blocks(1_000_000, 2048) for group in states} == {2}


def test_the_longest_request_leaves_one_block_alone() -> None:
    cache = cache_of(LLAMA_70B, tensor=8)
    room = 100 * cache.block_bytes
    assert cache.longest(room, 131_072) == 99 * 16
    assert cache.longest(room, 1000) == 1000
    assert cache.longest(cache.block_bytes, 1000) == 0
    assert cache.longest(0, 1000) == 0
    assert cache.concurrency(room, 160) == 10


def test_a_preset_whose_layers_are_alike_takes_what_kaito_reckons_a_token_takes() -> None:
    alike = [model.shape for model in catalogue().models if model.shape and not model.shape.attention_layers]
    assert len(alike) > 20
    for shape in alike:
        assert cache_of(shape).bytes_for(131_072) == 131_072 * kv_bytes_per_token(shape)
