# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Deleting: preconditions, propagation, grace periods, finalizers, and when an object is really gone.

An object with finalizers, or a pod that still runs, is only marked; `registry` removes it with the write that takes
away the last thing it waited for.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Literal

from kaito.engine.kinds import Kind
from kaito.engine.objects.registry import Registry
from kaito.engine.storage.events import Record
from kaito.engine.wire.codec import decode
from kaito.engine.wire.context import DeleteOptions, WriteContext
from kaito.engine.wire.status import MODIFIED, StatusError, conflict, success
from kaito.kube.manifest import Manifest, rfc3339

ORPHAN, FOREGROUND = "orphan", "foregroundDeletion"

CLEANUP = "customresourcecleanup.apiextensions.k8s.io"
"""Holds a definition until its objects are gone (`kaito.engine.objects.definitions`)."""

RETURNS_OBJECT = frozenset(
    (
        "/pods",
        "/services",
        "/serviceaccounts",
        "/persistentvolumes",
        "/persistentvolumeclaims",
        "/podtemplates",
        "/resourcequotas",
    )
)
"""Collections whose deletion answers the object and not a Status (their Go stores set ReturnDeletedObject)."""

JOBS_WARNING = (
    "child pods are preserved by default when jobs are deleted; set propagationPolicy=Background to remove them or set "
    "propagationPolicy=Orphan to suppress this warning"
)


def check_preconditions(kind: Kind, meta: Manifest, options: DeleteOptions) -> None:
    """Raises StatusError 409 when the object is not the one that was meant."""
    for what, wanted, have, hint in (
        ("UID", options.uid, meta["uid"], "The object might have been deleted and then recreated"),
        ("ResourceVersion", options.resource_version, meta["resourceVersion"], "The object might have been modified"),
    ):
        if wanted is not None and wanted != have:
            why = f"the {what} in the precondition ({wanted}) does not match the {what} in record ({have}). {hint}"
            message = f'Operation cannot be fulfilled on {kind.kind} "{meta["name"]}": {why}'
            details = {"name": meta["name"], **({"group": kind.group} if kind.group else {}), "kind": kind.kind}
            raise StatusError(409, "Conflict", message, details=details)


def propagation(
    kind: Kind, finalizers: list[str], options: DeleteOptions
) -> Literal["Background", "Foreground", "Orphan"]:
    """What happens to dependents: what was asked, else what finalizers say, else the kind's default."""
    if options.propagation is not None:
        return options.propagation
    if ORPHAN in finalizers:
        return "Orphan"
    if FOREGROUND in finalizers:
        return "Foreground"
    return "Orphan" if kind.qualified in ("jobs.batch", "replicationcontrollers") else "Background"


def with_propagation(finalizers: list[str], how: str) -> list[str]:
    """The finalizers that make the garbage collector do it."""
    rest = [name for name in finalizers if name not in (ORPHAN, FOREGROUND)]
    return rest + {"Orphan": [ORPHAN], "Foreground": [FOREGROUND]}.get(how, [])


def grace_period(kind: Kind, obj: Manifest, options: DeleteOptions) -> int:
    """Seconds that the object may stay; 0 for everything but a pod that was bound and has not ended."""
    if kind.qualified != "pods":
        return 0
    asked = options.grace_period_s
    if asked is None:
        asked = obj["spec"].get("terminationGracePeriodSeconds", 30)
    ended = (obj.get("status") or {}).get("phase") in ("Succeeded", "Failed")
    if asked == 0 or not obj["spec"].get("nodeName") or ended:
        return 0
    return max(int(asked), 1)


class Deletion:
    """Deletes through a registry."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    async def delete(
        self, kind: Kind, namespace: str, name: str, options: DeleteOptions, ctx: WriteContext
    ) -> tuple[Manifest, bool]:
        """Delete an object: what to answer, and whether it is gone. Raises StatusError."""
        registry = self._registry
        for _ in range(5):
            record, live = await registry.read(kind, namespace, name)
            check_preconditions(kind, live["metadata"], options)
            await registry.admit_delete(kind, live, ctx)
            if registry.store.get(kind.collection, namespace, name) is not record:
                continue
            done = await self._deleted(kind, record, live, options, ctx)
            if done is not None:
                return done
        raise conflict(kind, name, MODIFIED)

    async def _deleted(
        self, kind: Kind, record: Record, live: Manifest, options: DeleteOptions, ctx: WriteContext
    ) -> tuple[Manifest, bool] | None:
        """As `delete`; None when somebody else was faster."""
        meta = live["metadata"]
        finalizers = list(meta.get("finalizers") or [])
        how = propagation(kind, finalizers, options)
        if kind.qualified == "jobs.batch" and options.propagation is None:
            ctx.warnings.append(JOBS_WARNING)
        wanted = with_propagation(finalizers, how)
        if kind.qualified == "customresourcedefinitions.apiextensions.k8s.io" and CLEANUP not in wanted:
            wanted.append(CLEANUP)
        grace = grace_period(kind, live, options)
        waits_for_namespace = kind.qualified == "namespaces" and bool(live["spec"].get("finalizers"))
        if not wanted and not grace and not waits_for_namespace:
            last = live if not meta.get("deletionTimestamp") else {**live, "metadata": {**meta}}
            if kind.qualified == "pods":
                last = _marked(live, wanted, 0, ctx)
            if not ctx.dry_run:
                self._registry.remove(kind, record)
            if kind.collection in RETURNS_OBJECT:
                return last, True
            return success(kind, meta["name"], meta["uid"]), True
        marked = await self._marked_for_deletion(kind, record, live, wanted, grace=grace, ctx=ctx)
        return None if marked is None else (marked, False)

    async def _marked_for_deletion(
        self, kind: Kind, record: Record, live: Manifest, finalizers: list[str], *, grace: int, ctx: WriteContext
    ) -> Manifest | None:
        meta = live["metadata"]
        if meta.get("deletionTimestamp"):
            shorter = grace < meta.get("deletionGracePeriodSeconds", 0)
            if not shorter and finalizers == (meta.get("finalizers") or []):
                return live
            grace = grace if shorter else meta.get("deletionGracePeriodSeconds", 0)
        marked = _marked(live, finalizers, grace, ctx)
        if kind.qualified == "namespaces":
            marked["metadata"].pop("deletionGracePeriodSeconds", None)
            marked["status"] = {**(marked.get("status") or {}), "phase": "Terminating"}
        elif kind.qualified == "customresourcedefinitions.apiextensions.k8s.io":
            marked["metadata"].pop("deletionGracePeriodSeconds", None)
        if ctx.dry_run:
            return marked
        stored = await self._registry.in_storage_version(kind, marked)
        if self._registry.store.get(kind.collection, record.namespace, record.name) is not record:
            return None
        done = self._registry.replace_directly(kind, record, stored)
        await self._registry.ready(kind, (done,))
        return decode(self._registry.view(done, kind))


def _marked(live: Manifest, finalizers: list[str], grace: int, ctx: WriteContext) -> Manifest:
    """The object with its deletion time, grace period and finalizers; the first marking moves the generation."""
    meta = {key: value for key, value in live["metadata"].items() if key != "finalizers"}
    first = not meta.get("deletionTimestamp")
    if first or grace != meta.get("deletionGracePeriodSeconds", 0):
        meta["deletionTimestamp"] = rfc3339(ctx.now + timedelta(seconds=grace))
    meta["deletionGracePeriodSeconds"] = grace
    is_definition = live["kind"] == "CustomResourceDefinition"
    if first and meta.get("generation") and not is_definition and live["kind"] != "Namespace":
        meta["generation"] += 1
    if finalizers:
        meta["finalizers"] = finalizers
    return {**live, "metadata": meta}
