# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""The rules of a structural schema that are written as expressions: `x-kubernetes-validations`.

Rules that name `oldSelf` are transition rules: they are skipped on create and for values that were not there before,
unless they say `optionalOldSelf`. Whether the rules of a schema are sound is told by `schema_rulecheck`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

from kaito.engine.schema import cel
from kaito.engine.schema.celvalues import is_changed, visible
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
_LONGEST_MESSAGE: Final = 5120
_ABSENT: Final = object()


class Rules:
    """The rules of one schema. Keep it: where there are any is found out once, not at each validation."""

    def __init__(self, schema: Manifest) -> None:
        self._schema = schema
        self._with_rules: set[int] = set()
        """The ids of all parts of the schema that hold a rule somewhere; the schema lives as long as this object."""
        self._changed: dict[int, bool] = {}
        """For each part with rules of its own, whether they see its values in another form (`celvalues`)."""
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
        if schema.get(_RULES):
            self._changed[id(schema)] = is_changed(schema)
        return found

    def errors(self, obj: Manifest, old: Manifest | None) -> list[FieldError]:
        """The errors of all rules that the object breaks."""
        if not self._with_rules:
            return []
        return list(self._validate(obj, _ABSENT if old is None else old, self._schema, ""))

    def _validate(self, value: Any, old: Any, schema: Any, path: str) -> Iterator[FieldError]:
        if value is None or id(schema) not in self._with_rules:
            return
        for rule in schema.get(_RULES) or []:
            yield from self._check(rule, value, old, schema, path)
        if isinstance(value, dict):
            properties = schema.get("properties") or {}
            for name, item in value.items():
                below = properties.get(name, schema.get("additionalProperties"))
                before = old.get(name, _ABSENT) if isinstance(old, dict) else _ABSENT
                yield from self._validate(item, before, below, f"{path}.{name}" if path else name)
        elif isinstance(value, list):
            earlier = _correlated(old, schema)
            shape = Shape(schema)
            for index, item in enumerate(value):
                before = earlier.get(shape.key_of(item) or "", _ABSENT) if earlier else _ABSENT
                yield from self._validate(item, before, schema.get("items"), f"{path}[{index}]")

    def _check(self, rule: Manifest, value: Any, old: Any, schema: Manifest, path: str) -> Iterator[FieldError]:
        if uses_old(rule["rule"]) and old is _ABSENT and not rule.get("optionalOldSelf"):
            return
        is_plain = not self._changed[id(schema)]
        variables = {"self": value if is_plain else visible(value, schema)}
        before = None if old is _ABSENT else old if is_plain else visible(old, schema)
        try:
            holds = _evaluated(rule, rule["rule"], variables, before)
        except cel.CelError as error:
            yield _error(rule, path, schema, f"rule evaluation error: {error}")
            return
        if holds is not True:
            yield _error(rule, path, schema, _message(rule, variables, before))


def _correlated(old: Any, schema: Manifest) -> dict[str, Any]:
    """The old items by key: only keyed lists let items be told apart."""
    if not isinstance(old, list) or schema.get("x-kubernetes-list-type") != "map":
        return {}
    shape = Shape(schema)
    return {shape.key_of(item) or "": item for item in old}


def uses_old(expression: str) -> bool:
    """Whether the expression names `oldSelf`."""
    return bool(_OLD.search(expression))


def _evaluated(rule: Manifest, expression: str, variables: Manifest, before: Any) -> Any:
    """The value of the rule's expression or of its message's. Raises CelError."""
    if not uses_old(expression):
        return cel.evaluate(expression, variables)
    if rule.get("optionalOldSelf"):
        return cel.evaluate_with_optional(expression, variables, name="oldSelf", value=before)
    return cel.evaluate(expression, {**variables, "oldSelf": before})


def _message(rule: Manifest, variables: Manifest, before: Any) -> str:
    if rule.get("messageExpression"):
        try:
            text = _evaluated(rule, rule["messageExpression"], variables, before)
        except cel.CelError:
            text = None
        if isinstance(text, str) and text.strip() and "\n" not in text and len(text) <= _LONGEST_MESSAGE:
            return text
    return rule.get("message") or f"failed rule: {rule['rule'].strip()}"


def _error(rule: Manifest, path: str, schema: Manifest, message: str) -> FieldError:
    reason: Reason = rule.get("reason") or "FieldValueInvalid"
    at = path + (rule.get("fieldPath") or "")
    at = at.lstrip(".") or "<nil>"
    if reason in ("FieldValueForbidden", "FieldValueRequired"):
        return FieldError(at, reason, f"{_WORDS[reason]}: {message}")
    shown = schema.get("type", "object")
    return FieldError(at, reason, f'{_WORDS[reason]}: "{shown}": {message}')
