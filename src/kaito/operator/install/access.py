# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""What the operator needs to be allowed, from what it does: its watches, and the table of what its plans write.

Tests hold the table against what plans really hold, and against an API server that enforces it. There is no Secret in
it but one of the operator's own, in its own namespace.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping

from kaito.api.meta import WORKSPACES
from kaito.kube.manifest import Manifest
from kaito.kube.resource import (
    CONFIG_MAPS,
    CONTROLLER_REVISIONS,
    CUSTOM_RESOURCE_DEFINITIONS,
    DEPLOYMENTS,
    EVENTS,
    JOBS,
    LEASES,
    NODES,
    PODS,
    SECRETS,
    SERVICES,
    STATEFUL_SETS,
    VALIDATING_WEBHOOKS,
    Resource,
)
from kaito.operator.admission import WEBHOOK_NAME
from kaito.operator.authority import SECRET
from kaito.operator.facts import catalogue_lookup
from kaito.operator.hooks import CRD_NAME
from kaito.operator.provisioners.survey import Provisioner
from kaito.operator.settings import Settings
from kaito.operator.workspace.controller import workspace_controller

READ = ("list", "watch")
"""What a cache does; nothing is read object by object."""
WRITES: Mapping[Resource, tuple[str, ...]] = {
    WORKSPACES: ("patch",),
    STATEFUL_SETS: ("create", "patch"),
    JOBS: ("create", "patch", "delete"),
    DEPLOYMENTS: ("delete",),
    PODS: ("delete",),
    CONTROLLER_REVISIONS: ("create", "delete"),
    SERVICES: ("create", "patch"),
    CONFIG_MAPS: ("create", "patch"),
    EVENTS: ("create", "patch"),
}
"""What plans do to each kind, wherever nodes come from. Server-side apply is `patch`, and `create` of what is new."""
ORDERS = ("create", "patch", "delete")
"""What is done to the kinds that nodes are ordered with."""
SUBRESOURCES = (
    # Owners that block their own deletion may be set only by who may finalise them.
    ("workspaces/finalizers", "update"),
    ("workspaces/status", "patch"),
)


def cluster_rules(provisioner: Provisioner) -> list[Manifest]:
    """The rules of the ClusterRole, each kind's verbs in one, kinds with the same verbs together."""
    controller = workspace_controller(Settings(), provisioner, catalogue_lookup)
    verbs: dict[tuple[str, str], dict[str, None]] = defaultdict(dict)
    for resource in (controller.resource, *(watch.resource for watch in controller.watches)):
        verbs[resource.group, resource.plural] |= dict.fromkeys(READ)
    for resource, allowed in WRITES.items():
        verbs[resource.group, resource.plural] |= dict.fromkeys(allowed)
    for resource in provisioner.kinds:
        verbs[resource.group, resource.plural] |= dict.fromkeys(ORDERS)
    for name, verb in SUBRESOURCES:
        verbs[WORKSPACES.group, name][verb] = None
    # What a fine-tuning says of its progress.
    verbs[PODS.group, "pods/log"]["get"] = None
    if provisioner.orders:
        verbs[NODES.group, NODES.plural]["patch"] = None
    together: dict[tuple[str, tuple[str, ...]], list[str]] = defaultdict(list)
    for (group, plural), allowed_verbs in verbs.items():
        together[group, tuple(allowed_verbs)].append(plural)
    rules = [_rule(group, plurals, allowed) for (group, allowed), plurals in sorted(together.items())]
    return [*rules, *_own_registration()]


def _own_registration() -> Iterable[Manifest]:
    """Objects of the cluster that are the operator's own, by name: they are installed beside it."""
    for resource, name in ((VALIDATING_WEBHOOKS, WEBHOOK_NAME), (CUSTOM_RESOURCE_DEFINITIONS, CRD_NAME)):
        yield {**_rule(resource.group, [resource.plural], ("get", "patch")), "resourceNames": [name]}


def namespace_rules() -> list[Manifest]:
    """The rules of the Role in the operator's namespace: who leads, and the authority of the webhook."""
    return [
        _rule(LEASES.group, [LEASES.plural], ("create", "get", "update")),
        {**_rule(SECRETS.group, [SECRETS.plural], ("get", "update")), "resourceNames": [SECRET]},
    ]


def _rule(group: str, plurals: Iterable[str], verbs: Iterable[str]) -> Manifest:
    return {"apiGroups": [group], "resources": sorted(plurals), "verbs": sorted(verbs)}
