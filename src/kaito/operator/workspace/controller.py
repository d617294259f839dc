# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""The Workspace controller as a value: what it watches, how a change there finds its Workspaces, observe and plan.

`Interest` is the one thing that remembers: which Workspaces look at a ConfigMap or a Node, since neither of them says
so itself. It is filled while observing and only ever wakes too many, never too few.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime

from kaito.api.meta import WORKSPACES
from kaito.api.names import REVISION_NAME_LABEL, WORKSPACE_LABEL
from kaito.kube.manifest import Key, Manifest, key_of, labels_of
from kaito.kube.plan import Controller, Plan, Reader, Watch, owner_keys
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
)
from kaito.operator.provisioners.survey import Provisioner
from kaito.operator.settings import Settings
from kaito.operator.workspace.containers import claim_names
from kaito.operator.workspace.observe import (
    Heard,
    Lookup,
    Observed,
    Orphans,
    headless_name,
    observe,
    serve_config_name,
    tune_config_name,
)
from kaito.operator.workspace.ordering import orphans_returned
from kaito.operator.workspace.plan import plan

NAME = "kaito-workspace"
"""Field manager, event source and log name."""
WARNINGS = "type=Warning,involvedObject.kind!=Workspace"
"""The events that are watched: what others say of our pods and orders, and not what we say ourselves."""


class Interest:
    """Which Workspaces want to hear of objects that they do not own."""

    def __init__(self, provisioner: Provisioner) -> None:
        self._provisioner = provisioner
        self._config_maps: dict[Key, Key] = {}
        self._results: dict[Key, frozenset[Key]] = {}
        self._finding: dict[Key, None] = {}
        self._subjects: dict[tuple[str, Key], Key] = {}
        self._looked_at: dict[Key, tuple[tuple[str, Key], ...]] = {}

    def note(self, key: Key, observed: Observed | Orphans | None) -> None:
        """Remember what this Workspace looks at, or forget it when it is gone."""
        self._config_maps.pop(key, None)
        self._results.pop(key, None)
        self._finding.pop(key, None)
        for subject in self._looked_at.pop(key, ()):
            self._subjects.pop(subject, None)
        if not isinstance(observed, Observed):
            return
        resource = observed.workspace.resource if observed.workspace else None
        if not self._provisioner.orders or resource is None or not resource.instance_type:
            self._finding[key] = None
        workload = (observed.workspace.inference or observed.workspace.tuning) if observed.workspace else None
        if workload is not None and workload.config:
            self._config_maps[key] = Key(key.namespace, workload.config)
        if observed.tuned:
            self._results[key] = frozenset(Key(key.namespace, one.name) for one in observed.tuned)
        self._look_at(key, observed)

    def _look_at(self, key: Key, observed: Observed) -> None:
        claims = {Key(key.namespace, name) for pod in observed.pods for name in claim_names(pod)}
        subjects = [
            (STATEFUL_SETS.kind, key),
            (JOBS.kind, key),
            *(("Pod", key_of(pod)) for pod in observed.pods),
            *((PERSISTENT_VOLUME_CLAIMS.kind, claim) for claim in claims),
            *((order["kind"], key_of(order)) for order in observed.orders),
        ]
        self._looked_at[key] = tuple(subjects)
        self._subjects |= dict.fromkeys(subjects, key)

    def of_event(self, event: Manifest) -> Iterable[Key]:
        """The Workspace that looks at what the event is about."""
        about = event.get("involvedObject") or {}
        subject = (about.get("kind") or "", Key(about.get("namespace") or "", about.get("name") or ""))
        owner = self._subjects.get(subject)
        return () if owner is None else (owner,)

    def of_node(self, node: Manifest) -> Iterable[Key]:
        """Every Workspace that takes nodes as it finds them: any may become one of its nodes or cease to be.

        Where nodes are ordered, a node has one owner.
        """
        owner = self._provisioner.owner_of(node)
        return [*self._finding, *([owner] if owner is not None else [])]

    def of_workspace(self, workspace: Manifest) -> Iterable[Key]:
        """The Workspaces that serve its result."""
        key = key_of(workspace)
        return [serving for serving, tuned in self._results.items() if key in tuned]

    def of_config_map(self, config_map: Manifest) -> Iterable[Key]:
        """The Workspaces whose configuration it is."""
        key = key_of(config_map)
        return [workspace for workspace, wanted in self._config_maps.items() if wanted == key]


def workspace_controller(
    settings: Settings, provisioner: Provisioner, lookup: Lookup, heard: Heard | None = None
) -> Controller[Observed | Orphans]:
    """The controller that keeps Workspaces as they should be."""
    interest = Interest(provisioner)
    owner = owner_keys(WORKSPACES.kind)

    def observe_and_note(reader: Reader, key: Key) -> Observed | Orphans | None:
        observed = observe(reader, key, lookup, provisioner, heard)
        interest.note(key, observed)
        return observed

    def plan_one(observed: Observed | Orphans, now: datetime) -> Plan:
        if isinstance(observed, Orphans):
            return orphans_returned(observed.orders, provisioner, now)
        return plan(observed, settings, provisioner, now)

    def order_keys(order: Manifest) -> Iterable[Key]:
        owner = provisioner.owner_of(order)
        return () if owner is None else (owner,)

    def config_map_keys(config_map: Manifest) -> Iterable[Key]:
        ours = (_named(config_map, owner, suffix("")) for suffix in (serve_config_name, tune_config_name))
        return {*(key for keys in ours for key in keys), *interest.of_config_map(config_map)}

    return Controller(
        name=NAME,
        resource=WORKSPACES,
        observe=observe_and_note,
        plan=plan_one,
        watches=(
            Watch(WORKSPACES, interest.of_workspace),
            Watch(STATEFUL_SETS, lambda obj: _named(obj, owner)),
            Watch(JOBS, lambda obj: _named(obj, owner)),
            Watch(DEPLOYMENTS, owner),
            Watch(SERVICES, lambda obj: _named(obj, owner, headless_name(""))),
            Watch(CONTROLLER_REVISIONS, owner, label_selector=REVISION_NAME_LABEL),
            Watch(CONFIG_MAPS, config_map_keys),
            Watch(PODS, _pod_keys, label_selector=WORKSPACE_LABEL),
            Watch(NODES, interest.of_node),
            Watch(EVENTS, interest.of_event, field_selector=WARNINGS),
            *(Watch(kind, order_keys, optional=True) for kind in provisioner.kinds),
        ),
        workers=settings.workers,
    )


def _named(obj: Manifest, owner: Callable[[Manifest], Iterable[Key]], suffix: str = "") -> Iterable[Key]:
    """The owner, and the Workspace that uses this name: it may be waiting for the name to become free."""
    key = key_of(obj)
    name = key.name.removesuffix(suffix) if suffix else key.name
    return {*owner(obj), Key(key.namespace, name)}


def _pod_keys(pod: Manifest) -> Iterable[Key]:
    name = labels_of(pod).get(WORKSPACE_LABEL)
    return [Key(key_of(pod).namespace, name)] if name else []
