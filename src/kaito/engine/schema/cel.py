# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Kubernetes' expressions (CEL): check against declared types, compile once, evaluate on plain JSON values.

A thin layer over Google's CEL for C++ (`cel-expr-python`), which checks types as kube-apiserver does. What Kubernetes
adds to the language is in `cellibrary`, the types of a schema in `celtypes`, its values in `celvalues`. An expression
is checked with types and evaluated without, because the values are plain JSON.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import cache, lru_cache
from importlib import import_module
from typing import Any, Final

from kaito.engine.schema import cellibrary
from kaito.engine.schema.celtypes import Types, library, untyped_pool

VARIABLES: Final = (
    *("self", "oldSelf", "object", "oldObject", "request", "params", "namespaceObject", "variables", "authorizer"),
)
"""Every name that some expression of Kubernetes may use; which of them, `check` is told."""

_MAYBE: Final = "maybe"
"""The variable behind an optional one: the library takes no optional value from outside."""
_STRUCT: Final = re.compile(r" not found in struct '[^']*'")
_TYPE_NAME: Final = re.compile(r"\bschema\.T\d+\b")
_CODE: Final = re.compile(r"([A-Z_]+): ")
_UNDECLARED: Final = re.compile(
    r"ERROR: <input>:(\d+):(\d+): undeclared reference to '(\w+\.[\w.]+)' \(in container ''\)\n( \| .*)\n \| \.*\^"
)
_LINE: Final = re.compile(r"(?<=<input>:)(\d+)")
_NO_KEY: Final = re.compile(r'^Key not found in map : "?(.*?)"?$')
_INDEX: Final = re.compile(r"^Index error: index=(-?\d+) size=\d+$")
_WORDS: Final = (
    ("No matching overloads found", "no such overload"),
    ("divide by zero", "division by zero"),
    ("invalid regular expression: ", "error parsing regexp: "),
)


class CelError(ValueError):
    """An expression does not compile, or fails on the values given."""


def _extensions(*, typed: bool) -> list[Any]:
    """The extensions of the language that Kubernetes has, its own among them."""
    cel = library()
    return [
        import_module("cel_expr_python.ext.ext_strings").ExtStrings(),
        import_module("cel_expr_python.ext.ext_optional").ExtOptional(),
        cel.CelExtension("kubernetes", cellibrary.declarations(cel, typed=typed)),
    ]


@cache
def _evaluation() -> Any:
    """The environment of all that is evaluated: every variable, of any type."""
    cel = library()
    declared = dict.fromkeys((*VARIABLES, _MAYBE), cel.Type.DYN)
    return cel.NewEnv(untyped_pool(), variables=declared, extensions=_extensions(typed=False))


@lru_cache(maxsize=2048)
def _program(expression: str) -> Any:
    return _compiled(_evaluation(), expression)


def _compiled(environment: Any, expression: str) -> Any:
    try:
        return environment.compile(expression)
    except (RuntimeError, ValueError, TypeError) as error:
        raise CelError(_compile_error(str(error))) from None


def _compile_error(text: str) -> str:
    """The library's report in the words of cel-go, which differ little."""
    plain = _TYPE_NAME.sub("object", _STRUCT.sub("", _without_status(text)))
    return _UNDECLARED.sub(_first_name, plain)


def _without_status(text: str) -> str:
    """The text without the code that stands before and after it."""
    plain = text.strip()
    code = _CODE.match(plain)
    return plain.removeprefix(code.group()).removesuffix(f"[{code.group(1)}]").strip() if code else plain


def _first_name(match: re.Match[str]) -> str:
    """cel-go misses the first of several names, and points there."""
    line, column, names, source = match.groups()
    start = int(column) - len(names.rpartition(".")[0])
    return (
        f"ERROR: <input>:{line}:{start}: undeclared reference to '{names.partition('.')[0]}' (in container '')\n"
        f"{source}\n | {'.' * (start - 1)}^"
    )


Checker = Callable[[str], str]
"""Checks an expression: returns the name of its type, as `cel.Type` has it; raises CelError."""


def checker(**variables: Types | None) -> Checker:
    """What checks expressions over variables of these types; None is any type. One schema's types are one pool."""
    cel = library()
    pools = [types.pool for types in variables.values() if types]
    environment = cel.NewEnv(
        pools[0] if pools else untyped_pool(),
        variables={name: types.type if types else cel.Type.DYN for name, types in variables.items()},
        extensions=_extensions(typed=True),
    )
    return lambda expression: str(_compiled(environment, expression).return_type().name())


def check_with_optional(check: Checker, name: str, source: str, expression: str) -> str:
    """The type of an expression to which the variable `name` is an optional of what `check` knows as `source`."""
    try:
        found = check(_with_optional(f"optional.of({source})", name, expression))
    except CelError as error:
        raise CelError(_LINE.sub(lambda match: str(int(match.group()) - 1), str(error))) from None
    return found


def _with_optional(value: str, name: str, expression: str) -> str:
    return f"[{value}].map({name},\n{expression}\n)[0]"


def evaluate(expression: str, variables: Mapping[str, Any]) -> Any:
    """The expression's value as a plain Python value. Raises CelError."""
    program = _program(expression)
    try:
        result = program.eval(data=dict(variables))
        is_error = result.type() == library().Type.ERROR
        value = result.plain_value()
    except (RuntimeError, TypeError, ValueError, OverflowError) as error:
        raise CelError(_evaluation_error(str(error))) from None
    if is_error:
        raise CelError(_evaluation_error(str(value)))
    return value


def evaluate_with_optional(expression: str, variables: Mapping[str, Any], *, name: str, value: Any = None) -> Any:
    """The same where the variable `name` is an optional; a value of None is an empty one. Raises CelError."""
    if value is None:
        return evaluate(_with_optional("optional.none()", name, expression), variables)
    return evaluate(_with_optional(f"optional.of({_MAYBE})", name, expression), {**variables, _MAYBE: value})


def _evaluation_error(text: str) -> str:
    """What went wrong, in the words of cel-go."""
    plain = _without_status(text)
    missing, index = _NO_KEY.match(plain), _INDEX.match(plain)
    if missing:
        return f"no such key: {missing.group(1)}"
    if index:
        return f"index out of bounds: {index.group(1)}"
    for found, words in _WORDS:
        if plain.startswith(found):
            return words if words.startswith("no such") else words + plain.removeprefix(found)
    return plain
