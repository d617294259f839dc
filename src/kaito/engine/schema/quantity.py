# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Resource quantities (`500m`, `1Gi`): exact values and the canonical text that Kubernetes stores."""

from __future__ import annotations

import re
from decimal import ROUND_UP, Decimal
from functools import lru_cache
from typing import Final

_FORM: Final = re.compile(r"([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)")
_NUMBER: Final = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)")
_BINARY: Final = {"Ki": 1, "Mi": 2, "Gi": 3, "Ti": 4, "Pi": 5, "Ei": 6}
_DECIMAL: Final = {"n": -9, "u": -6, "m": -3, "": 0, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_NANO: Final = Decimal("1e-9")
FORM_RULE: Final = "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"
SUFFIX_RULE: Final = "unable to parse quantity's suffix"


class QuantityError(ValueError):
    """The text is no quantity; the message is Kubernetes'."""


def value_of(text: str | int | float) -> Decimal:
    """The exact value, rounded up to a whole nano. Raises QuantityError."""
    return _parts(text)[0]


def canonical(text: str | int | float) -> str:
    """The text as Kubernetes stores it: no fraction, the largest suffix that keeps it exact. Raises QuantityError."""
    value, family = _parts(text)
    if family == "binary" and value == value.to_integral_value() and abs(value) >= 1024:
        return _binary(int(value))
    if family == "exponent":
        return _with_exponent(value)
    return _decimal(value)


@lru_cache(maxsize=4096, typed=True)
def _parts(text: str | int | float) -> tuple[Decimal, str]:
    if isinstance(text, int | float):
        text = format(Decimal(str(text)), "f")
    match = _FORM.fullmatch(text)
    if not match or not _NUMBER.fullmatch(match.group(1)):
        raise QuantityError(FORM_RULE)
    number, suffix = Decimal(match.group(1)), match.group(2)
    if suffix in _BINARY:
        value, family = number * (Decimal(1024) ** _BINARY[suffix]), "binary"
    elif suffix in _DECIMAL:
        value, family = number.scaleb(_DECIMAL[suffix]), "decimal"
    elif re.fullmatch(r"[eE][+-]?[0-9]+", suffix):
        value, family = number.scaleb(int(suffix[1:])), "exponent"
    else:
        raise QuantityError(SUFFIX_RULE)
    return value.quantize(_NANO, rounding=ROUND_UP) if value % _NANO else value, family


def _binary(value: int) -> str:
    for suffix, power in reversed(_BINARY.items()):
        if value % 1024**power == 0:
            return f"{value // 1024**power}{suffix}"
    return str(value)


def _decimal(value: Decimal) -> str:
    if not value:
        return "0"
    for suffix, exponent in reversed(_DECIMAL.items()):
        scaled = value.scaleb(-exponent)
        if scaled == scaled.to_integral_value():
            return f"{int(scaled)}{suffix}"
    return format(value, "f")


def _with_exponent(value: Decimal) -> str:
    for exponent in (18, 15, 12, 9, 6, 3, 0, -3, -6, -9):
        scaled = value.scaleb(-exponent)
        if scaled == scaled.to_integral_value():
            return f"{int(scaled)}e{exponent}" if exponent else str(int(scaled))
    return format(value, "f")
