# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Unpacked layers put together to one folder, in order, as an overlay of file systems would show them.

Everything is moved within one file system, nothing is copied. At the end every symbolic link is followed once: one that
leads outside, over whatever detours, makes the whole refused.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from kaito.runtime.artifacts.unpack import Unpacked, Unsafe


def merge(layers: Iterable[tuple[Path, Unpacked]], tree: Path) -> None:
    """Move the layers into the tree, lowest first; raises Unsafe."""
    tree.mkdir(parents=True, exist_ok=True)
    for place, unpacked in layers:
        for folder in unpacked.opaque:
            _empty(_inside(tree, folder))
        for gone in unpacked.whiteouts:
            _remove(_inside(tree, gone))
        _move(place, tree)
        for name, other in unpacked.links:
            _link(tree, name, other)
    check_links(tree)


def check_links(tree: Path) -> None:
    """Raise Unsafe when a symbolic link of the tree leads out of it."""
    root = os.path.realpath(tree)
    for folder, folders, files in os.walk(tree):
        for name in (*folders, *files):
            path = Path(folder, name)
            if path.is_symlink() and not f"{os.path.realpath(path)}/".startswith(f"{root}/"):
                raise Unsafe(f"{path.relative_to(tree)} is a link that leads outside")


def _move(place: Path, tree: Path) -> None:
    """Move what is in one folder into another: folders are joined, all else replaces what was there."""
    for entry in sorted(place.iterdir()):
        target = tree / entry.name
        if entry.is_dir() and not entry.is_symlink():
            if target.is_dir() and not target.is_symlink():
                _move(entry, target)
                continue
            _remove(target)
        elif target.is_dir() and not target.is_symlink():
            _remove(target)
        entry.replace(target)


def _link(tree: Path, name: str, other: str) -> None:
    source, target = _inside(tree, other), _inside(tree, name)
    if source.is_symlink() or not source.is_file():
        raise Unsafe(f"{name} is a hard link to {other}, which is no file of the layers below")
    _remove(target)
    os.link(source, target)


def _inside(tree: Path, below: str) -> Path:
    """The path in the tree; raises Unsafe when it goes through a symbolic link."""
    current = tree
    for part in Path(below).parts:
        if current.is_symlink():
            raise Unsafe(f"{below} goes through a link")
        current = current / part
    return current


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _empty(folder: Path) -> None:
    if folder.is_dir() and not folder.is_symlink():
        for entry in list(folder.iterdir()):
            _remove(entry)
