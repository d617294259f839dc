# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""What a planning module needs to import: what it may read, and the value that says what to do.

The seam of every controller, ours and the embedded engine's:

    observe(reader, key) -> Observed | None     reads the local cache, nothing else
    plan(observed, now)  -> Plan                pure and total: bad input becomes a condition, never an exception
    apply                                       `kaito.kube.apply` carries the Plan out, `kaito.kube.controller` loops

Everything here is a value. Nothing here does I/O.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Generic, Literal, Protocol, TypeVar

from kaito.kube.manifest import Key, Manifest, controller_of, key_of
from kaito.kube.resource import Resource

Observed = TypeVar("Observed")


class Reader(Protocol):
    """A read-only view of the local cache. Every resource asked for must be one that the controller watches.

    What it returns is shared with the cache: never change it.
    """

    def get(self, resource: Resource, name: str, namespace: str = "") -> Manifest | None:
        """The object, or None when it is not there."""

    def owned_by(self, resource: Resource, uid: str) -> list[Manifest]:
        """The objects whose controlling owner has this uid (an index: cheap)."""

    def about(self, resource: Resource, kind: str, key: Key) -> list[Manifest]:
        """The objects (Events) whose `involvedObject` is of this kind and name (an index: cheap)."""

    def on_node(self, resource: Resource, name: str) -> list[Manifest]:
        """The objects (pods) that are bound to the node of this name (an index: cheap)."""

    def list(
        self, resource: Resource, namespace: str | None = None, *, labels: Mapping[str, str] | None = None
    ) -> list[Manifest]:
        """The objects, sorted by namespace and name; all namespaces when none is given."""

    def serves(self, resource: Resource) -> bool:
        """Whether the server has the kind. Only one that is watched as optional can be missing."""


@dataclass(frozen=True, slots=True)
class Delete:
    """Delete this very object (uid given), or whatever has the name."""

    resource: Resource
    key: Key
    uid: str | None = None
    propagation: Literal["Background", "Foreground", "Orphan"] = "Background"
    grace_period_s: int | None = None


@dataclass(frozen=True, slots=True)
class Patch:
    """A JSON merge patch of one object. Put resourceVersion into `body.metadata` to make it conditional."""

    resource: Resource
    key: Key
    body: Manifest
    subresource: str | None = None


@dataclass(frozen=True, slots=True)
class Create:
    """POST a manifest once; that it exists already is success. `subresource`: post to `<pod>/binding` and the like."""

    manifest: Manifest
    subresource: tuple[Resource, Key, str] | None = None


@dataclass(frozen=True, slots=True)
class Event:
    """An event about an object: `kubectl describe` shows it. Repeats are counted, not multiplied."""

    about: Manifest
    reason: str
    message: str
    type: Literal["Normal", "Warning"] = "Normal"


@dataclass(frozen=True, slots=True)
class Plan:
    """What should be done for one object, in this order: patches, applies, creates, deletes, status, events,
    calls.

    An apply or a status that would change nothing compared with the cache is not sent.
    """

    patches: tuple[Patch, ...] = ()
    apply: tuple[Manifest, ...] = ()
    """Manifests to server-side apply with force; the field manager is the controller's name."""
    create: tuple[Create, ...] = ()
    delete: tuple[Delete, ...] = ()
    status: Manifest | None = None
    """The whole status of the reconciled object that this controller owns; None leaves it alone."""
    events: tuple[Event, ...] = ()
    calls: tuple[Any, ...] = ()
    """What to ask of the controller's `outside` when all of the above is written."""
    requeue_after_s: float | None = None
    """Plan again after this time even if nothing changed (a deadline, a poll of the outside)."""
    refused: Callable[[Manifest, str], Plan] | None = field(default=None, compare=False)
    """What to do in place of the rest when the server refuses a manifest that should be applied or created, given that
    and what it said. The key is tried again with backoff all the same."""


class Outside(Protocol):
    """Something beyond the cluster that a controller works on, such as a cloud.

    What is known of it is read while observing; nothing there waits. A plan says what to ask of it.
    """

    async def carry_out(self, call: Any) -> None:
        """Do what a plan asks for. What comes of it, failures included, is kept to be observed, and wakes the key."""

    def subscribe(self, wake: Callable[[Key], None]) -> Callable[[], None]:
        """From now on tell which keys a change out there wakes; the result ends that."""


class RetryLater(Exception):
    """Raised while observing or applying: try the key again with backoff. The message goes to the log."""


class Terminal(Exception):
    """Raised when trying again without a change of the object is useless."""


@dataclass(frozen=True, slots=True)
class Watch:
    """Another resource whose changes wake the controller, and which keys a change of it wakes."""

    resource: Resource
    keys: Callable[[Manifest], Iterable[Key]]
    label_selector: str | None = None
    field_selector: str | None = None
    optional: bool = False
    """The server may not have the kind (yet): then there are no objects of it, and `Reader.serves` says so."""
    metadata_only: bool = False
    """The controller looks at nothing but metadata, so nothing else need be kept of the objects."""
    keeps: tuple[str, ...] = ()
    """The fields of `spec` and `status` that the controller looks at, as `spec.nodeName`; all when none is named.
    Nothing else of the two is kept: a pod or a node of a real cluster has many kilobytes that nobody asks for."""


def owner_keys(kind: str) -> Callable[[Manifest], Iterable[Key]]:
    """For a Watch: wakes the controlling owner if it is of this kind and in the same namespace."""

    def keys(obj: Manifest) -> Iterable[Key]:
        reference = controller_of(obj)
        if reference is not None and reference["kind"] == kind:
            yield Key(key_of(obj).namespace, reference["name"])

    return keys


def no_keys(obj: Manifest) -> Iterable[Key]:
    """For a Watch on something that is only read: its changes wake nobody."""
    return ()


@dataclass(frozen=True, slots=True)
class Controller(Generic[Observed]):
    """One reconcile loop, as a value. `kaito.kube.controller.Manager` runs it."""

    name: str
    """Field manager, event source and log name."""
    resource: Resource
    observe: Callable[[Reader, Key], Observed | None]
    """None means that the object is gone and nothing is left to do."""
    plan: Callable[[Observed, datetime], Plan]
    watches: tuple[Watch, ...] = ()
    workers: int = 4
    label_selector: str | None = None
    known: tuple[Resource, ...] = field(default=())
    """Resources beyond `resource` and the watched ones whose manifests the plan may hold."""
    outside: Outside | None = None
    """Who carries out the plan's calls."""
