# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Which layers of a model an adapter is put on: every linear layer of the decoder, whatever the architecture calls it.

Left out are the output layer, the parts that see or hear, and the routers of mixtures of experts, whose training an
adapter would upset.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

LEFT_OUT = ("vision", "visual", "audio", "image", "projector", "merger", "router", "embed")
ROUTERS = frozenset({"gate", "router", "shared_expert_gate"})
FUSED = (
    (frozenset({"q_proj", "k_proj", "v_proj"}), ("qkv_proj", "query_key_value", "c_attn", "Wqkv", "W_pack")),
    (frozenset({"gate_proj", "up_proj"}), ("gate_up_proj",)),
)
"""Layers that some architectures (Phi-3 among them) have as one, and what they call it."""


class NoSuchLayer(ValueError):
    """A layer to adapt that the model has not; the text is the name."""


def named(wanted: Sequence[str], layers: Iterable[str]) -> tuple[list[str], str]:
    """The layers of the model that are meant by these ends of names, and what to say of those that are others; raises
    NoSuchLayer for a name that means none, of which PEFT would say nothing as long as another one is there."""
    ends = {name.rpartition(".")[2] for name in layers}
    found: dict[str, None] = {}
    instead: dict[str, str] = {}
    for name in wanted:
        if any(layer == name or layer.endswith(f".{name}") for layer in layers):
            found[name] = None
            continue
        one = next((whole for parts, wholes in FUSED if name in parts for whole in wholes if whole in ends), None)
        if one is None:
            raise NoSuchLayer(name)
        instead[name] = one
        found[one] = None
    said = "; ".join(
        f"{', '.join(name for name, one in instead.items() if one == whole)}: this model has them as {whole}"
        for whole in dict.fromkeys(instead.values())
    )
    return list(found), f"LoraConfig.target_modules names {said}, which is adapted." if said else ""


def derive(layers: Mapping[str, str], output: str | None) -> set[str]:
    """The last parts of the names of the layers to adapt, from the names and classes of all modules."""
    found = {name for name, kind in layers.items() if is_linear(kind) and name != output}
    return {name.rpartition(".")[2] for name in found if not _is_left_out(name)} - ROUTERS


def is_linear(kind: str) -> bool:
    """Whether the class is a linear layer, compressed or not."""
    return kind in ("Linear", "Linear4bit", "Linear8bitLt", "Conv1D")


def _is_left_out(name: str) -> bool:
    parts: Iterable[str] = name.lower().split(".")
    return any(word in part for part in parts for word in LEFT_OUT) or name.endswith("lm_head")
