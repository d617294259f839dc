# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Equal parts of many objects as one value in memory.

The pods of one owner differ in their names and in little else, but each comes off the wire as a value of its own, some
four times as large as its JSON. Nobody changes what a store returns, so parts that are equal may be the same dict, list
or text. Parts are told apart by their JSON: 1 and 1.0 and true stay what they are, and so does the order of fields.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from kaito.kube.manifest import Manifest

PARTS_MAX: Final = 1024
"""Parts that are remembered since the last change of generation, and once more as many from before."""
PART_BYTES_MAX: Final = 4096
"""Larger parts are not remembered themselves: hardly two are equal, and those below them may be."""
TEXT_MAX: Final = 64
DEPTH_MAX: Final = 8
"""How deep parts are looked for: each level writes out once more what is below it."""
_OF_METADATA: Final = ("labels", "annotations", "ownerReferences", "finalizers", "namespace", "creationTimestamp")
"""What objects have in common there; names, uids and versions are each object's own."""

_encode: Final = msgspec.json.Encoder().encode


class Alike:
    """Remembers parts, the ones that are seen again for as long as they are."""

    def __init__(self) -> None:
        self._parts: dict[bytes | str, Any] = {}
        self._before: dict[bytes | str, Any] = {}

    def share(self, obj: Manifest) -> None:
        """Put what has been seen before in the place of the object's equal parts."""
        for name, value in obj.items():
            if name == "metadata":
                for field in _OF_METADATA:
                    if field in value:
                        value[field] = self._one(value[field], DEPTH_MAX)
            else:
                obj[name] = self._one(value, DEPTH_MAX)

    def _one(self, value: Any, depth: int) -> Any:
        """The value that stands for all that equal this one."""
        if isinstance(value, str):
            return self._known(value, value) if len(value) <= TEXT_MAX else value
        if not isinstance(value, dict | list) or not depth:
            return value
        text = _encode(value)
        if len(text) <= PART_BYTES_MAX:
            known = self._known(text, value)
            if known is not value:
                return known
        if isinstance(value, dict):
            for name, item in value.items():
                value[name] = self._one(item, depth - 1)
        else:
            value[:] = [self._one(item, depth - 1) for item in value]
        return value

    def _known(self, name: bytes | str, value: Any) -> Any:
        found = self._parts.get(name)
        if found is not None:
            return found
        found = self._before.get(name, value)
        if len(self._parts) >= PARTS_MAX:
            self._before, self._parts = self._parts, {}
        self._parts[name] = found
        return found
