# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""An adapter put into its model: the whole model as the result, for servers that take no adapters."""

from __future__ import annotations

from pathlib import Path

from peft import PeftModel
from transformers import AutoModelForCausalLM

from kaito.runtime.serve.adapters import CONFIG, WEIGHTS
from kaito.runtime.tune.base import source_of
from kaito.runtime.tune.job import Job

ADAPTER = "adapter"
"""Below the result: the adapter that was put into it."""


def merge(job: Job) -> None:
    """Write the model with the adapter in it into the output folder, and move the adapter aside.

    The base model is loaded once more, in main memory and as it is stored: what was trained on in four bits would lose
    by being merged in four bits (QLoRA, arXiv:2305.14314, trains the adapter against the model in 16).
    """
    output = Path(job.output_dir)
    aside = output / ADAPTER
    aside.mkdir(exist_ok=True)
    for name in (CONFIG, WEIGHTS):
        (output / name).replace(aside / name)
    base = AutoModelForCausalLM.from_pretrained(job.model, dtype="auto", use_safetensors=True, **source_of(job))
    PeftModel.from_pretrained(base, str(aside)).merge_and_unload().save_pretrained(output)
