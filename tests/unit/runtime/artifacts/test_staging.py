# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""The folder that appears whole or not at all, wanted by several at once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from kaito.runtime.artifacts.staging import MARKER, staged
from kaito.runtime.failure import Failed


def test_of_several_that_want_a_folder_one_fills_it(tmp_path: Path) -> None:
    together = Barrier(6)

    def fill(destination: Path) -> bool:
        together.wait()
        with staged(destination, "the source") as staging:
            if staging.found is None:
                staging.tree.mkdir()
                (staging.tree / "weights").write_text("all of them")
                staging.finish(None)
            return staging.found is None

    with ThreadPoolExecutor(6) as pool:
        for destination in (tmp_path / str(number) for number in range(100)):
            assert sorted(pool.map(fill, [destination] * 6)) == [False] * 5 + [True]
            assert {path.name for path in destination.iterdir()} == {MARKER, "weights"}


def test_what_waits_leaves_nothing_beside_the_folder(tmp_path: Path) -> None:
    for _ in range(2):
        with staged(tmp_path / "out", "the source") as staging:
            if staging.found is None:
                staging.tree.mkdir()
                staging.finish(None)
    assert not staging.place.exists()


def test_a_folder_with_somebody_elses_files_is_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("keep me")
    with pytest.raises(Failed, match="not fetched here"), staged(tmp_path, "the source"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
