# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Validation of custom resources by their structural schema, in the words of kube-openapi's validators.

Values come pruned and defaulted (`schema.py`). The rules that say more than a schema can (`x-kubernetes-validations`)
are evaluated when the schema itself is satisfied, as Kubernetes does.
"""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Callable, Mapping
from datetime import date, datetime
from decimal import Decimal
from functools import lru_cache
from typing import Any, Final, Protocol
from urllib.parse import urlsplit
from uuid import UUID

import re2  # type: ignore[import-untyped]

from kaito.engine.schema.field import (
    NO_FIELD,
    FieldError,
    duplicate,
    invalid,
    required,
    too_long,
    too_many,
    type_invalid,
    unsupported,
)
from kaito.engine.schema.schema_rules import Rules
from kaito.kube.manifest import Manifest

_INT_OR_STRING: Final = "x-kubernetes-int-or-string"
_INTEGER_RANGES: Final = {"int32": 2**31, "int64": 2**63}
TYPE_META: Final = frozenset({"apiVersion", "kind"})


class Pattern(Protocol):
    """A compiled regular expression."""

    def search(self, text: str) -> Any:
        """A match anywhere in the text, or None."""


def validate(
    obj: Manifest, schema: Manifest, old: Manifest | None = None, *, rules: Rules | None = None
) -> list[FieldError]:
    """What is wrong with an object under its schema; `old` is what it replaces (for transition rules).

    `rules`: those of the schema, where they are known already.
    """
    errors = validate_value(obj, schema, "")
    errors += _structure(obj, schema, "")
    if not errors:
        errors = (rules or Rules(schema)).errors(obj, old)
    return errors


def validate_value(value: Any, schema: Manifest, path: str) -> list[FieldError]:
    """What is wrong with one value at `path`, without list types and rules."""
    if value is None and schema.get("nullable"):
        return []
    wrong = _type_error(value, schema, path)
    if wrong:
        return [wrong]
    errors = limit_errors(value, schema, path)
    if "enum" in schema and value not in schema["enum"]:
        errors.append(unsupported(path, value, schema["enum"]))
    if isinstance(value, dict):
        errors += _object(value, schema, path)
    elif isinstance(value, list) and isinstance(schema.get("items"), dict):
        for index, item in enumerate(value):
            errors += validate_value(item, schema["items"], f"{path}[{index}]")
    return errors + combination_errors(value, schema, path)


def type_name(value: Any) -> str:
    """The JSON schema type of a value."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int):
        return "integer"
    if isinstance(value, float):
        return "integer" if value.is_integer() else "number"
    if isinstance(value, str):
        return "string"
    return "array" if isinstance(value, list) else "object"


def _type_error(value: Any, schema: Manifest, path: str) -> FieldError | None:
    found = type_name(value)
    if schema.get(_INT_OR_STRING):
        if found in ("integer", "string"):
            return None
        wanted = "integer,string"
    else:
        wanted = schema.get("type") or ""
        if not wanted and value is None and path:
            wanted = "object"
        if not wanted or found == wanted or (wanted == "number" and found == "integer"):
            return format_error(value, schema, path)
    return type_invalid(path, found, f"{path} in body must be of type {wanted}: {json.dumps(found)}")


def format_error(value: Any, schema: Manifest, path: str) -> FieldError | None:
    """What is wrong with a value under the schema's format."""
    form = schema.get("format", "")
    if form in _INTEGER_RANGES and isinstance(value, int) and not isinstance(value, bool):
        if -_INTEGER_RANGES[form] <= value < _INTEGER_RANGES[form]:
            return None
        detail = f"Checked value must be of type integer with format {form} in {path}"
        return invalid(NO_FIELD, "", detail)
    check = _FORMATS.get(form)
    if check is None or not isinstance(value, str) or _passes(check, value):
        return None
    return type_invalid(path, value, f"{path} in body must be of type {form}: {json.dumps(value)}")


def _passes(check: Callable[[str], object], text: str) -> bool:
    try:
        return check(text) is not False
    except ValueError:
        return False


_LABEL: Final = r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_UUID: Final = r"[0-9a-fA-F]{8}-?[0-9a-fA-F]{4}-?%s[0-9a-fA-F]{3}-?[0-9a-fA-F]{4}-?[0-9a-fA-F]{12}"


def _matches(pattern: str) -> Callable[[str], object]:
    return lambda text: re.fullmatch(pattern, text) is not None


_FORMATS: Final[Mapping[str, Callable[[str], object]]] = {
    "date-time": lambda text: (
        bool(re.match(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d", text)) and datetime.fromisoformat(text)
    ),
    "date": date.fromisoformat,
    "duration": _matches(r"[-+]?((\d+(\.\d*)?|\.\d+)\s*(ns|us|µs|ms|s|m|h|d|w))+|0"),
    "ipv4": ipaddress.IPv4Address,
    "ipv6": ipaddress.IPv6Address,
    "cidr": ipaddress.ip_interface,
    "mac": _matches(r"([0-9A-Fa-f]{2}[:-]){5}[0-9A-Fa-f]{2}"),
    "hostname": _matches(rf"{_LABEL}(\.{_LABEL})*\.?"),
    "email": _matches(r"[^@\s]+@[^@\s]+"),
    "uri": lambda text: bool(urlsplit(text).scheme) or text.startswith("/"),
    "uuid": UUID,
    "uuid3": _matches(_UUID % "3"),
    "uuid4": _matches(_UUID % "4"),
    "uuid5": _matches(_UUID % "5"),
    "byte": _matches(r"(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?"),
    "hexcolor": _matches(r"#?([0-9a-fA-F]{3}|[0-9a-fA-F]{6})"),
    "bsonobjectid": _matches(r"[0-9a-fA-F]{24}"),
    "creditcard": _matches(r"\d{12,19}"),
    "isbn": _matches(r"(97[89])?\d{9}[\dXx]"),
    "isbn10": _matches(r"\d{9}[\dXx]"),
    "isbn13": _matches(r"97[89]\d{10}"),
    "ssn": _matches(r"\d{3}[- ]?\d{2}[- ]?\d{4}"),
    "rgbcolor": _matches(r"rgb\(\s*\d{1,3}\s*,\s*\d{1,3}\s*,\s*\d{1,3}\s*\)"),
}


def limit_errors(value: Any, schema: Manifest, path: str) -> list[FieldError]:
    """What is wrong with a value's size."""
    if isinstance(value, str):
        return _text_limits(value, schema, path)
    if isinstance(value, bool):
        return []
    if isinstance(value, int | float):
        return _number_limits(value, schema, path)
    if isinstance(value, list):
        return _size_limits(value, schema, path, ("minItems", "maxItems", "items"))
    if isinstance(value, dict):
        return _size_limits(value, schema, path, ("minProperties", "maxProperties", "properties"))
    return []


def _text_limits(value: str, schema: Manifest, path: str) -> list[FieldError]:
    errors = []
    if "maxLength" in schema and len(value) > schema["maxLength"]:
        errors.append(too_long(path, schema["maxLength"]))
    if "minLength" in schema and len(value) < schema["minLength"]:
        detail = f"{path} in body should be at least {schema['minLength']} chars long"
        errors.append(invalid(path, value, detail))
    pattern = schema.get("pattern")
    if pattern and not errors and not compiled(pattern).search(value):
        errors.append(invalid(path, value, f"{path} in body should match '{pattern}'"))
    return errors


@lru_cache(maxsize=1024)
def compiled(pattern: str) -> Pattern:
    """The regular expression in RE2's syntax, which is Go's. Raises `re2.error`."""
    options = re2.Options()
    options.log_errors = False
    found: Pattern = re2.compile(pattern, options)
    return found


def _number_limits(value: int | float, schema: Manifest, path: str) -> list[FieldError]:
    errors = []
    low, high, step = schema.get("minimum"), schema.get("maximum"), schema.get("multipleOf")
    if high is not None:
        strict = bool(schema.get("exclusiveMaximum"))
        if value > high or (strict and value == high):
            words = "less than" if strict else "less than or equal to"
            errors.append(invalid(path, value, f"{path} in body should be {words} {high}"))
    if low is not None:
        strict = bool(schema.get("exclusiveMinimum"))
        if value < low or (strict and value == low):
            words = "greater than" if strict else "greater than or equal to"
            errors.append(invalid(path, value, f"{path} in body should be {words} {low}"))
    if step and Decimal(str(value)) % Decimal(str(step)):
        errors.append(invalid(path, value, f"{path} in body should be a multiple of {step}"))
    return errors


def _size_limits(value: Any, schema: Manifest, path: str, words: tuple[str, str, str]) -> list[FieldError]:
    least, most, unit = schema.get(words[0]), schema.get(words[1]), words[2]
    if most is not None and len(value) > most:
        return [too_many(path, len(value), most)]
    if least is not None and len(value) < least:
        detail = f"{path} in body should have at least {least} {unit}"
        return [invalid(path, len(value), detail)]
    if schema.get("uniqueItems") and len({json.dumps(item, sort_keys=True) for item in value}) < len(value):
        return [
            FieldError(path, "FieldValueDuplicate", f"Duplicate value: {path} in body shouldn't contain duplicates")
        ]
    return []


def _object(value: Manifest, schema: Manifest, path: str) -> list[FieldError]:
    properties = schema.get("properties") or {}
    additional = schema.get("additionalProperties")
    errors = []
    for name in schema.get("required") or []:
        if name not in value:
            errors.append(required(_join(path, name)))
    for name, item in value.items():
        if not path and name in TYPE_META:
            continue
        below = properties.get(name, additional)
        if isinstance(below, dict) and below:
            errors += validate_value(item, below, _join(path, name))
    return errors


def combination_errors(value: Any, schema: Manifest, path: str) -> list[FieldError]:
    """What is wrong with a value under allOf, anyOf, oneOf and not."""
    errors: list[FieldError] = []
    for part in schema.get("allOf") or []:
        errors += validate_value(value, part, path)
    if schema.get("anyOf"):
        tried = [validate_value(value, part, path) for part in schema["anyOf"]]
        if all(tried):
            errors.append(_combined(path, "must validate at least one schema (anyOf)"))
            errors += sorted(tried, key=len)[0]
    if schema.get("oneOf"):
        tried = [validate_value(value, part, path) for part in schema["oneOf"]]
        valid = tried.count([])
        if valid != 1:
            found = f"{valid} valid alternatives" if valid else "none valid"
            errors.append(_combined(path, f"must validate one and only one schema (oneOf). Found {found}"))
            errors += [] if valid else sorted(tried, key=len)[0]
    if "not" in schema and not validate_value(value, schema["not"], path):
        errors.append(_combined(path, "must not validate the schema (not)"))
    return errors


def _combined(path: str, detail: str) -> FieldError:
    return invalid(NO_FIELD, "", f'"{path}" {detail}')


def _structure(value: Any, schema: Any, path: str) -> list[FieldError]:
    """List types, and what an embedded resource must have."""
    if not isinstance(schema, dict):
        return []
    errors: list[FieldError] = []
    if isinstance(value, list):
        errors += list_type_errors(value, schema, path)
        for index, item in enumerate(value):
            errors += _structure(item, schema.get("items"), f"{path}[{index}]")
    elif isinstance(value, dict):
        if schema.get("x-kubernetes-embedded-resource"):
            errors += [required(_join(path, name)) for name in ("apiVersion", "kind") if not value.get(name)]
        properties = schema.get("properties") or {}
        for name, item in value.items():
            errors += _structure(item, properties.get(name, schema.get("additionalProperties")), _join(path, name))
    return errors


def list_type_errors(value: list[Any], schema: Manifest, path: str) -> list[FieldError]:
    """Which items of a set or keyed list stand there twice."""
    keys = schema.get("x-kubernetes-list-map-keys") or []
    kind = schema.get("x-kubernetes-list-type")
    if kind not in ("set", "map"):
        return []
    errors = []
    seen: set[str] = set()
    for index, item in enumerate(value):
        shown = item
        if kind == "map":
            if not isinstance(item, dict):
                continue
            shown = {key: item[key] for key in keys if key in item}
        text = json.dumps(shown, sort_keys=True)
        if text in seen:
            errors.append(duplicate(f"{path}[{index}]", shown))
        seen.add(text)
    return errors


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
