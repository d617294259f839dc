# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""How vLLM lays out its cache of keys, values and states, and how many tokens fit into so many bytes. Arithmetic
only.

vLLM hands out memory in blocks. Layers that keep the same are put into groups of equal numbers of layers; a block
belongs to one group at a time and has room for the pages of its layers. A request takes blocks of each group: for
every token with full attention, for the window and the tokens under way with a sliding window, and a fixed number
for a state. Where layers keep different amounts, their pages are made equally large, by more tokens to a page or by
padding.

Source: `vllm/v1/core/kv_cache_utils.py` and `kv_cache_interface.py` of vLLM 0.32 (`get_kv_cache_groups`,
`unify_kv_cache_spec_page_size`, `max_memory_usage_bytes`), with its block-outermost packing left out, which only
packs tighter. A test asks vLLM itself for each family of models.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

from kaito.catalog.models import AttentionLayers, Shape, StateLayers

BLOCK_TOKENS: Final = 16
"""Tokens to a block on CUDA, where the kind of attention asks for no more."""
LATENT_BLOCK_TOKENS: Final = 64
"""The same for latent attention, whose kernels work on so many at once."""
STATE_BLOCKS: Final = 2
"""Blocks of a request in a group of states: with prefix caching, the last state and the one being written."""
CHECKPOINT_BLOCKS: Final = 1
"""A further one for states whose kernels save one in the middle of a prompt (Mamba 2)."""
LONE_STATE_BLOCKS: Final = 1
"""The same where nothing but states is kept: there is nothing to share then."""
UNEVEN: Final = 1.5
"""Kinds of layers whose numbers differ by less than this factor make groups of the larger one, else of the
smaller."""


@dataclass(frozen=True, slots=True)
class Group:
    """Layers that share block numbers."""

    kind: Literal["full", "sliding", "chunked", "state"]
    layers: int
    page_bytes: int
    """What one layer keeps of a block."""
    block_tokens: int
    window: int = 0
    state_blocks: int = 0

    def blocks(self, tokens: int, in_flight: int) -> int:
        """How many blocks a request of so many tokens holds at most."""
        match self.kind:
            case "full":
                return math.ceil(tokens / self.block_tokens)
            case "sliding":
                return math.ceil(min(self.window - 1 + in_flight, tokens) / self.block_tokens) + 1
            case "chunked":
                return math.ceil(min(self.window + in_flight, tokens) / self.block_tokens)
            case "state":
                return self.state_blocks


@dataclass(frozen=True, slots=True)
class Cache:
    """The layout of one GPU's cache."""

    groups: tuple[Group, ...]
    block_bytes: int
    """Of one block, in all layers of a group."""
    in_flight: int
    """Tokens that may be under way at once, which windows hold beside their own."""

    def blocks(self, available_bytes: int) -> int:
        """How many blocks so much memory makes."""
        return available_bytes // self.block_bytes if self.block_bytes else 0

    def bytes_for(self, tokens: int) -> int:
        """What one request of so many tokens takes."""
        return self.block_bytes * sum(group.blocks(tokens, self.in_flight) for group in self.groups)

    def concurrency(self, available_bytes: int, tokens: int) -> float:
        """How many requests of so many tokens fit at once."""
        each = sum(group.blocks(tokens, self.in_flight) for group in self.groups)
        return self.blocks(available_bytes) / each if each else math.inf

    def longest(self, available_bytes: int, limit: int) -> int:
        """The longest request that fits, up to a limit; 0 when nothing does. One block is always held back."""
        usable = available_bytes - self.block_bytes
        if self.bytes_for(limit) <= usable:
            return limit
        low, high = 0, limit
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self.bytes_for(middle) <= usable else (low, middle)
        return low


@dataclass(frozen=True, slots=True)
class _Kind:
    """All layers that keep the same."""

    kind: Literal["full", "sliding", "chunked", "state"]
    count: int
    page_bytes: int
    block_tokens: int
    window: int = 0
    state_blocks: int = 0


def cache_of(
    shape: Shape,
    *,
    tensor: int = 1,
    pipeline: int = 1,
    element_bytes: float = 2,
    model_bytes: int = 2,
    block_tokens: int | None = None,
    in_flight: int = 2048,
) -> Cache:
    """The cache's layout on each GPU of a model that is spread over `tensor` × `pipeline` of them.

    `element_bytes` is the size of a cached key's or value's element, `model_bytes` that of the model's own number
    format, which states are kept in; `block_tokens` overrides the block size of the device.
    """
    latent = any(layers.latent for layers in shape.attending)
    least = block_tokens or (LATENT_BLOCK_TOKENS if latent else BLOCK_TOKENS)
    states = [_state_page(layers, tensor, model_bytes) for layers in shape.state_layers]
    tokens = _aligned(least, max(states, default=0), shape.attending, tensor, element_bytes)
    kinds = [_attention_kind(layers, tokens, tensor, element_bytes) for layers in shape.attending]
    if kinds and len({kind.kind for kind in kinds}) == 1 and not states and len({kind.window for kind in kinds}) == 1:
        groups = [_merged(kinds)]
    else:
        kinds += [
            _Kind("state", layers.count, page, 0, state_blocks=_state_blocks(layers, alone=not kinds))
            for layers, page in zip(shape.state_layers, states, strict=True)
        ]
        groups = _grouped(_same_pages(kinds))
    each = [replace(group, layers=math.ceil(group.layers / pipeline)) for group in groups]
    return Cache(tuple(each), max((group.layers * group.page_bytes for group in each), default=0), in_flight)


def _token_bytes(layers: AttentionLayers, tensor: int, element_bytes: float) -> int:
    """What one layer keeps of one token on each GPU."""
    if layers.latent:
        return math.ceil(layers.head_dim * element_bytes)
    heads = max(1, math.ceil(layers.kv_heads / tensor))
    return math.ceil(2 * heads * layers.head_dim * element_bytes)


def _state_page(layers: StateLayers, tensor: int, model_bytes: int) -> int:
    groups = layers.groups if layers.groups % tensor == 0 else max(layers.groups, tensor)
    convolved = math.ceil((layers.convolved + groups * layers.group_channels) / tensor) * layers.memory
    return convolved * model_bytes + math.ceil(layers.state / tensor) * (layers.state_bytes or model_bytes)


def _state_blocks(layers: StateLayers, *, alone: bool) -> int:
    if alone:
        return LONE_STATE_BLOCKS
    return STATE_BLOCKS + (CHECKPOINT_BLOCKS if layers.groups else 0)


def _aligned(
    least: int, state_page: int, attending: Sequence[AttentionLayers], tensor: int, element_bytes: float
) -> int:
    """The block size: with states, the least multiple whose page holds one."""
    if not state_page or not attending:
        return least
    token = _token_bytes(attending[0], tensor, element_bytes)
    return least * max(1, math.ceil(state_page / (least * token)))


def _attention_kind(layers: AttentionLayers, tokens: int, tensor: int, element_bytes: float) -> _Kind:
    page = tokens * (_token_bytes(layers, tensor, element_bytes) + layers.index_bytes)
    if layers.window is None:
        return _Kind("full", layers.count, page, tokens)
    return _Kind("chunked" if layers.chunked else "sliding", layers.count, page, tokens, layers.window)


def _merged(kinds: Sequence[_Kind]) -> Group:
    """One group of layers that need the same number of tokens, whatever they keep of each."""
    total = sum(kind.count * kind.page_bytes for kind in kinds)
    count = sum(kind.count for kind in kinds)
    return Group(kinds[0].kind, count, math.ceil(total / count), kinds[0].block_tokens, kinds[0].window)


def _same_pages(kinds: Sequence[_Kind]) -> list[_Kind]:
    """The kinds with pages of one size: more tokens to a page where that comes out even, else padding."""
    largest = max((kind.page_bytes for kind in kinds), default=0)
    return [_enlarged(kind, largest) for kind in kinds]


def _enlarged(kind: _Kind, page: int) -> _Kind:
    if kind.kind != "state" and page % kind.page_bytes == 0:
        return replace(kind, page_bytes=page, block_tokens=kind.block_tokens * (page // kind.page_bytes))
    return replace(kind, page_bytes=page)


def _grouped(kinds: Sequence[_Kind]) -> list[Group]:
    """Groups of equally many layers, those of the scarcest kind; the last of a kind may be partly empty."""
    counts = [kind.count for kind in kinds]
    fewest, most = min(counts, default=0), max(counts, default=0)
    size = most if most < fewest * UNEVEN else fewest
    return [
        Group(kind.kind, size, kind.page_bytes, kind.block_tokens, kind.window, kind.state_blocks)
        for kind in kinds
        for _ in range(math.ceil(kind.count / size))
    ]
