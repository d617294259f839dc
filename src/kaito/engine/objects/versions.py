# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Custom objects in another version of their kind, where a webhook does the converting (`spec.conversion`).

`Registry.view` is synchronous, so whoever reads such a kind asks `ready` first, which has the webhook convert what was
not converted before and leaves the result with the record. Kinds without a conversion webhook never get here.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable

from kaito.engine.kinds import Kind, Kinds
from kaito.engine.objects.strategy import Custom, Strategies
from kaito.engine.objects.webhookcall import Caller, CallFailed
from kaito.engine.schema.conversionreview import ConversionFailed, converted_objects, review_of
from kaito.engine.storage.events import Record
from kaito.engine.wire.codec import decode, encode
from kaito.engine.wire.status import StatusError
from kaito.kube.manifest import Manifest

TIMEOUT_S = 30
"""How long a conversion may take; there is no field for it (apiserver/conversion's webhook client)."""


class Versions:
    """Converts custom objects between versions."""

    def __init__(self, kinds: Kinds, strategies: Strategies, caller: Caller) -> None:
        self._kinds, self._strategies, self._caller = kinds, strategies, caller

    async def ready(self, kind: Kind, records: Iterable[Record], *, anew: bool = False) -> None:
        """Make `Registry.view` work for the records. `anew`: ask again about what was converted before.

        Raises StatusError 500 when the webhook fails.
        """
        if not converts_by_webhook(kind):
            return
        key = (kind.version, self._kinds.generation)
        waiting = [record for record in records if anew or record.known(key) is None]
        if not waiting:
            return
        shown = await self.converted(kind, [decode(record.value) for record in waiting], kind)
        for record, obj in zip(waiting, shown, strict=True):
            record.remember(key, encode(obj, kind))

    async def stored(self, kind: Kind, obj: Manifest) -> Manifest:
        """The object, which is of the kind's version, in the version that is stored. Raises StatusError 500."""
        target = self._strategies.storage_kind(kind)
        if not converts_by_webhook(kind):
            return self._strategies.of(target).stored(obj)
        return (await self.converted(kind, [obj], target, defaulted=True))[0]

    async def converted(
        self, kind: Kind, objects: list[Manifest], target: Kind, *, defaulted: bool = False
    ) -> list[Manifest]:
        """The objects in the target's version: defaulted by their own version's schema, pruned by the target's."""
        strategy = self._strategies.of(target)
        assert isinstance(strategy, Custom)
        ready = objects if defaulted else [strategy.with_own_defaults(obj) for obj in objects]
        others = [obj for obj in ready if obj["apiVersion"] != target.api_version]
        found = iter(await self._asked(kind, others, target.api_version) if others else [])
        shown = [obj if obj["apiVersion"] == target.api_version else next(found) for obj in ready]
        return [strategy.pruned(obj) for obj in shown]

    async def _asked(self, kind: Kind, objects: list[Manifest], api_version: str) -> list[Manifest]:
        assert kind.definition is not None
        webhook = kind.definition["spec"]["conversion"]["webhook"]
        review = review_of(objects, api_version, webhook["conversionReviewVersions"], uid=str(uuid.uuid4()))
        about = f"{objects[0]['apiVersion']}, Kind={kind.kind}"
        try:
            answer = await self._caller.post(webhook["clientConfig"], review, timeout_s=TIMEOUT_S)
            return converted_objects(review, answer)
        except (CallFailed, ConversionFailed) as error:
            verb = "" if getattr(error, "is_verb", False) else "failed: "
            raise StatusError(500, "", f"conversion webhook for {about} {verb}{error}") from None


def converts_by_webhook(kind: Kind) -> bool:
    """Whether the kind's other versions come from a webhook."""
    if kind.definition is None:
        return False
    return (kind.definition["spec"].get("conversion") or {}).get("strategy") == "Webhook"
