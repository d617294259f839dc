# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""The rules of a structural schema that are written as expressions: `x-kubernetes-validations`.

Rules that name `oldSelf` are transition rules: they are skipped on create and for values that were not there before.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

from kaito.engine.schema import cel
from kaito.engine.schema.field import FieldError, Reason
from kaito.engine.schema.shape import Shape
from kaito.kube.manifest import Manifest

_RULES: Final = "x-kubernetes-validations"
_OLD: Final = re.compile(r"\boldSelf\b")
_WORDS: Final = {
    "FieldValueInvalid": "Invalid value",
    "FieldValueForbidden": "Forbidden",
    "FieldValueRequired": "Required value",
    "FieldValueDuplicate": "Duplicate value",
}
_RESERVED: Final = frozenset(
    {
        "as",
        "break",
        "const",
        "continue",
        "else",
        "for",
        "function",
        "if",
        "import",
        "in",
        "let",
        "loop",
        "namespace",
        "package",
        "return",
        "var",
        "void",
        "while",
        "true",
        "false",
        "null",
    }
)
_ABSENT: Final = object()


class Rules:
    """The rules of one schema. Keep it: where there are any is found out once, not at each validation."""

    def __init__(self, schema: Manifest) -> None:
        self._schema = schema
        self._with_rules: set[int] = set()
        """The ids of all parts of the schema that hold a rule somewhere; the schema lives as long as this object."""
        self._find(schema)

    def _find(self, schema: Any) -> bool:
        """Whether this part holds a rule anywhere."""
        if isinstance(schema, list):
            below = [self._find(part) for part in schema]  # all of them: each is noted
            return any(below)
        if not isinstance(schema, dict):
            return False
        below = [self._find(part) for name, part in schema.items() if name not in ("default", "enum", "example")]
        found = bool(schema.get(_RULES)) or any(below)
        if found:
            self._with_rules.add(id(schema))
        return found

    def errors(self, obj: Manifest, old: Manifest | None) -> list[FieldError]:
        """The errors of all rules that the object breaks."""
        if not self._with_rules:
            return []
        return list(_validate(obj, _ABSENT if old is None else old, self._schema, "", self._with_rules))


def _validate(value: Any, old: Any, schema: Any, path: str, with_rules: set[int]) -> Iterator[FieldError]:
    if value is None or id(schema) not in with_rules:
        return
    for rule in schema.get(_RULES) or []:
        yield from _check(rule, value, old, schema, path)
    if isinstance(value, dict):
        properties = schema.get("properties") or {}
        for name, item in value.items():
            below = properties.get(name, schema.get("additionalProperties"))
            before = old.get(name, _ABSENT) if isinstance(old, dict) else _ABSENT
            yield from _validate(item, before, below, f"{path}.{name}" if path else name, with_rules)
    elif isinstance(value, list):
        earlier = _correlated(old, schema)
        shape = Shape(schema)
        for index, item in enumerate(value):
            before = earlier.get(shape.key_of(item) or "", _ABSENT) if earlier else _ABSENT
            yield from _validate(item, before, schema.get("items"), f"{path}[{index}]", with_rules)


def _correlated(old: Any, schema: Manifest) -> dict[str, Any]:
    """The old items by key: only keyed lists let items be told apart."""
    if not isinstance(old, list) or schema.get("x-kubernetes-list-type") != "map":
        return {}
    shape = Shape(schema)
    return {shape.key_of(item) or "": item for item in old}


def _check(rule: Manifest, value: Any, old: Any, schema: Manifest, path: str) -> Iterator[FieldError]:
    expression = rule["rule"].strip()
    variables = {"self": _visible(value, schema)}
    if _OLD.search(expression):
        if old is _ABSENT and not rule.get("optionalOldSelf"):
            return
        variables["oldSelf"] = _visible(None if old is _ABSENT else old, schema)
    try:
        holds = cel.evaluate(expression, variables)
    except cel.CelError as error:
        yield _error(rule, path, schema, f"rule evaluation error: {error}")
        return
    if holds is not True:
        yield _error(rule, path, schema, _message(rule, variables))


def _visible(value: Any, schema: Any) -> Any:
    """The value as expressions see it: reserved names are written `__name__`, and a `number` is never an integer."""
    below = schema if isinstance(schema, dict) else {}
    if isinstance(value, dict):
        properties, rest = below.get("properties") or {}, below.get("additionalProperties")
        return {
            f"__{name}__" if name in _RESERVED and name in properties else name: _visible(
                item, properties.get(name, rest)
            )
            for name, item in value.items()
        }
    if isinstance(value, list):
        return [_visible(item, below.get("items")) for item in value]
    is_whole = isinstance(value, int) and not isinstance(value, bool)
    return float(value) if is_whole and below.get("type") == "number" else value


def _message(rule: Manifest, variables: dict[str, Any]) -> str:
    if rule.get("messageExpression"):
        try:
            text = cel.evaluate(rule["messageExpression"], variables)
        except cel.CelError:
            text = None
        if isinstance(text, str) and text.strip() and "\n" not in text:
            return text
    return rule.get("message") or f"failed rule: {rule['rule']}"


def _error(rule: Manifest, path: str, schema: Manifest, message: str) -> FieldError:
    reason: Reason = rule.get("reason") or "FieldValueInvalid"
    at = path + (rule.get("fieldPath") or "")
    at = at.lstrip(".") or "<nil>"
    if reason in ("FieldValueForbidden", "FieldValueRequired"):
        return FieldError(at, reason, f"{_WORDS[reason]}: {message}")
    shown = schema.get("type", "object")
    return FieldError(at, reason, f'{_WORDS[reason]}: "{shown}": {message}')


def rule_problems(rule: Manifest, schema: Manifest) -> list[str]:
    """Why a rule cannot be used with its schema: it does not parse, or names a field that is not declared."""
    expression = rule.get("rule") or ""
    try:
        cel.compile_expression(expression, ("self", "oldSelf"))
    except cel.CelError as error:
        return [f"compilation failed: {error}"]
    name = _undeclared(expression, schema)
    if name:
        return [f"compilation failed: ERROR: <input>:1:1: undefined field '{name}'"]
    if _is_not_boolean(expression, schema):
        return ["must evaluate to a bool"]
    return []


_CHAIN: Final = re.compile(r"(?<![\w.])self((?:\.[A-Za-z_]\w*)+)(\s*\()?")


def _undeclared(expression: str, schema: Manifest) -> str:
    for match in _CHAIN.finditer(expression):
        names = match.group(1)[1:].split(".")
        if match.group(2):
            names = names[:-1]
        below: Any = schema
        for name in names:
            properties = below.get("properties") if isinstance(below, dict) else None
            if not properties or below.get("x-kubernetes-preserve-unknown-fields") or below.get("additionalProperties"):
                break
            plain = name.removeprefix("__").removesuffix("__") if name.startswith("__") else name
            if plain not in properties:
                return name
            below = properties[plain]
    return ""


def _is_not_boolean(expression: str, schema: Manifest) -> bool:
    """A bare `self.a.b` or literal whose type is known not to be boolean."""
    if re.fullmatch(r"\s*(-?\d+|'[^']*'|\"[^\"]*\")\s*", expression):
        return True
    match = re.fullmatch(r"\s*self((?:\.[A-Za-z_]\w*)*)\s*(?:[-+*/%]\s*[\w.]+\s*)?", expression)
    if not match:
        return False
    below: Any = schema
    for name in match.group(1).split(".")[1:]:
        below = (below.get("properties") or {}).get(name) or {}
    return bool(below.get("type")) and below["type"] != "boolean"
