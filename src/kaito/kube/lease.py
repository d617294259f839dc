# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Leader election on a coordination.k8s.io Lease: of several replicas one works, the others wait.

Every write carries the resourceVersion that was read, so two candidates can never both win. A holder that has not been
able to renew stops its work before the others may take over; one that ends in order lets go at once. Whether the lease
has run out is judged by how long *this* process has seen it unchanged, never by comparing two machines' clocks.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from kaito.kube.client import Client
from kaito.kube.clock import Clock, RealClock
from kaito.kube.errors import AlreadyExists, ApiError, Conflict, NotFound
from kaito.kube.manifest import Manifest
from kaito.kube.resource import LEASES

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LeaseTimes:
    """client-go's defaults. `renew_within_s` must be shorter than `duration_s`, or two could lead at once."""

    duration_s: float = 15.0
    renew_within_s: float = 10.0
    retry_s: float = 2.0
    """How often a leader renews."""
    look_s: float = 2.0
    """How often the others look."""

    @classmethod
    def of(cls, duration_s: float) -> LeaseTimes:
        """Times that go with a lease of this length: it is renewed four times, and looked at eight times."""
        return cls(duration_s, renew_within_s=duration_s * 2 / 3, retry_s=duration_s / 4, look_s=duration_s / 8)


class LostLeadership(Exception):
    """Another one leads now, or the server could not be reached for too long. End, or run for election again."""


def lease_manifest(
    name: str, namespace: str, identity: str, *, now: datetime, duration_s: float, before: Manifest | None
) -> Manifest:
    """The Lease held by `identity` from `now` on, following the one that was read."""
    held_before: Manifest = (before or {}).get("spec") or {}
    is_ours = held_before.get("holderIdentity") == identity
    transitions = int(held_before.get("leaseTransitions") or 0)
    spec = {
        **held_before,
        "holderIdentity": identity,
        "leaseDurationSeconds": max(1, round(duration_s)),
        "acquireTime": held_before.get("acquireTime") if is_ours else micro_time(now),
        "renewTime": micro_time(now),
        "leaseTransitions": transitions if is_ours or before is None else transitions + 1,
    }
    meta = dict(before["metadata"]) if before is not None else {"name": name, "namespace": namespace}
    return {"apiVersion": LEASES.api_version, "kind": LEASES.kind, "metadata": meta, "spec": spec}


def micro_time(moment: datetime) -> str:
    """The moment as a Kubernetes MicroTime."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


class Election:
    """One candidate for one Lease."""

    def __init__(
        self,
        client: Client,
        *,
        name: str,
        namespace: str,
        identity: str,
        times: LeaseTimes | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.identity = identity
        self._client = client
        self._name, self._namespace = name, namespace
        self._times = times or LeaseTimes()
        self._clock = clock or RealClock()
        self._seen: tuple[str, float] = ("", 0.0)
        self._trouble = ""
        self._held: Manifest | None = None

    @property
    def is_leader(self) -> bool:
        """Whether the last word from the server was that we lead."""
        return self._held is not None

    async def lead(self, body: Callable[[], Awaitable[Any]]) -> None:
        """Wait for leadership, then run `body`; let go when it ends or this call is cancelled.

        Raises LostLeadership after cancelling `body` when the lease could not be kept, and what `body` raises.
        """
        await self.acquire()
        _log.info("%s leads (%s/%s)", self.identity, self._namespace, self._name)
        work = asyncio.ensure_future(body())
        keeping = asyncio.create_task(self._keep())
        try:
            await asyncio.wait({work, keeping}, return_when=asyncio.FIRST_COMPLETED)
            if keeping.done() and not work.done():
                raise LostLeadership(f"{self.identity} lost the lease {self._namespace}/{self._name}")
            await work
        finally:
            for task in (work, keeping):
                task.cancel()
            await asyncio.gather(work, keeping, return_exceptions=True)
            await self._release()

    async def acquire(self) -> None:
        """Return once we hold the lease."""
        while not await self._try():
            await self._clock.sleep(self._times.look_s)

    async def _keep(self) -> None:
        """Renew until that has not worked for too long, or another one has the lease."""
        renewed_at = self._clock.monotonic()
        while self._clock.monotonic() - renewed_at < self._times.renew_within_s:
            await self._clock.sleep(self._times.retry_s)
            left_s = self._times.renew_within_s - (self._clock.monotonic() - renewed_at)
            before_s = self._clock.monotonic()
            if await self._try_within(max(left_s, 0.0)):
                renewed_at = before_s
            elif self._is_taken():
                break
        self._held = None

    async def _try_within(self, seconds: float) -> bool:
        """Try, but do not let a server that does not answer make us a leader for longer than we may be."""
        attempt = asyncio.ensure_future(self._try())
        deadline = asyncio.ensure_future(self._clock.sleep(seconds))
        try:
            await asyncio.wait({attempt, deadline}, return_when=asyncio.FIRST_COMPLETED)
            return attempt.done() and attempt.result()
        finally:
            for task in (attempt, deadline):
                task.cancel()
            await asyncio.gather(attempt, deadline, return_exceptions=True)

    def _is_taken(self) -> bool:
        return self._held is None

    async def _try(self) -> bool:
        """Take or renew the lease once; whether we hold it now. A server's refusal is a no."""
        trouble = ""
        try:
            return await self._take()
        except (AlreadyExists, Conflict):
            return False  # Somebody was faster; look again next time.
        except NotFound as error:
            trouble = f"{error}. If namespace {self._namespace} is missing: kubectl create namespace {self._namespace}"
            return False
        except ApiError as error:
            trouble = str(error)
            return False
        finally:
            self._say(trouble)

    def _say(self, trouble: str) -> None:
        """Warn of a trouble once, however often it is met: it is tried again every few seconds, maybe for hours."""
        if trouble and trouble != self._trouble:
            _log.warning("lease %s/%s: %s", self._namespace, self._name, trouble)
        self._trouble = trouble

    async def _take(self) -> bool:
        now = self._clock.now()
        try:
            current = await self._client.get(LEASES, self._name, self._namespace)
        except NotFound:
            manifest = self._wanted(now, None)
            self._held = await self._client.create(LEASES, manifest)
            return True
        if not self._may_take(current):
            self._held = None
            return False
        self._held = await self._client.replace(LEASES, self._wanted(now, current))
        return True

    def _wanted(self, now: datetime, before: Manifest | None) -> Manifest:
        return lease_manifest(
            self._name, self._namespace, self.identity, now=now, duration_s=self._times.duration_s, before=before
        )

    def _may_take(self, current: Manifest) -> bool:
        """Whether the lease is ours, nobody's, or has not moved for as long as its holder promised to renew it."""
        version = current["metadata"].get("resourceVersion", "")
        if version != self._seen[0]:
            self._seen = (version, self._clock.monotonic())
        spec = current.get("spec") or {}
        holder = spec.get("holderIdentity") or ""
        if holder in ("", self.identity):
            return True
        duration_s = float(spec.get("leaseDurationSeconds") or self._times.duration_s)
        return self._clock.monotonic() - self._seen[1] >= duration_s

    async def _release(self) -> None:
        """Let go, so that another one need not wait for the lease to run out. Not being able to is no error."""
        held, self._held = self._held, None
        if held is None:
            return
        spec = {**held["spec"], "holderIdentity": "", "leaseDurationSeconds": 1}
        try:
            await self._client.replace(LEASES, {**held, "spec": spec})
        except ApiError as error:
            _log.info("lease %s/%s is not released: %s", self._namespace, self._name, error)
