# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Which layers of a model an adapter is put on: every linear layer of the decoder, whatever the architecture calls it.

Left out are the output layer, the parts that see or hear, and the routers of mixtures of experts, whose training an
adapter would upset.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

LEFT_OUT = ("vision", "visual", "audio", "image", "projector", "merger", "router", "embed")
ROUTERS = frozenset({"gate", "router", "shared_expert_gate"})


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
