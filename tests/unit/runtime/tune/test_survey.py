# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Data sets as they are found: every format, and every way in which they are no good."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.ipc as ipc
import pyarrow.parquet as pq
import pytest

from kaito.api import names
from kaito.api.training import DatasetSection
from kaito.runtime.failure import Failed
from kaito.runtime.tune.examples import Example
from kaito.runtime.tune.survey import Survey, examples, survey

ROWS = [{"prompt": f"question {n}", "completion": f"answer {n}"} for n in range(5)]
EXPECTED = [Example(prompt=row["prompt"], completion=row["completion"]) for row in ROWS]
NONE = DatasetSection()
Rows = Sequence[dict[str, Any]]


def parquet(path: Path, rows: Rows) -> None:
    pq.write_table(pa.Table.from_pylist(list(rows)), path)


def arrow_file(path: Path, rows: Rows) -> None:
    table = pa.Table.from_pylist(list(rows))
    with ipc.new_file(path, table.schema) as writer:
        writer.write_table(table)


def arrow_stream(path: Path, rows: Rows) -> None:
    table = pa.Table.from_pylist(list(rows))
    with ipc.new_stream(path, table.schema) as writer:
        writer.write_table(table)


def json_lines(path: Path, rows: Rows) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def json_array(path: Path, rows: Rows) -> None:
    path.write_text(json.dumps(list(rows), indent=1))


def csv(path: Path, rows: Rows) -> None:
    path.write_text("prompt,completion\n" + "".join(f'"{row["prompt"]}",{row["completion"]}\n' for row in rows))


def learned(found: Survey) -> list[Example]:
    return [example for batch in examples(found) for example in batch]


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("a.parquet", parquet),
        ("a.arrow", arrow_file),
        ("b.arrow", arrow_stream),
        ("a.jsonl", json_lines),
        ("a.json", json_lines),
        ("a.json", json_array),
        ("a.csv", csv),
        ("train-parquet-00000", parquet),
    ],
)
def test_every_format_is_read(tmp_path: Path, name: str, write: Callable[[Path, Rows], None]) -> None:
    write(tmp_path / name, ROWS)
    found = survey(tmp_path, NONE)
    assert (found.rows, found.bad_rows) == (5, 0)
    assert learned(found) == EXPECTED == found.sample


def test_lines_of_text_are_rows(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one\n\ntwo\n")
    assert learned(survey(tmp_path, NONE)) == [Example(text="one"), Example(text="two")]


def test_all_files_are_read_whatever_their_formats_and_folders(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    parquet(tmp_path / "deep" / "b.parquet", ROWS)
    json_lines(tmp_path / "a.jsonl", ROWS)
    (tmp_path / "README.md").write_text("text about it")
    assert survey(tmp_path, NONE).rows == 10
    assert survey(tmp_path, DatasetSection(dataset_path="deep")).rows == 5


@pytest.mark.parametrize(
    "wanted", ["data", "/mnt/data", "deep", "data/deep", "/mnt/data/deep", "deep/b.jsonl", "data/data"]
)
def test_a_path_is_meant_below_mnt_or_below_the_data(tmp_path: Path, wanted: str) -> None:
    for name in ("deep", "data"):
        (tmp_path / name).mkdir()
        json_lines(tmp_path / name / "b.jsonl", ROWS)
    assert survey(tmp_path, DatasetSection(dataset_path=wanted)).rows == (10 if wanted in ("data", "/mnt/data") else 5)


@pytest.mark.parametrize("wanted", ["../x", "data/../../x", "nowhere"])
def test_no_path_leads_out_of_the_data(tmp_path: Path, wanted: str) -> None:
    (tmp_path.parent / "x").touch()
    assert failure(tmp_path, dataset_path=wanted)[0] == names.REASON_TUNING_CONFIG


def failure(folder: Path, **options: Any) -> tuple[str, str]:
    with pytest.raises(Failed) as error:
        survey(folder, DatasetSection(**options))
    return error.value.failure.reason, error.value.failure.message


def test_nothing_to_read_and_no_rows_are_told_apart(tmp_path: Path) -> None:
    assert failure(tmp_path) == (names.REASON_TUNING_DATA_EMPTY, failure(tmp_path)[1])
    (tmp_path / "a.jsonl").write_text("\n")
    assert failure(tmp_path)[0] == names.REASON_TUNING_DATA_EMPTY
    assert "no rows" in failure(tmp_path)[1]


def test_empty_rows_are_named_by_line(tmp_path: Path) -> None:
    json_lines(tmp_path / "a.jsonl", [*ROWS, {"prompt": "x", "completion": ""}])
    reason, message = failure(tmp_path)
    assert reason == names.REASON_TUNING_ROWS_EMPTY
    assert "1 of 6 rows" in message and "a.jsonl, line 6" in message


@pytest.mark.parametrize("write", [parquet, json_lines])
def test_a_few_bad_rows_may_be_left_out(tmp_path: Path, write: Callable[[Path, Rows], None]) -> None:
    name = "a.parquet" if write is parquet else "a.jsonl"
    write(tmp_path / name, [*ROWS, {"prompt": "x", "completion": " "}, {"prompt": None, "completion": "y"}])
    assert failure(tmp_path)[0] == names.REASON_TUNING_ROWS_EMPTY
    found = survey(tmp_path, DatasetSection(bad_rows_allowed=0.5))
    assert (found.rows, found.bad_rows) == (7, 2)
    assert learned(found) == EXPECTED


def test_conversations_in_parquet_are_looked_at_row_by_row(tmp_path: Path) -> None:
    good = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    bad = [[], good[:1], [{"role": "robot", "content": "x"}, good[1]], [good[0], {"role": "assistant", "content": " "}]]
    parquet(tmp_path / "a.parquet", [{"messages": messages} for messages in (good, *bad, good)])
    found = survey(tmp_path, DatasetSection(bad_rows_allowed=1))
    assert [row.place for row in found.bad] == [f"a.parquet, row {n}" for n in (2, 3, 4, 5)]
    assert len(learned(found)) == 2


def test_what_is_not_utf8_is_told_by_line(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "one"}\n{"text": "caf\xe9"}\n')
    reason, message = failure(tmp_path)
    assert (reason, "line 2" in message) == (names.REASON_TUNING_ENCODING, True)
    (tmp_path / "a.jsonl").rename(tmp_path / "a.csv")
    (tmp_path / "a.csv").write_bytes(b"text\ncaf\xe9\n")
    assert failure(tmp_path)[0] == names.REASON_TUNING_ENCODING


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("b.parquet", b"PAR1 no parquet"),
        ("b.jsonl", b'{"text": \n'),
        ("b.json", b'[{"text": "a"},'),
        ("b.arrow", b"nothing of the kind"),
        ("b.csv", b"text\none,two\n"),
    ],
)
def test_one_broken_file_of_many_stops_all(tmp_path: Path, name: str, content: bytes) -> None:
    json_lines(tmp_path / "a.jsonl", [{"text": "fine"}])
    (tmp_path / name).write_bytes(content)
    reason, message = failure(tmp_path)
    assert (reason, message.startswith(name)) == (names.REASON_TUNING_FILE, True)


def test_a_long_data_set_is_sampled_evenly(tmp_path: Path) -> None:
    parquet(tmp_path / "a.parquet", [{"text": f"{n}"} for n in range(20_000)])
    found = survey(tmp_path, NONE, sample_rows=500)
    numbers = [int(example.text) for example in found.sample]
    assert len(numbers) == 500 == len(set(numbers))
    assert 8_500 < sum(numbers) / 500 < 11_500
