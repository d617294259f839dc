# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Full collections wait for a quiet moment, and what the store holds is none of the collector's business."""

from __future__ import annotations

import gc

import pytest

from kaito.engine.pauses import LONGEST_S, is_due
from kaito.engine.storage.events import MemoryJournal
from kaito.engine.storage.store import Store


@pytest.mark.parametrize(
    ("grown", "used_s", "waited_s", "due"),
    [
        (0, 0.0, LONGEST_S, False),
        (1, 0.1, 5.0, True),
        (1, 4.0, 5.0, False),
        (1, 4.0, LONGEST_S, True),
    ],
    ids=["nothing to find", "quiet", "busy", "busy for too long"],
)
def test_a_full_collection_waits_for_a_quiet_moment(grown: int, used_s: float, waited_s: float, due: bool) -> None:
    assert is_due(grown=grown, used_s=used_s, passed_s=5.0, waited_s=waited_s) is due


def test_stored_objects_and_their_events_are_not_looked_at_by_the_collector() -> None:
    store = Store(MemoryJournal())
    store.put("c", "n", "first", encode=lambda _: b"{}")
    gc.collect()
    before = len(gc.get_objects())
    for number in range(1000):
        store.put("c", "n", f"name-{number}", encode=lambda _: b"{}")
    gc.collect()
    assert len(gc.get_objects()) - before < 100
