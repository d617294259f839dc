# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""What the node knows of the cluster: caches of pods, of what pods refer to, and of Services with their endpoints.

Implements `environment.Sources`, and tells the agent what changed. Reading never waits.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from kaito.engine.node.routing import Routes, routes
from kaito.kube.cache import Cache, Listener
from kaito.kube.client import Client
from kaito.kube.clock import Clock
from kaito.kube.manifest import Key, Manifest, key_of
from kaito.kube.resource import (
    CONFIG_MAPS,
    ENDPOINT_SLICES,
    PERSISTENT_VOLUME_CLAIMS,
    PERSISTENT_VOLUMES,
    PODS,
    SECRETS,
    SERVICES,
)

REFERRED = (CONFIG_MAPS, SECRETS, PERSISTENT_VOLUME_CLAIMS, PERSISTENT_VOLUMES)


class ClusterObjects:
    """The caches of one node."""

    def __init__(
        self,
        client: Client,
        *,
        clock: Clock,
        pod: Callable[[Manifest], None],
        referred: Callable[[str, str, str], None],
    ) -> None:
        resources = (PODS, *REFERRED, SERVICES, ENDPOINT_SLICES)
        self._caches = {resource: Cache(client, resource, clock=clock) for resource in resources}
        self.pod_cache = self._caches[PODS]
        self.services_changed: Callable[[], None] = lambda: None
        self._routes: Routes | None = None
        self._pod_changed = pod
        self._referred_changed = referred
        self.pod_cache.subscribe(self._on_pod)
        for resource in REFERRED:
            self._caches[resource].subscribe(self._on_referred(resource.kind))
        for resource in (SERVICES, ENDPOINT_SLICES):
            self._caches[resource].subscribe(self._on_service)

    async def run(self) -> None:
        """Keep the caches true until cancelled."""
        async with asyncio.TaskGroup() as group:
            for cache in self._caches.values():
                group.create_task(cache.run())

    async def synced(self) -> None:
        """Return once every cache is filled."""
        for cache in self._caches.values():
            await cache.synced.wait()

    @property
    def is_synced(self) -> bool:
        """Whether every cache is filled."""
        return all(cache.synced.is_set() for cache in self._caches.values())

    def pods(self) -> list[Manifest]:
        """All pods."""
        return self.pod_cache.store.select()

    def has_pod(self, pod: Manifest) -> bool:
        """Whether this very pod exists (not a later one of its name)."""
        found = self.pod_cache.store.get(key_of(pod))
        return found is not None and found["metadata"]["uid"] == pod["metadata"]["uid"]

    def routes(self) -> Routes:
        """Services and endpoints as they are now."""
        if self._routes is None:
            services, slices = (self._caches[resource].store.select() for resource in (SERVICES, ENDPOINT_SLICES))
            self._routes = routes(services, slices)
        return self._routes

    def config_map(self, namespace: str, name: str) -> Manifest | None:
        """The ConfigMap."""
        return self._caches[CONFIG_MAPS].store.get(Key(namespace, name))

    def secret(self, namespace: str, name: str) -> Manifest | None:
        """The Secret."""
        return self._caches[SECRETS].store.get(Key(namespace, name))

    def claim(self, namespace: str, name: str) -> Manifest | None:
        """The PersistentVolumeClaim."""
        return self._caches[PERSISTENT_VOLUME_CLAIMS].store.get(Key(namespace, name))

    def volume(self, name: str) -> Manifest | None:
        """The PersistentVolume."""
        return self._caches[PERSISTENT_VOLUMES].store.get(Key("", name))

    def _on_pod(self, old: Manifest | None, new: Manifest | None) -> None:
        if old is not None and (new is None or new["metadata"]["uid"] != old["metadata"]["uid"]):
            self._pod_changed(old)
        if new is not None:
            self._pod_changed(new)

    def _on_referred(self, kind: str) -> Listener:
        def changed(old: Manifest | None, new: Manifest | None) -> None:
            obj = new or old
            if obj is not None and self.is_synced:
                key = key_of(obj)
                self._referred_changed(kind, key.namespace, key.name)

        return changed

    def _on_service(self, old: Manifest | None, new: Manifest | None) -> None:
        self._routes = None
        self.services_changed()
