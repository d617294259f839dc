# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Label and field selectors: text or manifest in, predicate out.

Pure. Error texts are those of k8s.io/apimachinery's labels and fields packages, since clients show them as they are.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from kaito.engine.schema.syntax import label_key_problems, label_value_problems
from kaito.kube.manifest import Manifest

Operator = Literal["=", "!=", "in", "notin", "exists", "!", "gt", "lt"]


class SelectorError(ValueError):
    """The selector does not parse; the text is for the user (400 BadRequest)."""


@dataclass(frozen=True, slots=True)
class Requirement:
    """One condition on one label."""

    key: str
    operator: Operator
    values: frozenset[str] = frozenset()

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Whether the labels satisfy the condition."""
        value = labels.get(self.key)
        match self.operator:
            case "=" | "in":
                return value is not None and value in self.values
            case "!=" | "notin":
                return value is None or value not in self.values
            case "exists":
                return value is not None
            case "!":
                return value is None
            case "gt" | "lt":
                return self._compares(value)

    def _compares(self, value: str | None) -> bool:
        limit = int(next(iter(self.values)))
        try:
            number = int(value or "")
        except ValueError:
            return False
        return number > limit if self.operator == "gt" else number < limit


@dataclass(frozen=True, slots=True)
class LabelSelector:
    """All of the requirements; none of them matches everything."""

    requirements: tuple[Requirement, ...] = ()
    nothing: bool = False
    """Matches no object at all, whatever the requirements."""

    @property
    def empty(self) -> bool:
        """Whether the selector matches everything."""
        return not self.requirements and not self.nothing

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Whether the labels satisfy every requirement."""
        return not self.nothing and all(requirement.matches(labels) for requirement in self.requirements)


_TOKEN: Final = re.compile(r"\s*(==|!=|[=!<>(),]|[^\s=!<>(),]+)")
_SYMBOLS: Final = frozenset({"=", "==", "!=", "!", "<", ">", "(", ")", ","})


class _Tokens:
    """A cursor over the words and symbols of a label selector; an empty text means the end."""

    def __init__(self, text: str) -> None:
        self._tokens = [match.group(1) for match in _TOKEN.finditer(text)]
        self._at = 0

    def peek(self) -> str:
        return self._tokens[self._at] if self._at < len(self._tokens) else ""

    def take(self) -> str:
        token = self.peek()
        self._at += 1
        return token


def parse_labels(text: str) -> LabelSelector:
    """The selector that a query's `labelSelector` means. Raises SelectorError."""
    tokens = _Tokens(text)
    requirements: list[Requirement] = []
    if not tokens.peek():
        return LabelSelector()
    if tokens.peek() in _SYMBOLS - {"!"}:
        raise SelectorError(f"found '{tokens.peek()}', expected: !, identifier, or 'end of string'")
    while True:
        requirements.append(_requirement(tokens))
        match tokens.take():
            case "":
                return LabelSelector(tuple(requirements))
            case ",":
                if tokens.peek() in _SYMBOLS - {"!"} or not tokens.peek():
                    raise SelectorError(f"found '{tokens.peek()}', expected: identifier after ','")
            case found:
                raise SelectorError(f"found '{found}', expected: ',' or 'end of string'")


def _requirement(tokens: _Tokens) -> Requirement:
    negated = tokens.peek() == "!"
    if negated:
        tokens.take()
    key = tokens.take()
    if not key or key in _SYMBOLS:
        raise _unparsable(f"found '{key}', expected: identifier")
    _check_key(key)
    if negated:
        return Requirement(key, "!")
    if tokens.peek() in ("", ","):
        return Requirement(key, "exists")
    return _comparison(key, tokens)


def _comparison(key: str, tokens: _Tokens) -> Requirement:
    match operator := tokens.take():
        case "in" | "notin":
            values = _value_list(tokens)
            _check_values(key, values)
            return Requirement(key, operator, frozenset(values))
        case "=" | "==" | "!=":
            value = _one_value(tokens)
            _check_values(key, [value])
            return Requirement(key, "!=" if operator == "!=" else "=", frozenset({value}))
        case "<" | ">":
            value = _one_value(tokens)
            if not re.fullmatch(r"[+-]?[0-9]+", value):
                raise _unparsable(
                    f"values[0]: Invalid value: \"{value}\": for 'Gt', 'Lt' operators, the value must be an integer"
                )
            return Requirement(key, "gt" if operator == ">" else "lt", frozenset({value}))
        case found:
            raise _unparsable(f"found '{found}', expected: in, notin, =, ==, !=, gt, lt")


def _one_value(tokens: _Tokens) -> str:
    if tokens.peek() in ("", ","):
        return ""
    value = tokens.take()
    if value in _SYMBOLS:
        raise _unparsable(f"found '{value}', expected: identifier")
    return value


def _value_list(tokens: _Tokens) -> list[str]:
    found = tokens.take()
    if found != "(":
        raise _unparsable(f"found '{found}' expected: '('")
    values: list[str] = []
    expects_value = True
    while True:
        token = tokens.take()
        if token == ")":
            return [*values, ""] if expects_value else values
        if token == ",":
            if expects_value:
                values.append("")
            expects_value = True
        elif token in _SYMBOLS or not token or not expects_value:
            raise _unparsable(f"found '{token}', expected: ',' or ')'")
        else:
            values.append(token)
            expects_value = False


def _unparsable(detail: str) -> SelectorError:
    return SelectorError(f"unable to parse requirement: {detail}")


def _check_key(key: str) -> None:
    for problem in label_key_problems(key):
        raise _unparsable(f'<nil>: Invalid value: "{key}": {problem}')


def _check_values(key: str, values: list[str]) -> None:
    for index, value in enumerate(values):
        for problem in label_value_problems(value):
            raise _unparsable(f'values[{index}][{key}]: Invalid value: "{value}": {problem}')


_EXPRESSION: Final[Mapping[str, Operator]] = {"In": "in", "NotIn": "notin", "Exists": "exists", "DoesNotExist": "!"}


def from_label_selector(selector: Manifest | None) -> LabelSelector:
    """The selector that a manifest's `{matchLabels, matchExpressions}` means; none at all matches nothing.

    Raises SelectorError on an unknown operator.
    """
    if selector is None:
        return LabelSelector(nothing=True)
    found = [Requirement(key, "=", frozenset({value})) for key, value in (selector.get("matchLabels") or {}).items()]
    for expression in selector.get("matchExpressions") or []:
        operator = _EXPRESSION.get(expression.get("operator", ""))
        if operator is None:
            raise SelectorError(f'"{expression.get("operator", "")}" is not a valid label selector operator')
        found.append(Requirement(expression["key"], operator, frozenset(expression.get("values") or ())))
    return LabelSelector(tuple(found))


@dataclass(frozen=True, slots=True)
class FieldRequirement:
    """One condition on one field: its text equals, or differs from, the value."""

    field: str
    value: str
    equal: bool = True


@dataclass(frozen=True, slots=True)
class FieldSelector:
    """All of the requirements; none of them matches everything."""

    requirements: tuple[FieldRequirement, ...] = ()

    @property
    def fields(self) -> tuple[str, ...]:
        """The fields that the selector asks about; the server says which of them a kind supports."""
        return tuple(requirement.field for requirement in self.requirements)

    def exact(self, field: str) -> str | None:
        """The value that the field must equal, if the selector says so."""
        for requirement in self.requirements:
            if requirement.field == field and requirement.equal:
                return requirement.value
        return None

    def matches(self, lookup: Callable[[str], str | None]) -> bool:
        """Whether the values that `lookup` returns satisfy every requirement; a missing one is the empty text."""
        return all(
            (lookup(item.field) or "") == item.value if item.equal else (lookup(item.field) or "") != item.value
            for item in self.requirements
        )


def parse_fields(text: str) -> FieldSelector:
    """The selector that a query's `fieldSelector` means. Raises SelectorError."""
    found = []
    for term in _terms(text):
        field, operator, value = _split_term(term)
        if not operator:
            raise SelectorError(f"invalid selector: '{text}'; can't understand '{term}'")
        found.append(FieldRequirement(field, _unescaped(value), equal=operator != "!="))
    return FieldSelector(tuple(found))


def _terms(text: str) -> list[str]:
    return [term for term in re.split(r"(?<!\\),", text) if term]


def _split_term(term: str) -> tuple[str, str, str]:
    match = re.match(r"((?:\\.|[^\\])*?)(!=|==|=)(.*)$", term, re.DOTALL)
    return (match.group(1), match.group(2), match.group(3)) if match else (term, "", "")


def _unescaped(value: str) -> str:
    if re.search(r"(?<!\\)(?:\\\\)*[=,]", value):
        raise SelectorError(f"invalid field selector: invalid unescaped character in value: {value}")
    return re.sub(r"\\([\\,=])", r"\1", value)


def field_value(obj: Manifest, path: str) -> str:
    """The text at a dotted path of the manifest; empty where nothing is."""
    value: Any = obj
    for part in path.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    if isinstance(value, bool):
        return "true" if value else "false"
    return "" if value is None else str(value)
