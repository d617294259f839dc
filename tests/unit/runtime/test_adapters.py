# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""An adapter's strength becomes part of a stand-in's configuration; the user's files stay as they are."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kaito.api.contracts import Adapter
from kaito.runtime.failure import Failed
from kaito.runtime.serve.adapters import CONFIG, scaled_config, with_strength


def saved(folder: Path) -> Path:
    folder.mkdir()
    (folder / CONFIG).write_text(json.dumps({"r": 8, "lora_alpha": 16}))
    (folder / "adapter_model.safetensors").write_bytes(b"weights")
    return folder


def test_full_strength_is_the_adapter_itself(tmp_path: Path) -> None:
    adapter = Adapter(name="one", path=str(saved(tmp_path / "one")))
    assert with_strength(adapter, tmp_path / "scratch") == adapter


def test_half_strength_halves_alpha_in_a_stand_in(tmp_path: Path) -> None:
    folder = saved(tmp_path / "one")
    found = Path(with_strength(Adapter(name="one", path=str(folder), strength=0.5), tmp_path / "scratch").path)
    assert json.loads((found / CONFIG).read_text()) == {"r": 8, "lora_alpha": 8.0}
    assert (found / "adapter_model.safetensors").read_bytes() == b"weights"
    assert json.loads((folder / CONFIG).read_text())["lora_alpha"] == 16


def test_an_alpha_of_single_layers_is_scaled_too() -> None:
    scaled = scaled_config({"r": 4, "alpha_pattern": {"q_proj": 4}}, 0.25)
    assert scaled == {"r": 4, "lora_alpha": 1.0, "alpha_pattern": {"q_proj": 1.0}}


@pytest.mark.parametrize("text", [None, "rubbish", "[]"])
def test_an_adapter_without_its_configuration_is_named(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / CONFIG).write_text(text)
    with pytest.raises(Failed, match="adapter one"):
        with_strength(Adapter(name="one", path=str(tmp_path)), tmp_path / "scratch")
