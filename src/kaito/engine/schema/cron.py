# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Cron schedules: five fields, or a name such as `@hourly`, as CronJobs write them. Pure.

Source of the rules: github.com/robfig/cron/v3, which Kubernetes reads them with. A day matches when both the day of the
month and the day of the week do, unless both are restricted: then one of them is enough.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

_NAMED: Final = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
_MONTHS: Final = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_DAYS: Final = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_ANY: Final = frozenset({"*", "?", "*/1", "?/1"})
_UNIT: Final = re.compile(r"(\d+(?:\.\d+)?)(h|m|s|ms)")
_SECONDS: Final = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
_LONGEST: Final = timedelta(days=5 * 366)
"""A schedule that does not come within five years never does (30 February)."""

_WINDOWS: Final = (timedelta(hours=1), timedelta(days=1), timedelta(days=40), timedelta(days=400), _LONGEST)
"""How far back the last of many missed times is looked for, the nearest first: a year of minutes is not counted."""


@dataclass(frozen=True, slots=True)
class _Field:
    """One of the five: its name, its range, and the names of its values, from the lowest on."""

    name: str
    low: int
    high: int
    names: Sequence[str] = ()

    def number(self, text: str) -> int:
        if text.lower() in self.names:
            return self.names.index(text.lower()) + self.low
        if not text.isdigit():
            raise ValueError(f"failed to parse int from {text}: strconv.Atoi: parsing {_quoted(text)}: invalid syntax")
        return int(text)

    def values(self, text: str) -> frozenset[int]:
        """The values that a field's text allows. Raises ValueError."""
        return frozenset(value for part in text.split(",") for value in self._part(part))

    def _part(self, text: str) -> range:
        span, slash, step = text.partition("/")
        first, dash, last = span.partition("-")
        if span in ("*", "?"):
            low, high = self.low, self.high
        else:
            low = self.number(first)
            high = self.number(last) if dash else self.high if slash else low
        stride = self.number(step) if slash else 1
        if low < self.low:
            raise ValueError(f"beginning of range ({low}) below minimum ({self.low}): {text}")
        if high > self.high:
            raise ValueError(f"end of range ({high}) above maximum ({self.high}): {text}")
        if low > high:
            raise ValueError(f"beginning of range ({low}) beyond end of range ({high}): {text}")
        if stride == 0:
            raise ValueError(f"step of range should be a positive number: {text}")
        return range(low, high + 1, stride)


_FIELDS: Final = (
    _Field("minute", 0, 59),
    _Field("hour", 0, 23),
    _Field("day of month", 1, 31),
    _Field("month", 1, 12, _MONTHS),
    _Field("day of week", 0, 6, _DAYS),
)


def _quoted(text: str) -> str:
    return f'"{text}"'


@dataclass(frozen=True, slots=True)
class Schedule:
    """When something is due: at fixed times of a time zone, or every so often."""

    minutes: frozenset[int] = frozenset()
    hours: frozenset[int] = frozenset()
    days: frozenset[int] = frozenset()
    months: frozenset[int] = frozenset()
    weekdays: frozenset[int] = frozenset()
    either_day: bool = False
    """Both kinds of day are restricted: one that matches is enough."""
    zone: tzinfo = UTC
    every: timedelta | None = None

    def after(self, moment: datetime) -> datetime | None:
        """The first time after the moment; None when there is none within five years."""
        if self.every is not None:
            return moment.replace(microsecond=0) + self.every
        local = moment.astimezone(self.zone).replace(second=0, microsecond=0, tzinfo=None)
        end = local + _LONGEST
        day = local.replace(hour=0, minute=0)
        while day <= end:
            for found in self._of(day):
                if found > local and (due := self._in_zone(found)) > moment:
                    return due
            day += timedelta(days=1)
        return None

    def latest(self, since: datetime, until: datetime) -> datetime | None:
        """The last time after `since` and not after `until`; None when there is none."""
        if self.every is not None:
            times = (until - since) // self.every
            return since.replace(microsecond=0) + times * self.every if times > 0 else None
        for window in _WINDOWS:
            due = self.after(max(since, until - window))
            if due is not None and due <= until:
                return self._last_from(due, until)
            if until - window <= since:
                return None
        return None

    def _last_from(self, due: datetime, until: datetime) -> datetime:
        coming = self.after(due)
        while coming is not None and coming <= until:
            due, coming = coming, self.after(coming)
        return due

    def _in_zone(self, local: datetime) -> datetime:
        return local.replace(tzinfo=self.zone).astimezone(UTC)

    def _of(self, day: datetime) -> Iterator[datetime]:
        if day.month not in self.months or not self._is_day(day):
            return
        for hour in sorted(self.hours):
            for minute in sorted(self.minutes):
                yield day.replace(hour=hour, minute=minute)

    def _is_day(self, day: datetime) -> bool:
        by_month, by_week = day.day in self.days, day.isoweekday() % 7 in self.weekdays
        return (by_month or by_week) if self.either_day else (by_month and by_week)


def parse(text: str, time_zone: str | None = None) -> Schedule:
    """The schedule that a text writes. Raises ValueError in the words of Kubernetes' parser."""
    zone = _zone(time_zone) if time_zone else UTC
    spec = text.strip()
    if spec.startswith(("TZ=", "CRON_TZ=")):
        name, _, spec = spec.partition(" ")
        zone = _zone(name.partition("=")[2])
        spec = spec.strip()
    if spec.startswith("@every "):
        return Schedule(every=_duration(spec.removeprefix("@every ").strip()))
    if spec.startswith("@") and spec not in _NAMED:
        raise ValueError(f"unrecognized descriptor: {spec}")
    parts = _NAMED.get(spec, spec).split()
    if len(parts) != len(_FIELDS):
        raise ValueError(f"expected exactly 5 fields, found {len(parts)}: [{' '.join(parts)}]")
    minutes, hours, days, months, weekdays = (field.values(part) for field, part in zip(_FIELDS, parts, strict=True))
    restricted = [not _ANY & set(parts[index].split(",")) for index in (2, 4)]
    return Schedule(minutes, hours, days, months, weekdays, either_day=all(restricted), zone=zone)


def _zone(name: str) -> tzinfo:
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError(f"unknown time zone {name}") from None


def _duration(text: str) -> timedelta:
    if not re.fullmatch(rf"(?:{_UNIT.pattern})+", text):
        raise ValueError(f'failed to parse duration @every {text}: time: invalid duration "{text}"')
    seconds = sum(float(number) * _SECONDS[unit] for number, unit in _UNIT.findall(text))
    return timedelta(seconds=max(1, int(seconds)))
