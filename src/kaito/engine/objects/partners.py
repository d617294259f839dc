# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""What the registry asks of others in a write: admission, and the conversion of versions.

They know the registry, so it knows them by these alone; `kaito.engine.app` brings both together.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from kaito.engine.kinds import Kind
from kaito.engine.storage.events import Record
from kaito.engine.wire.context import WriteContext
from kaito.kube.manifest import Manifest


class Admission(Protocol):
    """Who has a say in writes besides validation (`kaito.engine.objects.admission`)."""

    def check(self, operation: str, kind: Kind, namespace: str, obj: Manifest | None, *, subresource: str = "") -> None:
        """The rules that need no network: raises StatusError."""

    def fill_in(self, kind: Kind, namespace: str, obj: Manifest) -> Manifest:
        """A new object with its namespace's defaults, before webhooks see it. Raises StatusError."""

    def check_rights(self, kind: Kind, obj: Manifest, old: Manifest | None, ctx: WriteContext) -> None:
        """Whether the user may grant what the object grants: raises StatusError."""

    def check_room(self, kind: Kind, namespace: str, obj: Manifest) -> None:
        """Whether limits and quotas have room for a new object, right before it is stored: raises StatusError."""

    def concerns(self, operation: str, kind: Kind, namespace: str, subresource: str) -> bool:
        """Whether a webhook might be asked."""

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
        """The object as the mutating webhooks want it. Raises StatusError."""

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
        """Ask the validating webhooks. Raises StatusError."""


class Versions(Protocol):
    """Converts custom objects by webhooks (`kaito.engine.objects.versions`)."""

    async def ready(self, kind: Kind, records: Iterable[Record], *, anew: bool = False) -> None:
        """Convert the records for the kind's version. Raises StatusError."""

    async def stored(self, kind: Kind, obj: Manifest) -> Manifest:
        """The object in the storage version. Raises StatusError."""

    async def converted(self, kind: Kind, objects: list[Manifest], target: Kind) -> list[Manifest]:
        """The objects in the target's version, which a webhook gives. Raises StatusError."""
