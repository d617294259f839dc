# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Faults of a fine-tuning: its data, its settings, its base model, and where the result goes.

The tuner names the reason itself; nothing is guessed from its words.
"""

from __future__ import annotations

from kaito.api import names
from kaito.operator.faults.fault import Fault

_CONFIG_STEP = "Correct the key training_config.yaml of the ConfigMap that tuning.config names."

TUNING = (
    Fault(names.REASON_TUNING_DATA_EMPTY, "tuning", "The data set has no files that can be read, or no rows",
          "Give a data set with rows in it: parquet, jsonl, json, csv, arrow or text."),
    Fault(names.REASON_TUNING_COLUMNS, "tuning", "The data have no columns that are known",
          "Use messages, prompt and completion, instruction and output, or text; or name yours in DatasetConfig."),
    Fault(names.REASON_TUNING_ROWS_EMPTY, "tuning", "Rows of the data have nothing in them",
          "Correct the rows that the message names, or raise DatasetConfig.bad_rows_allowed."),
    Fault(names.REASON_TUNING_ROWS, "tuning", "Too many rows of the data cannot be used",
          "Correct the rows that the message names, or raise DatasetConfig.bad_rows_allowed."),
    Fault(names.REASON_TUNING_ENCODING, "tuning", "A file of the data is not UTF-8", "Convert the file to UTF-8."),
    Fault(names.REASON_TUNING_FILE, "tuning", "A file of the data cannot be read",
          "Replace the file, or take it out of the data set."),
    Fault(names.REASON_TUNING_ADDRESS, "tuning", "An address of the data leads into a private network",
          "Put the data where anyone may read them, into an image or on a volume."),
    Fault(names.REASON_TUNING_CONFIG, "tuning", "The training configuration is missing or wrong", _CONFIG_STEP),
    Fault(names.REASON_TUNING_MODEL, "tuning", "The base model cannot be tuned",
          "Choose a base model whose weights are not compressed."),
    Fault(names.REASON_TUNING_MEMORY, "tuning", "The model does not fit the GPU with this method",
          "Use qlora, or a GPU with more memory."),
    Fault(names.REASON_TUNING_DIVERGED, "tuning", "The loss is no number any more",
          "Lower TrainingArguments.learning_rate."),
    Fault(names.REASON_PUSH_UNAUTHORIZED, "tuning", "The registry does not let the result be pushed",
          "Give tuning.output.imagePushSecret a Docker login that may push to the repository."),
    Fault(names.REASON_TUNING_FAILED, "tuning", "The training ended with an error",
          "See the log of the Job's pod."),
)  # fmt: skip
REASONS = frozenset(fault.reason for fault in TUNING)
