# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""The result in the output folder: adapter (or model), card, loss curve, and last the mark that says it is whole."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from kaito.api.datasets import parse
from kaito.api.training import TrainingOptions
from kaito.runtime.tune.checkpoints import remove_all
from kaito.runtime.tune.curve import svg
from kaito.runtime.tune.job import SENTINEL, Job, Point, Summary, state_dir, write
from kaito.runtime.tune.merge import merge

ADAPTER_CONFIG = "adapter_config.json"
CURVE = "loss.svg"
SUMMARY = "summary.json"
LEFTOVERS = ("training_args.bin", "optimizer.pt", "scheduler.pt")


def save(trainer: Any, job: Job, options: TrainingOptions, *, summary: Summary, points: Sequence[Point]) -> None:
    """Write the result. The same again after a sudden end overwrites it with the same."""
    output = Path(job.output_dir)
    trainer.save_model(job.output_dir)
    for name in LEFTOVERS:
        (output / name).unlink(missing_ok=True)
    if (output / ADAPTER_CONFIG).is_file():
        _name_base(output / ADAPTER_CONFIG, job)
        if job.merge:
            merge(job)
    (output / CURVE).write_text(svg(points), "utf-8")
    (output / "README.md").write_text(card(job, options, summary), "utf-8")
    if str(options.training.get("save_strategy", "no")) == "no":
        remove_all(output)
    write(state_dir(output) / SUMMARY, summary)
    (output / SENTINEL).write_text(f"fine-tuning completed at {time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime())}\n")


def _name_base(path: Path, job: Job) -> None:
    """Name the base model by its id: the path that it was loaded from means nothing elsewhere."""
    content = json.loads(path.read_text("utf-8"))
    content |= {"base_model_name_or_path": job.model_id, "revision": job.revision}
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", "utf-8")


def card(job: Job, options: TrainingOptions, summary: Summary) -> str:
    """The model card: what was trained, on what, how, and what came out."""
    is_adapter = job.method != "full" and not job.merge
    head = {
        "base_model": job.model_id,
        **({"datasets": [parse(one).repository for one in job.data_sets]} if job.data_sets else {}),
        "library_name": "peft" if is_adapter else "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["kaito", job.method],
    }
    figures = {
        "rows": summary.rows,
        "tokens": summary.tokens,
        "steps": summary.steps,
        "final loss": _shown(summary.loss),
        "final evaluation loss": _shown(summary.eval_loss),
        "seconds": round(summary.seconds, 1),
        "data": ", ".join(f"`{one}`" for one in job.data_sets) or None,
        "SHA-256 of the data": summary.data_sha256,
        "revision of the base model": job.revision or "not pinned",
    }
    settings = {
        "method": job.method,
        "QuantizationConfig": options.quantization.model_dump(exclude_unset=True),
        "LoraConfig": dict(options.lora),
        "TrainingArguments": dict(options.training),
        "DatasetConfig": options.dataset.model_dump(exclude_unset=True),
    }
    kind = "LoRA adapter for" if is_adapter else "Fine-tuned"
    lines = [
        "---", yaml.safe_dump(head, sort_keys=False).strip(), "---", "",
        f"# {kind} {job.model_id}", "",
        f"Trained by the Workspace `{job.workspace}`.", "",
        "| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in figures.items() if value is not None), "",
        *(f"- {note}" for note in summary.notes), "",
        "![loss](loss.svg)", "", "## Settings", "", "```yaml",
        yaml.safe_dump(settings, sort_keys=False).strip(), "```", "",
    ]  # fmt: skip
    return "\n".join(lines)


def _shown(value: float | None) -> str | None:
    return None if value is None else f"{value:.4f}"
