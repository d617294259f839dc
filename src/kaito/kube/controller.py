# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""The loop: a change wakes a key, the key is observed, planned and applied, again and again until nothing is to do.

Level-triggered: a key says only *which* object to look at, never what happened to it. This is the one place with retry,
backoff, `except Exception`, counters and logging; controllers are values (`kaito.kube.plan.Controller`) and stay pure.
Controllers that watch the same resource share one cache.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from bisect import bisect_left
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from kaito.kube.apply import Applier
from kaito.kube.cache import Cache, CacheReader
from kaito.kube.client import Client
from kaito.kube.clock import Clock, RealClock
from kaito.kube.errors import ApiError, TooManyRequests, Unavailable
from kaito.kube.manifest import Key, Manifest, key_of, only
from kaito.kube.plan import Controller, RetryLater, Terminal, Watch
from kaito.kube.queue import WorkQueue
from kaito.kube.resource import Resource

AnyController = Controller[Any]
KeysOf = Callable[[Manifest], Iterable[Key]]
"""Which keys a change of an object wakes."""
Source = tuple[Resource, str | None, str | None, bool, tuple[str, ...]]
"""What is listed and watched: a resource, a label selector, a field selector, and whether metadata is all of it."""

SERVER_TROUBLE_MOST_S = 5.0
"""The longest wait after a failure that is the server's, not the key's: it may be back at any moment."""
DYING_NAMESPACE_S = 5.0
"""When to look again at a key whose namespace takes nothing new: as a rule it is gone by then."""
LONG_THOUGHT_S, REST_FACTOR, MOST_REST_S = 0.01, 4.0, 1.0
"""A key whose observing and planning took longer than the first rests for that time times the second, at most the
third: a ReplicaSet of thousands of pods is woken by each of them."""
WIND_DOWN_S = 1.0
"""How long keys that are being worked on may take to end when all is to end."""
LEAST_REQUEUE_S = 0.05
"""A plan that wants to be made again at once all the time must not keep a core busy."""

COLLECT_AT = (10_000, 20, 50)
"""For `gc.set_threshold` in a process that runs controllers: nearly all that they make is let go without the collector,
which at Python's own pace takes up to a third of the processor time."""

WORK_BUCKETS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class Histogram:
    """How often something took how long."""

    bounds: tuple[float, ...]
    """The upper bounds of the buckets; what is above the last counts too."""
    counts: list[int] = field(default_factory=list)
    total: float = 0.0

    def __post_init__(self) -> None:
        self.counts = self.counts or [0] * (len(self.bounds) + 1)

    def add(self, value: float) -> None:
        """Count one more."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value


@dataclass(slots=True)
class Stats:
    """What one controller has done since it started."""

    reconciles: int = 0
    errors: int = 0
    """Reconciles that ended in an exception other than RetryLater."""
    retries: int = 0
    writes: int = 0
    """Requests sent that may change something; events included."""
    queue_depth: int = 0
    wait_s: float = 0.0
    """Seconds that keys have waited for a worker, summed up."""
    work: Histogram = field(default_factory=lambda: Histogram(WORK_BUCKETS_S))
    """The same by how long it took."""


@dataclass(slots=True)
class _Subscription:
    cache: Cache
    listener: Callable[[Manifest | None, Manifest | None], None]


@dataclass(slots=True)
class _Running:
    """The tasks of one controller."""

    loop: Loop
    tasks: list[asyncio.Task[None]] = field(default_factory=list)


class Loop:
    """One controller at work."""

    def __init__(self, client: Client, controller: AnyController, caches: Mapping[Source, Cache], clock: Clock) -> None:
        """`caches`: for each of the controller's sources."""
        self.controller = controller
        self._cache_of = caches
        self.caches = tuple(dict.fromkeys(caches.values()))
        self.stats = Stats()
        self._clock = clock
        self._queue: WorkQueue[Key] = WorkQueue(clock)
        self._reader = CacheReader(self.caches)
        known = (controller.resource, *(watch.resource for watch in controller.watches), *controller.known)
        self._applier = Applier(client, self._reader, manager=controller.name, known=known, clock=clock)
        self._subscriptions: list[_Subscription] = []
        self._unsubscribe: Callable[[], None] | None = None
        self._thought_s: dict[Key, float] = {}
        self._busy: set[Key] = set()
        self._rest = asyncio.Event()
        self._rest.set()
        self._ending = False

    @property
    def is_idle(self) -> bool:
        """Whether no key waits or is being worked on (delayed ones do not count)."""
        return self._queue.is_idle

    def connect(self) -> None:
        """Start listening to the caches; what they hold already wakes its keys too."""
        self._ending = False
        wakes: dict[Cache, list[KeysOf]] = {self._cache_of[_own_source(self.controller)]: [_own_key]}
        for watch in self.controller.watches:
            wakes.setdefault(self._cache_of[_source(watch)], []).append(watch.keys)
        for cache in self.caches:
            listener = self._listener(wakes[cache])
            cache.subscribe(listener, recovered=self._queue.flush)
            self._subscriptions.append(_Subscription(cache, listener))
            for obj in cache.store.objects():
                listener(None, obj)
        if self.controller.outside is not None:
            self._unsubscribe = self.controller.outside.subscribe(self._queue.add)

    def disconnect(self) -> None:
        """Stop listening, and drop what was to come later."""
        for subscription in self._subscriptions:
            subscription.cache.unsubscribe(subscription.listener, recovered=self._queue.flush)
        self._subscriptions.clear()
        if self._unsubscribe is not None:
            self._unsubscribe()
            self._unsubscribe = None
        self._queue.close()

    def snapshot(self) -> Stats:
        """The counters as they are now."""
        self.stats.queue_depth = len(self._queue)
        self.stats.writes = self._applier.writes
        return self.stats

    async def work(self) -> None:
        """One worker: take keys until cancelled. Starts when every cache has its first list."""
        for cache in self.caches:
            await cache.synced.wait()
        while not self._ending:
            key, waited_s = await self._queue.get()
            started = self._clock.monotonic()
            self._busy.add(key)
            self._rest.clear()
            try:
                await self._attempt(key)
            finally:
                self._busy.discard(key)
                if not self._busy:
                    self._rest.set()
                self._queue.done(key, rest_s=self._rest_s(key))
                took_s = self._clock.monotonic() - started
                self.stats.reconciles += 1
                self.stats.wait_s += waited_s
                self.stats.work.add(took_s)

    async def wind_down(self) -> None:
        """Take no more keys, and return when those that are being worked on are done, or have taken too long."""
        self._ending = True
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._rest.wait(), WIND_DOWN_S)

    async def _attempt(self, key: Key) -> None:
        """Reconcile a key once, and decide when it comes again."""
        try:
            again_s = await self._reconcile(key)
        except RetryLater as wish:
            self.stats.retries += 1
            delay_s = self._queue.retry(key)
            self._say(logging.INFO, key, f"{wish}", f"again in {delay_s:.3g} s")
        except Terminal as verdict:
            self.stats.errors += 1
            self._queue.forget(key)
            self._say(logging.ERROR, key, f"{verdict}", "not again until it changes")
        except (Unavailable, TooManyRequests) as error:
            self.stats.errors += 1
            delay_s = self._queue.retry(key, most_s=SERVER_TROUBLE_MOST_S)
            self._say(logging.WARNING, key, f"{error}", f"again in {delay_s:.3g} s")
        except ApiError as error:
            if error.is_of_dying_namespace:
                self.stats.retries += 1
                self._queue.forget(key)
                self._queue.add_after(key, DYING_NAMESPACE_S)
                self._say(logging.DEBUG, key, f"{error}", f"again in {DYING_NAMESPACE_S:.3g} s if it is still there")
                return
            self.stats.errors += 1
            delay_s = self._queue.retry(key)
            self._say(logging.ERROR, key, f"{error.status} {error.reason}: {error}", f"again in {delay_s:.3g} s")
        except Exception:  # noqa: BLE001 (one key's defect must not stop the others; logged with the key)
            self.stats.errors += 1
            delay_s = self._queue.retry(key)
            _log.exception("%s %s: a defect; again in %.3g s", self.controller.name, key, delay_s)
        else:
            self._queue.forget(key)
            if again_s is not None:
                self._queue.add_after(key, max(again_s, LEAST_REQUEUE_S))

    async def _reconcile(self, key: Key) -> float | None:
        began = self._clock.monotonic()
        observed = self.controller.observe(self._reader, key)
        plan = None if observed is None else self.controller.plan(observed, self._clock.now())
        self._thought_s[key] = self._clock.monotonic() - began
        if plan is None:
            return None
        await self._applier.carry_out(plan, self.controller.resource, key)
        outside = self.controller.outside
        if outside is not None:
            for call in plan.calls:
                await outside.carry_out(call)
        return plan.requeue_after_s

    def _rest_s(self, key: Key) -> float:
        """How long a key has to rest: one that takes long to think about must not be thought about all the time."""
        thought_s = self._thought_s.pop(key, 0.0)
        return min(REST_FACTOR * thought_s, MOST_REST_S) if thought_s > LONG_THOUGHT_S else 0.0

    def _listener(self, wakes: Sequence[KeysOf]) -> Callable[[Manifest | None, Manifest | None], None]:
        def listen(old: Manifest | None, new: Manifest | None) -> None:
            for keys in wakes:
                # An object that moved from one owner to another wakes both.
                for obj in (old, new):
                    if obj is not None:
                        self._wake(keys, obj)

        return listen

    def _wake(self, keys: KeysOf, obj: Manifest) -> None:
        try:
            for key in keys(obj):
                self._queue.add(key)
        except Exception:  # noqa: BLE001 (logged)
            # One controller's mapping must not stop the cache that others share.
            _log.exception("%s: the watch on %s cannot tell its keys", self.controller.name, obj.get("kind"))

    def _say(self, level: int, key: Key, what: str, then: str) -> None:
        _log.log(level, "%s %s: %s; %s", self.controller.name, key, what, then)


def _own_key(obj: Manifest) -> Iterable[Key]:
    yield key_of(obj)


class Manager:
    """Runs controllers against one server. `run()` until cancelled; controllers may come and go meanwhile."""

    def __init__(
        self,
        client: Client,
        controllers: Sequence[AnyController],
        *,
        clock: Clock | None = None,
        packed: Collection[Resource] = (),
        trims: Mapping[Resource, Callable[[Manifest], Manifest]] | None = None,
    ) -> None:
        """`packed`: what there are many of, and is looked at one by one (`kaito.kube.packed`).

        `trims`: make of a resource's object what any of the controllers looks at; they must not change it. A change of
        what is left out wakes nobody.
        """
        self._client = client
        self._trims = trims or {}
        self._packed = packed
        self._clock = clock or RealClock()
        self._caches: dict[Source, Cache] = {}
        self._cache_tasks: dict[Source, asyncio.Task[None]] = {}
        self._running: dict[str, _Running] = {}
        self._group: asyncio.TaskGroup | None = None
        for controller in controllers:
            self._prepare(controller)

    @property
    def stats(self) -> dict[str, Stats]:
        """The counters by controller name."""
        return {name: running.loop.snapshot() for name, running in self._running.items()}

    @property
    def is_idle(self) -> bool:
        """Whether no key of any controller waits or is being worked on; delayed keys do not count."""
        return all(running.loop.is_idle for running in self._running.values())

    async def run(self) -> None:
        """Keep everything reconciled until cancelled. An exception out of here is a defect of ours."""
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                for running in self._running.values():
                    self._start(running)
                try:
                    # Without controllers there is nothing to wait for, but some may still be added.
                    await asyncio.get_running_loop().create_future()
                except asyncio.CancelledError:
                    await asyncio.gather(*(running.loop.wind_down() for running in self._running.values()))
                    raise
        finally:
            self._group = None
            self._cache_tasks.clear()
            for running in self._running.values():
                running.loop.disconnect()

    async def synced(self) -> None:
        """Return once every cache has its first list."""
        for cache in list(self._caches.values()):
            await cache.synced.wait()

    @property
    def unsynced(self) -> list[str]:
        """The plurals of what has no first list yet."""
        return sorted({cache.resource.plural for cache in self._caches.values() if not cache.synced.is_set()})

    def listen(self, resource: Resource, listener: Callable[[Manifest | None, Manifest | None], None]) -> None:
        """Tell the listener of every change of an object of the resource."""
        for source, cache in self._caches.items():
            if source[0] == resource:
                cache.subscribe(listener)

    def add(self, controller: AnyController) -> None:
        """Run one more controller. Raises ValueError when there is one of its name."""
        running = self._prepare(controller)
        if self._group is not None:
            self._start(running)

    def remove(self, name: str) -> None:
        """Stop a controller, and the caches that nobody else uses. Raises KeyError for an unknown name."""
        running = self._running.pop(name)
        for task in running.tasks:
            task.cancel()
        running.loop.disconnect()
        if self._group is None:
            self._drop_unused_caches()
        else:
            # Later in this turn of the event loop somebody may be added who uses them again.
            asyncio.get_running_loop().call_soon(self._drop_unused_caches)

    def _drop_unused_caches(self) -> None:
        used = {cache for running in self._running.values() for cache in running.loop.caches}
        for source, cache in list(self._caches.items()):
            if cache not in used:
                del self._caches[source]
                if source in self._cache_tasks:
                    self._cache_tasks.pop(source).cancel()

    def _prepare(self, controller: AnyController) -> _Running:
        if controller.name in self._running:
            raise ValueError(f"there is a controller {controller.name!r} already")
        optional = _optional(controller)
        caches = {
            source: self._cache(source, controller.name, optional=source in optional) for source in _sources(controller)
        }
        running = _Running(Loop(self._client, controller, caches, self._clock))
        self._running[controller.name] = running
        return running

    def _cache(self, source: Source, manager: str, *, optional: bool) -> Cache:
        resource, labels, fields, metadata_only, keeps = source
        # Where the whole objects are kept anyway, parts of them need not be kept once more.
        cache = self._caches.get((resource, labels, fields, False, ())) or self._caches.get(source)
        if cache is None:
            cache = Cache(
                self._client,
                *(resource, labels, fields),
                metadata_only=metadata_only,
                trim=only(keeps) if keeps else self._trims.get(resource),
                clock=self._clock,
                optional=optional,
                packed=resource in self._packed,
            )
            self._caches[source] = cache
        cache.optional = cache.optional and optional
        cache.store.managers.add(manager)
        return cache

    def _start(self, running: _Running) -> None:
        assert self._group is not None
        running.loop.connect()
        for source, cache in self._caches.items():
            if source not in self._cache_tasks and cache in running.loop.caches:
                self._cache_tasks[source] = self._group.create_task(cache.run())
        running.tasks = [self._group.create_task(running.loop.work()) for _ in range(running.loop.controller.workers)]


def _sources(controller: AnyController) -> list[Source]:
    """What the controller needs to see, each once."""
    return list(dict.fromkeys([_own_source(controller), *map(_source, controller.watches)]))


def _own_source(controller: AnyController) -> Source:
    return controller.resource, controller.label_selector, None, False, ()


def _source(watch: Watch) -> Source:
    return watch.resource, watch.label_selector, watch.field_selector, watch.metadata_only, watch.keeps


def _optional(controller: AnyController) -> set[Source]:
    """What the server need not have."""
    needed = {_source(watch) for watch in controller.watches if not watch.optional}
    return {_source(watch) for watch in controller.watches if watch.optional} - needed
