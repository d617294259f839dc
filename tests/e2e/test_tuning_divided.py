# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Weights that are divided between two processes train the adapter that whole ones train, to the last bit."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from kaito.runtime.tune.job import Job, Summary
from tests.e2e.machine import REPOSITORY

STEPS = 12


def job(folder: Path, model: Path, name: str, **training: Any) -> dict[str, Any]:
    sections = {
        "LoraConfig": {"r": 4, "lora_dropout": 0.1},
        "TrainingArguments": {
            "per_device_train_batch_size": 2, "max_length": 32, "packing": True, "max_steps": STEPS,
            "learning_rate": 1e-3, "save_strategy": "steps", "save_steps": 1, **training,
        },
        "DatasetConfig": {"train_test_split": 0.9},
    }  # fmt: skip
    (folder / f"{name}.yaml").write_text(yaml.safe_dump({"training_config": sections}))
    (folder / name).mkdir()
    made = Job(
        workspace="w", model=str(model), model_id="kaito/demo-phi-3", method="lora", device="cpu", checkpoint_s=3600,
        training_config=str(folder / f"{name}.yaml"), data_dir=str(folder / "data"), output_dir=str(folder / name),
    )  # fmt: skip
    return dict(made.model_dump(mode="json"))


def test_divided_weights_train_the_same_adapter_also_when_it_is_killed(cache: Path, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    rows = [{"text": f"Stone {n} is {'blue' if n % 3 else 'red'}, and so on."} for n in range(60)]
    (tmp_path / "data" / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    model = cache / "kaito" / "models" / "kaito" / "demo-phi-3"
    whole, divided = job(tmp_path, model, "whole"), job(tmp_path, model, "divided", fsdp=True)
    runs = [[whole, 0], [divided, 4], [divided, 0]]
    (tmp_path / "runs.json").write_text(json.dumps(runs))
    argv = [sys.executable, "-m", "tests.e2e.tuning_divided", str(tmp_path / "runs.json")]
    done = subprocess.run(argv, cwd=REPOSITORY, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout.strip().splitlines()[-1]) == [[0, 0], [-9, -9], [0, 0]], done.stderr[-3000:]
    assert "goes on from checkpoint-" in done.stderr
    results = [
        Summary.model_validate_json((tmp_path / name / ".kaito" / "summary.json").read_bytes())
        for name in ("whole", "divided")
    ]
    assert results[0].loss == results[1].loss
    assert results[0].eval_loss == results[1].eval_loss
    assert results[1].notes == ("The weights are divided among 2 processes (FSDP2), as the configuration asks.",)
    weights = [(tmp_path / name / "adapter_model.safetensors").read_bytes() for name in ("whole", "divided")]
    assert weights[0] == weights[1]
