# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Questions with their answers out of a data set, read as a fine-tuning reads it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kaito.api.training import DatasetSection
from kaito.cli.failure import UserError
from kaito.runtime.failure import Failed
from kaito.runtime.tune.examples import Example
from kaito.runtime.tune.survey import survey

Pair = tuple[list[dict[str, Any]], str]
"""The messages before an answer, and the answer."""


def read(data: Path, rows: int) -> list[Pair]:
    """Of so many rows, each with the same chance, those that ask something. Raises UserError when none does."""
    try:
        found = survey(data, DatasetSection(), sample_rows=rows)
    except Failed as error:
        raise UserError(error.failure.message, error.failure.next_step) from None
    pairs = [pair for example in found.sample if (pair := pair_of(example)) is not None]
    if not pairs:
        raise UserError(f"No row of {data} has a question and an answer.", "Give rows with messages, or --prompt TEXT.")
    return pairs


def pair_of(example: Example) -> Pair | None:
    """What comes before the last answer of an example, and that answer; None where nothing is asked."""
    if example.prompt and example.completion:
        return [{"role": "user", "content": example.prompt}], example.completion
    last = max((i for i, one in enumerate(example.messages) if one["role"] == "assistant"), default=0)
    return (list(example.messages[:last]), str(example.messages[last]["content"])) if last else None
