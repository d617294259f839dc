# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""The demo model: the same bytes for the same seed, the architecture it claims, stand-ins without a second training."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.runtime_process import demo_weights

pytestmark = pytest.mark.slow


def digests(folder: Path) -> dict[str, str]:
    """A digest of every file of a folder."""
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(folder.iterdir())}


def test_two_trainings_give_the_same_bytes(tmp_path: Path) -> None:
    found = []
    for name in ("one", "two"):
        argv = [sys.executable, "-m", "kaito.runtime.demo_train", "--out", str(tmp_path / name), "--steps", "3"]
        subprocess.run(argv, check=True, capture_output=True, timeout=120)
        found.append(digests(tmp_path / name))
    assert found[0] == found[1]
    assert {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json"} <= found[0].keys()


def test_it_is_a_small_phi_3(request: pytest.FixtureRequest) -> None:
    folder = Path(demo_weights(request), "kaito", "demo-phi-3")
    config = json.loads((folder / "config.json").read_text())
    assert config["architectures"] == ["Phi3ForCausalLM"]
    assert config["max_position_embeddings"] == 4096
    assert 7_000_000 < (folder / "model.safetensors").stat().st_size < 10_000_000
    assert "<|assistant|>" in json.loads((folder / "tokenizer_config.json").read_text())["chat_template"]


def test_a_stand_in_is_a_copy_under_another_id(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    model = Path(demo_weights(request), "kaito", "demo-phi-3")
    (tmp_path / "kaito").mkdir()
    (tmp_path / "kaito" / "demo-phi-3").symlink_to(model)
    argv = [sys.executable, "-m", "kaito.runtime", "demo-model", "--out", str(tmp_path), "--id", "microsoft/Phi-3-mini"]
    done = subprocess.run(argv, check=True, capture_output=True, text=True, timeout=60)
    assert "training" not in done.stdout
    assert digests(tmp_path / "microsoft" / "Phi-3-mini") == digests(model)
