# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""CustomResourceDefinitions at work: which kinds they make the server serve, their conditions, and their end.

Listens to the store, so a definition is served before its writer is answered, and also after a restart. A definition
that is deleted stays until the last of its objects is gone.
"""

from __future__ import annotations

import asyncio
import logging

from kaito.engine.kinds import Kind
from kaito.engine.objects.deletion import CLEANUP, Deletion
from kaito.engine.objects.registry import Registry
from kaito.engine.schema.crd import accepted_status
from kaito.engine.storage.events import Event, Record
from kaito.engine.wire.codec import decode
from kaito.engine.wire.context import SYSTEM_USER, DeleteOptions, WriteContext
from kaito.engine.wire.status import StatusError
from kaito.kube.clock import Clock
from kaito.kube.manifest import Manifest, condition_of, is_deleting, is_true, rfc3339

log = logging.getLogger(__name__)

COLLECTION = "apiextensions.k8s.io/customresourcedefinitions"


def kinds_of(definition: Manifest) -> tuple[Kind, ...]:
    """The kinds that a definition has the server serve: one for each served version."""
    spec = definition["spec"]
    names = (definition.get("status") or {}).get("acceptedNames") or spec["names"]
    found = []
    for version in spec["versions"]:
        if not version.get("served"):
            continue
        subresources = [name for name in ("status", "scale") if name in (version.get("subresources") or {})]
        found.append(
            Kind(
                spec["group"],
                version["name"],
                spec["names"]["plural"],
                spec["names"]["kind"],
                spec["scope"] == "Namespaced",
                tuple(names.get("shortNames") or ()),
                tuple(names.get("categories") or ()),
                tuple(subresources),
                ("delete", "deletecollection", "get", "list", "patch", "create", "update", "watch"),
                spec["names"].get("singular") or spec["names"]["kind"].lower(),
                spec["names"].get("listKind") or spec["names"]["kind"] + "List",
                definition,
            )
        )
    return tuple(found)


class Definitions:
    """Keeps the served kinds in step with the stored definitions."""

    def __init__(self, registry: Registry, deletion: Deletion, clock: Clock) -> None:
        self._registry, self._deletion, self._clock = registry, deletion, clock
        self._kind = registry.kind("apiextensions.k8s.io", "customresourcedefinitions")
        self._tasks: set[asyncio.Task[None]] = set()
        registry.store.listen(self._changed)

    def load(self) -> None:
        """Serve what is stored (at start)."""
        for definition in list(self._registry.all(self._kind)):
            self._serve(definition)

    def resume(self) -> None:
        """Go on with deletions that a stop of the server has interrupted. Needs a running event loop."""
        for definition in list(self._registry.all(self._kind)):
            self._later(definition["metadata"]["name"])

    def _changed(self, event: Event) -> None:
        collection, name = event.record.collection, event.record.name
        if collection == COLLECTION:
            if event.type == "DELETED":
                self._stop_serving(name)
                return
            self._serve(decode(event.record.value))
            self._later(name)
        elif event.type == "DELETED":
            group, _, plural = collection.partition("/")
            definition = f"{plural}.{group}"
            if self._registry.store.get(COLLECTION, "", definition) is not None:
                self._later(definition)

    def _later(self, name: str) -> None:
        """Look at the definition once the write that is going on is done."""
        task = asyncio.get_running_loop().create_task(self._settle(name))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _serve(self, definition: Manifest) -> None:
        name = definition["metadata"]["name"]
        if not is_true(definition, "Established"):
            return
        before = self._registry.kinds.custom(name)
        kinds = kinds_of(definition)
        if _shape(before) == _shape(kinds):
            return
        self._registry.kinds.serve(name, kinds)
        if before:
            served = {kind.version for kind in kinds}
            if any(kind.version not in served for kind in before) or _schemas(before) != _schemas(kinds):
                self._registry.store.drop_watchers(before[0].collection)

    def _stop_serving(self, name: str) -> None:
        for kind in self._registry.kinds.custom(name)[:1]:
            self._registry.store.drop_watchers(kind.collection)
        self._registry.kinds.serve(name, ())

    async def _settle(self, name: str) -> None:
        record = self._registry.store.get(COLLECTION, "", name)
        if record is None:
            return
        definition = decode(record.value)
        if is_deleting(definition):
            await self._finish(record, definition)
            return
        group = definition["spec"]["group"]
        others = [
            d for d in self._registry.all(self._kind) if d["spec"]["group"] == group and d["metadata"]["name"] != name
        ]
        status = accepted_status(definition, [d for d in others if is_true(d, "NamesAccepted")], self._clock.now())
        self._store(record, definition, {**definition, "status": status})

    def _store(self, record: Record, before: Manifest, after: Manifest) -> None:
        if after != before:
            self._registry.replace_directly(self._kind, record, after)

    async def _finish(self, record: Record, definition: Manifest) -> None:
        """Delete the definition's objects, then let it go."""
        meta = definition["metadata"]
        if CLEANUP not in (meta.get("finalizers") or []):
            return
        served = self._registry.kinds.custom(meta["name"])
        collection = f"{definition['spec']['group']}/{definition['spec']['names']['plural']}"
        if served and self._registry.store.count(collection):
            if condition_of(definition, "Terminating") is None:
                self._mark_terminating(record, definition)
            await self._delete_objects(served[0])
            if self._registry.store.count(collection):
                return
        current = self._registry.store.get(COLLECTION, "", meta["name"])
        if current is None:
            return
        last = decode(current.value)
        rest = [name for name in last["metadata"].get("finalizers") or [] if name != CLEANUP]
        if rest:
            changed = {**last, "metadata": {**last["metadata"], "finalizers": rest}}
            self._store(current, last, changed)
        elif CLEANUP in (last["metadata"].get("finalizers") or []):
            self._registry.remove(self._kind, current)

    def _mark_terminating(self, record: Record, definition: Manifest) -> None:
        status = dict(definition.get("status") or {})
        condition = {
            "type": "Terminating",
            "status": "True",
            "reason": "InstanceDeletionInProgress",
            "message": "CustomResource deletion is in progress",
            "lastTransitionTime": rfc3339(self._clock.now()),
        }
        status["conditions"] = [*(status.get("conditions") or []), condition]
        self._store(record, definition, {**definition, "status": status})

    async def _delete_objects(self, kind: Kind) -> None:
        kind = self._registry.strategies.storage_kind(kind)  # no conversion webhook has a say in it
        for record in list(self._registry.store.scan(kind.collection)):
            meta = decode(record.value)["metadata"]
            if meta.get("deletionTimestamp"):
                continue
            ctx = WriteContext(SYSTEM_USER, self._clock.now(), "")
            try:
                await self._deletion.delete(kind, meta.get("namespace", ""), meta["name"], DeleteOptions(), ctx)
            except StatusError as error:
                if error.code != 404:
                    log.warning("object of a deleted definition stays: %s", error.message)


def _shape(kinds: tuple[Kind, ...]) -> list[tuple[Kind, Manifest, bool]]:
    """What must be served anew when it changes."""
    return [(kind, kind.definition["spec"], is_deleting(kind.definition)) for kind in kinds if kind.definition]


def _schemas(kinds: tuple[Kind, ...]) -> dict[str, object]:
    return {kind.version: kind.version_spec.get("schema") for kind in kinds}
