# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Cron schedules: when they are due, and how bad ones are refused."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import pytest

from kaito.engine.schema import cron

START = datetime(2026, 1, 1, 10, 30, 15, tzinfo=UTC)  # a Thursday


@pytest.mark.parametrize(
    ("text", "due"),
    [
        ("* * * * *", "2026-01-01T10:31"),
        ("*/15 * * * *", "2026-01-01T10:45"),
        ("30 10 * * *", "2026-01-02T10:30"),
        ("0 9-17/4 * * *", "2026-01-01T13:00"),
        ("0 0 29 2 *", "2028-02-29T00:00"),
        ("0 12 * * sun,MON", "2026-01-04T12:00"),
        ("0 0 13 * 5", "2026-01-02T00:00"),
        ("0 0 */2 * 5", "2026-01-02T00:00"),
        ("0 0 1 jul ?", "2026-07-01T00:00"),
        ("@hourly", "2026-01-01T11:00"),
        ("@weekly", "2026-01-04T00:00"),
        ("0 0 30 2 *", None),
    ],
)
def test_the_next_time_is_found(text: str, due: str | None) -> None:
    found = cron.parse(text).after(START)
    assert (found and found.strftime("%Y-%m-%dT%H:%M")) == due


def test_a_time_zone_moves_it_with_its_summer_time() -> None:
    schedule = cron.parse("0 9 * * *", "Europe/Berlin")
    assert schedule.after(START) == datetime(2026, 1, 2, 8, tzinfo=UTC)
    assert schedule.after(START + timedelta(days=200)) == datetime(2026, 7, 21, 7, tzinfo=UTC)


@pytest.mark.parametrize(("text", "days", "last"), [("* * * * *", 900, "10:30"), ("0 4 * * *", 900, "04:00")])
def test_the_last_of_many_missed_times_is_found(text: str, days: int, last: str) -> None:
    found = cron.parse(text).latest(START - timedelta(days=days), START)
    assert found is not None
    assert found.strftime("%Y-%m-%dT%H:%M") == f"2026-01-01T{last}"
    assert cron.parse(text).latest(START, START) is None


def test_every_so_often_counts_from_the_last_time() -> None:
    schedule = cron.parse("@every 1m30s")
    assert schedule.latest(START, START + timedelta(seconds=200)) == START + timedelta(seconds=180)
    assert schedule.latest(START, START + timedelta(seconds=80)) is None


@pytest.mark.parametrize(
    ("text", "report"),
    [
        ("* * * *", "expected exactly 5 fields, found 4: [* * * *]"),
        ("60 * * * *", "end of range (60) above maximum (59): 60"),
        ("* * 0 * *", "beginning of range (0) below minimum (1): 0"),
        ("* 9-5 * * *", "beginning of range (9) beyond end of range (5): 9-5"),
        ("*/0 * * * *", "step of range should be a positive number: */0"),
        ("x * * * *", 'failed to parse int from x: strconv.Atoi: parsing "x": invalid syntax'),
        ("@sometimes", "unrecognized descriptor: @sometimes"),
        ("@every soon", 'failed to parse duration @every soon: time: invalid duration "soon"'),
    ],
)
def test_a_bad_schedule_is_refused_with_its_reason(text: str, report: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(report)}$"):
        cron.parse(text)


def test_an_unknown_time_zone_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown time zone Mars/Base"):
        cron.parse("* * * * *", "Mars/Base")
