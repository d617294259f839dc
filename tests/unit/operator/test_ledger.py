# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""The ledger of orders: what an annotation holds, and how orders that fail are paced by it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kaito.operator.provisioners.ledger import PAUSES_S, SERIES_ENDS_AFTER_S, Ledger

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def later(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def test_each_order_of_a_series_makes_the_next_one_wait_longer() -> None:
    ledger, moment = Ledger(), NOW
    waits = []
    for _ in range(6):
        ledger = ledger.seen([(0, moment)])
        due = ledger.due(0)
        assert due is not None
        waits.append((due - moment).total_seconds())
        moment = due
    assert waits == [*PAUSES_S[1:], PAUSES_S[-1], PAUSES_S[-1]]
    assert ledger.due(1) is None, "another place is not paced by it"


def test_an_order_that_is_seen_again_or_from_an_older_cache_counts_once() -> None:
    once = Ledger().seen([(0, later(5))])
    assert once.seen([(0, later(5))]) == once
    assert once.seen([(0, NOW)]) == once
    assert once.count(0) == 1


def test_a_series_ends_after_a_quiet_time() -> None:
    ledger = Ledger().seen([(0, NOW)]).seen([(0, later(20))])
    assert ledger.count(0) == 2
    assert ledger.seen([(0, later(30 + SERIES_ENDS_AFTER_S))]).count(0) == 1


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("", ""),
        ("0=1@2026-01-01T00:00:00Z,3=2@2026-01-01T00:00:01Z", "0=1@2026-01-01T00:00:00Z,3=2@2026-01-01T00:00:01Z"),
        ("nonsense,0=1@2026-01-01T00:00:00Z", "0=1@2026-01-01T00:00:00Z"),
        ("0=1@2026-99-01T00:00:00Z", ""),
        ("0=1@2026-01-01T00:00:00", ""),
        ("0=x@2026-01-01T00:00:00Z", ""),
    ],
)
def test_what_cannot_be_read_is_left_out(text: str, kept: str) -> None:
    assert str(Ledger.parse(text)) == kept


@given(st.text(max_size=60))
def test_any_text_can_be_read(text: str) -> None:
    assert Ledger.parse(text).due(0) is None or text


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 10**7)), max_size=8))
def test_what_is_written_is_read_again(orders: list[tuple[int, int]]) -> None:
    ledger = Ledger().seen([(place, later(seconds)) for place, seconds in orders])
    assert Ledger.parse(str(ledger)) == ledger
