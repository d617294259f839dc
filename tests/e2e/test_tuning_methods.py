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

from kaito.api.contracts import Failure, TuningMethod
from kaito.api.names import REASON_DISK_FULL, REASON_TUNING_CONFIG
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
    "early": (
        "lora",
        "chats",
        {
            "TrainingArguments": {
                "early_stopping_patience": 2,
                "early_stopping_threshold": 100,
                "eval_strategy": "steps",
                "eval_steps": 1,
                "max_steps": 40,
            }
        },
    ),
    "dpo": ("lora", "preferences", {}),
    "merged": ("qlora", "chats", {"QuantizationConfig": {"load_in_4bit": True}}),
}
"""By name: the method, the data, and the sections of the configuration beside the training's."""
LORA_TEMPLATE = """
training_config:
  ModelConfig:
    torch_dtype: "bfloat16"
    local_files_only: true
    device_map: "auto"
  QuantizationConfig:
    load_in_4bit: false
  LoraConfig:
    r: 8
    lora_alpha: 8
    lora_dropout: 0.0
  TrainingArguments:
    output_dir: "/mnt/results"
    ddp_find_unused_parameters: false
    save_strategy: "no"
    per_device_train_batch_size: 1
  DataCollator:
    mlm: true
  DatasetConfig:
    shuffle_dataset: true
    train_test_split: 1
"""
QLORA_TEMPLATE = LORA_TEMPLATE.replace(
    "    load_in_4bit: false\n",
    """    load_in_4bit: true
    bnb_4bit_quant_type: "nf4"
    bnb_4bit_compute_dtype: "bfloat16"
    bnb_4bit_use_double_quant: true
""",
)
EXAMPLE = (
    QLORA_TEMPLATE.replace(
        "lora_dropout: 0.0", 'lora_dropout: 0.0\n    target_modules: ["q_proj", "k_proj", "v_proj", "o_proj"]'
    )
    .replace('save_strategy: "no"', 'save_strategy: "epoch"')
    .replace("batch_size: 1", "batch_size: 2")
)
"""The settings of KAITO's examples/fine-tuning/kaito_configmap_tuning_phi_3.yaml."""
EVERY_KEY = """
training_config:
  ModelConfig:
    pretrained_model_name_or_path: /workspace/tfs/weights
    state_dict: null
    cache_dir: null
    force_download: false
    proxies: null
    output_loading_info: false
    local_files_only: true
    revision: main
    trust_remote_code: false
    torch_dtype: float32
    device_map: auto
    chat_template: null
  QuantizationConfig:
    quant_method: bitsandbytes
    load_in_8bit: false
    load_in_4bit: true
    llm_int8_threshold: 6.0
    llm_int8_skip_modules: null
    llm_int8_enable_fp32_cpu_offload: false
    llm_int8_has_fp16_weight: false
    bnb_4bit_compute_dtype: float32
    bnb_4bit_quant_type: fp4
    bnb_4bit_use_double_quant: false
  LoraConfig:
    r: 8
    lora_alpha: 8
    lora_dropout: 0.0
    bias: none
    task_type: CAUSAL_LM
    fan_in_fan_out: false
    inference_mode: false
    modules_to_save: null
    rank_pattern: {}
    alpha_pattern: {}
    use_rslora: true
    use_dora: false
    init_lora_weights: true
    target_modules: [qkv_proj, o_proj]
    layers_to_transform: null
    layers_pattern: null
    layer_replication: null
    loftq_config: {}
    megatron_config: null
    megatron_core: megatron.core
  TrainingArguments:
    output_dir: /mnt/results
    num_train_epochs: 1
    per_device_train_batch_size: 2
    per_device_eval_batch_size: 2
    gradient_accumulation_steps: 2
    gradient_checkpointing: true
    learning_rate: "2e-4"
    weight_decay: 0.01
    warmup_ratio: 0.1
    lr_scheduler_type: cosine
    optim: paged_adamw_8bit
    bf16: true
    fp16: false
    max_grad_norm: 0.3
    max_seq_length: 32
    packing: true
    completion_only_loss: null
    evaluation_strategy: steps
    eval_steps: 1
    save_strategy: steps
    save_steps: 1
    save_total_limit: 1
    logging_steps: 1
    report_to: none
    seed: 7
    ddp_find_unused_parameters: false
    group_by_length: false
  DatasetConfig:
    dataset_path: data
    dataset_extension: json
    shuffle_dataset: true
    shuffle_seed: 42
    context_column: null
    response_column: null
    messages_column: messages
    train_test_split: 0.8
  DataCollator:
    tokenizer: null
    mlm: true
    mlm_probability: 0.15
    mask_replace_prob: 0.8
    random_replace_prob: 0.1
    pad_to_multiple_of: 8
    tf_experimental_compile: false
    return_tensors: pt
    seed: null
"""
KAITO: dict[str, tuple[TuningMethod, str]] = {
    "template-lora": ("lora", LORA_TEMPLATE),
    "template-qlora": ("qlora", QLORA_TEMPLATE),
    "example": ("qlora", EXAMPLE),
    "every-key": ("qlora", EVERY_KEY),
}
"""Training configurations as KAITO has them, and one with every key that it documents."""
REFUSED = {
    "no-such-layer": ({"LoraConfig": {"target_modules": ["w1"]}}, "no such layer"),
    "contradiction": ({"TrainingArguments": {"load_best_model_at_end": True, "eval_strategy": "no"}}, "strategy"),
}
"""What only the libraries can know to be wrong: the sections, and what is said of it."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("methods")
    question = [{"role": "user", "content": "Which way?"}]
    ways = [{"role": "assistant", "content": way} for way in ("To the left.", "To the right.")]
    rows: dict[str, list[dict[str, Any]]] = {
        "chats": [{"messages": [*question, ways[0]]}] * 8,
        "preferences": [
            *[{"prompt": question, "chosen": ways[:1], "rejected": ways[1:]}] * 4,
            *[{"chosen": [*question, ways[0]], "rejected": [*question, ways[1]]}] * 2,
            *[{"prompt": "Which way?", "chosen": "To the left.", "rejected": "To the right."}] * 2,
        ],
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
    sections = METHODS[name][2] if name in METHODS else REFUSED.get(name, ({}, ""))[0]
    chosen = {"per_device_train_batch_size": 2, "max_length": 32, "max_steps": 2, "eval_strategy": "no", **training}
    config = place / f"{name}.yaml"
    given = yaml.safe_dump({"training_config": {"TrainingArguments": chosen, **sections}})
    config.write_text(KAITO[name][1] if name in KAITO else given)
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
    for name in (*KAITO, *REFUSED):
        jobs[name] = job(place, model, name, KAITO.get(name, ("lora",))[0], "chats", place / f"{name}-result")
    if small_disk is not None:
        often = {"save_strategy": "steps", "save_steps": 1, "max_steps": 6}
        jobs["no-room"] = job(place, model, "no-room", "full", "chats", small_disk / "result", **often)
    (place / "jobs.json").write_text(json.dumps(jobs))
    argv = [sys.executable, str(SCRIPT), str(place / "jobs.json")]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    codes = json.loads(done.stdout.strip().splitlines()[-1])
    assert codes == {name: 0 if name in METHODS or name in KAITO else FAILED for name in jobs}, done.stderr[-3000:]
    for name, (_, said) in REFUSED.items():
        refused = read(state_dir(place / f"{name}-result") / FAILURE, Failure)
        assert refused is not None and (refused.reason, said in refused.message) == (REASON_TUNING_CONFIG, True)
    early = (place / "early-result" / "README.md").read_text()
    assert "It ended early, after step 3 of 40" in early
    assert not list((place / "early-result").glob("checkpoint-*"))
    assert "this model has them as qkv_proj" in (place / "example-result" / "README.md").read_text()
    for name in (*METHODS, *KAITO):
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
