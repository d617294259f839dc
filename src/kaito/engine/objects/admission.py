# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Who has a say in a write besides validation: the namespace's life, a definition's end, and admission webhooks.

The rules that need no network are `check`; the webhooks are asked in `kaito.engine.objects.webhooks`.
"""

from __future__ import annotations

from kaito.engine.kinds import Kind
from kaito.engine.objects.escalation import check_escalation
from kaito.engine.objects.limits import check_limits, fill_in
from kaito.engine.objects.priorities import with_priority
from kaito.engine.objects.quotas import check_quotas
from kaito.engine.objects.registry import Registry
from kaito.engine.objects.serviceaccounts import with_account
from kaito.engine.objects.webhooks import Webhooks
from kaito.engine.storage.events import Record
from kaito.engine.wire.codec import decode
from kaito.engine.wire.context import WriteContext
from kaito.engine.wire.status import StatusError, forbidden, not_found
from kaito.kube.manifest import Manifest, condition_of

UNDELETABLE = frozenset(("default", "kube-system", "kube-public"))


class Admission:
    """Admission as the registry asks for it."""

    def __init__(self, registry: Registry, webhooks: Webhooks, *, gives_tokens: bool = False) -> None:
        """`gives_tokens`: new pods get what their ServiceAccount has for them."""
        self._registry, self._webhooks, self._gives_tokens = registry, webhooks, gives_tokens
        self._namespaces = registry.kind("", "namespaces")

    def check(self, operation: str, kind: Kind, namespace: str, obj: Manifest | None, *, subresource: str = "") -> None:
        """Raises StatusError 403 or 404 when the place or the kind does not take the write."""
        name = ((obj or {}).get("metadata") or {}).get("name", "")
        if operation == "DELETE":
            if kind.collection == "/namespaces" and name in UNDELETABLE:
                raise forbidden(kind, name, "this namespace may not be deleted")
            return
        if operation == "CREATE":
            if kind.namespaced:
                self._check_namespace(kind, namespace, name)
            if kind.is_custom:
                _check_definition(kind, name)

    def _check_namespace(self, kind: Kind, namespace: str, name: str) -> None:
        record = self._registry.store.get("/namespaces", "", namespace)
        if record is None:
            raise not_found(self._namespaces, namespace)
        if _is_deleting(record):
            text = f"unable to create new content in namespace {namespace} because it is being terminated"
            cause = {
                "reason": "NamespaceTerminating",
                "message": f"namespace {namespace} is being terminated",
                "field": "metadata.namespace",
            }
            raise forbidden(kind, name, text, causes=[cause])

    def fill_in(self, kind: Kind, namespace: str, obj: Manifest) -> Manifest:
        """A new object with what its namespace's LimitRanges, its priority class and its ServiceAccount give it.

        Raises StatusError.
        """
        filled = with_priority(self._registry, kind, fill_in(self._registry, kind, namespace, obj))
        return with_account(self._registry, kind, namespace, filled) if self._gives_tokens else filled

    def check_rights(self, kind: Kind, obj: Manifest, old: Manifest | None, ctx: WriteContext) -> None:
        """Raises StatusError 403 when the write would grant rights that its user has not."""
        check_escalation(self._registry, kind, obj, old, ctx.user)

    def check_room(self, kind: Kind, namespace: str, obj: Manifest) -> None:
        """Raises StatusError 403 when a LimitRange forbids a new object, or a quota has no room for it."""
        if kind.namespaced:
            check_limits(self._registry, kind, namespace, obj)
            check_quotas(self._registry, kind, namespace, obj)

    def concerns(self, operation: str, kind: Kind, namespace: str, subresource: str) -> bool:
        return self._webhooks.concern(operation, kind, subresource)

    async def mutate(
        self,
        operation: str,
        kind: Kind,
        obj: Manifest | None,
        old: Manifest | None,
        ctx: WriteContext,
        *,
        subresource: str,
    ) -> Manifest | None:
        return await self._webhooks.mutate(operation, kind, obj, old, ctx, subresource=subresource)

    async def validate(
        self,
        operation: str,
        kind: Kind,
        obj: Manifest | None,
        old: Manifest | None,
        ctx: WriteContext,
        *,
        subresource: str,
    ) -> None:
        await self._webhooks.validate(operation, kind, obj, old, ctx, subresource=subresource)


def _is_deleting(record: Record) -> bool:
    """Whether the stored object is being deleted; found out once for each record."""
    found: bool | None = record.known("deleting")
    if found is None:
        found = bool(decode(record.value)["metadata"].get("deletionTimestamp"))
        record.remember("deleting", found)
    return found


def _check_definition(kind: Kind, name: str) -> None:
    assert kind.definition is not None
    if condition_of(kind.definition, "Terminating") or kind.definition["metadata"].get("deletionTimestamp"):
        raise _terminating(kind, name)


def _terminating(kind: Kind, name: str) -> StatusError:
    return forbidden(kind, name, "create not allowed while custom resource definition is terminating")
