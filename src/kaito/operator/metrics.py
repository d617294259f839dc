# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""The operator's counters as Prometheus text. Pure: `app.py` serves what this renders."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from kaito.kube.controller import Stats

_METRICS: tuple[tuple[str, str, str, Callable[[Stats], float]], ...] = (
    ("kaito_operator_reconciles_total", "counter", "Reconciles that ended.", lambda s: s.reconciles),
    ("kaito_operator_errors_total", "counter", "Reconciles that ended in an error.", lambda s: s.errors),
    ("kaito_operator_retries_total", "counter", "Reconciles to be tried again on a stale view.", lambda s: s.retries),
    ("kaito_operator_writes_total", "counter", "Requests sent that may change something.", lambda s: s.writes),
    ("kaito_operator_queue_depth", "gauge", "Objects that wait to be reconciled.", lambda s: s.queue_depth),
    ("kaito_operator_wait_seconds_total", "counter", "Time that objects have waited.", lambda s: s.wait_s),
    ("kaito_operator_work_seconds_total", "counter", "Time spent on reconciles.", lambda s: s.work_s),
)


def exposition(stats: Mapping[str, Stats]) -> str:
    """The counters of every controller in Prometheus' text format."""
    lines = []
    for name, type_, help_, value in _METRICS:
        lines += [f"# HELP {name} {help_}", f"# TYPE {name} {type_}"]
        lines += [f'{name}{{controller="{controller}"}} {value(stats[controller]):g}' for controller in sorted(stats)]
    return "\n".join(lines) + "\n"
