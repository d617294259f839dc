# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""What the front knows about its engine and its own traffic, and that as Prometheus text.

One object per process, made by the composition root and handed to the front. Knows neither HTTP nor processes.
"""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from kaito.api.contracts import Engine

BUCKETS_S = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
READY = "Ready"
STOPPING = "Stopping"


@dataclass(frozen=True, slots=True)
class Download:
    """How far a download is."""

    done_bytes: int
    total_bytes: int | None
    """None when the hub did not say."""
    bytes_per_s: float

    def remaining_s(self) -> float:
        """Seconds that are left at this speed; -1 when that is not known."""
        if self.total_bytes is None or (self.bytes_per_s <= 0 and self.done_bytes < self.total_bytes):
            return -1.0
        return max(0.0, self.total_bytes - self.done_bytes) / max(1.0, self.bytes_per_s)

    def report(self) -> dict[str, Any]:
        """The same for `/health`."""
        return {
            "done_bytes": self.done_bytes,
            "total_bytes": self.total_bytes,
            "bytes_per_second": round(self.bytes_per_s),
            "remaining_seconds": round(self.remaining_s()),
        }


class ServingState:
    """The phase of the start, its seconds, and counts of requests by path and status."""

    def __init__(self, engine: Engine, now: Callable[[], float]) -> None:
        self.engine = engine
        self._now = now
        self._started = now()
        self._ready_after: float | None = None
        self.phase = "Starting"
        self.in_flight = 0
        self.download: Download | None = None
        """How far the download of the weights is, while there is one."""
        self.benchmark: dict[str, float] = {}
        """What a measurement after the start found, by the name of its series."""
        self.facts: dict[str, Any] = {"life": uuid.uuid4().hex}
        """What else `/healthz` tells, by its key."""
        self._requests: Counter[tuple[str, str, int]] = Counter()
        self._seconds: Counter[str] = Counter()
        self._buckets: Counter[tuple[str, float]] = Counter()

    def enter(self, phase: str) -> None:
        """Note a phase; the time of the first `Ready` is kept."""
        self.phase = phase
        if phase == READY and self._ready_after is None:
            self._ready_after = self.seconds()

    @property
    def ready(self) -> bool:
        """The engine answers."""
        return self.phase == READY

    def now(self) -> float:
        """Seconds of the clock that was handed in."""
        return self._now()

    def seconds(self) -> float:
        """Seconds since the start."""
        return self._now() - self._started

    def report(self) -> dict[str, Any]:
        """How far the server is, for `/health` and `/healthz`."""
        status = "ready" if self.ready else "stopping" if self.phase == STOPPING else "starting"
        report: dict[str, Any] = {"status": status, "phase": self.phase, "seconds": round(self.seconds(), 1)}
        if self.ready and self._ready_after is not None:
            report["seconds"] = round(self._ready_after, 1)
        if self.download is not None and not self.ready:
            report["download"] = self.download.report()
        return {**report, **self.facts}

    def count(self, method: str, path: str, status: int, seconds: float) -> None:
        """Note one answered request."""
        self._requests[method, path, status] += 1
        self._seconds[path] += seconds  # type: ignore[assignment]  # a Counter adds floats as well
        for bound in BUCKETS_S:
            if seconds <= bound:
                self._buckets[path, bound] += 1

    def metrics(self) -> str:
        """The `kaito_*` series in Prometheus' text format."""
        ready = int(self.ready)
        lines = [
            "# HELP kaito_engine_ready Whether the engine answers.",
            "# TYPE kaito_engine_ready gauge",
            f'kaito_engine_ready{{engine="{self.engine}"}} {ready}',
            "# HELP kaito_engine_phase The phase that the engine is in, as a label.",
            "# TYPE kaito_engine_phase gauge",
            f'kaito_engine_phase{{engine="{self.engine}",phase="{self.phase}"}} 1',
            "# HELP kaito_engine_start_seconds Seconds from the start until the engine answered, or so far.",
            "# TYPE kaito_engine_start_seconds gauge",
            f"kaito_engine_start_seconds {self._ready_after or self.seconds():.3f}",
            "# HELP kaito_requests_in_flight Requests that are being answered.",
            "# TYPE kaito_requests_in_flight gauge",
            f"kaito_requests_in_flight {self.in_flight}",
        ]
        return "\n".join([*lines, *self._download_lines(), *self._benchmark_lines(), *self._request_lines()]) + "\n"

    def _benchmark_lines(self) -> list[str]:
        return [
            line
            for name, value in sorted(self.benchmark.items())
            for line in (
                f"# HELP kaito_benchmark_{name} Measured once after the start.",
                f"# TYPE kaito_benchmark_{name} gauge",
                f"kaito_benchmark_{name} {value}",
            )
        ]

    def _download_lines(self) -> list[str]:
        download = Download(0, 0, 0.0) if self.ready or self.download is None else self.download
        return [
            "# HELP kaito_model_download_speed_bytes_per_second How fast the weights come; 0 when none do.",
            "# TYPE kaito_model_download_speed_bytes_per_second gauge",
            f"kaito_model_download_speed_bytes_per_second {download.bytes_per_s:.0f}",
            "# HELP kaito_model_download_remaining_seconds Seconds until the weights are here; -1 when not known.",
            "# TYPE kaito_model_download_remaining_seconds gauge",
            f"kaito_model_download_remaining_seconds {download.remaining_s():.0f}",
            "# HELP kaito_model_download_bytes Bytes of the weights that have come.",
            "# TYPE kaito_model_download_bytes gauge",
            f"kaito_model_download_bytes {download.done_bytes}",
        ]

    def _request_lines(self) -> list[str]:
        lines = ["# HELP kaito_requests_total Answered requests.", "# TYPE kaito_requests_total counter"]
        for (method, path, status), count in sorted(self._requests.items()):
            lines.append(f'kaito_requests_total{{method="{method}",path="{path}",status="{status}"}} {count}')
        lines += [
            "# HELP kaito_request_seconds Seconds from a request's arrival to the end of its answer.",
            "# TYPE kaito_request_seconds histogram",
        ]
        totals: Counter[str] = Counter()
        for (_, path, _), count in self._requests.items():
            totals[path] += count
        for path, total in sorted(totals.items()):
            for bound in BUCKETS_S:
                lines.append(f'kaito_request_seconds_bucket{{path="{path}",le="{bound}"}} {self._buckets[path, bound]}')
            lines.append(f'kaito_request_seconds_bucket{{path="{path}",le="+Inf"}} {total}')
            lines.append(f'kaito_request_seconds_sum{{path="{path}"}} {self._seconds[path]:.6f}')
            lines.append(f'kaito_request_seconds_count{{path="{path}"}} {total}')
        return lines
