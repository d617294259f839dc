# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Namespaces: what every new one holds, and how one is emptied before it goes.

Two controllers, because the second one needs to see every kind that is served and has to be made anew when a kind comes
or goes, while the first does not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial

from kaito.engine.controllers.status import stamped, status_patch
from kaito.kube.manifest import Key, Manifest, is_deleting, key_of
from kaito.kube.plan import Controller, Create, Delete, Patch, Plan, Reader, Watch, no_keys
from kaito.kube.resource import CONFIG_MAPS, NAMESPACES, SERVICE_ACCOUNTS, Resource

ROOT_CA = "kube-root-ca.crt"
FINALIZER = "kubernetes"
# How soon to look again at a namespace that is being emptied: its contents do not wake this controller
POLL_S = 0.5


@dataclass(frozen=True, slots=True)
class Fresh:
    """A namespace, the authority that its pods trust, and which of its standard objects are missing."""

    namespace: Manifest
    root_ca: Manifest | None
    has_account: bool
    authority: str


def furnisher(authority: str) -> Controller[Fresh]:
    """The controller that gives every namespace its default ServiceAccount and the server's CA certificate (PEM)."""
    return Controller(
        name="namespace-furnisher",
        resource=NAMESPACES,
        observe=partial(_observe_fresh, authority=authority),
        plan=_furnish,
        watches=(Watch(SERVICE_ACCOUNTS, _named("default")), Watch(CONFIG_MAPS, _named(ROOT_CA))),
    )


def _named(name: str) -> Callable[[Manifest], list[Key]]:
    """Keys for a Watch: the namespace of objects that have this name."""

    def keys(obj: Manifest) -> list[Key]:
        meta = obj["metadata"]
        return [Key("", meta["namespace"])] if meta["name"] == name else []

    return keys


def _observe_fresh(reader: Reader, key: Key, *, authority: str) -> Fresh | None:
    namespace = reader.get(NAMESPACES, key.name)
    if namespace is None or is_deleting(namespace):
        return None
    account = reader.get(SERVICE_ACCOUNTS, "default", key.name)
    return Fresh(namespace, reader.get(CONFIG_MAPS, ROOT_CA, key.name), account is not None, authority)


def _furnish(observed: Fresh, now: datetime) -> Plan:
    meta = {"namespace": observed.namespace["metadata"]["name"]}
    create: list[Create] = []
    patches: list[Patch] = []
    if not observed.has_account:
        create.append(Create({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default", **meta}}))
    wanted = {"ca.crt": observed.authority}
    if observed.root_ca is None:
        manifest = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": ROOT_CA, **meta}, "data": wanted}
        create.append(Create(manifest))
    elif observed.root_ca.get("data") != wanted:
        patches.append(Patch(CONFIG_MAPS, key_of(observed.root_ca), {"data": wanted}))
    return Plan(create=tuple(create), patches=tuple(patches))


@dataclass(frozen=True, slots=True)
class Leaving:
    """A namespace that is being deleted, and what is left in it."""

    namespace: Manifest
    contents: tuple[tuple[Resource, Manifest], ...]


def emptier(resources: Sequence[Resource]) -> Controller[Leaving]:
    """The controller that deletes the contents of a namespace that goes; `resources`: everything that is served."""
    namespaced = tuple(resource for resource in resources if resource.namespaced)
    return Controller(
        name="namespace-controller",
        resource=NAMESPACES,
        observe=partial(_observe_leaving, resources=namespaced),
        plan=_empty,
        watches=tuple(Watch(resource, no_keys, metadata_only=True) for resource in namespaced),
    )


def _observe_leaving(reader: Reader, key: Key, *, resources: tuple[Resource, ...]) -> Leaving | None:
    namespace = reader.get(NAMESPACES, key.name)
    if namespace is None or not is_deleting(namespace):
        return None
    found = ((resource, obj) for resource in resources for obj in reader.list(resource, key.name))
    return Leaving(namespace, tuple(found))


def _empty(observed: Leaving, now: datetime) -> Plan:
    """Deletes everything, says what is left, and lets the namespace go when nothing is."""
    namespace = observed.namespace
    if FINALIZER not in (namespace["spec"].get("finalizers") or []):
        return Plan()
    status = {**(namespace.get("status") or {}), "phase": "Terminating", "conditions": _conditions(observed, now)}
    reported = status_patch(NAMESPACES, namespace, status)
    doomed = tuple(
        Delete(resource, key_of(obj), obj["metadata"]["uid"])
        for resource, obj in observed.contents
        if not is_deleting(obj)
    )
    if observed.contents or reported:
        # the report makes a round trip through the server before the end, so that late arrivals are seen
        return Plan(patches=reported, delete=doomed, requeue_after_s=POLL_S)
    left = [name for name in namespace["spec"]["finalizers"] if name != FINALIZER]
    return Plan(patches=(Patch(NAMESPACES, key_of(namespace), {"spec": {"finalizers": left}}, subresource="finalize"),))


def _conditions(observed: Leaving, now: datetime) -> list[Manifest]:
    """The five conditions of a namespace that goes, in Kubernetes' words."""
    remaining = Counter(f"{r.plural}.{r.group}" if r.group else f"{r.plural}." for r, _ in observed.contents)
    holders = Counter(name for _, obj in observed.contents for name in obj["metadata"].get("finalizers") or [])
    things = ", ".join(f"{kind} has {count} resource instances" for kind, count in sorted(remaining.items()))
    holding = ", ".join(f"{name} in {count} resource instances" for name, count in sorted(holders.items()))
    rows = [
        ("NamespaceDeletionDiscoveryFailure", False, "ResourcesDiscovered", "All resources successfully discovered"),
        (
            "NamespaceDeletionGroupVersionParsingFailure",
            False,
            "ParsedGroupVersions",
            "All legacy kube types successfully parsed",
        ),
        (
            "NamespaceDeletionContentFailure",
            False,
            "ContentDeleted",
            "All content successfully deleted, may be waiting on finalization",
        ),
        (
            "NamespaceContentRemaining",
            bool(things),
            "SomeResourcesRemain" if things else "ContentRemoved",
            f"Some resources are remaining: {things}" if things else "All content successfully removed",
        ),
        (
            "NamespaceFinalizersRemaining",
            bool(holding),
            "SomeFinalizersRemain" if holding else "ContentHasNoFinalizers",
            f"Some content in the namespace has finalizers remaining: {holding}"
            if holding
            else "All content-preserving finalizers finished",
        ),
    ]
    current = (observed.namespace.get("status") or {}).get("conditions") or []
    return [
        stamped({"type": kind, "status": str(is_so), "reason": reason, "message": message}, current, now)
        for kind, is_so, reason, message in rows
    ]
