# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Carries a Plan out, in the order that `kaito.kube.plan` gives, and sends nothing that would change nothing.

- Manifests and status go by server-side apply with force, under the controller's name. Status too, for every kind:
  on built-in kinds the conditions are a list merged by type, so several writers (a kubelet, a scheduler) live side by
  side; where a custom kind declares no list key, the controller owns the whole list.
- An object that is gone when it is patched, deleted or given a status is no error: its deletion wakes the controller.
- A conflict is `RetryLater`: the cache was behind. Everything else that the server refuses is raised as it is.
- What the server answers is taken into the cache at once, so that the next plan sees it without waiting for the watch.
- Writes of one sort go out in their order, several at a time: a round of the scheduler binds thousands of pods, and a
  server stores what comes together in one go.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec

from kaito.kube.cache import CacheReader
from kaito.kube.client import Client
from kaito.kube.clock import Clock
from kaito.kube.drift import desired, is_in_sync, is_noop_merge, projected
from kaito.kube.errors import AlreadyExists, ApiError, Conflict, NotFound, TooManyRequests, Unavailable
from kaito.kube.events import Recorder
from kaito.kube.manifest import Key, Manifest, is_deleting, key_of
from kaito.kube.plan import Create, Delete, Event, Patch, Plan, RetryLater, Terminal
from kaito.kube.resource import Resource, resource_of
from kaito.kube.store import applied_by

K = TypeVar("K")
V = TypeVar("V")

UNSEEN_TTL_S = 600.0
"""How long an apply of something that is not cached is believed to hold."""
_REMEMBERED = 20_000
AT_ONCE = 16
"""How many writes of one plan are on their way at a time."""

_encode = msgspec.json.Encoder(order="deterministic").encode


@dataclass(frozen=True, slots=True)
class _Settled:
    """What the server made of a manifest that it does not keep word for word."""

    digest: bytes
    result: Any
    at: float


class Applier:
    """Writes for one controller; `writes` counts the requests that were sent."""

    def __init__(
        self, client: Client, reader: CacheReader, *, manager: str, known: Iterable[Resource], clock: Clock
    ) -> None:
        self.writes = 0
        self._client = client
        self._reader = reader
        self._manager = manager
        self._known = tuple(known)
        self._clock = clock
        self._recorder = Recorder(client, manager, clock=clock)
        self._settled: OrderedDict[tuple[Resource, Key, str], _Settled] = OrderedDict()
        self._deleted: OrderedDict[tuple[Resource, Key, int | None], str] = OrderedDict()

    async def carry_out(self, plan: Plan, resource: Resource, key: Key) -> None:
        """Do all of it for the object `key`.

        Raises RetryLater on a conflict, Terminal for a manifest of an unknown kind, ApiError for other refusals.
        """
        try:
            for patch in plan.patches:
                await self._patch(patch)
            await self._make(plan, resource, key)
            await _together(self._delete, plan.delete)
            if plan.status is not None:
                await self._status(resource, key, plan.status)
        except Conflict as error:
            raise RetryLater(str(error)) from error
        await _together(self._record, plan.events)

    async def _record(self, event: Event) -> None:
        was_written = await self._recorder.record(event)  # `+= await` would forget what is counted meanwhile
        self.writes += was_written

    def _resource_of(self, manifest: Manifest) -> Resource:
        try:
            return resource_of(manifest, self._known)
        except KeyError as error:
            raise Terminal(f"the plan holds a {error.args[0]}, which the controller does not list as known") from None

    async def _patch(self, patch: Patch) -> None:
        live = self._live(patch.resource, patch.key)
        if live is not None and is_noop_merge(live, patch.body):
            return
        self.writes += 1
        try:
            answer = await self._client.patch(
                patch.resource,
                patch.key.name,
                patch.key.namespace,
                patch.body,
                subresource=patch.subresource,
                field_manager=self._manager,
            )
        except NotFound:
            return
        self._take_in(patch.resource, answer)

    async def _status(self, resource: Resource, key: Key, status: Manifest) -> None:
        meta = {"name": key.name, "namespace": key.namespace} if key.namespace else {"name": key.name}
        manifest = {"apiVersion": resource.api_version, "kind": resource.kind, "metadata": meta, "status": status}
        if self._reader.cache_of(resource, key) is not None and self._live(resource, key) is None:
            return
        try:
            await self._apply(resource, manifest, subresource="status")
        except NotFound:
            return

    async def _apply(self, resource: Resource, manifest: Manifest, *, subresource: str) -> None:
        key = key_of(manifest)
        place = (resource, key, subresource)
        digest = hashlib.sha256(_encode(manifest)).digest()
        if self._is_settled(place, manifest, digest):
            return
        self.writes += 1
        answer = await self._client.apply(
            resource, manifest, field_manager=self._manager, subresource=subresource or None
        )
        self._remember(place, manifest, digest, answer)
        self._take_in(resource, answer)

    def _is_settled(self, place: tuple[Resource, Key, str], manifest: Manifest, digest: bytes) -> bool:
        resource, key, subresource = place
        cache = self._reader.cache_of(resource, key)
        before = self._settled.get(place)
        if before is not None and before.digest != digest:
            before = None
        if cache is None:
            return before is not None and self._clock.monotonic() - before.at < UNSEEN_TTL_S
        live = cache.store.get(key)
        if live is None:
            return False
        owned = cache.store.applied(key, self._manager, subresource)
        if owned is not None and is_in_sync(manifest, live, owned):
            return True
        return before is not None and before.result == projected(live, desired(manifest))

    def _remember(self, place: tuple[Resource, Key, str], manifest: Manifest, digest: bytes, answer: Manifest) -> None:
        resource, key, subresource = place
        owned = applied_by(answer["metadata"].get("managedFields") or (), self._manager, subresource)
        is_cached = self._reader.cache_of(resource, key) is not None
        if is_cached and owned is not None and is_in_sync(manifest, answer, owned):
            self._settled.pop(place, None)
            return
        result = projected(answer, desired(manifest)) if is_cached else None
        _keep(self._settled, place, _Settled(digest, result, self._clock.monotonic()))

    async def _make(self, plan: Plan, resource: Resource, key: Key) -> None:
        """The applies and creates, or what the plan has in store for the case that one of them is refused."""
        manifest: Manifest = {}

        async def created(create: Create) -> None:
            nonlocal manifest
            try:
                await self._create(create)
            except ApiError:
                manifest = create.manifest
                raise

        try:
            for manifest in plan.apply:
                await self._apply(self._resource_of(manifest), manifest, subresource="")
            await _together(created, plan.create)
        except (Conflict, TooManyRequests, Unavailable):
            raise
        except ApiError as error:
            if plan.refused is not None and not error.is_of_dying_namespace:
                await self.carry_out(plan.refused(manifest, str(error)), resource, key)
            raise

    async def _create(self, create: Create) -> None:
        manifest = create.manifest
        self_made = create.subresource is None
        resource = self._resource_of(manifest) if create.subresource is None else create.subresource[0]
        if self_made and self._live(resource, key_of(manifest)) is not None:
            return
        self.writes += 1
        try:
            if create.subresource is None:
                answer = await self._client.create(resource, manifest, field_manager=self._manager)
                self._take_in(resource, answer)
            else:
                _, key, name = create.subresource
                await self._client.create(
                    resource,
                    manifest,
                    namespace=key.namespace,
                    name=key.name,
                    subresource=name,
                    field_manager=self._manager,
                )
        except AlreadyExists:
            return

    async def _delete(self, delete: Delete) -> None:
        cache = self._reader.cache_of(delete.resource, delete.key)
        live = cache.store.get(delete.key) if cache is not None else None
        if cache is not None and (live is None or not _is_worth_deleting(live, delete)):
            return
        # Until the watch tells of the deletion, the object in the cache is the one that was deleted.
        asked = (delete.resource, delete.key, delete.grace_period_s)
        version = live["metadata"].get("resourceVersion") if live is not None else None
        if version is not None and self._deleted.get(asked) == version:
            return
        self.writes += 1
        try:
            await self._client.delete(
                delete.resource,
                delete.key.name,
                delete.key.namespace,
                uid=delete.uid,
                propagation=delete.propagation,
                grace_period_s=delete.grace_period_s,
            )
        except NotFound:
            return
        except Conflict:
            if delete.uid is None:
                raise
            return  # The object of that uid is gone; another one has its name.
        if version is not None:
            _keep(self._deleted, asked, version)

    def _live(self, resource: Resource, key: Key) -> Manifest | None:
        cache = self._reader.cache_of(resource, key)
        return cache.store.get(key) if cache is not None else None

    def _take_in(self, resource: Resource, answer: Manifest) -> None:
        """An answer that is the object itself goes into the cache; a `Status` does not."""
        if answer.get("kind") != resource.kind or "name" not in answer.get("metadata", {}):
            return
        cache = self._reader.cache_of(resource, key_of(answer))
        if cache is not None:
            cache.written(answer)


async def _together(act: Callable[[V], Awaitable[None]], items: Sequence[V]) -> None:
    """Do it for each, `AT_ONCE` at a time. Raises the first failure, with nothing on its way any more."""
    for start in range(0, len(items), AT_ONCE):
        some = items[start : start + AT_ONCE]
        if len(some) == 1:
            await act(some[0])
            return
        results = await asyncio.gather(*(act(item) for item in some), return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result


def _is_worth_deleting(live: Manifest, delete: Delete) -> bool:
    if delete.uid is not None and live["metadata"].get("uid") != delete.uid:
        return False
    if not is_deleting(live):
        return True
    left_s = live["metadata"].get("deletionGracePeriodSeconds")
    return delete.grace_period_s is not None and left_s is not None and delete.grace_period_s < left_s


def _keep(memory: OrderedDict[K, V], key: K, value: V) -> None:
    """Remember, and forget the oldest when there is too much."""
    memory[key] = value
    memory.move_to_end(key)
    while len(memory) > _REMEMBERED:
        memory.popitem(last=False)
