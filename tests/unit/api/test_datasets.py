# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""How data sets of a hub are written."""

from __future__ import annotations

import pytest

from kaito.api.datasets import Dataset, is_dataset, is_id, parse, problem


@pytest.mark.parametrize(
    ("address", "found"),
    [
        ("hf://datasets/org/name", Dataset("org/name")),
        ("hf://datasets/org/name@main", Dataset("org/name", "main")),
        ("hf://datasets/org/name@v1/data", Dataset("org/name", "v1", "data")),
        ("hf://datasets/org/name/a/*.jsonl", Dataset("org/name", "", "a/*.jsonl")),
        ("hf://datasets/o/n@refs/convert/parquet/x", Dataset("o/n", "refs/convert/parquet", "x")),
        ("hf://datasets/o/n@a%2Fb?config=c&split=s", Dataset("o/n", "a/b", "", "c", "s")),
    ],
)
def test_an_address_is_read_and_written_back(address: str, found: Dataset) -> None:
    assert is_dataset(address)
    assert parse(address) == found
    assert parse(str(found)) == found


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("hf://org/name", "must begin with hf://datasets/"),
        ("hf://datasets/name", "org/name"),
        ("hf://datasets/org/name@", "nothing behind the @"),
        ("hf://datasets/org/na me", "org/name"),
        ("hf://datasets/org/name/../x", "leads elsewhere"),
        ("hf://datasets/org/name?splt=train", "unknown word splt"),
    ],
)
def test_what_is_wrong_with_an_address_is_said(address: str, says: str) -> None:
    assert says in (problem(address) or "")


def test_what_is_no_address_of_a_hub() -> None:
    assert not is_dataset("https://huggingface.co/datasets/org/name")
    assert is_id("org/name")
    assert not is_id("a/b/c")
    assert not is_id("./data")
