# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Verbs and object semantics: what creating, changing and reading an object means in Kubernetes.

Every write is one pipeline: prepare what the server owns, default, track field owners, admit, validate, store. Kinds
differ only in their `Strategy` (`strategy`). Deleting is in `deletion`; HTTP, kubectl's forms and watch streams are
elsewhere and nothing of them is known here.

All steps of a write but admission are synchronous, so a write is atomic unless a webhook is asked; then it is repeated
when the object has changed meanwhile.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterable, Iterator

from kaito.engine.kinds import Kind, Kinds
from kaito.engine.objects.partners import Admission, Versions
from kaito.engine.objects.strategy import Strategies, Strategy
from kaito.engine.patching import apply as ssa
from kaito.engine.storage.events import Record
from kaito.engine.storage.store import Store
from kaito.engine.wire.codec import decode, encode
from kaito.engine.wire.context import WriteContext
from kaito.engine.wire.status import MODIFIED, StatusError, already_exists, bad_request, conflict, invalid, not_found
from kaito.kube.manifest import Manifest, rfc3339, tree_copy

NAME_SUFFIX_LETTERS = "bcdfghjklmnpqrstvwxz2456789"
"""What generated names end in: no vowels, no letters that look like digits (apimachinery's rand.String)."""

MAX_GENERATED_PREFIX = 58
ATTEMPTS = 5

Change = Callable[[Manifest], Manifest]
"""From the live object to the wanted one; may raise StatusError."""


class Registry:
    """The objects that the store holds, with Kubernetes' rules around them."""

    def __init__(self, store: Store, kinds: Kinds, strategies: Strategies) -> None:
        self.store, self.kinds, self.strategies = store, kinds, strategies
        self.admission: Admission | None = None
        self.versions: Versions | None = None

    # Reading

    def view(self, record: Record, kind: Kind) -> bytes:
        """The stored object as its kind's version shows it, encoded."""
        if not kind.is_custom and not kind.is_converted:
            return record.value
        key = (kind.version, self.kinds.generation)
        shown: bytes | None = record.known(key)
        if shown is None:
            shown = encode(self.strategies.of(kind).shown(decode(record.value)), kind)
            record.remember(key, shown)
        return shown

    async def ready(self, kind: Kind, records: Iterable[Record], *, anew: bool = False) -> None:
        """To be awaited before records of a custom kind are viewed: a webhook may have to convert them.

        `anew`: ask again about what was converted before. Raises StatusError 500 when the webhook fails.
        """
        if self.versions is not None and kind.is_custom:
            await self.versions.ready(kind, records, anew=anew)

    async def read(self, kind: Kind, namespace: str, name: str) -> tuple[Record, Manifest]:
        """The stored record and a copy of the object in the kind's version. Raises StatusError."""
        record = self.record(kind, namespace, name)
        if kind.is_custom:
            await self.ready(kind, (record,), anew=True)
        return record, decode(self.view(record, kind))

    async def in_storage_version(self, kind: Kind, obj: Manifest) -> Manifest:
        """The object as it is stored, but for its encoding. Raises StatusError 500 when a webhook fails."""
        if self.versions is not None and kind.is_custom:
            return await self.versions.stored(kind, obj)
        return self.strategies.of(self.strategies.storage_kind(kind)).stored(obj)

    def record(self, kind: Kind, namespace: str, name: str) -> Record:
        """The stored record. Raises StatusError 404."""
        record = self.store.get(kind.collection, namespace, name)
        if record is None:
            raise not_found(kind, name)
        return record

    def get(self, kind: Kind, namespace: str, name: str) -> Manifest:
        """A copy of the object in the kind's version. Raises StatusError 404."""
        return decode(self.view(self.record(kind, namespace, name), kind))

    def find(self, kind: Kind, namespace: str, name: str) -> Manifest | None:
        """A copy of the object, or None."""
        record = self.store.get(kind.collection, namespace, name)
        return None if record is None else decode(self.view(record, kind))

    def all(self, kind: Kind, namespace: str | None = None) -> Iterator[Manifest]:
        """Copies of all objects of the kind."""
        for record in self.store.scan(kind.collection, namespace):
            yield decode(self.view(record, kind))

    def kind(self, group: str, plural: str, version: str = "v1") -> Kind:
        """A kind that is known to be served."""
        kind = self.kinds.find(group, version, plural)
        if kind is None:
            raise LookupError(f"{plural}.{group}/{version} is not served")
        return kind

    def objects(self, group: str, plural: str, namespace: str | None = None) -> Iterator[Manifest]:
        """Copies of all objects of a built-in kind."""
        return self.all(self.kind(group, plural), namespace)

    def object(self, group: str, plural: str, name: str, namespace: str = "") -> Manifest | None:
        """One object of a built-in kind, or None."""
        return self.find(self.kind(group, plural), namespace, name)

    # Creating

    async def create(
        self, kind: Kind, namespace: str, obj: Manifest, ctx: WriteContext, *, owners_set: bool = False
    ) -> Manifest:
        """Create the object (decoded and checked for its types). `owners_set`: field owners are tracked already.

        Raises StatusError.
        """
        meta = obj.setdefault("metadata", {})
        if meta.get("resourceVersion"):
            raise StatusError(500, "", "resourceVersion should not be set on objects to be created")
        if meta.get("name") or not meta.get("generateName"):
            return await self._create(kind, namespace, obj, ctx, owners_set=owners_set)
        meta = {"name": "", **meta}  # the name comes first in what is shown
        for attempt in range(ATTEMPTS):
            suffix = "".join(random.choices(NAME_SUFFIX_LETTERS, k=5))
            named = {
                **tree_copy(obj),
                "metadata": {**meta, "name": meta["generateName"][:MAX_GENERATED_PREFIX] + suffix},
            }
            try:
                return await self._create(kind, namespace, named, ctx, owners_set=owners_set)
            except StatusError as error:
                if error.reason != "AlreadyExists" or attempt == ATTEMPTS - 1:
                    raise
        raise AssertionError("unreachable")

    async def _create(
        self, kind: Kind, namespace: str, obj: Manifest, ctx: WriteContext, *, owners_set: bool
    ) -> Manifest:
        strategy = self.strategies.of(kind)
        self._check_admission("CREATE", kind, namespace, obj)
        obj = self._with_new_metadata(strategy, namespace, obj, ctx)
        if not owners_set:
            owners = ssa.track_update(
                None,
                obj,
                strategy.shape,
                manager=ctx.manager,
                now=ctx.now,
                zero=strategy.zero,
                reset=strategy.reset(""),
            )
            obj["metadata"] = _with_owners(obj["metadata"], owners)
        if self.admission is not None:
            obj = self.admission.fill_in(kind, namespace, obj)
        obj = await self._admitted("CREATE", strategy, obj, None, ctx)
        obj = strategy.prepared_for_create(obj, ctx)
        errors = strategy.creation_errors(obj)
        if errors:
            raise invalid(kind.group, kind.kind, obj["metadata"].get("name", ""), errors)
        await self._validated("CREATE", kind, obj, None, ctx)
        stored = await self.in_storage_version(kind, obj) if kind.is_custom else None
        if self.admission is not None:
            self.admission.check_room(kind, namespace, obj)
        name = obj["metadata"]["name"]
        existing = self.store.get(kind.collection, namespace, name)
        if existing is not None:
            error = already_exists(kind, name)
            if decode(existing.value)["metadata"].get("deletionTimestamp"):
                raise StatusError(409, error.reason, f"object is being deleted: {error.message}", details=error.details)
            raise error
        obj = strategy.allocated(obj, None, ctx)
        return await self._stored(kind, namespace, obj, stored, ctx)

    def _with_new_metadata(self, strategy: Strategy, namespace: str, obj: Manifest, ctx: WriteContext) -> Manifest:
        meta = dict(obj["metadata"])
        for field in ("deletionTimestamp", "deletionGracePeriodSeconds", "selfLink", "uid"):
            meta.pop(field, None)
        meta["creationTimestamp"] = rfc3339(ctx.now)
        meta["uid"] = new_uid()
        if strategy.kind.namespaced:
            meta["namespace"] = namespace
        else:
            meta.pop("namespace", None)
        if strategy.has_generation:
            meta["generation"] = 1
        return {**obj, "apiVersion": strategy.kind.api_version, "kind": strategy.kind.kind, "metadata": meta}

    # Changing

    async def update(
        self,
        kind: Kind,
        namespace: str,
        name: str,
        change: Change,
        ctx: WriteContext,
        *,
        subresource: str = "",
        owners_set: bool = False,
    ) -> Manifest:
        """Change an object. `owners_set`: the change tracked field owners itself (server-side apply).

        Raises StatusError. When another writer came between, `change` is asked again with the new state.
        """
        for _ in range(ATTEMPTS):
            record, live = await self.read(kind, namespace, name)
            wanted = change(decode(self.view(record, kind)))
            done = await self._update_once(
                kind, record, live, wanted, ctx, subresource=subresource, owners_set=owners_set
            )
            if done is not None:
                return done
        raise conflict(kind, name, MODIFIED)

    async def _update_once(
        self,
        kind: Kind,
        record: Record,
        live: Manifest,
        wanted: Manifest,
        ctx: WriteContext,
        *,
        subresource: str,
        owners_set: bool,
    ) -> Manifest | None:
        """One try: the stored object, or None when somebody else was faster."""
        strategy, name = self.strategies.of(kind), record.name
        self._check_admission("UPDATE", kind, record.namespace, wanted, subresource=subresource)
        _check_identity(kind, live, wanted)
        new = self._with_kept_metadata(live, wanted)
        # Kubernetes does not start to track the owners of an object that has none, and a binding has no owner.
        is_tracked = live["metadata"].get("managedFields") or wanted["metadata"].get("managedFields")
        if not owners_set and is_tracked and subresource != "binding":
            owners = ssa.track_update(
                live,
                new,
                strategy.shape,
                manager=ctx.manager,
                now=ctx.now,
                subresource=subresource,
                reset=strategy.reset(subresource),
            )
            new["metadata"] = _with_owners(new["metadata"], owners)
        new = await self._admitted("UPDATE", strategy, new, live, ctx, subresource=subresource)
        new = strategy.prepared_for_update(new, live, subresource, ctx)
        errors = strategy.update_errors(new, live, subresource)
        if errors:
            raise invalid(kind.group, kind.kind, name, errors)
        await self._validated("UPDATE", kind, new, live, ctx, subresource=subresource)
        if subresource in ("", "scale", "ephemeralcontainers"):
            new = strategy.with_generation(new, live)
        stored = await self.in_storage_version(kind, new) if kind.is_custom else None
        if self.store.get(kind.collection, record.namespace, name) is not record:
            return None
        new = strategy.allocated(new, live, ctx)
        return await self._written(kind, record, live, new, stored, ctx)

    def _with_kept_metadata(self, live: Manifest, wanted: Manifest) -> Manifest:
        """The wanted object with what nobody but the server may set taken from the live one."""
        old, meta = live["metadata"], dict(wanted["metadata"])
        meta.setdefault("uid", old["uid"])
        for field in (
            "creationTimestamp",
            "deletionTimestamp",
            "deletionGracePeriodSeconds",
            "generation",
            "generateName",
            "resourceVersion",
            "namespace",
            "name",
        ):
            if field in old:
                meta[field] = old[field]
            else:
                meta.pop(field, None)
        meta.pop("selfLink", None)
        return {**wanted, "apiVersion": live["apiVersion"], "kind": live["kind"], "metadata": meta}

    async def _written(
        self, kind: Kind, record: Record, live: Manifest, new: Manifest, stored: Manifest | None, ctx: WriteContext
    ) -> Manifest:
        """Store a changed object, or finish its deletion if that is all it waited for."""
        if same_content(live, new):
            return live
        if self.strategies.of(kind).may_go(new):
            if not ctx.dry_run:
                self.remove(kind, record)
            return new
        return await self._stored(kind, record.namespace, new, stored, ctx)

    # Storing

    async def _stored(
        self, kind: Kind, namespace: str, obj: Manifest, converted: Manifest | None, ctx: WriteContext
    ) -> Manifest:
        """What is stored, in the kind's version. `converted`: the object in the storage version, for custom kinds."""
        stored_kind = self.strategies.storage_kind(kind)
        if ctx.dry_run:
            return obj
        stored = self.strategies.of(stored_kind).stored(obj) if converted is None else converted

        def with_revision(revision: int) -> bytes:
            stored["metadata"]["resourceVersion"] = str(revision)
            return encode(stored, stored_kind)

        record = self.store.put(kind.collection, namespace, obj["metadata"]["name"], encode=with_revision)
        if kind.is_custom and (stored_kind is not kind or ctx.is_mutated):
            await self.ready(kind, (record,))
        elif kind.is_custom:
            # It was defaulted and pruned by this very schema on its way here.
            record.remember((kind.version, self.kinds.generation), record.value)
        ctx.written = self.view(record, kind)
        return stored if stored_kind is kind and not ctx.is_mutated else decode(ctx.written)

    def remove(self, kind: Kind, record: Record) -> None:
        """Take the object out of the store. Watchers see its last stored state at the revision of the deletion."""
        stored_kind = self.strategies.storage_kind(kind)
        final = decode(record.value)

        def with_revision(revision: int) -> bytes:
            final["metadata"]["resourceVersion"] = str(revision)
            return encode(final, stored_kind)

        self.store.delete(kind.collection, record.namespace, record.name, encode=with_revision)

    def replace_directly(self, kind: Kind, record: Record, obj: Manifest) -> Record:
        """Store what the server itself decided (deletion marks, a definition's status), past admission and owners.

        The object is in the storage version.
        """
        namespace, name = record.namespace, record.name
        stored_kind = self.strategies.storage_kind(kind)

        def with_revision(revision: int) -> bytes:
            obj["metadata"]["resourceVersion"] = str(revision)
            return encode(obj, stored_kind)

        return self.store.put(kind.collection, namespace, name, encode=with_revision)

    # Admission

    def _check_admission(
        self, operation: str, kind: Kind, namespace: str, obj: Manifest | None, *, subresource: str = ""
    ) -> None:
        if self.admission is not None:
            self.admission.check(operation, kind, namespace, obj, subresource=subresource)

    async def _admitted(
        self,
        operation: str,
        strategy: Strategy,
        obj: Manifest,
        old: Manifest | None,
        ctx: WriteContext,
        *,
        subresource: str = "",
    ) -> Manifest:
        """The object after the mutating webhooks, prepared again if they changed it."""
        namespace = obj["metadata"].get("namespace", "")
        if self.admission is None or not self.admission.concerns(operation, strategy.kind, namespace, subresource):
            return obj
        changed = await self.admission.mutate(operation, strategy.kind, obj, old, ctx, subresource=subresource)
        if changed is None or changed == obj:
            return obj
        ctx.is_mutated = True
        return strategy.completed(changed)

    async def _validated(
        self,
        operation: str,
        kind: Kind,
        obj: Manifest | None,
        old: Manifest | None,
        ctx: WriteContext,
        *,
        subresource: str = "",
    ) -> None:
        namespace = (obj or old or {}).get("metadata", {}).get("namespace", "")
        if self.admission is not None and obj is not None:
            self.admission.check_rights(kind, obj, old, ctx)
        if self.admission is not None and self.admission.concerns(operation, kind, namespace, subresource):
            await self.admission.validate(operation, kind, obj, old, ctx, subresource=subresource)

    async def admit_delete(self, kind: Kind, live: Manifest, ctx: WriteContext) -> None:
        """Ask admission about a deletion. Raises StatusError."""
        namespace = live["metadata"].get("namespace", "")
        self._check_admission("DELETE", kind, namespace, live)
        if self.admission is not None and self.admission.concerns("DELETE", kind, namespace, ""):
            await self.admission.mutate("DELETE", kind, None, live, ctx, subresource="")
            await self.admission.validate("DELETE", kind, None, live, ctx, subresource="")


def new_uid() -> str:
    """A random UUID (version 4): what `str(uuid.uuid4())` gives, in a fifth of its time."""
    text = os.urandom(16).hex()
    variant = "89ab"[int(text[16], 16) & 3]
    return f"{text[:8]}-{text[8:12]}-4{text[13:16]}-{variant}{text[17:20]}-{text[20:]}"


def _with_owners(meta: Manifest, owners: list[Manifest]) -> Manifest:
    rest = {key: value for key, value in meta.items() if key != "managedFields"}
    return {**rest, "managedFields": owners} if owners else rest


def same_content(live: Manifest, new: Manifest) -> bool:
    """Whether a write would change nothing but the times of field owners."""
    if _plain(live) != _plain(new):
        return False
    return _untimed(live) == _untimed(new)


def _plain(obj: Manifest) -> Manifest:
    meta = {key: value for key, value in obj["metadata"].items() if key not in ("managedFields", "resourceVersion")}
    return {**obj, "metadata": meta}


def _untimed(obj: Manifest) -> list[Manifest]:
    entries = obj["metadata"].get("managedFields") or []
    return [{key: value for key, value in entry.items() if key != "time"} for entry in entries]


def _check_identity(kind: Kind, live: Manifest, wanted: Manifest) -> None:
    """Raises StatusError 409 when the wanted object was made from another state than the live one."""
    old, meta = live["metadata"], wanted["metadata"]
    name, version = old["name"], meta.get("resourceVersion")
    if version and version != "0" and version != old["resourceVersion"]:
        if not version.isdigit():
            raise StatusError(500, "", f'strconv.ParseUint: parsing "{version}": invalid syntax')
        raise conflict(kind, name, MODIFIED)


def check_named(obj: Manifest, namespace: str, name: str) -> None:
    """Raises StatusError 400 when a body names another object than the URL."""
    meta = obj.setdefault("metadata", {})
    if not meta.get("name"):
        raise bad_request(f"the name of the object ({name} based on URL) was undeterminable: name must be provided")
    if meta["name"] != name:
        raise bad_request(f"the name of the object ({meta['name']}) does not match the name on the URL ({name})")
    check_namespace(obj, namespace)


def check_namespace(obj: Manifest, namespace: str) -> None:
    """Raises StatusError 400 when a body names another namespace than the URL."""
    meta = obj.setdefault("metadata", {})
    if meta.get("namespace") and meta["namespace"] != namespace:
        raise bad_request("the namespace of the provided object does not match the namespace sent on the request")
