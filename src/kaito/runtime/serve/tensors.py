# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Which tensors safetensors files hold, from their heads alone: no tensor is read, and no library that could is loaded.

The format is eight bytes of length, a JSON head, and the tensors (https://huggingface.co/docs/safetensors).
"""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

LARGEST_HEAD = 100 << 20
"""What the format's own library takes."""

INDEX = "model.safetensors.index.json"
"""Says in which file each tensor of a model of several files is."""
Shape = tuple[int, ...]


class Unreadable(ValueError):
    """The file cannot be used; the text goes on after the file's name."""


def shapes_of(file: Path) -> dict[str, Shape]:
    """The shape of every tensor in the file by its name; raises Unreadable."""
    try:
        size = file.stat().st_size
        with file.open("rb") as opened:
            start = opened.read(8)
            length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
            if not 2 <= length <= min(LARGEST_HEAD, size):
                raise Unreadable("is no safetensors file")
            head = json.loads(opened.read(length))
    except OSError as error:
        raise Unreadable(f"cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise error if isinstance(error, Unreadable) else Unreadable("is no safetensors file") from None
    return _checked(head, size - 8 - length)


def _checked(head: Any, data: int) -> dict[str, Shape]:
    try:
        entries = {name: entry for name, entry in head.items() if name != "__metadata__"}
        end = max((int(entry["data_offsets"][1]) for entry in entries.values()), default=0)
        shapes = {str(name): tuple(int(length) for length in entry["shape"]) for name, entry in entries.items()}
    except (AttributeError, KeyError, IndexError, TypeError, ValueError):
        raise Unreadable("is no safetensors file") from None
    if end != data:
        raise Unreadable(f"is incomplete or damaged: it has {data} bytes of tensors, and {end} belong in it")
    return shapes


def damage_of(folder: Path) -> str | None:
    """What is wrong with a model's safetensors files, in a sentence without its end; None where all are whole.

    Of each file the head is read and the size compared with it, and the index is asked which files there must be.
    """
    try:
        index = json.loads((folder / INDEX).read_bytes())
        named = {str(name) for name in index["weight_map"].values()}
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        named = set()
    for name in sorted(named | {file.name for file in folder.glob("*.safetensors")}):
        if not (folder / name).is_file():
            return f"{name} is missing, which {INDEX} names (they are incomplete)"
        try:
            shapes_of(folder / name)
        except Unreadable as error:
            return f"{name} {error}"
    return None


def shapes_in(folder: Path) -> dict[str, Shape]:
    """The tensors of all the folder's safetensors files; empty when there are none that can be read."""
    found: dict[str, Shape] = {}
    try:
        for file in sorted(folder.glob("*.safetensors")):
            found |= shapes_of(file)
    except Unreadable:
        return {}
    return found
