# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Sets of fields in the very form that `managedFields` stores them (fieldsV1).

A set is a nested dict whose keys are path elements (`f:name`, `k:{…}`, `v:…`, `i:0`). A path is a member when its node
is empty or holds the key `.`. No function changes its arguments; results may share parts with them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

FieldSet = dict[str, Any]


def is_member(node: FieldSet) -> bool:
    """Whether the path of this node itself belongs to the set."""
    return not node or "." in node


def union(one: FieldSet, two: FieldSet) -> FieldSet:
    """What is in either."""
    out = dict(one)
    for key, node in two.items():
        out[key] = _union(out[key], node) if key in out else node
    return out


def _union(one: FieldSet, two: FieldSet) -> FieldSet:
    if not one or not two:
        rest = one or two
        return rest if not rest or "." in rest else {".": {}, **rest}
    return union(one, two)


def difference(one: FieldSet, two: FieldSet) -> FieldSet:
    """What is in the first but not in the second."""
    if not one or not two:
        return one
    out = {}
    for key, node in one.items():
        if key not in two:
            out[key] = node
        elif key != "." and (rest := _difference(node, two[key])) is not None:
            out[key] = rest
    return out


def _difference(one: FieldSet, two: FieldSet) -> FieldSet | None:
    keeps_self = is_member(one) and not is_member(two)
    children = {}
    for key, node in one.items():
        if key == ".":
            continue
        rest = _difference(node, two[key]) if key in two else node
        if rest is not None:
            children[key] = rest
    if keeps_self:
        return {".": {}, **children} if children else {}
    return children or None


def intersection(one: FieldSet, two: FieldSet) -> FieldSet:
    """What is in both."""
    out = {}
    for key, node in one.items():
        if key != "." and key in two and (both := _intersection(node, two[key])) is not None:
            out[key] = both
    return out


def _intersection(one: FieldSet, two: FieldSet) -> FieldSet | None:
    children = intersection(one, two)
    if is_member(one) and is_member(two):
        return {".": {}, **children} if children else {}
    return children or None


def paths(fields: FieldSet, prefix: str = "") -> Iterator[str]:
    """The members as Kubernetes prints paths: `.spec.containers[name="a"].image`, in sorted order."""
    for key in sorted(fields):
        if key == ".":
            continue
        path = prefix + _printed(key)
        node = fields[key]
        if is_member(node):
            yield path
        yield from paths(node, path)


def _printed(key: str) -> str:
    kind, rest = key[:2], key[2:]
    if kind == "f:":
        return f".{rest}"
    if kind == "v:":
        return f"[={rest}]"
    if kind == "i:":
        return f"[{rest}]"
    fields = json.loads(rest)
    inner = ",".join(f"{name}={json.dumps(fields[name], ensure_ascii=False)}" for name in sorted(fields))
    return f"[{inner}]"


def printed(key: str) -> str:
    """One path element as Kubernetes prints it."""
    return _printed(key)


def without(fields: FieldSet, path: tuple[str, ...]) -> FieldSet:
    """The set without everything at and below a path of named fields."""
    key = f"f:{path[0]}"
    if key not in fields:
        return fields
    rest = {name: node for name, node in fields.items() if name != key}
    if len(path) > 1 and fields[key]:
        below = without(fields[key], path[1:])
        if below:
            rest[key] = below
    elif len(path) > 1:
        rest[key] = {}
    return rest
