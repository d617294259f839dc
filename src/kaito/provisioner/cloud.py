# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""The cloud at work: carries out the calls of plans, lists the machines now and then, and feeds the fleet with both.

One list for all claims, and a pace that the cloud takes well: what it cannot take now waits here, not in a loop of
failing calls. Before anything is made, the claim and its reservation are read from the API server itself (`guard.py`).
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable
from typing import Any

from kaito.api import nodeclaims as names
from kaito.kube.client import Client
from kaito.kube.clock import Clock
from kaito.kube.errors import ApiError, NotFound
from kaito.kube.manifest import Key, Manifest
from kaito.kube.resource import Resource
from kaito.provisioner import errors
from kaito.provisioner.fleet import Fleet
from kaito.provisioner.guard import is_orphan, may_create
from kaito.provisioner.instances import Backend, Create, Delete
from kaito.provisioner.observe import BUDGET
from kaito.provisioner.offers import Market

CALL_S = 28.0
"""A call to make a machine that takes longer is taken to have ended without an answer; shorter than `settle_s`."""
TYPES_S = 6 * 3600.0
"""How often to ask what machines there are."""
RETRY_S = (1.0, 2.0, 5.0, 15.0, 60.0)
LATE_S = 10.0
"""From the last look at the API server to the call, at most."""

_log = logging.getLogger(__name__)


class Pace:
    """Lets so many calls pass in a second, a few at once, and none while the cloud asks for a pause."""

    def __init__(self, clock: Clock, per_s: float) -> None:
        self._clock, self._per_s = clock, per_s
        self._next = 0.0

    async def turn(self) -> None:
        """Return when it is the caller's turn."""
        now = self._clock.monotonic()
        burst_s = 1.0
        self._next = max(self._next, now - burst_s)
        wait_s, self._next = self._next - now, self._next + 1.0 / self._per_s
        if wait_s > 0:
            await self._clock.sleep(wait_s)

    def pause(self, seconds: float) -> None:
        """Let nobody pass for a while."""
        self._next = max(self._next, self._clock.monotonic() + seconds)


class Cloud:
    """A `kaito.kube.plan.Outside`: one backend and what is known of it."""

    def __init__(self, backend: Backend, client: Client, fleet: Fleet, clock: Clock) -> None:
        self.fleet = fleet
        self.counts: Counter[str] = Counter()
        """Calls of each kind, and how many of them failed with which error."""
        self._backend, self._client, self._clock = backend, client, clock
        self._pace = Pace(clock, backend.calls_per_s)
        self._look = asyncio.Event()

    def subscribe(self, wake: Callable[[Key], None]) -> Callable[[], None]:
        """Wake the claim whose machine changed."""
        return self.fleet.subscribe(lambda claim: wake(Key("", claim)))

    async def carry_out(self, call: Any) -> None:
        """A `Create` or a `Delete`. How it ends is in the fleet afterwards."""
        if isinstance(call, Create):
            await self._create(call)
        elif isinstance(call, Delete):
            await self._delete(call)

    async def run(self) -> None:
        """Keep the fleet true until cancelled."""
        failures, types_at = 0, None
        while True:
            try:
                if types_at is None or self._clock.monotonic() - types_at > TYPES_S:
                    await self._ask_types()
                    types_at = self._clock.monotonic()
                await self._list()
            except errors.CloudError as error:
                self._failed("list", error)
                self.fleet.not_listed(error)
                await self._clock.sleep(RETRY_S[min(failures, len(RETRY_S) - 1)])
                failures += 1
                continue
            failures = 0
            await self._rest()

    async def _ask_types(self) -> None:
        await self._pace.turn()
        self.counts["instance_types"] += 1
        offers = await self._backend.instance_types()
        self.fleet.market = Market(offers)
        _log.info("%s has %d offers", self._backend.name, len(offers))

    async def _list(self) -> None:
        await self._pace.turn()
        began = self._clock.now()
        self.counts["list"] += 1
        self.fleet.listed(await self._backend.list(), began)

    async def _rest(self) -> None:
        """Until the next list: not long where something is under way or has just been asked for."""
        self._look.clear()
        if self.fleet.is_busy:
            await self._clock.sleep(self._backend.busy_s)
            return
        looked = asyncio.ensure_future(self._look.wait())
        slept = asyncio.ensure_future(self._clock.sleep(self._backend.idle_s))
        await asyncio.wait({looked, slept}, return_when=asyncio.FIRST_COMPLETED)
        for task in (looked, slept):
            task.cancel()

    async def _create(self, call: Create) -> None:
        order = call.order
        self.fleet.began(call)
        await self._pace.turn()
        began = self._clock.monotonic()
        try:
            claim = await self._read(call.resource, order.claim)
            allowed = may_create(call, claim, await self._read(names.NODE_BUDGETS, BUDGET))
        except ApiError as error:
            allowed = False
            _log.warning("%s is not asked for: %s", order.claim, error)
        if not allowed or self._clock.monotonic() - began > LATE_S:
            self.fleet.abandoned(order, self._clock.now())
            return
        self.counts["create"] += 1
        try:
            made = await asyncio.wait_for(self._backend.create(order), CALL_S)
        except TimeoutError:
            self._not_made(call, errors.Unclear(f"no answer within {CALL_S:g} s"))
        except errors.CloudError as error:
            self._not_made(call, error)
        else:
            _log.info("%s: %s (%s) for claim %s", made.state, made.id, order.offer, order.claim)
            self.fleet.made(order, made, self._clock.now())
        self._look.set()

    def _not_made(self, call: Create, error: errors.CloudError) -> None:
        self._failed("create", error)
        _log.warning("claim %s, %s: %s: %s", call.order.claim, call.order.offer, type(error).__name__, error)
        self.fleet.not_made(call.order, error, self._clock.now())

    async def _delete(self, call: Delete) -> None:
        instance = call.instance
        await self._pace.turn()
        try:
            if call.orphan_of and not is_orphan(
                instance, [await self._read(kind, instance.claim) for kind in call.orphan_of]
            ):
                return
        except ApiError as error:
            _log.warning("%s is not deleted: %s", instance.id, error)
            return
        self.counts["delete"] += 1
        try:
            await self._backend.delete(instance)
        except errors.NotFound:
            self.fleet.deleted(instance, self._clock.now(), is_gone=True)
        except errors.CloudError as error:
            self._failed("delete", error)
            _log.warning("%s is not deleted: %s", instance.id, error)
        else:
            _log.info("%s of claim %s is being deleted", instance.id, instance.claim)
            self.fleet.deleted(instance, self._clock.now())
        self._look.set()

    def _failed(self, what: str, error: errors.CloudError) -> None:
        self.counts[f"{what} {type(error).__name__}"] += 1
        if isinstance(error, errors.Throttled):
            self._pace.pause(error.retry_after_s or 1.0)

    async def _read(self, resource: Resource, name: str) -> Manifest | None:
        try:
            return await self._client.get(resource, name)
        except NotFound:
            return None


class AnyChange:
    """The same for the budget's controller, which wakes at every change and asks for nothing."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet

    def subscribe(self, wake: Callable[[Key], None]) -> Callable[[], None]:
        """Wake the budget."""
        return self._fleet.subscribe(lambda claim: wake(Key("", BUDGET)))

    async def carry_out(self, call: Any) -> None:
        """Never asked."""
        raise NotImplementedError
