# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""docs/conditions.md and docs/failures.md name every condition type, reason and event that users can see, no other."""

from __future__ import annotations

import re
from pathlib import Path

from kaito.api import names
from kaito.operator.faults.page import page
from kaito.operator.faults.table import FAULTS

DOCS = Path(__file__).parents[3] / "docs"
DOCUMENT = DOCS / "conditions.md"


def constants(prefix: str) -> set[str]:
    return {value for name, value in vars(names).items() if name.startswith(prefix) and isinstance(value, str)}


def condition_types() -> set[str]:
    """The constants between names.py's headings of condition types and of reasons."""
    source = Path(str(names.__file__)).read_text()
    part = source[source.index("# Condition types") : source.index("# Reasons of these conditions")]
    return set(re.findall(r'^\w+: Final = "(\w+)"', part, re.MULTILINE))


def test_every_type_reason_and_event_is_documented_and_nothing_else() -> None:
    text = DOCUMENT.read_text()
    documented = set(re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE))
    faults = {fault.reason for fault in FAULTS}
    assert documented | faults == condition_types() | constants("REASON_")
    assert documented >= {fault.condition for fault in FAULTS if fault.condition}
    for event in constants("EVENT_"):
        assert f"`{event}`" in text, event


def test_the_page_of_failures_is_what_make_generate_writes() -> None:
    assert (DOCS / "failures.md").read_text() == page()
