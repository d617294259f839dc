# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""No work is lost: a training that is killed again and again, at steps and moments that dice choose, ends where one
ends that is not.

How often is KAITO_TUNING_KILLS.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

KILLS = os.environ.get("KAITO_TUNING_KILLS", "20")
SCRIPT = Path(__file__).with_name("tuning_resume.py")
CONFIG = """
training_config:
  LoraConfig: {r: 4, lora_alpha: 8, lora_dropout: 0.1}
  TrainingArguments:
    per_device_train_batch_size: 2
    max_length: 32
    packing: true
    max_steps: 32
    warmup_steps: 2
    learning_rate: 1e-3
    eval_strategy: epoch
    save_strategy: steps
    save_steps: 500
  DatasetConfig: {train_test_split: 0.9}
"""


def test_sudden_ends_change_nothing(cache: Path, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    rows = [{"text": f"Stone {n} is {'blue' if n % 3 else 'red'}, and so on."} for n in range(60)]
    (tmp_path / "data" / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "training.yaml").write_text(CONFIG)
    model = cache / "kaito" / "models" / "kaito" / "demo-phi-3"
    argv = [sys.executable, str(SCRIPT), str(tmp_path), str(model), KILLS]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads(done.stdout.strip().splitlines()[-1])
    assert len(told["killed"]) == int(KILLS)
    assert len(set(told["killed"])) > int(KILLS) // 3, "at many steps, and while it begins"
    assert told["broken"] == pytest.approx(told["whole"], abs=1e-6)
    assert told["is_same"], "the adapter is the same to the last bit"
    assert told["again"] == told["broken"], "what ends between its last checkpoint and its result trains no further"
