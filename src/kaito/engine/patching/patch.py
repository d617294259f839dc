# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""The patches that are documents to merge in: JSON patch, JSON merge patch, strategic merge patch.

Each takes a manifest and returns the patched one; arguments stay as they are. Server-side apply is in `apply.py`.
"""

from __future__ import annotations

from copy import deepcopy
from typing import Any, Final

import msgspec

from kaito.engine.schema.shape import UNTYPED, Shape, compact
from kaito.kube.manifest import Manifest

MAX_OPERATIONS: Final = 10_000
MAX_COPIED_BYTES: Final = 3 * 1024 * 1024
"""How much the copies of one JSON patch may amount to, as in kube-apiserver."""
_REFUSED: Final = "the server rejected our request due to an error in our request"
_ABSENT: Final = object()
_ORDER: Final = "$setElementOrder/"
_DROP: Final = "$deleteFromPrimitiveList/"
_BAD_PRIMITIVES: Final = "invalid patch format of primitive list"
_DIRECTIVES: Final = ("$patch", "$retainKeys")


class PatchError(Exception):
    """The patch cannot be carried out: HTTP status, reason, message and details of the answer."""

    def __init__(self, status: int, reason: str, message: str, *, details: Manifest | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason
        self.details = details


def _refused() -> PatchError:
    return PatchError(422, "Invalid", _REFUSED, details={})


def _undecodable(detail: str) -> PatchError:
    return PatchError(400, "BadRequest", detail)


def json_patch(document: Manifest, operations: Any) -> Any:
    """RFC 6902. Raises PatchError; as with Kubernetes its text does not say which operation failed."""
    if not isinstance(operations, list):
        kind = _go_kind(operations)
        raise _undecodable(
            f"error decoding patch: json: cannot unmarshal {kind} into Go value of type []handlers.jsonPatchOp"
        )
    if len(operations) > MAX_OPERATIONS:
        limit = f"The allowed maximum operations in a JSON patch is {MAX_OPERATIONS}, got {len(operations)}"
        raise PatchError(413, "RequestEntityTooLarge", limit)
    result: Any = deepcopy(document)
    copied = 0
    for operation in operations:
        if not isinstance(operation, dict):
            kind = _go_kind(operation)
            raise _undecodable(
                f"error decoding patch: json: cannot unmarshal {kind} into Go value of type handlers.jsonPatchOp"
            )
        if operation.get("op") == "copy":
            copied += len(msgspec.json.encode(_source(result, operation)))
            if copied > MAX_COPIED_BYTES:
                raise _refused()  # a few copies of copies would fill any memory
        result = _operate(result, operation)
    return result


def _source(document: Any, operation: Manifest) -> Any:
    """What a copy copies. Raises PatchError."""
    found = _look(document, _pointer(operation.get("from")))
    if found is _ABSENT:
        raise _refused()
    return found


def _operate(document: Any, operation: Manifest) -> Any:
    path = _pointer(operation.get("path"))
    match operation.get("op"):
        case "add":
            return _add(document, path, deepcopy(_operand(operation)))
        case "remove":
            _take(document, path)
        case "replace":
            return _put(document, path, deepcopy(_operand(operation)))
        case "move":
            return _add(document, path, _take(document, _pointer(operation.get("from"))))
        case "copy":
            return _add(document, path, deepcopy(_source(document, operation)))
        case "test":
            found = _look(document, path)
            wanted = operation.get("value")
            if (None if found is _ABSENT else found) != wanted or type(found) is bool is not type(wanted) is bool:
                raise _refused()
        case _:
            raise _refused()
    return document


def _operand(operation: Manifest) -> Any:
    if "value" not in operation:
        raise _refused()
    return operation["value"]


def _pointer(text: Any) -> list[str]:
    if not isinstance(text, str) or (text and not text.startswith("/")):
        raise _refused()
    return [part.replace("~1", "/").replace("~0", "~") for part in text.split("/")[1:]]


def _index(items: list[Any], part: str, *, end: int) -> int:
    try:
        number = int(part)
    except ValueError:
        raise _refused() from None
    number = number + len(items) if number < 0 else number
    if not 0 <= number < end:
        raise _refused()
    return number


def _look(document: Any, path: list[str]) -> Any:
    for part in path:
        if isinstance(document, dict) and part in document:
            document = document[part]
        elif isinstance(document, list) and part.lstrip("-").isdigit() and -len(document) <= int(part) < len(document):
            document = document[int(part)]
        else:
            return _ABSENT
    return document


def _parent(document: Any, path: list[str]) -> Any:
    parent = _look(document, path[:-1])
    if not isinstance(parent, dict | list):
        raise _refused()
    return parent


def _add(document: Any, path: list[str], value: Any) -> Any:
    if not path:
        return value
    parent = _parent(document, path)
    if isinstance(parent, dict):
        parent[path[-1]] = value
    elif path[-1] == "-":
        parent.append(value)
    else:
        parent.insert(_index(parent, path[-1], end=len(parent) + 1), value)
    return document


def _put(document: Any, path: list[str], value: Any) -> Any:
    if not path:
        return value
    parent = _parent(document, path)
    if isinstance(parent, dict):
        parent[path[-1]] = value
    else:
        parent[_index(parent, path[-1], end=len(parent))] = value
    return document


def _take(document: Any, path: list[str]) -> Any:
    if not path or _look(document, path) is _ABSENT:
        raise _refused()
    parent = _parent(document, path)
    if isinstance(parent, dict):
        return parent.pop(path[-1])
    return parent.pop(_index(parent, path[-1], end=len(parent)))


def merge_patch(document: Any, patch: Any) -> Any:
    """RFC 7386: maps merge, null deletes, anything else replaces. Raises PatchError when the patch is no map."""
    if not isinstance(patch, dict):
        kind = _go_kind(patch)
        raise _undecodable(
            f"error decoding patch: json: cannot unmarshal {kind} into Go value of type map[string]interface {{}}"
        )
    return _merged(document, patch)


def _merged(document: Any, patch: Any) -> Any:
    if not isinstance(patch, dict):
        return deepcopy(patch)
    result = dict(document) if isinstance(document, dict) else {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = _merged(result.get(name), value)
    return result


def strategic_merge_patch(document: Manifest, patch: Any, shape: Shape) -> Manifest:
    """Kubernetes' merge by the schema's patch strategies and merge keys. Raises PatchError."""
    if not isinstance(patch, dict):
        kind = _go_kind(patch)
        raise _undecodable(f"json: cannot unmarshal {kind} into Go value of type map[string]interface {{}}")
    return _merge_maps(document, patch, shape)


def _merge_maps(original: Manifest, patch: Manifest, shape: Shape) -> Manifest:
    match patch.get("$patch"):
        case "replace":
            return {key: deepcopy(value) for key, value in patch.items() if key != "$patch"}
        case "delete":
            return {}
        case None | "merge":
            pass
        case unknown:
            raise _undecodable(f'Unknown patch type found: "{unknown}"')
    result = dict(original)
    if "$retainKeys" in patch:
        kept = _listed(patch["$retainKeys"], "invalid patch format of retainKeys")
        result = {key: value for key, value in result.items() if key in kept}
    for name, value in patch.items():
        if name in _DIRECTIVES or name.startswith((_ORDER, _DROP)):
            continue
        if value is None:
            result.pop(name, None)
        else:
            result[name] = _merge_field(result.get(name, _ABSENT), value, shape.child(name) or UNTYPED)
    _follow_list_directives(result, original, patch, shape)
    return result


def _merge_field(original: Any, value: Any, shape: Shape) -> Any:
    if isinstance(value, dict):
        keeps = isinstance(original, dict) and "replace" not in shape.strategies
        return _merge_maps(original if keeps else {}, value, shape)
    if isinstance(value, list):
        if "merge" in shape.strategies:
            return _merge_lists(original if isinstance(original, list) else [], value, shape)
        return [_without_directives(item) for item in value]
    return value


def _merge_lists(original: list[Any], patch: list[Any], shape: Shape) -> list[Any]:
    if not shape.merge_key:
        if any(isinstance(item, dict | list) for item in patch):
            raise _undecodable(_BAD_PRIMITIVES)
        merged = original + [item for item in dict.fromkeys(patch) if item not in original]
        return _ordered(merged, original, patch, "")
    if any(isinstance(item, dict) and item.get("$patch") == "replace" for item in patch):
        return [_without_directives(item) for item in patch if item.get("$patch") != "replace"]
    result = list(original)
    for item in patch:
        key = _merge_key(item, shape.merge_key)
        at = next(
            (n for n, old in enumerate(result) if isinstance(old, dict) and old.get(shape.merge_key) == key), None
        )
        if item.get("$patch") == "delete":
            result = [old for old in result if old.get(shape.merge_key) != key]
        elif at is None:
            result.append(_merge_maps({}, item, shape.element))
        else:
            result[at] = _merge_maps(result[at], item, shape.element)
    plain = [item for item in patch if "$patch" not in item]
    return _ordered(result, original, plain, shape.merge_key)


def _merge_key(item: Any, name: str) -> Any:
    if not isinstance(item, dict) or name not in item:
        raise _undecodable(f"map: {compact(item)} does not contain declared merge key: {name}")
    return item[name]


def _follow_list_directives(result: Manifest, original: Manifest, patch: Manifest, shape: Shape) -> None:
    for directive, value in patch.items():
        if directive.startswith(_DROP):
            name = directive.removeprefix(_DROP)
            dropped = _listed(value, _BAD_PRIMITIVES)
            if isinstance(result.get(name), list):
                result[name] = [item for item in result[name] if item not in dropped]
    for directive, value in patch.items():
        if directive.startswith(_ORDER):
            name = directive.removeprefix(_ORDER)
            order = _listed(value, "invalid patch format of setElementOrder list")
            if isinstance(result.get(name), list):
                key = (shape.child(name) or UNTYPED).merge_key
                result[name] = _ordered(result[name], original.get(name) or [], order, key)


def _listed(value: Any, problem: str) -> list[Any]:
    """What a directive names, which has to be a list. Raises PatchError."""
    if not isinstance(value, list):
        raise _undecodable(problem)
    return value


def _ordered(items: list[Any], server: list[Any], order: list[Any], key: str) -> list[Any]:
    """Items in the wanted order; those that it does not name stay before what they stood before on the server."""

    def name_of(item: Any) -> Any:
        return item.get(key) if key and isinstance(item, dict) else item

    wanted = [name_of(item) for item in order]
    live = [name_of(item) for item in server]
    right = sorted((item for item in items if name_of(item) in wanted), key=lambda item: wanted.index(name_of(item)))
    left = [item for item in items if name_of(item) not in wanted]
    out: list[Any] = []
    while left and right:
        first, second = name_of(left[0]), name_of(right[0])
        earlier = first in live and second in live and live.index(first) < live.index(second)
        out.append(left.pop(0) if earlier else right.pop(0))
    return out + left + right


def _without_directives(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_directives(item) for key, item in value.items() if not key.startswith("$")}
    return [_without_directives(item) for item in value] if isinstance(value, list) else value


def _go_kind(value: Any) -> str:
    if isinstance(value, dict):
        return "object"
    if isinstance(value, list):
        return "array"
    if isinstance(value, bool):
        return "bool"
    return "string" if isinstance(value, str) else "number"
