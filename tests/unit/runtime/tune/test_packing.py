# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Which models keep examples apart that share a row."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
leaks = pytest.importorskip("kaito.runtime.tune.packing").leaks

SMALL: dict[str, Any] = {
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
    "pad_token_id": 0,
}  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "attention", "expected"),
    [("Phi3Config", "sdpa", False), ("LlamaConfig", "eager", False), ("BloomConfig", "eager", True)],
)
def test_a_model_that_cannot_tell_where_an_example_ends_leaks(kind: str, attention: str, expected: bool) -> None:
    torch.manual_seed(0)
    config = getattr(transformers, kind)(**SMALL, initializer_range=0.5)
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation=attention)
    model.train()
    assert leaks(model) == expected
    assert model.training


def test_a_model_that_looks_at_the_whole_row_leaks() -> None:
    class Blind(transformers.LlamaForCausalLM):  # type: ignore[misc,name-defined]
        """Takes positions, and heeds them for its rotations alone."""

        def forward(self, input_ids: Any, position_ids: Any, **more: Any) -> Any:
            mask = torch.ones_like(input_ids)
            return super().forward(input_ids=input_ids, attention_mask=mask, position_ids=position_ids, **more)

    torch.manual_seed(0)
    assert leaks(Blind(transformers.LlamaConfig(**SMALL, initializer_range=0.5)))
