# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Data sets of a hub as tuning data: found, pinned to a commit, verified, and looked at by the command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from kaito.api.contracts import FetchConfig, FetchItem, HubSource, ModelSource, TuneConfig
from kaito.api.names import (
    REASON_ARTIFACT_INVALID,
    REASON_ARTIFACT_NOT_FOUND,
    REASON_ARTIFACT_UNAUTHORIZED,
    REASON_NOT_SUPPORTED_HERE,
)
from kaito.runtime.artifacts.fetch import fetch_item
from kaito.runtime.failure import Failed
from kaito.runtime.settings import Settings
from kaito.runtime.tune.origin import data_sets, note_content, origin_of, pinned
from tests.hub_process import DataHub, data_hub

ROWS = b"".join(json.dumps({"text": f"a row of number {n}"}).encode() + b"\n" for n in range(400))
CARD = b"""---
configs:
- config_name: questions
  default: true
  data_files:
  - {split: train, path: "q/learn-*.jsonl"}
  - {split: test, path: q/ask.jsonl}
- config_name: stories
  data_files: "s/*.jsonl"
---
# A data set
"""


@pytest.fixture
def hub() -> Iterator[DataHub]:
    with data_hub() as up:
        test = b'{"text": "a test"}\n'
        rows = {"data/train-00000-of-00001.jsonl": ROWS, "data/test-00000-of-00001.jsonl": test}
        up.commit("org/rows", {"README.md": b"# Rows", "rows.py": b"import os", **rows})
        questions = {"q/learn-1.jsonl": ROWS, "q/learn-2.jsonl": test, "q/ask.jsonl": test}
        up.commit("org/card", {"README.md": CARD, **questions, "s/one.jsonl": test})
        yield up


def fetch(hub: DataHub, folder: Path, token: str = "", **source: str) -> list[str]:
    """The names of the files that are fetched."""
    item = FetchItem(name="data", source=HubSource(**{"repository": "org/rows", **source}), destination=str(folder))
    settings = Settings(hub_endpoint=hub.url, hub_token=token or None)
    fetch_item(item, FetchConfig(items=(item,), public_only=True), settings)
    found = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return sorted(name for name in found if not name.startswith("."))


@pytest.mark.parametrize(
    ("source", "files"),
    [
        ({}, ["data/train-00000-of-00001.jsonl"]),
        ({"split": "test"}, ["data/test-00000-of-00001.jsonl"]),
        ({"path": "data/test-00000-of-00001.jsonl"}, ["data/test-00000-of-00001.jsonl"]),
        ({"path": "data"}, ["data/train-00000-of-00001.jsonl"]),
        ({"path": "data/*.jsonl"}, ["data/test-00000-of-00001.jsonl", "data/train-00000-of-00001.jsonl"]),
        ({"repository": "org/card"}, ["q/learn-1.jsonl", "q/learn-2.jsonl"]),
        ({"repository": "org/card", "split": "test"}, ["q/ask.jsonl"]),
        ({"repository": "org/card", "config": "stories"}, ["s/one.jsonl"]),
    ],
)
def test_of_a_data_set_one_split_is_taken(
    hub: DataHub, tmp_path: Path, source: dict[str, str], files: list[str]
) -> None:
    assert fetch(hub, tmp_path / "data", **source) == files


@pytest.mark.parametrize(
    ("source", "reason", "says"),
    [
        ({"repository": "org/none"}, REASON_ARTIFACT_NOT_FOUND, "shows no data set org/none"),
        ({"revision": "v9"}, REASON_ARTIFACT_NOT_FOUND, "has no revision v9"),
        ({"split": "dev"}, REASON_ARTIFACT_NOT_FOUND, "has no split dev, but test, train"),
        ({"path": "datum"}, REASON_ARTIFACT_NOT_FOUND, "has no datum, but README.md, data, rows.py"),
        ({"path": "rows.py"}, REASON_ARTIFACT_INVALID, "no files with rows"),
        ({"repository": "org/card", "config": "poems"}, REASON_ARTIFACT_NOT_FOUND, "but questions, stories"),
        ({"repository": "org/gated"}, REASON_ARTIFACT_UNAUTHORIZED, "org/gated is gated"),
        ({"repository": "org/damaged"}, REASON_ARTIFACT_INVALID, "has the digest"),
    ],
)
def test_what_cannot_be_had_says_so(
    hub: DataHub, tmp_path: Path, source: dict[str, str], reason: str, says: str
) -> None:
    hub.commit("org/gated", {"a.jsonl": ROWS})
    hub.gated.add("org/gated")
    hub.commit("org/damaged", {"a.jsonl": ROWS, "big.jsonl": ROWS})
    hub.damaged.add("big.jsonl")
    with pytest.raises(Failed) as raised:
        fetch(hub, tmp_path / "data", **source)
    assert raised.value.failure.reason == reason
    assert says in raised.value.failure.message
    assert raised.value.failure.next_step
    assert not (tmp_path / "data").exists()


def test_the_token_opens_a_gated_data_set_and_stays_with_the_hub(hub: DataHub, tmp_path: Path) -> None:
    hub.commit("org/gated", {"a.jsonl": ROWS})
    hub.gated.add("org/gated")
    hub.renamed["org/old"] = "org/gated"
    hub.busy = 1
    assert fetch(hub, tmp_path / "data", "good", repository="org/gated") == ["a.jsonl"]
    home = hub.url.removeprefix("http://")
    assert {token for host, _, token in hub.asked if host == home} == {"Bearer good"}
    assert {token for host, _, token in hub.asked if host != home} == {""}
    hub.asked.clear()
    assert fetch(hub, tmp_path / "data", "good", repository="org/gated") == ["a.jsonl"]
    assert hub.asked == []


def tuning(**more: object) -> TuneConfig:
    item = FetchItem(name="data", source=HubSource(repository="org/rows"), destination="/mnt/data/1-rows")
    model = ModelSource(id="org/model")
    return TuneConfig(workspace="w", namespace="", device="cpu", model=model, method="lora", data=(item,), **more)  # type: ignore[arg-type]


def test_a_run_stays_at_the_commit_that_it_began_with(hub: DataHub, tmp_path: Path) -> None:
    settings = Settings(hub_endpoint=hub.url)
    first = hub.branches["org/rows"]["main"]
    (item,) = pinned(tuning(), tmp_path, settings)
    hub.commit("org/rows", {"a.jsonl": b"{}\n"})
    (again,) = pinned(tuning(), tmp_path, settings)
    assert item == again
    assert data_sets([again]) == (f"hf://datasets/org/rows@{first}",)
    (anew,) = pinned(tuning(), tmp_path / "other", settings)
    assert anew != item
    with pytest.raises(Failed) as raised:
        pinned(tuning(offline=True), tmp_path, settings)
    assert raised.value.failure.reason == REASON_NOT_SUPPORTED_HERE


def test_other_data_than_before_are_another_training(tmp_path: Path) -> None:
    (tmp_path / "checkpoint-5").mkdir()
    note_content(tmp_path, "one")
    note_content(tmp_path, "one")
    assert (tmp_path / "checkpoint-5").is_dir()
    note_content(tmp_path, "two")
    assert not (tmp_path / "checkpoint-5").exists()
    assert origin_of(tmp_path).sha256 == "two"


def test_the_command_line_looks_at_a_data_set_of_a_hub(hub: DataHub, tmp_path: Path) -> None:
    env = {**os.environ, "HF_ENDPOINT": hub.url, "XDG_CACHE_HOME": str(tmp_path)}

    def check(data: str) -> subprocess.CompletedProcess[str]:
        argv = [sys.executable, "-m", "kaito.cli", "tune", "check", data]
        return subprocess.run(argv, env=env, capture_output=True, text=True, timeout=120, check=False)

    commit = hub.branches["org/rows"]["main"]
    found = check("org/rows")
    assert found.returncode == 0, found.stdout + found.stderr
    assert f"hf://datasets/org/rows@{commit}" in found.stdout
    assert "400 rows, 400 of them can be trained on" in found.stdout
    missing = check("hf://datasets/org/none")
    assert missing.returncode == 1
    assert "shows no data set org/none" in missing.stdout
    wrong = check("hf://models/org/none")
    assert "must begin with hf://datasets/" in wrong.stderr + wrong.stdout
