# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Typed operations on manifests under a `Shape`: which fields a value sets, merging, comparing, removing.

These are the four walks that server-side apply is made of; the rules (leaves, empty maps, order of keyed lists) are
those of structured-merge-diff v6. Who owns what is decided in `apply.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from kaito.engine.patching.fieldset import FieldSet, is_member, printed
from kaito.engine.schema.shape import UNTYPED, Shape

_ABSENT: Final = object()


def _is_map(value: Any, shape: Shape) -> bool:
    return shape.is_map and isinstance(value, dict)


def _is_keyed(value: Any, shape: Shape) -> bool:
    return shape.is_keyed and isinstance(value, list)


def _child(shape: Shape, name: str) -> Shape:
    return shape.child(name) or UNTYPED


def index(items: list[Any], shape: Shape) -> dict[str, Any]:
    """The items of a keyed list or set by their path element; an item without its key goes by its position."""
    found: dict[str, Any] = {}
    for position, item in enumerate(items):
        found.setdefault(shape.key_of(item) or f"i:{position}", item)
    return found


def fields_of(value: Any, shape: Shape) -> FieldSet:
    """The fields that an applied manifest sets."""
    return _fields(value, shape) or {}


def _fields(value: Any, shape: Shape) -> FieldSet | None:
    """The node for a value: None when nothing below it is set, empty for a leaf."""
    if _is_map(value, shape):
        return _map_fields(value, shape)
    if _is_keyed(value, shape):
        found = {}
        for key, item in index(value, shape).items():
            node = _fields(item, shape.element)
            found[key] = {".": {}, **node} if node else {}
        return found or None
    if value is None and not shape.is_scalar and not shape.atomic:
        return None
    return {}


def _map_fields(value: dict[str, Any], shape: Shape) -> FieldSet | None:
    found: FieldSet = {}
    for name, item in value.items():
        declared = shape.field(name)
        node = _fields(item, declared or _child(shape, name))
        if item is None or item == {} or declared is None:
            found[f"f:{name}"] = {".": {}, **node} if node else {}
        elif node is not None:
            found[f"f:{name}"] = node
    return found or None


def whole(value: Any, shape: Shape) -> FieldSet:
    """The node of a value that is added or removed as a whole: itself and everything below it."""
    found: FieldSet = {}
    if _is_map(value, shape):
        found = {
            f"f:{name}": whole(item, _child(shape, name)) if isinstance(item, dict | list) else {}
            for name, item in value.items()
        }
    elif _is_keyed(value, shape):
        found = {key: whole(item, shape.element) for key, item in index(value, shape).items()}
    return {".": {}, **found} if found else {}


def compare(old: Any, new: Any, shape: Shape) -> tuple[FieldSet, FieldSet]:
    """What changed between two values: the fields added or modified, and the fields removed."""
    changed, removed = _compare(old, new, shape) if old != new else (None, None)
    return changed or {}, removed or {}


_Difference = tuple[FieldSet | None, FieldSet | None]


def _compare(old: Any, new: Any, shape: Shape) -> _Difference:
    if new is _ABSENT:
        return None, whole(old, shape)
    if old is _ABSENT:
        return whole(new, shape), None
    if _is_map(old, shape) or _is_map(new, shape):
        before, after = old or {}, new or {}
        if isinstance(before, dict) and isinstance(after, dict) and (before or after):
            return _compare_children(before, after, lambda name: _child(shape, name), "f:")
    elif _is_keyed(old, shape) or _is_keyed(new, shape):
        earlier, later = old or [], new or []
        if isinstance(earlier, list) and isinstance(later, list) and (earlier or later):
            before, after = index(earlier, shape), index(later, shape)
            return _compare_children(before, after, lambda name: shape.element, "")
    return {}, None


def _compare_children(
    before: dict[str, Any], after: dict[str, Any], shape_of: Callable[[str], Shape], prefix: str
) -> _Difference:
    if not before:  # a new object, and everything that came into an old one
        return {
            prefix + name: whole(new, shape_of(name)) if isinstance(new, dict | list) else {}
            for name, new in after.items()
        }, None
    changed: FieldSet = {}
    removed: FieldSet = {}
    for name in {**before, **after}:
        old, new = before.get(name, _ABSENT), after.get(name, _ABSENT)
        if old == new:
            continue  # most of an object that is updated, with everything below it
        more, less = _compare(old, new, shape_of(name))
        if more is not None:
            changed[prefix + name] = more
        if less is not None:
            removed[prefix + name] = less
    return changed or None, removed or None


def merge(live: Any, config: Any, shape: Shape) -> Any:
    """The live value with the applied one laid over it. Shares parts with both."""
    if _is_map(config, shape) and isinstance(live, dict):
        out = dict(live)
        for name, item in config.items():
            below = _child(shape, name)
            value = merge(live[name], item, below) if name in live else item
            if value is None and not below.nullable and shape.field(name) is not None:
                out.pop(name, None)
            else:
                out[name] = value
        return out
    if _is_keyed(config, shape) and isinstance(live, list):
        return _merge_items(live, config, shape)
    if config is None and live and not shape.is_scalar and not shape.atomic:
        return live
    return config


def _merge_items(live: list[Any], config: list[Any], shape: Shape) -> list[Any]:
    """Keyed items merged: the applied order wins, live items keep their place between the shared ones."""
    left, right = index(live, shape), index(config, shape)
    left_keys, right_keys = list(left), list(right)
    shared = [key for key in right_keys if key in left]
    out: list[Any] = []
    merged: set[str] = set()
    li = ri = si = 0
    while li < len(left_keys) or ri < len(right_keys):
        if li < len(left_keys):
            key = left_keys[li]
            if key not in right:
                out.append(left[key])
                li += 1
                continue
            waits = ri < len(right_keys) and key != right_keys[ri] and si < len(shared) and shared[si] != key
            if waits or key in merged:
                li += 1
                if waits:
                    continue
        if ri < len(right_keys):
            key = right_keys[ri]
            merged.add(key)
            out.append(merge(left[key], right[key], shape.element) if key in left else right[key])
            si += key in left
            ri += 1
    return out


def remove(value: Any, fields: FieldSet, shape: Shape) -> Any:
    """The value without the members of the set and what is below them; None when nothing remains."""
    if _is_map(value, shape):
        kept = {}
        for name, item in value.items():
            node = fields.get(f"f:{name}")
            if node is None:
                kept[name] = item
            elif not is_member(node):
                rest = remove(item, node, _child(shape, name))
                if rest is not None or item is None:
                    kept[name] = rest
        return kept or None
    if _is_keyed(value, shape):
        items = []
        for position, item in enumerate(value):
            node = fields.get(shape.key_of(item) or f"i:{position}")
            if node is None:
                items.append(item)
            elif not is_member(node) and (rest := remove(item, node, shape.element)) is not None:
                items.append(rest)
        return items or None
    return value


def with_parents(fields: FieldSet, shape: Shape) -> FieldSet:
    """The set with every declared field on the way to a member made a member too (but not keys of plain maps)."""
    out: FieldSet = {}
    for key, node in fields.items():
        if key == "." or not node:
            out[key] = node
            continue
        if key.startswith("f:"):
            declared = shape.field(key[2:])
            below = with_parents(node, declared or _child(shape, key[2:]))
            out[key] = {".": {}, **below} if declared is not None else below
        else:
            out[key] = with_parents(node, shape.element)
    return out


def problems(value: Any, shape: Shape, path: str = "") -> list[str]:
    """Why a value cannot be applied under the shape, in structured-merge-diff's words; none when it can."""
    if value is None or shape.type == "any":
        return []
    if shape.type == "object":
        if not isinstance(value, dict):
            return [f"{path}: expected map, got {_shown(value)}"]
        found = []
        for name, item in value.items():
            below = shape.child(name)
            if below is None:
                found.append(f"{path}.{name}: field not declared in schema")
            else:
                found += problems(item, below, f"{path}.{name}")
        return found
    if shape.type == "array":
        return _list_problems(value, shape, path)
    return _scalar_problems(value, shape, path)


def _list_problems(value: Any, shape: Shape, path: str) -> list[str]:
    if not isinstance(value, list):
        return [f"{path}: expected list, got {_shown(value)}"]
    found: list[str] = []
    seen: set[str] = set()
    for position, item in enumerate(value):
        key = f"i:{position}"
        if shape.keys or shape.is_set:
            named = shape.key_of(item)
            if named is None:
                found.append(f"{path}: element {position}: {_missing_key(item, shape)}")
                continue
            key = named
            if key in seen:
                found.append(f"{path}: duplicate entries for key {printed(key)}")
            seen.add(key)
        found += problems(item, shape.element, path + printed(key))
    return found


def _missing_key(item: Any, shape: Shape) -> str:
    if not isinstance(item, dict):
        return "associative list with keys may not have non-map elements"
    missing = next(key for key in shape.keys if item.get(key) is None and shape.default_of(key) is None)
    return (
        f'associative list with keys has an element that omits key field "{missing}" (and doesn\'t have default value)'
    )


_EXPECTED: Final[Mapping[str, tuple[tuple[type, ...], str]]] = {
    "string": ((str,), "string"),
    "time": ((str,), "string"),
    "boolean": ((bool,), "boolean"),
    "integer": ((int,), "numeric (int or float)"),
    "number": ((int, float), "numeric (int or float)"),
}


def _scalar_problems(value: Any, shape: Shape, path: str) -> list[str]:
    expected = _EXPECTED.get(shape.type)
    if expected is None:
        return [f"{path}: expected scalar, got {_shown(value)}"] if isinstance(value, dict | list) else []
    kinds, words = expected
    right = isinstance(value, kinds) and (isinstance(value, bool) == (shape.type == "boolean"))
    if shape.type == "integer" and isinstance(value, float):
        right = True
    return [] if right else [f"{path}: expected {words}, got {_shown(value)}"]


def _shown(value: Any) -> str:
    """The value as the reference prints it: a text by its type, anything else as Go's %v of its wrapper."""
    if isinstance(value, bool):
        return f"&value.valueUnstructured{{Value:{str(value).lower()}}}"
    if isinstance(value, str):
        return "string"
    if isinstance(value, dict):
        return "map"
    if isinstance(value, list):
        return "list"
    return f"&value.valueUnstructured{{Value:{value}}}"
