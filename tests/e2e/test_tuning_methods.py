# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Every method of fine-tuning comes to a result, and a disk that fills up on the way is told as that."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from kaito.api.contracts import Failure
from kaito.api.names import REASON_DISK_FULL
from kaito.runtime.serve.tensors import shapes_of
from kaito.runtime.tune.job import FAILED, FAILURE, SENTINEL, Job, read, state_dir
from kaito.runtime.tune.publish import result_files

SCRIPT = Path(__file__).with_name("tuning_methods.py")
FULL_MIB = 80
"""Room for the first checkpoint of all weights of the demo model, and not for the next."""
METHODS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "dora": ("lora", "chats", {"LoraConfig": {"use_dora": True}}),
    "rslora": ("lora", "chats", {"LoraConfig": {"use_rslora": True}}),
    "qlora": ("qlora", "chats", {"QuantizationConfig": {"load_in_4bit": True}}),
    "full": ("full", "chats", {}),
    "dpo": ("lora", "preferences", {}),
    "merged": ("qlora", "chats", {"QuantizationConfig": {"load_in_4bit": True}}),
}
"""By name: the method, the data, and the sections of the configuration beside the training's."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("methods")
    question = [{"role": "user", "content": "Which way?"}]
    ways = [{"role": "assistant", "content": way} for way in ("To the left.", "To the right.")]
    rows: dict[str, list[dict[str, Any]]] = {
        "chats": [{"messages": [*question, ways[0]]}] * 8,
        "preferences": [{"prompt": question, "chosen": ways[:1], "rejected": ways[1:]}] * 8,
    }
    for name, some in rows.items():
        (folder / name).mkdir()
        (folder / name / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in some))
    return folder


@pytest.fixture(scope="module")
def small_disk(place: Path) -> Iterator[Path | None]:
    """A disk with little room; None for users who may not mount one."""
    folder = place / "small"
    folder.mkdir()
    options = ["-t", "tmpfs", "-o", f"size={FULL_MIB}m", "none", str(folder)]
    if os.geteuid() != 0 or subprocess.run(["mount", *options], check=False, capture_output=True).returncode != 0:
        yield None
        return
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def job(place: Path, model: Path, name: str, method: str, data: str, output: Path, **training: Any) -> dict[str, Any]:
    sections = METHODS[name][2] if name in METHODS else {}
    chosen = {"per_device_train_batch_size": 2, "max_length": 32, "max_steps": 2, "eval_strategy": "no", **training}
    config = place / f"{name}.yaml"
    config.write_text(yaml.safe_dump({"training_config": {"TrainingArguments": chosen, **sections}}))
    output.mkdir(exist_ok=True)
    made = Job(
        workspace="w", model=str(model), model_id="kaito/demo-phi-3", method=method, device="cpu",  # type: ignore[arg-type]
        training_config=str(config), data_dir=str(place / data), output_dir=str(output), checkpoint_s=3600,
        merge=name == "merged",
    )  # fmt: skip
    return dict(made.model_dump(mode="json"))


def test_every_method_ends_with_a_result_and_a_full_disk_in_one_sentence(
    cache: Path, place: Path, small_disk: Path | None
) -> None:
    model = cache / "kaito" / "models" / "kaito" / "demo-phi-3"
    jobs = {name: job(place, model, name, method, data, place / f"{name}-result")
            for name, (method, data, _) in METHODS.items()}  # fmt: skip
    if small_disk is not None:
        often = {"save_strategy": "steps", "save_steps": 1, "max_steps": 6}
        jobs["no-room"] = job(place, model, "no-room", "full", "chats", small_disk / "result", **often)
    (place / "jobs.json").write_text(json.dumps(jobs))
    argv = [sys.executable, str(SCRIPT), str(place / "jobs.json")]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    codes = json.loads(done.stdout.strip().splitlines()[-1])
    assert codes == {name: 0 if name in METHODS else FAILED for name in jobs}, done.stderr[-3000:]
    for name in METHODS:
        result = place / f"{name}-result"
        weights = "model.safetensors" if name in ("full", "merged") else "adapter_model.safetensors"
        assert (result / SENTINEL).is_file()
        assert weights in result_files(result)
        assert ("adapter_config.json" in result_files(result)) == (weights == "adapter_model.safetensors")
        assert "final loss" in (result / "README.md").read_text()
    merged = {"config.json", "tokenizer.json", "adapter/adapter_model.safetensors"}
    assert merged <= result_files(place / "merged-result").keys()
    whole, base = (shapes_of(folder / "model.safetensors") for folder in (place / "merged-result", model))
    assert whole == base, "it can be served in the model's place"
    if small_disk is not None:
        told = read(state_dir(small_disk / "result") / FAILURE, Failure)
        assert told is not None
        assert told.reason == REASON_DISK_FULL
        assert "disk is full" in told.message
        assert shutil.disk_usage(small_disk).free < FULL_MIB << 20
