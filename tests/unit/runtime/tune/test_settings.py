# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""The libraries' settings: what the operator knows of them is what the libraries have; old names mean what they did."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import pytest

from kaito.api import training_keys
from kaito.api.training import parse_options
from kaito.runtime.failure import Failed
from kaito.runtime.tune import estimate
from kaito.runtime.tune.job import Job

arguments = pytest.importorskip("kaito.runtime.tune.arguments")
train = pytest.importorskip("kaito.runtime.tune.train")
costs = pytest.importorskip("kaito.runtime.tune.costs")
EMPTY = "training_config: {}"


def fields(*kinds: type) -> set[str]:
    return {field.name for kind in kinds for field in dataclasses.fields(kind)}


def test_the_operator_knows_the_keys_that_the_libraries_have() -> None:
    assert fields(arguments.LoraConfig) == training_keys.LORA
    assert fields(arguments.SFTConfig, arguments.DPOConfig) == training_keys.TRAINING
    assert fields(arguments.DataCollatorForLanguageModeling) == training_keys.COLLATOR
    assert set(training_keys.RENAMED.values()) <= training_keys.TRAINING
    assert not training_keys.TRAINING & (training_keys.RENAMED.keys() | training_keys.OLD_TRAINING)


JOB = Job(
    workspace="w", model="m", model_id="m", method="lora", device="cpu", training_config="", data_dir="",
    output_dir="/tmp", checkpoint_s=1,
)  # fmt: skip


def test_earlier_names_mean_what_they_meant() -> None:
    text = """
training_config:
  TrainingArguments: {evaluation_strategy: steps, max_seq_length: 77, warmup_ratio: 0.1, group_by_length: true,
                      overwrite_output_dir: true, logging_dir: /x, save_safetensors: true}
"""
    found = arguments.training_arguments(JOB, parse_options(text), preference=False, context=None)
    assert (found.eval_strategy.value, found.max_length, found.warmup_steps) == ("steps", 77, 0.1)
    assert found.train_sampling_strategy == "group_by_length"


@pytest.mark.parametrize(
    ("preference", "setting", "says"),
    [
        (False, "beta: 0.1", "TrainingArguments has no key beta"),
        (True, "packing: true", "TrainingArguments has no key packing"),
        (False, "learning_rate: much", "TrainingArguments"),
        (False, "early_stopping_patience: soon", "a whole number from 1"),
    ],
)
def test_what_this_trainer_has_not_is_refused(preference: bool, setting: str, says: str) -> None:
    options = parse_options(f"training_config: {{TrainingArguments: {{{setting}}}}}")
    with pytest.raises(Failed, match=says):
        arguments.training_arguments(JOB, options, preference=preference, context=None)


def test_memory_and_time_are_estimated_from_a_models_configuration_alone(tmp_path: Path) -> None:
    shape = {"model_type": "phi3", "hidden_size": 3072, "intermediate_size": 8192, "num_hidden_layers": 32,
             "num_attention_heads": 32, "num_key_value_heads": 32, "vocab_size": 32064, "pad_token_id": 0}  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(shape))
    found = costs.costs(estimate.Tokens((100,) * 10, rows=1_000_000, limit=1024), parse_options(EMPTY), tmp_path)
    assert re.search(r"1024 tokens.*: lora 8\.\d, qlora 3\.\d, full 5\d\.\d GiB", found[0])
    assert "Time of 3 epochs" in found[1] and re.search(r"1\d\.\d hours \(A100\)", found[1])
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "vit"}))
    assert costs.costs(estimate.Tokens((100,), rows=1, limit=1024), parse_options(EMPTY), tmp_path) == []


def test_a_training_may_end_early_with_its_best_checkpoint() -> None:
    text = "training_config: {TrainingArguments: {early_stopping_patience: '2', eval_strategy: steps, eval_steps: 5}}"
    found = arguments.training_arguments(JOB, parse_options(text), preference=False, context=None)
    assert (found.save_strategy.value, found.save_steps, found.load_best_model_at_end) == ("steps", 5, True)
    assert arguments.early_stopping(parse_options(text)) == (2, 0.0)
    whole = "training_config: {TrainingArguments: {early_stopping_patience: 2}, DatasetConfig: {train_test_split: 1}}"
    with pytest.raises(Failed, match="needs rows to evaluate with"):
        arguments.early_stopping(parse_options(whole))


@pytest.mark.parametrize(
    ("losses", "patience", "threshold", "expected"),
    [
        ([], 1, 0.0, False),
        ([3, 2, 1], 1, 0.0, False),
        ([3, 2, 2], 1, 0.0, True),
        ([3, 2, 2.5, 1.9, 2], 2, 0.0, False),
        ([3, 2, 2.5, 2.1], 2, 0.0, True),
        ([3, 2.95, 2.9], 2, 0.2, True),
    ],
)
def test_patience_ends_when_nothing_improves(
    losses: list[float], patience: int, threshold: float, expected: bool
) -> None:
    assert train.is_enough(losses, patience, threshold) == expected
