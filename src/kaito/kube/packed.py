# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Many objects in little memory: each as compressed JSON, and the few that were used last as they are.

Python's own form of an object takes ten times the room of its JSON, and objects of one kind that one controller makes
are nearly the same text: the first one is the dictionary that the others are compressed with (RFC 1950, "preset
dictionary"), which leaves of a StatefulSet of 3 KB some 150 bytes (docs/decisions/0042).
"""

from __future__ import annotations

import zlib
from collections import OrderedDict
from collections.abc import Iterator, MutableMapping
from typing import Any, Generic, TypeVar

import msgspec

K = TypeVar("K")

RECENT = 64
"""Values that are kept as they are: what is being worked on is read several times."""
LEVEL, WINDOW_BITS, MEMORY_LEVEL = 3, -14, 6
"""Of zlib. The window has room for a dictionary and an object of 8 KiB each; the level is the least at which texts that
are nearly the same shrink to their differences."""


class Packed(MutableMapping[K, Any], Generic[K]):
    """A dict of JSON values that takes a fraction of the memory. What it returns is shared: never change it."""

    def __init__(self) -> None:
        self._packed: dict[K, bytes] = {}
        self._recent: OrderedDict[K, Any] = OrderedDict()
        self._dictionary = b""
        self._compressor = _compressor(b"")

    def __getitem__(self, key: K) -> Any:
        if key in self._recent:
            self._recent.move_to_end(key)
            return self._recent[key]
        unpacker = zlib.decompressobj(WINDOW_BITS, zdict=self._dictionary)
        value = msgspec.json.decode(unpacker.decompress(self._packed[key]))
        self._remember(key, value)
        return value

    def __setitem__(self, key: K, value: Any) -> None:
        text = msgspec.json.encode(value)
        if not self._packed:
            self._dictionary, self._compressor = text, _compressor(text)
        compressor = self._compressor.copy()
        self._packed[key] = compressor.compress(text) + compressor.flush()
        self._remember(key, value)

    def __delitem__(self, key: K) -> None:
        del self._packed[key]
        self._recent.pop(key, None)

    def __contains__(self, key: object) -> bool:
        return key in self._packed

    def __iter__(self) -> Iterator[K]:
        return iter(self._packed)

    def __len__(self) -> int:
        return len(self._packed)

    def _remember(self, key: K, value: Any) -> None:
        self._recent[key] = value
        self._recent.move_to_end(key)
        if len(self._recent) > RECENT:
            self._recent.popitem(last=False)


def _compressor(dictionary: bytes) -> Any:
    return zlib.compressobj(LEVEL, zlib.DEFLATED, WINDOW_BITS, MEMORY_LEVEL, zlib.Z_DEFAULT_STRATEGY, dictionary)
