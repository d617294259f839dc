# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Everything that one Workspace's plan depends on, read from the cache in one go.

The only module here that reads. `Observed` is a value: tests build it by hand, `plan.py` decides on it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

from kaito.api.contracts import BenchmarkResult, StartProgress, TuneProgress
from kaito.api.meta import WORKSPACES, InvalidObject
from kaito.api.names import COMPLETION_INDEX_LABEL, WORKSPACE_LABEL
from kaito.api.workspace import Workspace
from kaito.catalog.models import ModelFacts
from kaito.kube.manifest import Key, Manifest, is_deleting, key_of, labels_of
from kaito.kube.plan import Reader
from kaito.kube.resource import (
    CONFIG_MAPS,
    CONTROLLER_REVISIONS,
    DEPLOYMENTS,
    EVENTS,
    JOBS,
    NODES,
    PERSISTENT_VOLUME_CLAIMS,
    PODS,
    SERVICES,
    STATEFUL_SETS,
    Resource,
)
from kaito.operator.provisioners.survey import Provisioner
from kaito.operator.provisioners.trouble import node_of
from kaito.operator.workspace.containers import claim_names
from kaito.operator.workspace.performance import measuring_pod
from kaito.operator.workspace.starting import container_of, starting_pod
from kaito.operator.workspace.together import Rival


@dataclass(frozen=True, slots=True)
class UnknownPreset:
    """A preset name that stands for no model; the message says which names are near."""

    message: str
    may_be_private: bool = False
    """A hub shows no such model to us; it may to somebody with a token."""


@dataclass(frozen=True, slots=True)
class FactsPending:
    """A hub is being asked about a model; the message says so."""

    message: str


Lookup = Callable[[str], ModelFacts | UnknownPreset | FactsPending]
"""The model of a preset name. Answers at once: it reads what is known and waits for nothing."""


@dataclass(frozen=True, slots=True)
class Heard:
    """What pods say of themselves, as far as it is known. Asking has the pod's log looked at."""

    progress: Callable[[Manifest], TuneProgress | None] = lambda pod: None
    """How far a tuning is."""
    result: Callable[[Manifest], BenchmarkResult | None] = lambda pod: None
    """How fast a model server is."""
    start: Callable[[Manifest, str], StartProgress | None] = lambda pod, container: None
    """How far a model server's start is."""


@dataclass(frozen=True, slots=True)
class Tuned:
    """A Workspace whose result is to be an adapter of another one."""

    name: str
    manifest: Manifest | None
    """None: there is no such Workspace."""
    workspace: Workspace | None = None
    """None too where it cannot be read."""
    model: ModelFacts | UnknownPreset | FactsPending | None = None


@dataclass(frozen=True, slots=True)
class Observed:
    """One Workspace and its surroundings, as the cache has them."""

    manifest: Manifest
    """The Workspace as the server sent it."""
    workspace: Workspace | None
    """The same as a typed value; None when it cannot be read as one."""
    unreadable: str = ""
    """Why it cannot: each wrong field with what is wrong with it."""
    model: ModelFacts | UnknownPreset | FactsPending | None = None
    """What the preset stands for; None without a preset."""
    revisions: tuple[Manifest, ...] = ()
    stateful_set: Manifest | None = None
    deployment: Manifest | None = None
    services: tuple[Manifest, ...] = ()
    """Those that exist under the names that we use, whoever made them."""
    serve_config: Manifest | None = None
    pods: tuple[Manifest, ...] = ()
    nodes: tuple[Manifest, ...] = ()
    """Those that may matter to it."""
    user_config: Manifest | None = None
    """The ConfigMap that `inference.config` or `tuning.config` names."""
    job: Manifest | None = None
    """The Job of this name, whoever made it."""
    tune_config: Manifest | None = None
    progress: TuneProgress | None = None
    """What the tuning's pod last said in its log."""
    starting: Manifest | None = None
    """The pod whose model server starts."""
    started: StartProgress | None = None
    """How far it is, as it last said in its log."""
    measuring: Manifest | None = None
    """The pod whose model server measures itself."""
    measured: BenchmarkResult | None = None
    """What it found, once it said so."""
    orders: tuple[Manifest, ...] = ()
    """What its nodes were ordered with."""
    served: frozenset[Resource] = frozenset()
    """The kinds that nodes can be ordered with here."""
    tuned: tuple[Tuned, ...] = ()
    """The Workspaces that its adapters name."""
    rivals: Callable[[], Sequence[Rival]] = tuple
    """The Workspaces that may take several of the nodes that anybody may take: a look at all there are, which only who
    needs several nodes has to take."""
    warnings: tuple[Manifest, ...] = ()
    """The Warning events about the StatefulSet, the pods, their volume claims and the orders."""


@dataclass(frozen=True, slots=True)
class Orphans:
    """Orders of a Workspace that is gone."""

    orders: tuple[Manifest, ...]


def serve_config_name(workspace: str) -> str:
    """The name of the ConfigMap with our ServeConfig."""
    return f"{workspace}-serve"


def tune_config_name(workspace: str) -> str:
    """The name of the ConfigMap with our TuneConfig."""
    return f"{workspace}-tune"


def headless_name(workspace: str) -> str:
    """The name of the Service that gives the pods their DNS names."""
    return f"{workspace}-headless"


def observe(
    reader: Reader, key: Key, lookup: Lookup, provisioner: Provisioner, heard: Heard | None = None
) -> Observed | Orphans | None:
    """What there is to know about the Workspace; when it is gone, the orders that it left behind, or None."""
    heard = heard or Heard()
    manifest = reader.get(WORKSPACES, key.name, key.namespace)
    orders = tuple(_orders(reader, key, provisioner))
    if manifest is None:
        return Orphans(orders) if orders else None
    try:
        workspace, unreadable = Workspace.parse(manifest), ""
    except InvalidObject as error:
        workspace, unreadable = None, str(error)
    preset = workspace.preset if workspace else None
    pods = tuple(reader.list(PODS, key.namespace, labels={WORKSPACE_LABEL: key.name}))
    job = _read(reader, JOBS, key, key.name)
    stateful_set = _read(reader, STATEFUL_SETS, key, key.name)
    serve_config = _read(reader, CONFIG_MAPS, key, serve_config_name(key.name))
    measuring = measuring_pod(manifest, stateful_set, serve_config, pods)
    starting = starting_pod(manifest, stateful_set, pods)
    services = (_read(reader, SERVICES, key, name) for name in (key.name, headless_name(key.name)))
    return Observed(
        manifest=manifest,
        workspace=workspace,
        unreadable=unreadable,
        model=lookup(preset.name) if preset else None,
        revisions=tuple(reader.owned_by(CONTROLLER_REVISIONS, manifest["metadata"]["uid"])),
        stateful_set=stateful_set,
        deployment=_read(reader, DEPLOYMENTS, key, key.name),
        services=tuple(service for service in services if service is not None),
        serve_config=serve_config,
        pods=pods,
        nodes=tuple(_nodes(reader, key, workspace, orders, provisioner)),
        user_config=_user_config(reader, key, workspace),
        job=job,
        tune_config=_read(reader, CONFIG_MAPS, key, tune_config_name(key.name)),
        progress=_progress(job, pods, heard),
        starting=starting,
        started=heard.start(starting, container_of(starting)) if starting is not None else None,
        measuring=measuring,
        measured=heard.result(measuring) if measuring is not None else None,
        orders=orders,
        served=frozenset(kind for kind in provisioner.kinds if reader.serves(kind)),
        tuned=tuple(_tuned(reader, key, name, lookup) for name in named_workspaces(workspace)),
        rivals=partial(_rivals, reader, key),
        warnings=tuple(_warnings(reader, key, pods, orders)),
    )


def named_workspaces(workspace: Workspace | None) -> tuple[str, ...]:
    """The Workspaces whose results it serves, each once."""
    adapters = workspace.inference.adapters if workspace is not None and workspace.inference is not None else ()
    return tuple(dict.fromkeys(one.source.workspace for one in adapters if one.source and one.source.workspace))


def _tuned(reader: Reader, key: Key, name: str, lookup: Lookup) -> Tuned:
    manifest = _read(reader, WORKSPACES, key, name)
    if manifest is None:
        return Tuned(name, None)
    try:
        workspace = Workspace.parse(manifest)
    except InvalidObject:
        return Tuned(name, manifest)
    preset = workspace.preset
    return Tuned(name, manifest, workspace, lookup(preset.name) if preset else None)


def _rivals(reader: Reader, key: Key) -> Sequence[Rival]:
    found = []
    for other in reader.list(WORKSPACES):
        place = key_of(other)
        if place == key or is_deleting(other) or (other.get("resource") or {}).get("instanceType"):
            continue
        rival = Rival(other, reader.get(STATEFUL_SETS, place.name, place.namespace) is not None)
        if rival.target > 1 or not rival.is_known:
            found.append(rival)
    return found


def _warnings(reader: Reader, key: Key, pods: Iterable[Manifest], orders: Iterable[Manifest]) -> Iterable[Manifest]:
    subjects = {(STATEFUL_SETS.kind, key): None, (JOBS.kind, key): None}
    for pod in pods:
        subjects["Pod", key_of(pod)] = None
        subjects |= {(PERSISTENT_VOLUME_CLAIMS.kind, Key(key.namespace, name)): None for name in claim_names(pod)}
    subjects |= {(order["kind"], key_of(order)): None for order in orders}
    for kind, subject in subjects:
        yield from reader.about(EVENTS, kind, subject)


def _nodes(
    reader: Reader, key: Key, workspace: Workspace | None, orders: Iterable[Manifest], provisioner: Provisioner
) -> Iterable[Manifest]:
    """All nodes; where they are ordered, only those that are labelled as the Workspace's or came of its orders.

    A cluster may have as many nodes as Workspaces, so looking at all for each would be slow.
    """
    resource = workspace.resource if workspace else None
    if not provisioner.orders or resource is None or not resource.instance_type:
        return reader.list(NODES)
    owned = {key_of(node): node for node in reader.list(NODES, labels=provisioner.owner_labels(key))}
    for order in orders:
        node = reader.get(NODES, node_of(order)) if node_of(order) else None
        if node is not None:
            owned[key_of(node)] = node
    return [owned[name] for name in sorted(owned)]


def _orders(reader: Reader, key: Key, provisioner: Provisioner) -> Iterable[Manifest]:
    labels = provisioner.owner_labels(key)
    for kind in provisioner.kinds:
        yield from reader.list(kind, labels=labels)


def _read(reader: Reader, resource: Resource, key: Key, name: str) -> Manifest | None:
    return reader.get(resource, name, key.namespace)


def _user_config(reader: Reader, key: Key, workspace: Workspace | None) -> Manifest | None:
    part = (workspace.inference or workspace.tuning) if workspace else None
    name = part.config if part else ""
    return _read(reader, CONFIG_MAPS, key, name) if name else None


def _progress(job: Manifest | None, pods: Iterable[Manifest], heard: Heard) -> TuneProgress | None:
    if job is None:
        return None
    first = (pod for pod in pods if labels_of(pod).get(COMPLETION_INDEX_LABEL, "0") == "0")
    told = (heard.progress(pod) for pod in first if (pod.get("status") or {}).get("phase") == "Running")
    return next((found for found in told if found is not None), None)
