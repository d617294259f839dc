# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""A local copy of one resource, kept true by list and watch, whatever happens to the connection.

The rules, each of which a fault test stands behind:
- a watch that ends, breaks or falls silent is resumed from the last resourceVersion seen;
- 410, and every error that is not a connection trouble, means a new list: a stale resourceVersion is never retried;
- so does a server that keeps refusing, or whose resourceVersions went backwards (its data was restored);
- what a list no longer holds is reported as deleted;
- of an optional resource that the server does not have there are no objects, and it is looked for again and again;
- between two attempts there is a pause that grows, so that nothing spins.
Knows no kind and no controller: `kaito.kube.controller` subscribes.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing

from kaito.kube.answer import WatchEvent
from kaito.kube.client import Client
from kaito.kube.clock import Clock, RealClock
from kaito.kube.errors import ApiError, Gone, NotFound, TooManyRequests, Unavailable
from kaito.kube.manifest import Key, Manifest, key_of
from kaito.kube.queue import backoff_s
from kaito.kube.resource import Resource
from kaito.kube.store import Store, version_number, version_of

Listener = Callable[[Manifest | None, Manifest | None], None]
"""Told of every change: the object before (None: it is new) and after (None: it is gone)."""

FIRST_PAUSE_S = 0.1
MOST_PAUSE_S = 5.0
_SHORT_ATTEMPT_S = 1.0
PAGE_SIZE, SMALL_PAGE_SIZE = 500, 100
"""Objects of a list that are in memory as they came, some 30 KB each; the small one where memory counts for more."""
_REFUSALS_BEFORE_LIST = 3

_log = logging.getLogger(__name__)


class Cache:
    """One resource (of one label selector) in memory."""

    def __init__(
        self,
        client: Client,
        resource: Resource,
        label_selector: str | None = None,
        field_selector: str | None = None,
        *,
        metadata_only: bool = False,
        trim: Callable[[Manifest], Manifest] | None = None,
        clock: Clock | None = None,
        managers: Sequence[str] = (),
        optional: bool = False,
        chance: Callable[[], float] = random.random,
        packed: bool = False,
    ) -> None:
        """`packed`: the objects are many and are looked at one by one, so that memory counts for more."""
        self.resource = resource
        self.label_selector = label_selector
        self.field_selector = field_selector
        self.metadata_only = metadata_only
        """Whether of each object only the metadata is kept."""
        self._trim = trim
        """Makes of an object what is kept of it, and told to listeners; a change of nothing else is not told."""
        self.store = Store(managers, packed=packed)
        self._page_size = SMALL_PAGE_SIZE if packed else PAGE_SIZE
        self.optional = optional
        """The server may not have the resource."""
        self.served = True
        """Whether it has, as far as is known."""
        self.synced = asyncio.Event()
        """Set once the first list is in, or once it is known that there is none."""
        self._client = client
        self._clock = clock or RealClock()
        self._chance = chance
        self._listeners: list[Listener] = []
        self._recovered: list[Callable[[], None]] = []
        self._version = ""
        self._ahead: set[Key] = set()
        self._needs_list = True
        self._short_attempts = 0
        self._refusals = 0
        self._complaint = ""

    def subscribe(self, listener: Listener, *, recovered: Callable[[], None] | None = None) -> None:
        """Tell the listener of every change from now on, and of the connection's return after a trouble."""
        self._listeners.append(listener)
        if recovered is not None:
            self._recovered.append(recovered)

    def unsubscribe(self, listener: Listener, *, recovered: Callable[[], None] | None = None) -> None:
        """Stop telling."""
        self._listeners.remove(listener)
        if recovered is not None:
            self._recovered.remove(recovered)

    @property
    def is_whole(self) -> bool:
        """Whether it holds every object of its resource."""
        return self.label_selector is None and self.field_selector is None

    @property
    def version(self) -> str:
        """The resourceVersion up to which the copy is true; empty before the first list."""
        return self._version

    async def run(self) -> None:
        """Keep the copy true until cancelled."""
        while True:
            started = self._clock.monotonic()
            try:
                if self._needs_list:
                    await self._list()
                await self._watch()
            except ApiError as error:
                if self.optional and isinstance(error, NotFound):
                    self._absent()
                else:
                    self._judge(error)
            # A server may end a watch when it likes, but not all the time.
            if self._clock.monotonic() - started >= _SHORT_ATTEMPT_S:
                self._short_attempts = 0
            self._short_attempts += 1
            pause_s = backoff_s(self._short_attempts, self._chance(), first_s=FIRST_PAUSE_S, most_s=MOST_PAUSE_S)
            await self._clock.sleep(pause_s)

    def written(self, obj: Manifest) -> None:
        """Take in the answer to a write of ours, unless the watch has already been further."""
        version = version_of(obj)
        if not version or not self._version or version <= version_number(self._version):
            return
        current = self.store.get(key_of(obj))
        if current is None or version_of(current) < version:
            self._ahead.add(key_of(obj))
            self._put(obj)

    def _absent(self) -> None:
        """The server does not have the resource, so there is nothing of it."""
        if self.served:
            _log.info("%s.%s is not served here", self.resource.plural, self.resource.group)
        self.served = False
        self._needs_list = True
        self._ahead.clear()
        for key in list(self.store.sorted_keys()):
            self._remove(key)
        self.synced.set()

    def _judge(self, error: ApiError) -> None:
        """Decide what an error means for the next attempt."""
        dropped = isinstance(error, Unavailable) and error.is_connection_trouble
        refused = isinstance(error, TooManyRequests) or (isinstance(error, Unavailable) and error.status == 503)
        self._refusals += refused
        if not (dropped or refused) or self._refusals >= _REFUSALS_BEFORE_LIST:
            self._needs_list = True
        complaint = f"{error.status} {error.reason}"
        if complaint != self._complaint:
            # A dropped connection and an expired resourceVersion are daily bread, everything else is worth a look.
            level = logging.INFO if dropped or isinstance(error, Gone) else logging.WARNING
            _log.log(level, "watch of %s: %s", self.resource.plural, error)
        self._complaint = complaint

    async def _list(self) -> None:
        fresh: set[Key] = set()
        version, went_back = "", False
        pages = self._client.pages(
            self.resource,
            label_selector=self.label_selector,
            field_selector=self.field_selector,
            page_size=self._page_size,
            metadata_only=self.metadata_only,
        )
        async for page in pages:
            version = page.version
            if page.is_first:
                fresh.clear()
                went_back = version_number(version) < version_number(self._version)
            for item in page.items:
                fresh.add(key_of(item))
                current = self.store.get(key_of(item))
                if went_back or current is None or version_of(item) >= version_of(current):
                    self._put(item)
        listed = version_number(version)
        for key in [key for key in self.store.sorted_keys() if key not in fresh]:
            if went_back or not (key in self._ahead and self._is_ahead_of(key, listed)):
                self._remove(key)
        self._ahead = {key for key in self._ahead if self._is_ahead_of(key, listed)}
        self._version = version
        self._needs_list = False
        self._refusals = 0
        self.served = True
        self.synced.set()

    def _is_ahead_of(self, key: Key, version: int) -> bool:
        obj = self.store.get(key)
        return obj is not None and version_of(obj) > version

    async def _watch(self) -> None:
        since = version_number(self._version)
        events = self._client.watch(
            self.resource,
            resource_version=self._version,
            label_selector=self.label_selector,
            field_selector=self.field_selector,
            bookmarks=True,
            metadata_only=self.metadata_only,
            opened=self._accepted,
        )
        async with aclosing(events):
            async for event in events:
                version = version_of(event.object)
                if version < since:
                    raise Gone(410, "Expired", "the server's resourceVersions went backwards")
                since = version
                self._take(event)

    def _take(self, event: WatchEvent) -> None:
        obj = event.object
        self._version = obj["metadata"]["resourceVersion"]
        self._refusals = 0
        if event.type == "BOOKMARK":
            return
        # Whatever ends this watch, it has brought us further: the next attempt need not wait long.
        self._short_attempts = 0
        key = key_of(obj)
        current = self.store.get(key)
        ahead = 0 if current is None else version_of(current) - version_of(obj)
        if current is not None and ahead > 0:
            return  # Our own write is newer; its event is still to come.
        self._ahead.discard(key)
        if event.type == "DELETED":
            self._remove(key)
        elif current is None or ahead:
            self._put(obj)  # At the same version it is what is there: the event of our own write.

    def _put(self, obj: Manifest) -> None:
        if self._trim is not None:
            obj = self._trim(obj)
        old = self.store.put(obj)
        if old is not None and old["metadata"].get("resourceVersion") == obj["metadata"].get("resourceVersion"):
            return
        if self._trim is None or old is None or not _is_same_content(old, obj):
            self._tell(old, obj)

    def _remove(self, key: Key) -> None:
        self._ahead.discard(key)
        old = self.store.remove(key)
        if old is not None:
            self._tell(old, None)

    def _tell(self, old: Manifest | None, new: Manifest | None) -> None:
        for listener in self._listeners:
            listener(old, new)

    def _accepted(self) -> None:
        """The server serves us (again)."""
        if self._complaint:
            self._complaint = ""
            for callback in self._recovered:
                callback()


class CacheReader:
    """A `kaito.kube.plan.Reader` over some caches. Raises LookupError for a resource that is not among them."""

    def __init__(self, caches: Sequence[Cache]) -> None:
        self._caches: dict[Resource, list[Cache]] = {}
        for cache in caches:
            self._caches.setdefault(cache.resource, []).append(cache)
        for several in self._caches.values():
            # A cache without selector holds all that the others hold.
            several.sort(key=lambda cache: not cache.is_whole)

    def cache_of(self, resource: Resource, key: Key) -> Cache | None:
        """The cache that holds, or would hold, the object; None when the resource is not cached as a whole."""
        caches = self._caches.get(resource, [])
        for cache in caches:
            if key in cache.store:
                return cache
        return caches[0] if caches and caches[0].is_whole else None

    def get(self, resource: Resource, name: str, namespace: str = "") -> Manifest | None:
        """The object, or None when it is not there."""
        key = Key(namespace, name)
        return next((found for store in self._stores(resource) if (found := store.get(key)) is not None), None)

    def owned_by(self, resource: Resource, uid: str) -> list[Manifest]:
        """The objects whose controlling owner has the uid."""
        return _merged([store.owned_by(uid) for store in self._stores(resource)])

    def about(self, resource: Resource, kind: str, key: Key) -> list[Manifest]:
        """The objects whose `involvedObject` is of this kind and name."""
        return _merged([store.about(kind, key) for store in self._stores(resource)])

    def on_node(self, resource: Resource, name: str) -> list[Manifest]:
        """The objects (pods) that are bound to the node of this name."""
        return _merged([store.on_node(name) for store in self._stores(resource)])

    def _stores(self, resource: Resource) -> list[Store]:
        caches = self._caches.get(resource)
        if caches is None:
            raise LookupError(f"{resource.plural} are read but not watched: add a Watch on them to the controller")
        return [cache.store for cache in caches[:1] if cache.is_whole] or [c.store for c in caches]

    def list(
        self, resource: Resource, namespace: str | None = None, *, labels: Mapping[str, str] | None = None
    ) -> list[Manifest]:
        """The objects, sorted by namespace and name; all namespaces when none is given."""
        return _merged([store.select(namespace, labels) for store in self._stores(resource)])

    def serves(self, resource: Resource) -> bool:
        """Whether the server has the resource, as far as is known."""
        return any(cache.served for cache in self._caches.get(resource, []))


def _is_same_content(one: Manifest, other: Manifest) -> bool:
    """Whether two states of an object differ in nothing but their resourceVersion."""
    version = {"resourceVersion": ""}
    return {**one, "metadata": one["metadata"] | version} == {**other, "metadata": other["metadata"] | version}


def _merged(lists: Sequence[list[Manifest]]) -> list[Manifest]:
    if len(lists) == 1:
        return lists[0]
    by_key = {key_of(obj): obj for objects in lists for obj in objects}
    return [by_key[key] for key in sorted(by_key)]
