# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""The training configuration: KAITO's `training_config.yaml`, read section by section. And what a tuner's log tells.

Which keys a section has is known here, those that are the libraries' own too (`training_keys.py`); what their values
may be is checked where these are loaded. The operator judges by this before a node is asked for, and the tuner again by
the same rules.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from kaito.api.contracts import DEFAULT_OUTPUT_DIR, OUTPUT_ROOT, TuneProgress
from kaito.api.names import PROGRESS_MARK
from kaito.api.training_keys import KNOWN

TOP = "training_config"
SECTIONS = ("ModelConfig", "QuantizationConfig", "LoraConfig", "TrainingArguments", "DatasetConfig", "DataCollator")
LARGEST_FILE = 1 << 20

_Section = TypeVar("_Section", bound="Section")


class BadTraining(ValueError):
    """A training configuration that cannot be used: what is wrong, in a sentence."""


def unknown_key(key: object, section: str, known: Iterable[str]) -> str:
    """What to say of a key that the section has not, with the nearest that it has."""
    near = difflib.get_close_matches(str(key), list(known), n=1)
    return f"{section} has no key {key}{f': did you mean {near[0]}?' if near else '.'}"


class Section(BaseModel):
    """A section whose keys are known here; unknown ones are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @field_validator("*", mode="before")
    @classmethod
    def _words(cls, value: Any) -> Any:
        """KAITO hands everything on as text, so that `None` and `null` in quotes mean what they say."""
        return None if isinstance(value, str) and value.lower() in ("none", "null") else value


class ModelSection(Section):
    """How the base model is loaded. What says where it comes from is decided by the Workspace."""

    pretrained_model_name_or_path: str | None = None
    state_dict: Any = None
    cache_dir: str | None = None
    from_tf: bool | None = False
    from_flax: bool | None = False
    ignore_mismatched_sizes: bool | None = False
    force_download: bool | None = False
    resume_download: bool | None = False
    proxies: Any = None
    output_loading_info: bool | None = False
    local_files_only: bool | None = False
    revision: str | None = "main"
    trust_remote_code: bool | None = False
    load_in_4bit: bool | None = False
    load_in_8bit: bool | None = False
    torch_dtype: str | None = None
    device_map: Any = "auto"
    chat_template: str | None = None
    """A path, or the template itself where it holds a brace or a line break."""


class QuantizationSection(Section):
    """How the base model's weights are compressed while an adapter is trained."""

    quant_method: str | None = "bitsandbytes"
    load_in_8bit: bool | None = False
    load_in_4bit: bool | None = False
    llm_int8_threshold: float | None = 6.0
    llm_int8_skip_modules: list[str] | None = None
    llm_int8_enable_fp32_cpu_offload: bool | None = False
    llm_int8_has_fp16_weight: bool | None = False
    bnb_4bit_compute_dtype: str | None = "float32"
    bnb_4bit_quant_type: str | None = "fp4"
    bnb_4bit_use_double_quant: bool | None = False


class DatasetSection(Section):
    """Which files are read, what their columns mean, and what is held back to evaluate with."""

    dataset_path: str | None = None
    """Of one file or folder below the data folder, or as KAITO has it below `/mnt`."""
    dataset_extension: str | None = None
    """Read every file as this format: parquet, json, jsonl, csv, arrow, text."""
    shuffle_dataset: bool | None = True
    shuffle_seed: int | None = 42
    context_column: str | None = None
    """The column with the prompt."""
    response_column: str | None = None
    """The column with the answer; without `context_column` the column with the whole text."""
    messages_column: str | None = None
    """The column with a conversation."""
    train_test_split: float | None = Field(default=0.8, gt=0, le=1)
    """The share to train on; the rest is evaluated with."""
    bad_rows_allowed: float | None = Field(default=0.01, ge=0, le=1)
    """The share of rows that may be left out because they cannot be used; more of them stop the tuning."""


@dataclass(frozen=True, slots=True)
class TrainingOptions:
    """All six sections; those of libraries as they were written."""

    model: ModelSection = field(default_factory=ModelSection)
    quantization: QuantizationSection = field(default_factory=QuantizationSection)
    dataset: DatasetSection = field(default_factory=DatasetSection)
    lora: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    collator: Mapping[str, Any] = field(default_factory=dict)

    @property
    def output_dir(self) -> str:
        """Where the result goes: below `/mnt`, as KAITO resolves it. Raises BadTraining when it leads elsewhere."""
        given = self.training.get("output_dir")
        if given is None:
            return DEFAULT_OUTPUT_DIR
        if not isinstance(given, str):
            raise BadTraining(f"TrainingArguments.output_dir is {given}, which is no path.")
        inside = given.removeprefix(OUTPUT_ROOT) if f"{given}/".startswith(f"{OUTPUT_ROOT}/") else given
        parts = [part for part in PurePosixPath(inside.lstrip("/")).parts if part != "."]
        if not parts or ".." in parts:
            raise BadTraining(f"TrainingArguments.output_dir is {given}: write a folder below {OUTPUT_ROOT}.")
        return "/".join((OUTPUT_ROOT, *parts))

    @property
    def is_quantized(self) -> bool:
        """Whether the base model is loaded compressed."""
        return bool(self.quantization.load_in_4bit or self.quantization.load_in_8bit)


def parse_options(text: str) -> TrainingOptions:
    """The options of a text; raises BadTraining."""
    if len(text) > LARGEST_FILE:
        raise BadTraining("The training configuration is longer than a mebibyte.")
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" in line {mark.line + 1}" if mark is not None else ""
        raise BadTraining(
            f"The training configuration is not YAML{where}: {getattr(error, 'problem', error)}."
        ) from None
    sections = content.get(TOP) if isinstance(content, dict) else None
    if not isinstance(sections, dict):
        raise BadTraining(f"The training configuration does not begin with {TOP}: and its sections.")
    for name, section in sections.items():
        if name not in SECTIONS:
            raise BadTraining(unknown_key(name, TOP, SECTIONS))
        if section is not None and not isinstance(section, dict):
            raise BadTraining(f"{name} is not a map: write name: value lines below it.")
    return _checked(sections)


def _checked(sections: Mapping[str, Any]) -> TrainingOptions:
    quantization = _section(QuantizationSection, "QuantizationConfig", sections)
    if quantization.load_in_4bit and quantization.load_in_8bit:
        raise BadTraining("QuantizationConfig sets both load_in_4bit and load_in_8bit: choose one.")
    return TrainingOptions(
        model=_section(ModelSection, "ModelConfig", sections),
        quantization=quantization,
        dataset=_section(DatasetSection, "DatasetConfig", sections),
        lora=_of_library("LoraConfig", sections),
        training=_of_library("TrainingArguments", sections),
        collator=_of_library("DataCollator", sections),
    )


def _of_library(name: str, sections: Mapping[str, Any]) -> Mapping[str, Any]:
    values = dict(sections.get(name) or {})
    for key in values:
        if key not in KNOWN[name]:
            raise BadTraining(unknown_key(key, name, KNOWN[name]))
    return values


def _section(kind: type[_Section], name: str, sections: Mapping[str, Any]) -> _Section:
    values = sections.get(name) or {}
    for key in values:
        if key not in kind.model_fields:
            raise BadTraining(unknown_key(key, name, kind.model_fields))
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        said = first["msg"].replace("Input should", "it should")
        raise BadTraining(f"{name}.{first['loc'][0]} is {first['input']!r}: {said}.") from None


def check_method(method: str, options: TrainingOptions) -> None:
    """Raises BadTraining when the method and the quantization contradict each other, as KAITO's admission does."""
    if method == "qlora" and not options.is_quantized:
        raise BadTraining("Method qlora needs load_in_4bit or load_in_8bit: true in QuantizationConfig.")
    if method != "qlora" and options.is_quantized:
        what = f"Method {method} trains on uncompressed weights, and QuantizationConfig compresses them"
        raise BadTraining(f"{what}: take load_in_4bit and load_in_8bit out, or use qlora.")


def progress_of(line: str) -> TuneProgress | None:
    """The progress that a line of a tuner's log tells; None when it tells none."""
    _, mark, text = line.partition(PROGRESS_MARK)
    if not mark:
        return None
    try:
        return TuneProgress.model_validate_json(text)
    except ValidationError:
        return None


def latest_progress(lines: Iterable[str]) -> TuneProgress | None:
    """The last progress that a log tells."""
    return next((found for line in reversed(list(lines)) if (found := progress_of(line)) is not None), None)


_LORA = """\
  LoraConfig:
    r: 8
    lora_alpha: 8
    lora_dropout: 0.0
  TrainingArguments:
    output_dir: /mnt/results
    ddp_find_unused_parameters: false
    save_strategy: "no"
    packing: true
    assistant_only_loss: true
  DataCollator:
    mlm: true
  DatasetConfig:
    shuffle_dataset: true
    train_test_split: 1
"""
_MODEL = """\
training_config:
  ModelConfig:
    torch_dtype: bfloat16
    local_files_only: true
    device_map: auto
"""
DEFAULTS = {
    "lora": f"{_MODEL}  QuantizationConfig:\n    load_in_4bit: false\n{_LORA}",
    "qlora": (
        f"{_MODEL}  QuantizationConfig:\n    load_in_4bit: true\n    bnb_4bit_quant_type: nf4\n"
        f"    bnb_4bit_compute_dtype: bfloat16\n    bnb_4bit_use_double_quant: true\n{_LORA}"
    ),
    "full": f"{_MODEL}{_LORA[_LORA.index('  TrainingArguments') :]}",
}
"""What is trained with where `tuning.config` is empty: KAITO's templates, with packing and a batch of eight."""
