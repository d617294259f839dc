# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""The table of all faults, and how evidence finds its row: the first of its sign whose words it has.

docs/failures.md is generated from it (`kaito.operator.faults.page`).
"""

from __future__ import annotations

from functools import cache, lru_cache

from kaito.operator.faults import placing, running, starting, tuning
from kaito.operator.faults.fault import Diagnosis, Fault, Sign, diagnosis

FAULTS: tuple[Fault, ...] = (
    *placing.SPEC,
    *placing.NODES,
    *placing.ORDERS,
    *placing.API,
    *placing.SCHEDULING,
    *placing.STORAGE,
    *placing.MOUNTS,
    *starting.IMAGES,
    *starting.STARTS,
    *starting.ENDS,
    *running.LOG,
    *starting.EVICTIONS,
    *starting.PROBES,
    *starting.SERVICES,
    *tuning.TUNING,
)


@cache
def _rows(sign: Sign) -> tuple[Fault, ...]:
    return tuple(fault for fault in FAULTS if fault.sign == sign)


@lru_cache(maxsize=1024)
def fault_of(sign: Sign, text: str) -> Fault:
    """The fault that the text of such a sign speaks of; the last of the sign when no words are known."""
    rows = _rows(sign)
    return next((fault for fault in rows if fault.fits(text)), rows[-1])


def found(sign: Sign, text: str, *, lead: str = "", seen: str | None = None, **names: str) -> Diagnosis:
    """The diagnosis of a text; `seen` is what is shown as evidence, where that is less than what is judged by."""
    return diagnosis(fault_of(sign, text), text if seen is None else seen, lead=lead, **names)


def named(reason: str, evidence: str, **names: str) -> Diagnosis:
    """The diagnosis of a fault whose reason is known already."""
    rows = [fault for fault in FAULTS if fault.reason == reason]
    if not rows:
        return Diagnosis(reason, reason, evidence, "")
    same = [fault for fault in FAULTS if reason in (fault.condition, fault.reason) and fault.sign == rows[0].sign]
    precise = next((fault for fault in same if fault.marks and fault.fits(evidence)), rows[0])
    return diagnosis(precise, evidence, **names)
