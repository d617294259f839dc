# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Reads a whole data set once before anything is paid for: schema, rows, bad rows by line, and a sample of it.

Needs neither a model nor a GPU, and little memory: batches stream through, of most rows only that they are whole is
looked at. `estimate.py` makes tokens, memory and time of the sample.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from kaito.api.names import (
    REASON_TUNING_COLUMNS,
    REASON_TUNING_DATA_EMPTY,
    REASON_TUNING_ROWS,
    REASON_TUNING_ROWS_EMPTY,
)
from kaito.api.training import DatasetSection
from kaito.runtime.failure import Failed
from kaito.runtime.tune.examples import BadRow, Example, Schema, example_of, schema_of
from kaito.runtime.tune.files import Batch, DataFile, batches, find_files

SAMPLE_ROWS = 1000
SHOWN_BAD_ROWS = 20


@dataclass(frozen=True, slots=True)
class Bad:
    """A row that cannot be trained on, and where it is."""

    place: str
    why: str
    is_empty: bool


@dataclass(slots=True)
class Survey:
    """What a data set holds."""

    files: Sequence[DataFile]
    rows: int = 0
    bad_rows: int = 0
    empty_rows: int = 0
    bad: list[Bad] = field(default_factory=list)
    """The first of them."""
    schemas: dict[str, Schema] = field(default_factory=dict)
    """Of each file."""
    sample: list[Example] = field(default_factory=list)
    sha256: str = ""
    """Over all files (`fingerprint`), where somebody has asked for it already."""

    @property
    def usable_rows(self) -> int:
        """Rows that can be trained on."""
        return self.rows - self.bad_rows

    @property
    def is_preference(self) -> bool:
        """Whether it holds preferences rather than answers."""
        return any(schema.kind == "preference" for schema in self.schemas.values())


class _Reservoir:
    """Which rows of a stream of unknown length to keep, each with the same chance: Li's algorithm L."""

    def __init__(self, size: int) -> None:
        self._random = random.Random(0)
        self._size = size
        self._weight = math.exp(math.log(self._random.random()) / size)
        self._next = size - 1
        self._skip()

    def _skip(self) -> None:
        self._next += math.floor(math.log(self._random.random()) / math.log(1 - self._weight)) + 1
        self._weight *= math.exp(math.log(self._random.random()) / self._size)

    def wanted(self, first: int, count: int) -> Iterator[tuple[int, int]]:
        """Of the rows `first` to `first + count`: index in this stretch, and the place in the sample that it takes."""
        for index in range(min(count, max(0, self._size - first))):
            yield index, first + index
        while self._next < first + count:
            yield self._next - first, self._random.randrange(self._size)
            self._skip()


def survey(
    folder: Path,
    options: DatasetSection,
    *,
    sample_rows: int = SAMPLE_ROWS,
    on_rows: Callable[[int], None] = lambda rows: None,
) -> Survey:
    """Look at every row; raises Failed with the reason when the data set cannot be trained on."""
    found = Survey(find_files(folder, options))
    reservoir = _Reservoir(sample_rows)
    sample: dict[int, Example] = {}
    for file in found.files:
        for batch in batches(file):
            schema = found.schemas.get(file.name) or schema_of(batch.columns, options, file.name)
            found.schemas[file.name] = schema
            _note_bad(found, file, batch, schema)
            _take(sample, reservoir, batch, schema, found.rows)
            found.rows += len(batch)
            on_rows(found.rows)
    found.sample = [sample[place] for place in sorted(sample)]
    judge(found, options)
    return found


def _note_bad(found: Survey, file: DataFile, batch: Batch, schema: Schema) -> None:
    suspects = batch.suspects(schema)
    for index, row in zip(suspects, batch.rows(suspects), strict=True):
        try:
            example_of(row, schema)
        except BadRow as error:
            found.bad_rows += 1
            found.empty_rows += error.is_empty
            if len(found.bad) < SHOWN_BAD_ROWS:
                found.bad.append(Bad(f"{file.name}, {batch.unit} {batch.numbers[index]}", str(error), error.is_empty))


def _take(sample: dict[int, Example], reservoir: _Reservoir, batch: Batch, schema: Schema, first: int) -> None:
    chosen = list(reservoir.wanted(first, len(batch)))
    for (_, place), row in zip(chosen, batch.rows([index for index, _ in chosen]), strict=True):
        try:
            sample[place] = example_of(row, schema)
        except BadRow:
            sample.pop(place, None)


def judge(found: Survey, options: DatasetSection) -> None:
    """Raises Failed when there is nothing to train on, when too many rows are bad, or when kinds are mixed."""
    names = ", ".join(file.name for file in found.files[:3])
    if found.rows == 0:
        what = f"The data set has no rows: {names} {'is' if len(found.files) == 1 else 'are'} empty."
        raise Failed(REASON_TUNING_DATA_EMPTY, what, "Give a data set with rows in it.")
    kinds = {schema.kind == "preference" for schema in found.schemas.values()}
    if len(kinds) > 1:
        what = "Some files hold preferences (chosen, rejected), and some hold answers to learn."
        raise Failed(REASON_TUNING_COLUMNS, what, "Tune on the one, then on the other.")
    allowed = options.bad_rows_allowed if options.bad_rows_allowed is not None else 0.01
    if found.bad_rows <= allowed * found.rows and found.usable_rows:
        return
    first = "; ".join(f"{bad.place}: {bad.why}" for bad in found.bad[:3])
    more = f"{found.bad_rows} of {found.rows} rows cannot be used: {first}"
    reason = REASON_TUNING_ROWS_EMPTY if found.empty_rows == found.bad_rows else REASON_TUNING_ROWS
    step = "Correct them, or raise DatasetConfig.bad_rows_allowed to leave them out."
    raise Failed(reason, f"{more}.", step)


def examples(found: Survey) -> Iterator[list[Example]]:
    """Every usable row, batch by batch, in the order of the files."""
    for file in found.files:
        for batch in batches(file):
            yield list(_usable(batch, found.schemas[file.name]))


def _usable(batch: Batch, schema: Schema) -> Iterator[Example]:
    for row in batch.rows():
        try:
            yield example_of(row, schema)
        except BadRow:
            continue


def fingerprint(files: Sequence[DataFile]) -> str:
    """SHA-256 over names and contents of all files: what a result was trained on."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.name}\0".encode())
        with file.path.open("rb") as source:
            digest.update(hashlib.file_digest(source, "sha256").digest())
    return digest.hexdigest()
