# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Whether the schema inside a CustomResourceDefinition is structural, and its defaults, patterns and rules are sound.

A structural schema says the type of every value, so that pruning and defaulting are defined. Source:
apiextensions-apiserver/pkg/apiserver/schema/validation.go and pkg/apis/apiextensions/validation.
"""

from __future__ import annotations

from copy import deepcopy
from typing import Any, Final

import re2  # type: ignore[import-untyped]

from kaito.engine.schema import structural
from kaito.engine.schema.field import FieldError, forbidden, invalid, required, unsupported
from kaito.engine.schema.schema_rulecheck import rule_errors
from kaito.engine.schema.schema_validation import compiled, validate_value
from kaito.kube.manifest import Manifest

_TYPES: Final = ("array", "boolean", "integer", "number", "object", "string")
_PRESERVES: Final = "x-kubernetes-preserve-unknown-fields"
_EMBEDDED: Final = "x-kubernetes-embedded-resource"
_INT_OR_STRING: Final = "x-kubernetes-int-or-string"
_LIST_TYPE: Final = "x-kubernetes-list-type"
_MAP_KEYS: Final = "x-kubernetes-list-map-keys"
_MAP_TYPE: Final = "x-kubernetes-map-type"
_UNSUPPORTED: Final = (
    "$ref",
    "definitions",
    "dependencies",
    "deprecated",
    "discriminator",
    "id",
    "patternProperties",
    "readOnly",
    "writeOnly",
    "xml",
)
_NOT_IN_JUNCTORS: Final = (
    "type",
    "default",
    "title",
    "description",
    "nullable",
    _PRESERVES,
    _EMBEDDED,
    _INT_OR_STRING,
    _LIST_TYPE,
    _MAP_KEYS,
    _MAP_TYPE,
)
_JUNCTORS: Final = ("allOf", "anyOf", "oneOf")
_UNIQUE_RULE: Final = "uniqueItems cannot be set to true since the runtime complexity becomes quadratic"
_INT_OR_STRING_ANY_OF: Final = [{"type": "integer"}, {"type": "string"}]
_EMPTY: Final = "must be empty to be structural"


def schema_errors(schema: Manifest, path: str) -> list[FieldError]:
    """What is wrong with an `openAPIV3Schema` at `path`."""
    errors = _root(schema, path) + _walk(schema, path, where="root")
    if not errors:
        errors += _defaults(schema, path, is_root=True) + rule_errors(schema, path)
    return errors


def _root(schema: Manifest, path: str) -> list[FieldError]:
    kind = schema.get("type")
    if kind and kind != "object":
        return [invalid(f"{path}.type", kind, "must be object at the root")]
    if schema.get("nullable"):
        return [forbidden(f"{path}.nullable", "nullable cannot be true at the root")]
    return []


_TYPE_RULES: Final = {
    "root": "must not be empty at the root",
    "field": "must not be empty for specified object fields",
    "item": "must not be empty for specified array items",
}


def _walk(schema: Any, path: str, *, where: str) -> list[FieldError]:
    if not isinstance(schema, dict):
        return []
    errors = [forbidden(f"{path}.{name}", f"{name} is not supported") for name in _UNSUPPORTED if schema.get(name)]
    if errors:
        return errors
    kind = schema.get("type") or ""
    if not kind and not schema.get(_INT_OR_STRING) and not (schema.get(_PRESERVES) and where != "root"):
        errors.append(required(f"{path}.type", _TYPE_RULES[where]))
    elif kind and kind not in _TYPES:
        errors.append(unsupported(f"{path}.type", kind, _TYPES))
    errors += _extensions(schema, path) + _value_rules(schema, path) + _children(schema, path)
    for name in _JUNCTORS:
        for index, part in enumerate(schema.get(name) or []):
            exempt = bool(schema.get(_INT_OR_STRING)) and _is_int_or_string(schema)
            errors += _junctor(part, f"{path}.{name}[{index}]", exempt=exempt)
    if "not" in schema:
        errors += _junctor(schema["not"], f"{path}.not", exempt=False)
    return errors


def _is_int_or_string(schema: Manifest) -> bool:
    first = (schema.get("allOf") or [{}])[0]
    return _INT_OR_STRING_ANY_OF in (schema.get("anyOf"), first.get("anyOf"))


def _junctor(schema: Any, path: str, *, exempt: bool) -> list[FieldError]:
    """Inside allOf, anyOf, oneOf and not only value validation may stand."""
    if not isinstance(schema, dict):
        return []
    errors = []
    for name in _NOT_IN_JUNCTORS:
        if schema.get(name) and not (exempt and name == "type"):
            errors.append(forbidden(f"{path}.{name}", _EMPTY))
    if schema.get("additionalProperties") is not None:
        errors.append(forbidden(f"{path}.additionalProperties", _EMPTY))
    for name, below in (schema.get("properties") or {}).items():
        errors += _junctor(below, f"{path}.properties[{name}]", exempt=False)
    if "items" in schema:
        errors += _junctor(schema["items"], f"{path}.items", exempt=False)
    for name in _JUNCTORS:
        for index, part in enumerate(schema.get(name) or []):
            errors += _junctor(part, f"{path}.{name}[{index}]", exempt=exempt)
    return errors


def _children(schema: Manifest, path: str) -> list[FieldError]:
    errors = []
    properties, additional, items = schema.get("properties"), schema.get("additionalProperties"), schema.get("items")
    if additional is False:
        errors.append(forbidden(f"{path}.additionalProperties", "additionalProperties cannot be set to false"))
    elif properties and additional is not None:
        detail = "additionalProperties and properties are mutual exclusive"
        errors.append(forbidden(f"{path}.additionalProperties", detail))
    if schema.get("type") == "array" and items is None:
        errors.append(required(f"{path}.items", "must be specified"))
    if isinstance(items, list):
        errors.append(forbidden(f"{path}.items", "items must be a schema object and not an array"))
    for name, below in (properties or {}).items():
        errors += _walk(below, f"{path}.properties[{name}]", where="field")
    errors += _walk(items, f"{path}.items", where="item")
    return errors + _walk(additional, f"{path}.additionalProperties", where="field")


def _extensions(schema: Manifest, path: str) -> list[FieldError]:
    errors = []
    kind = schema.get("type") or ""
    if schema.get(_PRESERVES) is False:
        errors.append(invalid(f"{path}.{_PRESERVES}", False, "must be true or undefined"))
    if schema.get(_EMBEDDED):
        if kind != "object":
            detail = "must be object if x-kubernetes-embedded-resource is true"
            errors.append(invalid(f"{path}.type", kind, detail))
        if not schema.get("properties") and not schema.get(_PRESERVES):
            detail = f"must not be empty if {_EMBEDDED} is true without {_PRESERVES}"
            errors.append(required(f"{path}.properties", detail))
    if schema.get(_INT_OR_STRING) and kind:
        errors.append(invalid(f"{path}.type", kind, "must be empty if x-kubernetes-int-or-string is true"))
    map_type = schema.get(_MAP_TYPE)
    if map_type is not None and map_type not in ("atomic", "granular"):
        errors.append(unsupported(f"{path}.{_MAP_TYPE}", map_type, ("atomic", "granular")))
    return errors + _list_extension(schema, path)


def _list_extension(schema: Manifest, path: str) -> list[FieldError]:
    list_type, keys = schema.get(_LIST_TYPE), schema.get(_MAP_KEYS) or []
    errors = []
    if list_type is None:
        if keys:
            errors.append(required(f"{path}.{_LIST_TYPE}", f"must be map if {_MAP_KEYS} is non-empty"))
        return errors
    if list_type not in ("atomic", "map", "set"):
        return [unsupported(f"{path}.{_LIST_TYPE}", list_type, ("atomic", "map", "set"))]
    if schema.get("type") != "array":
        kind = schema.get("type") or ""
        errors.append(invalid(f"{path}.type", kind, f"must be array if {_LIST_TYPE} is specified"))
    if list_type != "map":
        return errors
    if not keys:
        errors.append(required(f"{path}.{_MAP_KEYS}", f"must not be empty if {_LIST_TYPE} is map"))
    return errors + _map_keys(schema.get("items") or {}, keys, path)


def _map_keys(items: Manifest, keys: list[str], path: str) -> list[FieldError]:
    if items.get("type") != "object":
        kind = items.get("type") or ""
        return [invalid(f"{path}.items.type", kind, f"must be object if parent array's {_LIST_TYPE} is map")]
    properties = items.get("properties") or {}
    errors = []
    for index, key in enumerate(keys):
        at = f"{path}.items.properties[{key}]"
        if key not in properties:
            detail = "entries must all be names of item properties"
            errors.append(invalid(f"{path}.{_MAP_KEYS}[{index}]", key, detail))
        elif properties[key].get("type") in ("array", "object"):
            errors.append(
                invalid(
                    f"{at}.type",
                    properties[key]["type"],
                    "must be a scalar type if parent array's x-kubernetes-list-type is map",
                )
            )
        elif "default" not in properties[key] and key not in (items.get("required") or []):
            detail = f"this property is in {_MAP_KEYS}, so it must have a default or be a required property"
            errors.append(required(f"{at}.default", detail))
    return errors


def _value_rules(schema: Manifest, path: str) -> list[FieldError]:
    errors = []
    if schema.get("uniqueItems"):
        errors.append(forbidden(f"{path}.uniqueItems", _UNIQUE_RULE))
    pattern = schema.get("pattern")
    if pattern:
        try:
            compiled(pattern)
        except re2.error as error:
            text = error.args[0].decode() if error.args and isinstance(error.args[0], bytes) else str(error)
            problem = _go_regexp_error(text, pattern)
            detail = f"must be a valid regular expression, but isn't: error parsing regexp: {problem}"
            errors.append(invalid(f"{path}.pattern", pattern, detail))
    return errors


_GO_REASONS: Final = {
    "missing )": "missing closing )",
    "missing ]": "missing closing ]",
    "no argument for repetition operator": "missing argument to repetition operator",
    "bad repetition operator": "invalid nested repetition operator",
    "invalid character class range": "invalid character class range",
}


def _go_regexp_error(text: str, pattern: str) -> str:
    """Go names the offending part in backquotes after the message that RE2 gives."""
    reason, colon, part = text.partition(": ")
    reason = _GO_REASONS.get(reason, reason)
    return f"{reason}: `{part if colon else pattern}`"


def _defaults(schema: Any, path: str, *, is_root: bool = False) -> list[FieldError]:
    if not isinstance(schema, dict):
        return []
    errors: list[FieldError] = []
    if "default" in schema:
        at = f"{path}.default"
        if is_root:
            return [forbidden(at, "must not be set at the root")]
        errors += _default(schema, at)
    for name, below in (schema.get("properties") or {}).items():
        if not (is_root and name == "metadata"):
            errors += _defaults(below, f"{path}.properties[{name}]")
    errors += _defaults(schema.get("items"), f"{path}.items")
    return errors + _defaults(schema.get("additionalProperties"), f"{path}.additionalProperties")


def _default(schema: Manifest, path: str) -> list[FieldError]:
    value = deepcopy(schema["default"])
    if isinstance(value, dict) and structural.prune({"value": value}, {"properties": {"value": schema}}):
        return [invalid(path, schema["default"], "must not have unknown fields")]
    holder = {"value": deepcopy(schema["default"])}
    structural.apply_defaults(holder, {"properties": {"value": schema}})
    found = validate_value(holder.get("value"), schema, "")
    return [FieldError(f"{path}.{error.field}".rstrip("."), error.reason, error.message) for error in found]
