# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Kubernetes' expressions (CEL): compile once, evaluate on plain JSON values.

A thin layer over cel-python. Expressions come from CRDs (`x-kubernetes-validations`) and from webhooks' match
conditions.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import cache, lru_cache
from importlib import import_module
from typing import Any, Final, Protocol

_NAMES_IN_STRINGS: Final = re.compile(r"'(?:\\.|[^'\\])*'|\"(?:\\.|[^\"\\])*\"")
_VARIABLE: Final = re.compile(r"(?<![\w.])([A-Za-z_]\w*)(?!\s*[\w(])")
_WORDS: Final = frozenset(
    {"true", "false", "null", "in", "int", "uint", "double", "bool", "string", "bytes", "list", "map", "type"}
)
_BINDS: Final = re.compile(r"\.(?:all|exists|exists_one|map|filter|sortBy|transformList)\(\s*([A-Za-z_]\w*)\s*,")


class CelError(ValueError):
    """An expression does not compile, or fails on the values given."""


class Program(Protocol):
    """A compiled expression."""

    def evaluate(self, context: Any) -> Any:
        """The value, as a CEL type."""


@cache
def _celpy() -> Any:
    """cel-python, loaded with the first expression: its parser takes longer to load than the rest of the engine."""
    import_module("celpy.adapter")
    return import_module("celpy")


@lru_cache(maxsize=1024)
def _program(expression: str) -> Program:
    celpy = _celpy()
    environment = celpy.Environment()
    try:
        program: Program = environment.program(environment.compile(expression))
    except celpy.CELParseError as error:
        raise CelError(
            f"ERROR: <input>:{error.line or 1}:{error.column or 1}: Syntax error: {_reason(error)}"
        ) from None
    return program


def _reason(error: Exception) -> str:
    text = str(error.args[0]) if error.args else "mismatched input"
    return text.strip().splitlines()[0]


def compile_expression(expression: str, variables: Iterable[str]) -> None:
    """Check that the expression parses and names only these variables. Raises CelError."""
    _program(expression)
    plain = _NAMES_IN_STRINGS.sub("''", expression)
    known = {*variables, *_WORDS, *_BINDS.findall(plain)}
    for name in _VARIABLE.findall(plain):
        if name not in known:
            raise CelError(f"ERROR: <input>:1:1: undeclared reference to '{name}' (in container '')")


def evaluate(expression: str, variables: Mapping[str, Any]) -> Any:
    """The expression's value as a plain Python value. Raises CelError."""
    program = _program(expression)
    celpy = _celpy()
    context = {name: celpy.adapter.json_to_cel(value) for name, value in variables.items()}
    try:
        result = program.evaluate(context)
    except (celpy.CELEvalError, KeyError, TypeError, ValueError, IndexError) as error:
        raise CelError(_reason(error)) from None
    if isinstance(result, Exception):
        raise CelError(_reason(result))
    return _plain(result)


def _plain(value: Any) -> Any:
    celtypes = _celpy().celtypes
    if isinstance(value, celtypes.BoolType):
        return bool(value)
    if isinstance(value, celtypes.IntType | celtypes.UintType):
        return int(value)
    if isinstance(value, celtypes.DoubleType):
        return float(value)
    if isinstance(value, celtypes.StringType):
        return str(value)
    return value
