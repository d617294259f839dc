# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Adapters are checked against the model before an engine starts, and a strength becomes part of a stand-in."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from kaito.api.contracts import Adapter
from kaito.api.names import REASON_ADAPTER
from kaito.runtime.failure import Failed
from kaito.runtime.serve.adapters import CONFIG, WEIGHTS, check, rank_of, scaled_config, with_strength
from kaito.runtime.serve.tensors import Shape
from tests.lora import HIDDEN, LAYERS, write_adapter

MODEL: dict[str, Shape] = {
    "lm_head.weight": (1472, HIDDEN),
    **{f"model.layers.{n}.self_attn.o_proj.weight": (HIDDEN, HIDDEN) for n in range(LAYERS)},
}
NESTED = {name.replace("model.layers", "language_model.model.layers"): shape for name, shape in MODEL.items()}
QUANTISED = {name.replace(".weight", ".qweight"): (HIDDEN // 8, HIDDEN) for name in MODEL}


def one(folder: Path, strength: float = 1.0) -> Adapter:
    return Adapter(name="one", path=str(folder), strength=strength)


@pytest.mark.parametrize("model", [MODEL, NESTED, QUANTISED, {}], ids=["same", "nested", "quantised", "unknown"])
def test_an_adapter_of_the_model_passes(tmp_path: Path, model: dict[str, Shape]) -> None:
    check(one(write_adapter(tmp_path / "one"), 0.5), model)


def cut(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-100])


def pickled(folder: Path) -> None:
    (folder / WEIGHTS).rename(folder / "adapter_model.bin")


def rewritten(**fields: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        config = json.loads((folder / CONFIG).read_text())
        (folder / CONFIG).write_text(json.dumps({**config, **fields}))

    return change


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda folder: (folder / CONFIG).unlink(), "no readable adapter_config.json"),
        (lambda folder: (folder / CONFIG).write_text("rubbish"), "is not JSON"),
        (lambda folder: (folder / CONFIG).write_text("[]"), "is no map"),
        (lambda folder: (folder / WEIGHTS).unlink(), "has no adapter_model.safetensors"),
        (lambda folder: (folder / WEIGHTS).write_bytes(b"garbage that is no tensor"), "is no safetensors file"),
        (lambda folder: (folder / WEIGHTS).write_bytes(b""), "is no safetensors file"),
        (cut, "is incomplete or damaged"),
        (pickled, "has its weights in adapter_model.bin"),
        (rewritten(peft_type="IA3"), "is of the kind IA3"),
        (rewritten(r=0), "has the rank 0"),
        (rewritten(r="x"), "has the rank 0"),
        (rewritten(r=8, rank_pattern={"o_proj": 1024}), "has the rank 1024"),
        (rewritten(use_dora=True), "cannot be given a strength: use_dora"),
        (rewritten(bias="all"), "cannot be given a strength: bias"),
    ],
)
def test_an_adapter_that_cannot_be_served_is_named_with_the_cause(
    tmp_path: Path, spoil: Callable[[Path], None], said: str
) -> None:
    folder = write_adapter(tmp_path / "one")
    spoil(folder)
    with pytest.raises(Failed, match=r"The adapter one ") as error:
        check(one(folder, 0.5), MODEL)
    assert error.value.failure.reason == REASON_ADAPTER
    assert said in error.value.failure.message
    assert error.value.failure.next_step


def test_an_adapter_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(Failed, match="The adapter one is not there"):
        check(one(tmp_path / "nowhere"), MODEL)


def test_an_adapter_of_another_model_names_the_module_and_the_right_model(tmp_path: Path) -> None:
    folder = write_adapter(tmp_path / "one", hidden=512, base_model_name_or_path="microsoft/Phi-3-mini-4k-instruct")
    with pytest.raises(Failed, match=r"o_proj has the size 512, the model's 256") as error:
        check(one(folder), MODEL)
    assert "microsoft/Phi-3-mini-4k-instruct" in error.value.failure.next_step
    with pytest.raises(Failed, match=r"the model has no model\.layers\.0\.self_attn\.o_proj"):
        check(one(write_adapter(tmp_path / "other")), {"transformer.h.0.attn.c_proj.weight": (HIDDEN, HIDDEN)})


def test_full_strength_is_the_adapter_itself(tmp_path: Path) -> None:
    adapter = one(write_adapter(tmp_path / "one"))
    assert with_strength(adapter, tmp_path / "scratch") == adapter


def test_half_strength_halves_alpha_in_a_stand_in(tmp_path: Path) -> None:
    folder = write_adapter(tmp_path / "one", rank=8)
    found = Path(with_strength(one(folder, 0.5), tmp_path / "scratch").path)
    assert json.loads((found / CONFIG).read_text())["lora_alpha"] == 8.0
    assert (found / WEIGHTS).read_bytes() == (folder / WEIGHTS).read_bytes()
    assert json.loads((folder / CONFIG).read_text())["lora_alpha"] == 16


def test_an_alpha_of_single_layers_is_scaled_too() -> None:
    scaled = scaled_config({"r": 4, "alpha_pattern": {"q_proj": 4}}, 0.25)
    assert scaled == {"r": 4, "lora_alpha": 1.0, "alpha_pattern": {"q_proj": 1.0}}


def test_the_rank_is_the_highest_of_all_layers() -> None:
    assert rank_of({"r": 8, "rank_pattern": {"q_proj": 32}}) == 32
