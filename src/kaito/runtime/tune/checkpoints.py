# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Checkpoints that survive a sudden end: one counts only once a mark in it says that all of it was written.

The trainer writes them and reads them back: weights, optimizer, schedule, random numbers and the place in the data, so
that a run that goes on computes what it would have computed.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

MARK = "kaito-complete"
_NAME = re.compile(r"checkpoint-(\d+)")


def checkpoints(output_dir: Path) -> list[tuple[int, Path]]:
    """Step and folder of all checkpoints, whole or not, the oldest first."""
    found = []
    for path in output_dir.glob("checkpoint-*"):
        match = _NAME.fullmatch(path.name)
        if match is not None and path.is_dir():
            found.append((int(match[1]), path))
    return sorted(found)


def newest(output_dir: Path) -> Path | None:
    """The newest checkpoint that is whole; what is not is removed, so that nobody takes it for one."""
    for _, path in reversed(checkpoints(output_dir)):
        if (path / MARK).is_file():
            return path
        shutil.rmtree(path, ignore_errors=True)
    return None


def mark_whole(path: Path) -> None:
    """Say that all of the checkpoint is on the disk."""
    for file in path.rglob("*"):
        if file.is_file():
            _sync(file)
    (path / MARK).touch()
    _sync(path / MARK)
    _sync(path)


def remove_unfinished(output_dir: Path) -> None:
    """Remove what was not written to its end: a checkpoint, or the weights of a result that is not whole."""
    newest(output_dir)
    for weights in output_dir.glob("*.safetensors"):
        weights.unlink()


def remove_all(output_dir: Path) -> None:
    """Remove every checkpoint: the result is whole."""
    for _, path in checkpoints(output_dir):
        shutil.rmtree(path, ignore_errors=True)


def _sync(path: Path) -> None:
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)
