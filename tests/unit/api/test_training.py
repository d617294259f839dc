# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""KAITO's training configurations as they are, and what is wrong with others."""

from __future__ import annotations

import pytest

from kaito.api.contracts import TuneProgress
from kaito.api.training import DEFAULTS, BadTraining, check_method, latest_progress, parse_options

KAITO_QLORA = """
training_config:
  ModelConfig:
    torch_dtype: "bfloat16"
    local_files_only: true
    device_map: "auto"
  QuantizationConfig:
    load_in_4bit: true
    bnb_4bit_quant_type: "nf4"
    bnb_4bit_compute_dtype: "bfloat16"
    bnb_4bit_use_double_quant: true
  LoraConfig: {r: 8, lora_alpha: 8, lora_dropout: 0.0}
  TrainingArguments:
    output_dir: "/mnt/results"
    ddp_find_unused_parameters: false
    save_strategy: "no"
    per_device_train_batch_size: 1
  DataCollator: {mlm: true}
  DatasetConfig: {shuffle_dataset: true, train_test_split: 1}
"""


def test_the_templates_of_kaito_are_read() -> None:
    options = parse_options(KAITO_QLORA)
    check_method("qlora", options)
    assert (options.is_quantized, options.output_dir, options.dataset.train_test_split) == (True, "/mnt/results", 1)
    assert options.training["save_strategy"] == "no"


@pytest.mark.parametrize("method", ["lora", "qlora", "full"])
def test_the_defaults_fit_their_methods(method: str) -> None:
    options = parse_options(DEFAULTS[method])
    check_method(method, options)
    assert options.output_dir == "/mnt/results"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("training_config: {LoraConfg: {}}", "did you mean LoraConfig"),
        ("training_config: {DatasetConfig: {train_test_splt: 1}}", "did you mean train_test_split"),
        ("training_config: {DatasetConfig: {train_test_split: 2}}", "train_test_split is 2"),
        (
            "training_config: {ModelConfig: {torch_dtyp: x}}",
            "ModelConfig has no key torch_dtyp: did you mean",
        ),
        ("training_config: {LoraConfig: {lora_alfa: 8}}", "LoraConfig has no key lora_alfa: did you mean lora_alpha"),
        ("training_config: {TrainingArguments: {lerning_rate: 1}}", "did you mean learning_rate"),
        ("training_config: {DataCollator: {mlm_propability: 1}}", "did you mean mlm_probability"),
        ("training_config: {QuantizationConfig: {load_in_4bit: true, load_in_8bit: true}}", "choose one"),
        ("training_config: [", "is not YAML in line"),
        ("LoraConfig: {}", "does not begin with training_config"),
        ("training_config: {LoraConfig: 8}", "is not a map"),
    ],
)
def test_what_is_wrong_is_named(text: str, why: str) -> None:
    with pytest.raises(BadTraining, match=why):
        parse_options(text)


@pytest.mark.parametrize(
    ("given", "resolved"),
    [("/mnt/results", "/mnt/results"), ("results", "/mnt/results"), ("/a/b", "/mnt/a/b"), (None, "/mnt/output")],
)
def test_the_output_folder_is_below_mnt(given: str | None, resolved: str) -> None:
    text = f"training_config: {{TrainingArguments: {{output_dir: {given}}}}}" if given else "training_config: {}"
    assert parse_options(text).output_dir == resolved


@pytest.mark.parametrize("given", ["/mnt", "/mnt/../etc", "../x", "''"])
def test_no_output_folder_leads_elsewhere(given: str) -> None:
    with pytest.raises(BadTraining, match="output_dir"):
        _ = parse_options(f"training_config: {{TrainingArguments: {{output_dir: {given}}}}}").output_dir


@pytest.mark.parametrize(("method", "text"), [("qlora", "lora"), ("lora", "qlora"), ("full", "qlora")])
def test_method_and_quantization_must_agree(method: str, text: str) -> None:
    with pytest.raises(BadTraining):
        check_method(method, parse_options(DEFAULTS[text]))


def test_the_last_progress_of_a_log_counts() -> None:
    lines = ['kaito-progress: {"phase":"Training","step":1}', 'kaito-progress: {"phase":"Training","step":2}', "noise"]
    assert latest_progress(lines) == TuneProgress(phase="Training", step=2)
    assert latest_progress(["nothing", "kaito-progress: {broken"]) is None
