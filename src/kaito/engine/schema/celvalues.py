# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""A value as expressions see it: names escaped, dates, durations and bytes as such, a `number` never an integer.

Source: "Validation rules" in Kubernetes' documentation of CustomResourceDefinitions (the tables of types and of
escaped names). Pure. `celtypes` says which types belong to which schema.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from kaito.engine.schema.celtypes import duration, escaped, timestamp
from kaito.kube.manifest import Manifest

_UNIT: Final = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|μs|ms|s|m|h)")
_SECONDS: Final = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


def _timestamp(text: str) -> Any:
    moment = datetime.fromisoformat(text)
    return timestamp(moment if moment.tzinfo else moment.replace(tzinfo=UTC))


def _duration(text: str) -> Any:
    sign, rest = (-1, text[1:]) if text.startswith("-") else (1, text)
    if rest != "0" and not re.fullmatch(rf"(?:{_UNIT.pattern})+", rest):
        raise ValueError(f"not a duration: {text}")
    seconds = sum(float(number) * _SECONDS[unit] for number, unit in _UNIT.findall(rest))
    return duration(sign * timedelta(seconds=seconds))


_FORMATS: Final[dict[str, Callable[[str], Any]]] = {
    "byte": lambda text: base64.b64decode(text, validate=True),
    "date": _timestamp,
    "date-time": _timestamp,
    "duration": _duration,
}


def is_changed(schema: Any) -> bool:
    """Whether rules see some value of the schema in another form than it is written in."""
    if not isinstance(schema, dict):
        return False
    if schema.get("type") == "number" or (schema.get("type") == "string" and schema.get("format") in _FORMATS):
        return True
    properties = schema.get("properties") or {}
    renamed = any(escaped(name) not in (name, None) for name in properties)
    return renamed or any(
        map(is_changed, (*properties.values(), schema.get("items"), schema.get("additionalProperties")))
    )


def visible(value: Any, schema: Any) -> Any:
    """The value of a schema's instance as its rules see it."""
    below = schema if isinstance(schema, dict) else {}
    if isinstance(value, dict):
        return _mapping(value, below)
    if isinstance(value, list):
        return [visible(item, below.get("items")) for item in value]
    if isinstance(value, str) and below.get("format") in _FORMATS:
        return _formatted(value, below["format"])
    is_whole = isinstance(value, int) and not isinstance(value, bool)
    return float(value) if is_whole and below.get("type") == "number" else value


def _mapping(value: Manifest, schema: Manifest) -> Manifest:
    properties, rest = schema.get("properties") or {}, schema.get("additionalProperties")
    return {
        ((name in properties and escaped(name)) or name): visible(item, properties.get(name, rest))
        for name, item in value.items()
    }


def _formatted(text: str, form: str) -> Any:
    try:
        return _FORMATS[form](text)
    except (ValueError, binascii.Error, OverflowError):
        return text  # an expression about it fails, as it should
