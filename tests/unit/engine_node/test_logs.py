# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Reading a container's log."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from kaito.engine.node.logs import Follower, read
from kaito.engine.stream import LogOptions

T = "2026-01-01T12:00:0{}.000000001Z"


def write(folder: Path, *lines: str, name: str = "log") -> None:
    with (folder / name).open("a") as file:
        file.writelines(f"{line}\n" for line in lines)


async def text(folder: Path, **options: object) -> str:
    pieces = [piece async for piece in read(folder, LogOptions("main", **options), lambda: True)]  # type: ignore[arg-type]
    return b"".join(pieces).decode()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path, f"{T.format(0)} stdout F zero", name="log.1")
    write(
        tmp_path,
        f"{T.format(1)} stdout F one",
        f"{T.format(2)} stdout P tw",
        f"{T.format(3)} stderr F oops",
        f"{T.format(4)} stdout F o",
        f"{T.format(5)} stdout P half",
    )
    return tmp_path


async def test_lines_in_pieces_are_joined_and_the_rotated_file_comes_first(folder: Path) -> None:
    assert await text(folder) == "zero\none\noops\ntwo\nhalf"


async def test_the_tail_counts_lines(folder: Path) -> None:
    assert await text(folder, tail_lines=2) == "two\nhalf"
    assert await text(folder, tail_lines=0) == ""


async def test_time_stamps_stand_before_lines(folder: Path) -> None:
    assert await text(folder, tail_lines=2, timestamps=True) == f"{T.format(2)} two\n{T.format(5)} half"


async def test_since_leaves_older_lines_out(folder: Path) -> None:
    assert await text(folder, since=datetime(2026, 1, 1, 12, 0, 3, tzinfo=UTC)) == "oops\nhalf"


async def test_a_byte_limit_cuts(folder: Path) -> None:
    assert await text(folder, limit_bytes=6) == "zero\no"


async def test_damaged_lines_are_left_out(tmp_path: Path) -> None:
    write(tmp_path, "torn", f"{T.format(1)} stdout F whole")
    assert await text(tmp_path) == "whole\n"


async def test_following_goes_on_across_a_rotation_until_the_end(tmp_path: Path) -> None:
    write(tmp_path, f"{T.format(1)} stdout F one")
    over = False
    follower = Follower(tmp_path, lambda: over, from_start=True, poll_s=0.001)
    entries = follower.follow()
    assert (await anext(entries)).data == b"one\n"
    (tmp_path / "log").rename(tmp_path / "log.1")
    write(tmp_path, f"{T.format(2)} stdout F last", name="log.1")
    write(tmp_path, f"{T.format(3)} stdout F two")
    over = True
    assert [entry.data async for entry in entries] == [b"last\n", b"two\n"]
    follower.close()


async def test_a_log_without_file_yet_is_empty(tmp_path: Path) -> None:
    assert await text(tmp_path) == ""
