# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""The process that trains: `python -m kaito.runtime.tune.worker JOB.json`. Started, watched and resumed by `app.py`.

Encodes the data, trains, saves; leaves a Failure in the state folder when that cannot be. Exit codes:
0 the result is whole, `STOPPED` a checkpoint was written, `FAILED` there is a Failure, `OUT_OF_MEMORY` a smaller micro
batch may do.
"""

from __future__ import annotations

import errno
import logging
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import datasets
import torch
import transformers
from safetensors import SafetensorError

from kaito.api.contracts import TuneProgress
from kaito.api.names import REASON_DISK_FULL, REASON_TUNING_FILE
from kaito.api.training import TrainingOptions
from kaito.runtime.failure import Failed
from kaito.runtime.serve.guard import tie_to_parent
from kaito.runtime.tune import base, check, fitting, packing, prepare, survey
from kaito.runtime.tune.arguments import (
    Arguments,
    check_collator,
    early_stopping,
    lora_config,
    training_arguments,
)
from kaito.runtime.tune.checkpoints import remove_unfinished
from kaito.runtime.tune.encoding import Encoder
from kaito.runtime.tune.job import (
    FAILED,
    FAILURE,
    OUT_OF_MEMORY,
    SENTINEL,
    SHORT_OF_MEMORY,
    STOPPED,
    Job,
    Summary,
    state_dir,
    write,
)
from kaito.runtime.tune.options import read_options
from kaito.runtime.tune.progress import Teller, say
from kaito.runtime.tune.save import save
from kaito.runtime.tune.together import is_same
from kaito.runtime.tune.train import Stopped, Watcher, build, run

LEAST_SPACE_BYTES = 64 << 20
NOTHING_LEFT_BYTES = 1 << 20
"""Where there is less, the disk is why something failed."""


def main(argv: list[str]) -> int:
    """Do the job of the file; the exit code."""
    job = Job.model_validate_json(Path(argv[1]).read_bytes())
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    datasets.disable_progress_bars()
    logging.getLogger("trl").setLevel(logging.ERROR)
    try:
        work(job, Teller())
    except Failed as error:
        write(state_dir(Path(job.output_dir)) / FAILURE, error.failure)
        return FAILED
    except Stopped:
        return STOPPED
    except torch.OutOfMemoryError as error:
        say(f"the GPU ran out of memory: {str(error).partition('. ')[0]}")
        (state_dir(Path(job.output_dir)) / SHORT_OF_MEMORY).touch()
        return OUT_OF_MEMORY
    except (OSError, RuntimeError, SafetensorError) as error:
        # Each library has its own words for a full disk, so the disk is asked.
        if shutil.disk_usage(job.output_dir).free >= NOTHING_LEFT_BYTES and not _is_full(error):
            raise
        remove_unfinished(Path(job.output_dir))  # The reason needs room too.
        write(state_dir(Path(job.output_dir)) / FAILURE, disk_full(error).failure)
        return FAILED
    return 0


def _is_full(error: Exception) -> bool:
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def disk_full(error: Exception) -> Failed:
    """The disk has no room for a checkpoint or the result."""
    name = error.filename if isinstance(error, OSError) else None
    where = f" for {Path(name).name}" if name else ""
    what = f"The disk is full: there is no space left{where}. The last whole checkpoint is kept."
    return Failed(REASON_DISK_FULL, what, "Give the output a bigger volume, or nodes with a bigger disk.")


def work(job: Job, teller: Teller) -> None:
    """Everything from the data to the result; raises Failed, Stopped, or what the libraries raise."""
    output = Path(job.output_dir)
    if (output / SENTINEL).is_file():
        return
    began = time.monotonic()
    options = read_options(Path(job.training_config), job.method)
    check_collator(options)
    lora_config(options, ("q_proj",))
    found = check.earlier(job) or survey.survey(Path(job.data_dir), options.dataset)
    job = base.without_foreign_code(job)
    config = base.load_config(job)
    tokenizer = base.load_tokenizer(job, options)
    arguments = training_arguments(job, options, preference=found.is_preference, context=context_of(config))
    check_space(output)
    notes = notes_of(found, job)
    teller.speaks = arguments.process_index == 0
    # The processes of a node share what is prepared, and one of them prepares it.
    with arguments.main_process_first(desc="the data"):
        data = split_of(job, options, arguments, found=found, tokenizer=tokenizer, notes=notes, teller=teller)
    check_same(data.prepared)
    sharding = fitting.plan(job, options, arguments, config)
    notes += [sharding.note] if sharding.note else []
    model = base.load_model(job, options, config, sharding)
    fitting.fit(job, options, arguments, model, sharding)
    keep_apart(arguments, model, notes)
    watcher = Watcher(teller, job.checkpoint_s, rows=data.prepared.rows, notes=notes, patience=early_stopping(options))
    watcher.heed_signals()
    trainer = build(
        model, tokenizer, without_preparation(arguments), job=job, options=options, data=data, notes=watcher.notes
    )
    run(trainer, watcher, output)
    if not trainer.is_world_process_zero():
        return
    teller.tell(TuneProgress(phase="Saving", step=trainer.state.global_step, steps=trainer.state.max_steps))
    summary = summary_of(trainer, watcher, data.prepared, seconds=time.monotonic() - began)
    save(trainer, job, options, summary=summary, points=watcher.points)


def context_of(config: Any) -> int | None:
    """The longest text that the model takes, in tokens."""
    length = getattr(config.get_text_config(), "max_position_embeddings", None)
    return length if isinstance(length, int) else None


def notes_of(found: survey.Survey, job: Job) -> list[str]:
    """What the user should know of how it is trained."""
    notes = []
    if found.bad_rows:
        notes.append(f"{found.bad_rows} of {found.rows} rows were left out, the first is {found.bad[0].place}.")
    if job.batch_divisor > 1:
        notes.append(f"The micro batch is a {job.batch_divisor}th of what was asked for: the GPU ran out of memory.")
    return notes


def split_of(
    job: Job, options: TrainingOptions, arguments: Arguments, *,
    found: survey.Survey, tokenizer: Any, notes: list[str], teller: Teller,
) -> prepare.Split:  # fmt: skip
    """The data as the trainer takes them."""
    teller.tell(TuneProgress(phase="Preparing", rows=found.usable_rows))
    if found.is_preference:
        whole = prepare.preferences(found)
        made = prepare.Prepared(
            rows=len(whole), tokens=0, dropped=0, bad_rows=found.bad_rows,
            sha256=found.sha256 or survey.fingerprint(found.files),
        )  # fmt: skip
        return prepare.split(whole, made, options)
    encoder = Encoder(tokenizer, bool(arguments.assistant_only_loss), arguments.completion_only_loss is not False)
    folder = state_dir(Path(job.output_dir))
    made = prepare.prepare(found, encoder, folder, limit=arguments.max_length)
    say(f"{made.rows} rows with {made.tokens} tokens to learn from")
    if made.dropped:
        limit = arguments.max_length
        notes.append(f"{made.dropped} rows were left out: nothing of their answers lies within {limit} tokens.")
    return prepare.split(prepare.tokens_of(folder), made, options)


def without_preparation(arguments: Arguments) -> Arguments:
    """The tokens are labelled already: the trainer is not to look for conversations."""
    if hasattr(arguments, "assistant_only_loss"):
        arguments.assistant_only_loss = False
        arguments.completion_only_loss = False
    return arguments


def keep_apart(arguments: Arguments, model: Any, notes: list[str]) -> None:
    """Examples are packed only where they do not see each other, unless the configuration asks for just that."""
    if not getattr(arguments, "packing", False):
        return
    if arguments.packing_strategy == "wrapped":
        notes.append("Examples that share a row see each other, and may be cut (packing_strategy: wrapped).")
    elif packing.leaks(model):
        arguments.packing = arguments.eval_packing = False
        notes.append("Examples are not packed: those that share a row would see each other in this model.")


def check_same(prepared: prepare.Prepared) -> None:
    """Raises Failed when the nodes have fetched different data."""
    if not is_same(prepared.sha256):
        what = "The data that the nodes have fetched are not the same."
        raise Failed(REASON_TUNING_FILE, what, "Name a revision of the data set, or an image by its digest.")


def check_space(output: Path) -> None:
    """Raises Failed when the disk is as good as full."""
    free = shutil.disk_usage(output).free
    if free < LEAST_SPACE_BYTES:
        raise disk_full(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(output)))


def summary_of(trainer: Any, watcher: Watcher, prepared: prepare.Prepared, *, seconds: float) -> Summary:
    """What the training came to."""
    loss, eval_loss = watcher.losses
    return Summary(
        steps=trainer.state.global_step,
        rows=prepared.rows,
        tokens=prepared.tokens,
        loss=loss,
        eval_loss=eval_loss,
        seconds=seconds,
        tokens_per_second=watcher.tokens_per_second,
        data_sha256=prepared.sha256,
        notes=tuple(watcher.notes),
    )


if __name__ == "__main__":
    tie_to_parent()  # torch's launcher may be killed, and starts this process in a session of its own.
    sys.exit(main(sys.argv))
