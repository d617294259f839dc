# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""What Kubernetes' Go structs say about their fields and the published schemas do not.

That is the number of a field in protobuf, and whether its zero value is written at all: Go leaves out an empty text,
list or map, a zero or a false, unless the field is a pointer or always written. The table `data/gotypes.txt` is drawn
by `tools/gotypes.py` from the struct tags in k8s.io/api and k8s.io/apimachinery: a line for each struct, a word
`number:name` for each field, marked `*` for a pointer, `!` for always written, `=` for a struct that is a value, and
`number:^Struct` for a struct whose fields stand in the outer one's JSON.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

MARKS: Final = "*!="


@dataclass(frozen=True, slots=True)
class GoStruct:
    """One struct: its fields by their number in protobuf."""

    names: Mapping[int, str]
    """JSON names."""
    inlined: Mapping[int, str]
    """Numbers of the structs that have no name of their own in JSON, and which structs they are."""
    omitted: frozenset[str]
    """Fields that are not written while they hold their zero value; those of inlined structs too."""
    values: tuple[str, ...]
    """Fields that hold a struct as a value: it is always written, empty if need be."""


NOT_A_STRUCT: Final = GoStruct({}, {}, frozenset(), ())
"""For values that the table says nothing about: maps, and structs of other packages."""


@cache
def structs() -> Mapping[str, GoStruct]:
    """All structs by the name of their published definition, e.g. `io.k8s.api.core.v1.Pod`."""
    text = (Path(__file__).parent / "data" / "gotypes.txt").read_text("utf-8")
    lines = {words[0]: words[1:] for words in map(str.split, text.splitlines()) if words}
    return {name: _struct(name, lines) for name in lines}


def _struct(name: str, lines: Mapping[str, list[str]]) -> GoStruct:
    package = name.rpartition(".")[0]
    names: dict[int, str] = {}
    inlined: dict[int, str] = {}
    omitted: set[str] = set()
    for word in lines[name]:
        number, _, field = word.partition(":")
        if field.startswith("^"):
            inner = f"{package}.{field[1:]}"
            inlined[int(number)] = inner
            omitted |= _struct(inner, lines).omitted
        else:
            names[int(number)] = field.rstrip(MARKS)
            if field[-1] not in MARKS:
                omitted.add(field)
    values = tuple(word.partition(":")[2][:-1] for word in lines[name] if word.endswith("="))
    return GoStruct(names, inlined, frozenset(omitted), values)


def in_struct_order(value: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The fields in the order in which Go writes the named struct; fields that it does not have come last."""
    order = [field for field in structs()[name].names.values() if field in value]
    return {key: value[key] for key in [*order, *(key for key in value if key not in order)]}


def is_zero(value: Any) -> bool:
    """Whether Go's `omitempty` would leave the value of a field out (structs excepted: ask only about other fields)."""
    return value is False or value == "" or value == [] or value == {} or (value == 0 and not isinstance(value, bool))
