# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""The data set as the trainer takes it: tokens and labels in an Arrow file that is mapped, not held in memory.

Written once into the state folder; a run that goes on maps the same file, and so sees the same order.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from datasets import Dataset

from kaito.api.contracts import Contract
from kaito.api.names import REASON_TUNING_ROWS
from kaito.api.training import TrainingOptions
from kaito.runtime.failure import Failed
from kaito.runtime.tune import survey as surveying
from kaito.runtime.tune.encoding import Encoder
from kaito.runtime.tune.examples import as_conversation
from kaito.runtime.tune.job import read, write

TOKENS = "tokens.arrow"
NOTE = "prepared.json"
SCHEMA = pa.schema([("input_ids", pa.list_(pa.int32())), ("labels", pa.list_(pa.int32()))])


class Prepared(Contract):
    """What the file holds."""

    rows: int
    tokens: int
    dropped: int
    """Rows of which nothing was left to learn from after they were cut."""
    bad_rows: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Split:
    """What is trained on, and what is evaluated with."""

    train: Dataset
    evaluation: Dataset | None
    prepared: Prepared


def prepare(found: surveying.Survey, encoder: Encoder, folder: Path, *, limit: int | None) -> Prepared:
    """Write the tokens of every usable row, cut to the limit; a file that was written earlier is taken as it is."""
    digest = found.sha256 or surveying.fingerprint(found.files)
    there = read(folder / NOTE, Prepared)
    if there is not None and there.sha256 == digest and (folder / TOKENS).is_file():
        return there
    folder.mkdir(parents=True, exist_ok=True)
    scratch = folder / f"{TOKENS}.part"
    rows = tokens = dropped = 0
    with pa.OSFile(str(scratch), "wb") as sink, pa.ipc.new_stream(sink, SCHEMA) as writer:
        for batch in surveying.examples(found):
            ids, labels = [], []
            for encoded in encoder.encode(batch):
                if not any(label >= 0 for label in encoded.labels[:limit]):
                    dropped += 1
                    continue
                ids.append(encoded.input_ids[:limit])
                labels.append(encoded.labels[:limit])
                tokens += len(ids[-1])
            rows += len(ids)
            writer.write_batch(
                pa.record_batch([pa.array(ids, SCHEMA[0].type), pa.array(labels, SCHEMA[1].type)], SCHEMA)
            )
    if rows == 0:
        what = f"None of the {found.usable_rows} rows has anything left to learn from"
        step = "Raise TrainingArguments.max_length, or shorten the prompts."
        raise Failed(REASON_TUNING_ROWS, f"{what} within {limit} tokens.", step)
    scratch.rename(folder / TOKENS)
    made = Prepared(rows=rows, tokens=tokens, dropped=dropped, bad_rows=found.bad_rows, sha256=digest)
    write(folder / NOTE, made)
    return made


def preferences(found: surveying.Survey) -> Dataset:
    """A data set of preferences, as the trainer reads them itself: all texts, or all conversations."""
    found_examples = [example for batch in surveying.examples(found) for example in batch]
    if any(isinstance(example.chosen, list) for example in found_examples):
        found_examples = [as_conversation(example) for example in found_examples]
    return Dataset.from_list(
        [{"prompt": one.prompt, "chosen": one.chosen, "rejected": one.rejected} for one in found_examples]
    )


def split(whole: Dataset, prepared: Prepared, options: TrainingOptions) -> Split:
    """The data set divided as the configuration says, always in the same way."""
    share = options.dataset.train_test_split or 1.0
    seed = options.dataset.shuffle_seed if options.dataset.shuffle_seed is not None else 42
    order = (
        np.random.default_rng(seed).permutation(len(whole)) if options.dataset.shuffle_dataset else range(len(whole))
    )
    held_back = 0 if share >= 1.0 else min(len(whole) - 1, max(1, round(len(whole) * (1 - share))))
    parts = [whole.select(part, keep_in_memory=True) for part in (order[held_back:], order[:held_back])]
    return Split(parts[0], parts[1] if held_back else None, prepared)


def tokens_of(folder: Path) -> Dataset:
    """The prepared tokens."""
    return Dataset.from_file(str(folder / TOKENS))
