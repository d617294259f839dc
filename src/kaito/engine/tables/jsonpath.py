# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""The part of JSONPath that printer columns, scale paths and selectable fields use.

`.a.b`, `.a[0]`, `.a[*].b`, `['a.b']`, `.a\\.b` and `[?(@.key=="value")]`. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

Step = Callable[[Any], list[Any]]

_TOKEN = re.compile(
    r"""\.(?P<name>(?:\\.|[^.\[\]\\'"])+)
      | \[(?P<index>-?\d+)\]
      | \[(?P<all>\*)\]
      | \[(?P<quote>['"])(?P<key>.*?)(?P=quote)\]
      | \[\?\(\s*@(?P<path>[^=!<>\s)]*)\s*(?P<op>==|!=)\s*(?P<value>"[^"]*"|'[^']*'|[^)\s]+)\s*\)\]""",
    re.VERBOSE,
)


class JsonPathError(ValueError):
    """The path cannot be read."""


def compile_path(path: str) -> Callable[[Any], list[Any]]:
    """A function from an object to the values at the path. Raises JsonPathError."""
    text = path.strip()
    if text.startswith("{") and text.endswith("}"):
        text = text[1:-1]
    text = text.removeprefix("$")
    steps: list[Step] = []
    position = 0
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            raise JsonPathError(f"cannot read the JSON path {path!r} at character {position}")
        steps.append(_step(match))
        position = match.end()

    def find(obj: Any) -> list[Any]:
        values = [obj]
        for step in steps:
            values = [found for value in values for found in step(value)]
        return values

    return find


def _step(match: re.Match[str]) -> Step:
    groups = match.groupdict()
    if groups["name"] is not None:
        name = re.sub(r"\\(.)", r"\1", groups["name"])
        return _all if name == "*" else _member(name)
    if groups["key"] is not None:
        return _member(groups["key"])
    if groups["index"] is not None:
        return _item(int(groups["index"]))
    if groups["all"] is not None:
        return _all
    return _filter(groups["path"], groups["op"], groups["value"].strip("\"'"))


def _member(name: str) -> Step:
    return lambda value: [value[name]] if isinstance(value, dict) and name in value else []


def _item(index: int) -> Step:
    return lambda value: [value[index]] if isinstance(value, list) and -len(value) <= index < len(value) else []


def _all(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return list(value) if isinstance(value, list) else []


def _filter(path: str, operator: str, wanted: str) -> Step:
    find = compile_path(path)

    def step(value: Any) -> list[Any]:
        found = []
        for item in value if isinstance(value, list) else []:
            values = [str(entry).lower() if isinstance(entry, bool) else str(entry) for entry in find(item)]
            if (wanted in values) == (operator == "=="):
                found.append(item)
        return found

    return step
