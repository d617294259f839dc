# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""For every test: the profile of hypothesis, the order of files, and what a failed test's processes wrote."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile("kaito", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("kaito")  # No test may fail for the sake of a busy machine.

LAST = ("e2e", "contract", "scenario")
"""Folders in the order of their longest files, after everything that takes seconds: a small mistake shows at once, and
at the end there are short files left to keep every worker busy."""
TAIL_LINES = 40


@runtime_checkable
class WritesLogs(Protocol):
    """A fixture that runs processes."""

    def logs(self) -> list[Path]:
        """The files that they write to, the most telling one last."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Quick folders first, then the slow ones."""
    here = Path(__file__).parent
    rank = {name: number for number, name in enumerate(LAST)}
    items.sort(key=lambda item: rank.get(item.path.relative_to(here).parts[0], -1))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[Any]:
    """Show the end of the logs below the failure of a test."""
    report = yield
    if report.failed:
        fixtures = [value for value in getattr(item, "funcargs", {}).values() if isinstance(value, WritesLogs)]
        with suppress(OSError):  # a folder that goes away meanwhile must not hide the failure
            paths = dict.fromkeys(path for fixture in fixtures for path in fixture.logs())
            report.sections += [(str(path), tail(path)) for path in paths]
    return report


def tail(path: Path) -> str:
    """The last lines of a log."""
    return "\n".join(path.read_text("utf-8", "replace").splitlines()[-TAIL_LINES:])
