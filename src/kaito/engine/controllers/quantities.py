# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Numbers in workload specs: quantities that may be absent, and whole-number-or-percentage values."""

from __future__ import annotations

import math
from decimal import Decimal

from kaito.engine.schema.quantity import QuantityError, value_of


def quantity(text: str | int | float | None) -> Decimal:
    """The exact number that a Kubernetes quantity stands for; 0 for None and for text that is no quantity."""
    if text is None:
        return Decimal(0)
    try:
        return value_of(text)
    except QuantityError:
        return Decimal(0)


def scaled(value: int | str | None, total: int, *, round_up: bool, default: int | str = 0) -> int:
    """A whole number as it is, or a percentage (`25%`) of `total`."""
    chosen = default if value is None else value
    if isinstance(chosen, int):
        return chosen
    if not chosen.endswith("%"):
        return int(chosen) if chosen.isdigit() else 0
    share = total * float(chosen[:-1]) / 100
    return math.ceil(share) if round_up else math.floor(share)
