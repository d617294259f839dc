# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Kubernetes' expressions (CEL): check against declared types, compile once, evaluate on plain JSON values.

A thin layer over Google's CEL for C++ (`cel-expr-python`), which checks types as kube-apiserver does. What Kubernetes
adds to the language is in `cellibrary`, the types of a schema in `celtypes`, the cost of an expression in `celcost`.
Checked is with types; evaluated is without, because the values are plain JSON.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache, lru_cache
from importlib import import_module
from typing import Any, Final

from kaito.engine.schema import cellibrary

VARIABLES: Final = (
    *("self", "oldSelf", "object", "oldObject", "request", "params", "namespaceObject", "variables", "authorizer"),
)
"""Every name that some expression of Kubernetes may use; which of them, `check` is told."""

_FROM_STRUCT: Final = re.compile(r" not found in struct '[^']*'")
_STATUS: Final = re.compile(r"^(?:[A-Z]+(?:_[A-Z]+)*): |\s*\[[A-Z_]+\]$")
_NO_KEY: Final = re.compile(r'^Key not found in map : "?(.*?)"?$')
_WORDS: Final = (
    ("No matching overloads found", "no such overload"),
    ("divide by zero", "division by zero"),
    ("modulus by zero", "modulus by zero"),
    ("index_error: ", "index out of bounds: "),
)


class CelError(ValueError):
    """An expression does not compile, or fails on the values given."""


@cache
def library() -> Any:
    """The CEL library, loaded with the first expression: it takes longer to load than the rest of the engine."""
    return import_module("cel_expr_python.cel")


@cache
def _environment() -> Any:
    """Everything that may be evaluated, with no types."""
    cel = library()
    return cel.NewEnv(
        variables=dict.fromkeys(VARIABLES, cel.Type.DYN),
        extensions=extensions(typed=False),
    )


def extensions(*, typed: bool) -> list[Any]:
    """The extensions of the language that Kubernetes has, its own among them."""
    cel = library()
    return [
        import_module("cel_expr_python.ext.ext_strings").ExtStrings(),
        import_module("cel_expr_python.ext.ext_optional").ExtOptional(),
        cel.CelExtension("kubernetes", cellibrary.declarations(cel, typed=typed)),
    ]


@lru_cache(maxsize=2048)
def _program(expression: str) -> Any:
    return _compiled(_environment(), expression)


def _compiled(environment: Any, expression: str) -> Any:
    try:
        return environment.compile(expression)
    except (RuntimeError, ValueError, TypeError) as error:
        raise CelError(_compile_error(str(error))) from None


def _compile_error(text: str) -> str:
    """The library's report in the words of cel-go, which differ little."""
    return _FROM_STRUCT.sub("", _STATUS.sub("", _STATUS.sub("", text.strip()))).strip()


def check(environment: Any, expression: str) -> tuple[str, bytes]:
    """The name of the type that the expression has, and its checked form (for `celcost`). Raises CelError."""
    found = _compiled(environment, expression)
    return str(found.return_type().name()), bytes(found.serialize())


@lru_cache(maxsize=64)
def _untyped(variables: tuple[str, ...]) -> Any:
    cel = library()
    declared = dict.fromkeys(variables, cel.Type.DYN)
    return cel.NewEnv(variables=declared, extensions=extensions(typed=True))


def compile_expression(expression: str, variables: tuple[str, ...]) -> str:
    """The name of the type of an expression about values of any type. Raises CelError when it does not compile."""
    return check(_untyped(variables), expression)[0]


def evaluate(expression: str, variables: Mapping[str, Any]) -> Any:
    """The expression's value as a plain Python value. Raises CelError."""
    program = _program(expression)
    try:
        result = program.eval(data=dict(variables))
        is_error = result.type().name() == "*error*" or result.type() == library().Type.ERROR
        value = result.plain_value()
    except (RuntimeError, TypeError, ValueError, OverflowError) as error:
        raise CelError(_evaluation_error(str(error))) from None
    if is_error:
        raise CelError(_evaluation_error(str(value)))
    return value


def _evaluation_error(text: str) -> str:
    plain = _STATUS.sub("", _STATUS.sub("", text.strip()))
    missing = _NO_KEY.match(plain)
    if missing:
        return f"no such key: {missing.group(1)}"
    for found, words in _WORDS:
        if plain.startswith(found):
            return words if words.startswith("no such") else words + plain.removeprefix(found)
    return plain
