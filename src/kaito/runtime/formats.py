# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Which files hold the rows of a data set, by their names. Who reads them is `tune/files.py`."""

from __future__ import annotations

from pathlib import PurePosixPath

SUFFIXES = {
    ".parquet": "parquet", ".pq": "parquet", ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "json", ".csv": "csv",
    ".arrow": "arrow", ".feather": "arrow", ".txt": "text", ".text": "text",
}  # fmt: skip
WORDS = ("parquet", "jsonl", "json", "csv", "arrow")
"""As KAITO does, a file without a known ending is known by a word in its name."""
IGNORED = frozenset({"readme.md", "dataset_info.json", "state.json", "dataset_infos.json", "license.txt"})


def format_of(name: str) -> str | None:
    """The format that a file's name speaks of."""
    lowered = name.lower()
    known = SUFFIXES.get(PurePosixPath(lowered).suffix)
    return known or next((word for word in WORDS if word in lowered), None)


def holds_rows(path: str) -> bool:
    """Whether a file of that path, relative to its data set, is part of it by its ending."""
    whole = PurePosixPath(path)
    is_hidden = any(part.startswith(".") for part in whole.parts)
    return not is_hidden and whole.name.lower() not in IGNORED and whole.suffix.lower() in SUFFIXES
