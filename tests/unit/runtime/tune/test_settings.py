# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""The libraries' settings: what the operator knows of them is what the libraries have; old names mean what they did."""

from __future__ import annotations

import dataclasses

import pytest

from kaito.api import training_keys
from kaito.api.training import parse_options
from kaito.runtime.failure import Failed
from kaito.runtime.tune.job import Job

arguments = pytest.importorskip("kaito.runtime.tune.arguments")


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
    ],
)
def test_what_this_trainer_has_not_is_refused(preference: bool, setting: str, says: str) -> None:
    options = parse_options(f"training_config: {{TrainingArguments: {{{setting}}}}}")
    with pytest.raises(Failed, match=says):
        arguments.training_arguments(JOB, options, preference=preference, context=None)
