# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Whether a user may do it: role-based access control as Kubernetes has it, over the stored roles and bindings.

`system:masters` may do everything. The rules of a user are looked up at each request; administrators, the usual callers
of this engine, never get that far.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol

from kaito.engine.access.auth import SERVICE_ACCOUNT_PREFIX
from kaito.engine.kinds import Kind
from kaito.engine.wire.requests import Attributes, User
from kaito.engine.wire.status import StatusError
from kaito.kube.manifest import Manifest

GROUP = "rbac.authorization.k8s.io"

_EVERYTHING = [
    {"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]},
    {"nonResourceURLs": ["*"], "verbs": ["*"]},
]
_READ, _WRITE = ["get", "list", "watch"], ["create", "delete", "deletecollection", "patch", "update"]
_APPS = ["controllerrevisions", "daemonsets", "deployments", "replicasets", "statefulsets"]
_WORKLOADS: list[Manifest] = [
    {
        "apiGroups": [""],
        "resources": [
            "configmaps",
            "endpoints",
            "events",
            "persistentvolumeclaims",
            "pods",
            "pods/log",
            "pods/status",
            "services",
            "serviceaccounts",
        ],
    },
    {"apiGroups": ["apps"], "resources": [*_APPS, *(f"{name}/status" for name in _APPS), "deployments/scale"]},
    {"apiGroups": ["batch"], "resources": ["cronjobs", "jobs", "jobs/status"]},
    {"apiGroups": ["networking.k8s.io"], "resources": ["ingresses", "networkpolicies"]},
    {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"]},
    {"apiGroups": ["policy"], "resources": ["poddisruptionbudgets"]},
]
_VIEW = [{**rule, "verbs": _READ} for rule in _WORKLOADS]
_EDIT = [
    *({**rule, "verbs": [*_READ, *_WRITE]} for rule in _WORKLOADS),
    {
        "apiGroups": [""],
        "resources": ["secrets", "pods/attach", "pods/exec", "pods/portforward", "pods/proxy", "services/proxy"],
        "verbs": [*_READ, *_WRITE],
    },
]
_PUBLIC = ["/healthz", "/livez", "/readyz", "/version", "/version/"]
_DISCOVERY = ["/api", "/api/*", "/apis", "/apis/*", "/openapi", "/openapi/*", *_PUBLIC]
_SELF = [
    {
        "apiGroups": ["authorization.k8s.io"],
        "resources": ["selfsubjectaccessreviews", "selfsubjectrulesreviews"],
        "verbs": ["create"],
    },
    {"apiGroups": ["authentication.k8s.io"], "resources": ["selfsubjectreviews"], "verbs": ["create"]},
]

_ADMIN = [{"apiGroups": [GROUP], "resources": ["rolebindings", "roles"], "verbs": [*_READ, *_WRITE]}]

DEFAULT_ROLES: dict[str, list[Manifest]] = {
    "cluster-admin": _EVERYTHING,
    "admin": [*_EDIT, *_ADMIN],
    "edit": _EDIT,
    "view": _VIEW,
    "system:aggregate-to-admin": _ADMIN,
    "system:aggregate-to-edit": _EDIT,
    "system:aggregate-to-view": _VIEW,
    "system:basic-user": _SELF,
    "system:discovery": [{"nonResourceURLs": _DISCOVERY, "verbs": ["get"]}],
    "system:public-info-viewer": [{"nonResourceURLs": _PUBLIC, "verbs": ["get"]}],
}
"""ClusterRoles that exist from the start; Kubernetes' own, cut down to the kinds served here."""

AGGREGATE_TO = "rbac.authorization.k8s.io/aggregate-to-"
"""The label that adds a ClusterRole to one of those below, as operators do for their own kinds."""
AGGREGATED = ("view", "edit", "admin")
"""Default roles that hold what is labelled for them; each is part of the next."""

DEFAULT_BINDINGS: dict[str, str] = {
    "cluster-admin": "system:masters",
    "system:basic-user": "system:authenticated",
    "system:discovery": "system:authenticated",
    "system:public-info-viewer": "system:authenticated",
}
"""ClusterRoleBindings that exist from the start: role (and binding) name to group."""


class Roles(Protocol):
    """Reads roles and bindings."""

    def objects(self, group: str, plural: str, namespace: str | None = None) -> Iterable[Manifest]:
        """The stored objects."""

    def object(self, group: str, plural: str, name: str, namespace: str = "") -> Manifest | None:
        """One of them."""


class Authorizer:
    """Answers "may this user do that?"."""

    def __init__(self, roles: Roles) -> None:
        self._roles = roles

    def allows(self, user: User, wanted: Attributes) -> bool:
        if "system:masters" in user.groups:
            return True
        return any(rule_covers(rule, wanted) for rule in self.rules(user, wanted.namespace))

    def rules(self, user: User, namespace: str) -> Iterator[Manifest]:
        """Every rule that holds for the user: cluster-wide ones, and those of the namespace if one is given."""
        for binding in self._roles.objects(GROUP, "clusterrolebindings"):
            if _binds(binding, user):
                yield from self._role_rules(binding["roleRef"], "")
        if namespace:
            for binding in self._roles.objects(GROUP, "rolebindings", namespace):
                if _binds(binding, user):
                    yield from self._role_rules(binding["roleRef"], namespace)

    def _role_rules(self, reference: Manifest, namespace: str) -> Iterable[Manifest]:
        if reference.get("kind") == "ClusterRole":
            role = self._roles.object(GROUP, "clusterroles", reference.get("name", ""))
        else:
            role = self._roles.object(GROUP, "roles", reference.get("name", ""), namespace)
        return (role or {}).get("rules") or ()


def _binds(binding: Manifest, user: User) -> bool:
    for subject in binding.get("subjects") or ():
        match subject.get("kind"):
            case "User" if subject.get("name") == user.name:
                return True
            case "Group" if subject.get("name") in user.groups:
                return True
            case "ServiceAccount":
                namespace = subject.get("namespace") or binding["metadata"].get("namespace", "")
                if user.name == f"{SERVICE_ACCOUNT_PREFIX}{namespace}:{subject.get('name')}":
                    return True
    return False


def rule_covers(rule: Manifest, wanted: Attributes) -> bool:
    """Whether one PolicyRule allows it."""
    verbs = rule.get("verbs") or ()
    if wanted.verb not in verbs and "*" not in verbs:
        return False
    if wanted.path:
        return any(_path_matches(pattern, wanted.path) for pattern in rule.get("nonResourceURLs") or ())
    groups, names = rule.get("apiGroups") or (), rule.get("resourceNames") or ()
    if wanted.group not in groups and "*" not in groups:
        return False
    if names and wanted.name not in names:
        return False
    resource = f"{wanted.resource}/{wanted.subresource}" if wanted.subresource else wanted.resource
    wildcard = f"*/{wanted.subresource}" if wanted.subresource else "*"
    return any(entry in ("*", resource, wildcard) for entry in rule.get("resources") or ())


def _path_matches(pattern: str, path: str) -> bool:
    return pattern == path or (pattern.endswith("*") and path.startswith(pattern[:-1]))


def refusal(user: User, wanted: Attributes, kind: Kind | None) -> StatusError:
    """403 in Kubernetes' words."""
    if wanted.path:
        message = f'User "{user.name}" cannot {wanted.verb} path "{wanted.path}"'
        return StatusError(403, "Forbidden", f"forbidden: {message}", details={})
    resource = f"{wanted.resource}/{wanted.subresource}" if wanted.subresource else wanted.resource
    where = f'in the namespace "{wanted.namespace}"' if wanted.namespace else "at the cluster scope"
    why = f'User "{user.name}" cannot {wanted.verb} resource "{resource}" in API group "{wanted.group}" {where}'
    qualified = f"{wanted.resource}.{wanted.group}" if wanted.group else wanted.resource
    what = f'{qualified} "{wanted.name}"' if wanted.name else qualified
    details: Manifest = {"name": wanted.name} if wanted.name else {}
    if wanted.group:
        details["group"] = wanted.group
    details["kind"] = wanted.resource
    return StatusError(403, "Forbidden", f"{what} is forbidden: {why}", details=details)
