# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""The files of a data set, read in batches that need little memory however large the files are.

Knows formats, not what columns mean (`examples.py`). A file that cannot be read is never passed over: one broken file
of many would otherwise train a model on the rest without anybody noticing.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.ipc as ipc
import pyarrow.parquet as pq

from kaito.api.names import REASON_TUNING_CONFIG, REASON_TUNING_DATA_EMPTY, REASON_TUNING_ENCODING, REASON_TUNING_FILE
from kaito.api.training import DatasetSection
from kaito.runtime.failure import Failed
from kaito.runtime.formats import IGNORED, WORDS, format_of
from kaito.runtime.tune.examples import Schema

BATCH_ROWS = 4096
LARGEST_JSON = 1 << 30
"""Bytes of a JSON array, which has to be read whole; JSON lines have no limit."""
Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class DataFile:
    """A file and its format."""

    path: Path
    format: str
    name: str
    """Relative to the data folder: what messages call it."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Some rows of a file. Rows are counted from 1; text formats have line numbers."""

    columns: tuple[str, ...]
    numbers: Sequence[int]
    """Of each row: its line, or its number in the file."""
    unit: str
    table: pa.RecordBatch | None = None
    listed: Sequence[Row] = field(default=())

    def __len__(self) -> int:
        return len(self.numbers)

    def rows(self, indices: Sequence[int] | None = None) -> list[Row]:
        """The rows, or some of them."""
        if self.table is None:
            return list(self.listed) if indices is None else [self.listed[index] for index in indices]
        table = self.table if indices is None else self.table.take(pa.array(indices, pa.int64()))
        found: list[Row] = table.to_pylist()
        return found

    def suspects(self, schema: Schema) -> Sequence[int]:
        """The rows that may be bad: all that are and, where looking closely is cheap, some that are not."""
        if self.table is None:
            return range(len(self))
        wrong: pa.Array | None = None
        for column in schema.text_columns:
            found = _suspicious(self.table.column(self.table.schema.get_field_index(column)))
            if found is None:
                return range(len(self))
            wrong = found if wrong is None else pc.or_(wrong, found)
        if schema.kind == "preference" or wrong is None:
            return range(len(self))
        return [int(index) for index in pc.indices_nonzero(wrong).to_pylist()]


def _suspicious(column: pa.Array) -> pa.Array | None:
    """A mask of rows that may be bad; None when it takes Python to know."""
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        return _blank(column)
    is_list = pa.types.is_list(column.type) or pa.types.is_large_list(column.type)
    if is_list and pa.types.is_struct(column.type.value_type):
        return _suspicious_messages(column)
    return None


def _blank(texts: pa.Array) -> pa.Array:
    """A mask of texts without a character that shows: the search ends at the first, so it costs little."""
    return pc.fill_null(pc.invert(pc.match_substring_regex(texts, r"[^\s\p{Z}]")), True)


def _suspicious_messages(column: pa.Array) -> pa.Array | None:
    """Conversations without messages, with blank ones, with unknown roles, or without an assistant."""
    names = {field.name for field in column.type.value_type}
    role, content = ("role", "content") if "role" in names else ("from", "value")
    if not {role, content} <= names or not pa.types.is_string(column.type.value_type.field(content).type):
        return None
    empty = pc.fill_null(pc.equal(pc.list_value_length(column), 0), True)
    flat, parents = pc.list_flatten(column), pc.list_parent_indices(column)
    roles, contents = pc.struct_field(flat, role), pc.struct_field(flat, content)
    if not pa.types.is_string(roles.type):
        return None
    blank = _blank(contents)
    ours = pa.array(["system", "user", "assistant", "tool", "human", "gpt"])
    strange = pc.invert(pc.fill_null(pc.is_in(roles, value_set=ours), False))
    answers = pc.fill_null(pc.is_in(roles, value_set=pa.array(["assistant", "gpt"])), False)
    bad = set(parents.filter(pc.or_(blank, strange)).to_pylist())
    answered = pc.is_in(pa.array(range(len(column)), pa.int64()), value_set=parents.filter(answers).cast(pa.int64()))
    marked = pa.array([index in bad for index in range(len(column))]) if bad else pc.invert(answered)
    return pc.or_(empty, pc.or_(marked, pc.invert(answered)))


def find_files(folder: Path, options: DatasetSection) -> list[DataFile]:
    """Every file of the data set, sorted by name; raises Failed (TuningDataEmpty) when there is none."""
    root = _root(folder, options.dataset_path)
    paths = [root] if root.is_file() else sorted(path for path in root.rglob("*") if _may_be_data(path, root))
    found = []
    for path in paths:
        format_ = options.dataset_extension or format_of(path.name)
        if format_ is None:
            continue
        format_ = "text" if format_ in ("txt", "text") else format_.lstrip(".")
        if format_ not in {*WORDS, "text"}:
            what = f"DatasetConfig.dataset_extension is {format_}"
            raise Failed(REASON_TUNING_CONFIG, f"{what}.", "Write parquet, json, jsonl, csv, arrow or text.")
        found.append(
            DataFile(path, format_, str(path.relative_to(folder)) if path.is_relative_to(folder) else path.name)
        )
    if not found:
        seen = ", ".join(path.name for path in paths[:5]) or "nothing"
        raise Failed(
            REASON_TUNING_DATA_EMPTY,
            f"There is no data set to train on: the data folder has {seen}.",
            "Give files that end in .parquet, .jsonl, .json, .csv, .arrow or .txt.",
        )
    return found


def _root(folder: Path, wanted: str | None) -> Path:
    if wanted is None:
        return folder
    parts = PurePosixPath(wanted.removeprefix("/mnt").lstrip("/")).parts
    # As KAITO has it, below /mnt, where the data folder is `data`; or below the data folder.
    places = [parts[1:], parts] if parts[:1] == ("data",) else [parts]
    found = next((folder.joinpath(*one) for one in places if folder.joinpath(*one).exists()), None)
    if ".." in parts or found is None:
        what = f"DatasetConfig.dataset_path is {wanted}, and the data folder has no such file."
        raise Failed(REASON_TUNING_CONFIG, what, "Name a file or a folder of the data set, or leave it out.")
    return found


def _may_be_data(path: Path, root: Path) -> bool:
    parts = path.relative_to(root).parts
    return path.is_file() and not any(part.startswith(".") for part in parts) and path.name.lower() not in IGNORED


def batches(file: DataFile) -> Iterator[Batch]:
    """The rows of a file; raises Failed when it is broken or not UTF-8."""
    reader = {
        "parquet": _parquet, "arrow": _arrow, "jsonl": _json_lines, "json": _json, "csv": _csv, "text": _text,
    }[file.format]  # fmt: skip
    try:
        yield from reader(file)
    except pa.ArrowInvalid as error:
        raise broken(file, str(error).partition("\n")[0].rstrip(".")) from None
    except UnicodeDecodeError as error:
        raise not_utf8(file, "") from error
    except OSError as error:
        raise broken(file, error.strerror or str(error).partition("\n")[0]) from None


def broken(file: DataFile, why: str) -> Failed:
    """The file cannot be read."""
    what = f"{file.name} is no {file.format} file that can be read: {why}."
    return Failed(REASON_TUNING_FILE, what, "Replace the file, or take it out of the data set.")


def not_utf8(file: DataFile, where: str) -> Failed:
    """The file's text is in another encoding."""
    return Failed(REASON_TUNING_ENCODING, f"{file.name} is not UTF-8{where}.", "Convert the file to UTF-8.")


def _parquet(file: DataFile) -> Iterator[Batch]:
    with pq.ParquetFile(file.path, memory_map=False, pre_buffer=False) as source:
        first = 1
        for batch in source.iter_batches(batch_size=BATCH_ROWS):
            yield Batch(tuple(batch.schema.names), range(first, first + len(batch)), "row", table=batch)
            first += len(batch)


def _arrow(file: DataFile) -> Iterator[Batch]:
    first = 1
    with pa.memory_map(str(file.path)) as source:
        for batch in _arrow_batches(source):
            for offset in range(0, len(batch), BATCH_ROWS):
                part = batch.slice(offset, BATCH_ROWS)
                yield Batch(tuple(part.schema.names), range(first, first + len(part)), "row", table=part)
                first += len(part)


def _arrow_batches(source: pa.NativeFile) -> Iterator[pa.RecordBatch]:
    try:
        opened = ipc.open_file(source)
    except pa.ArrowInvalid:
        source.seek(0)
        yield from ipc.open_stream(source)
        return
    for index in range(opened.num_record_batches):
        yield opened.get_batch(index)


def _lines(file: DataFile) -> Iterator[tuple[int, bytes]]:
    with file.path.open("rb") as source:
        for number, line in enumerate(source, 1):
            text = line.strip(b" \t\r\n\xef\xbb\xbf") if number == 1 else line.strip()
            if text:
                yield number, text


def _json_lines(file: DataFile) -> Iterator[Batch]:
    decoder = msgspec.json.Decoder()
    rows: list[Row] = []
    numbers: list[int] = []
    for number, line in _lines(file):
        try:
            row = decoder.decode(line)
        except UnicodeDecodeError:
            raise not_utf8(file, f" in line {number}") from None
        except msgspec.DecodeError as error:
            if _is_not_utf8(line):
                raise not_utf8(file, f" in line {number}") from None
            raise broken(file, f"line {number}: {str(error).partition(' (')[0]}") from None
        if not isinstance(row, dict):
            raise broken(file, f"line {number} is no map of columns")
        rows.append(row)
        numbers.append(number)
        if len(rows) == BATCH_ROWS:
            yield _listed(rows, numbers, "line")
            rows, numbers = [], []
    if rows:
        yield _listed(rows, numbers, "line")


def _is_not_utf8(line: bytes) -> bool:
    try:
        line.decode("utf-8")
    except UnicodeDecodeError:
        return True
    return False


def _json(file: DataFile) -> Iterator[Batch]:
    """JSON lines, or one array of rows; a map with one list (as some exports have it) counts as that list."""
    with file.path.open("rb") as source:
        head = source.read(4096).lstrip(b" \t\r\n\xef\xbb\xbf")
    if not head.startswith(b"[") and not _is_one_document(head):
        yield from _json_lines(file)
        return
    if file.path.stat().st_size > LARGEST_JSON:
        raise broken(file, "it is one JSON array of more than a gibibyte; write a row a line (.jsonl)")
    content = file.path.read_bytes().removeprefix(b"\xef\xbb\xbf")
    try:
        decoded = msgspec.json.decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        if _is_not_utf8(content):
            raise not_utf8(file, "") from None
        raise broken(file, str(error)) from None
    if isinstance(decoded, dict):
        lists = [value for value in decoded.values() if isinstance(value, list)]
        decoded = lists[0] if len(lists) == 1 else [decoded]
    for first in range(0, len(decoded), BATCH_ROWS):
        part = decoded[first : first + BATCH_ROWS]
        if not all(isinstance(row, dict) for row in part):
            raise broken(file, "it is an array of something else than maps of columns")
        yield _listed(part, range(first + 1, first + 1 + len(part)), "row")


def _is_one_document(head: bytes) -> bool:
    """Whether a map that begins the file does not end in its first line."""
    first, _, rest = head.partition(b"\n")
    if not rest.strip():
        return False
    try:
        msgspec.json.decode(first)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return first.strip() in (b"{", b"") or first.rstrip().endswith((b"{", b"[", b","))
    return False


def _csv(file: DataFile) -> Iterator[Batch]:
    csv.field_size_limit(sys.maxsize)
    with file.path.open(encoding="utf-8-sig", newline="") as source:
        reader = csv.DictReader(source, strict=True)
        rows: list[Row] = []
        numbers: list[int] = []
        try:
            for row in reader:
                if row.get(None) or None in row.values():
                    raise broken(file, f"line {reader.line_num} has not as many fields as the heading")
                rows.append(row)
                numbers.append(reader.line_num)
                if len(rows) == BATCH_ROWS:
                    yield _listed(rows, numbers, "line")
                    rows, numbers = [], []
        except csv.Error as error:
            raise broken(file, f"line {reader.line_num}: {error}") from None
        except UnicodeDecodeError:
            raise not_utf8(file, f" after line {reader.line_num}") from None
        if rows:
            yield _listed(rows, numbers, "line")


def _text(file: DataFile) -> Iterator[Batch]:
    """A line is a row."""
    rows: list[Row] = []
    numbers: list[int] = []
    for number, line in _lines(file):
        try:
            rows.append({"text": line.decode("utf-8")})
        except UnicodeDecodeError:
            raise not_utf8(file, f" in line {number}") from None
        numbers.append(number)
        if len(rows) == BATCH_ROWS:
            yield _listed(rows, numbers, "line")
            rows, numbers = [], []
    if rows:
        yield _listed(rows, numbers, "line")


def _listed(rows: Sequence[Row], numbers: Sequence[int], unit: str) -> Batch:
    columns = tuple(dict.fromkeys(key for row in rows for key in row))
    return Batch(columns, numbers, unit, listed=rows)
