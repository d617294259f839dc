# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Nobody may grant what he does not hold: roles and bindings are checked against the rights of who writes them.

The verbs `escalate` (on a role) and `bind` (on the role that a binding names) are the ways around, as in Kubernetes.
Source: pkg/registry/rbac and k8s.io/component-helpers' `ConfirmNoEscalation`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from kaito.engine.access.rbac import GROUP, Authorizer
from kaito.engine.kinds import Kind
from kaito.engine.objects.registry import Registry
from kaito.engine.wire.requests import Attributes, User
from kaito.engine.wire.status import StatusError, forbidden, not_found
from kaito.kube.manifest import Manifest

_ROLES: Final = ("roles", "clusterroles")
_BINDINGS: Final = ("rolebindings", "clusterrolebindings")
_FIELDS: Final = (
    ("apiGroups", "APIGroups"),
    ("resources", "Resources"),
    ("nonResourceURLs", "NonResourceURLs"),
    ("resourceNames", "ResourceNames"),
    ("verbs", "Verbs"),
)
_ALL: Final[list[Manifest]] = [
    {"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]},
    {"nonResourceURLs": ["*"], "verbs": ["*"]},
]
Single = tuple[str, str, str, str, str]
"""Verb, API group, resource, name, URL: the smallest right there is."""


def check_escalation(registry: Registry, kind: Kind, obj: Manifest, old: Manifest | None, user: User) -> None:
    """Raises StatusError 403 when the role or binding would grant more than the user has."""
    if kind.group != GROUP or "system:masters" in user.groups:
        return
    if kind.plural in _ROLES:
        _check_role(registry, kind, obj, old, user)
    elif kind.plural in _BINDINGS:
        _check_binding(registry, kind, obj, old, user)


def _check_role(registry: Registry, kind: Kind, obj: Manifest, old: Manifest | None, user: User) -> None:
    same = old is not None and all(obj.get(name) == old.get(name) for name in ("rules", "aggregationRule"))
    meta = obj["metadata"]
    if same or _may(registry, user, "escalate", kind.plural, meta):
        return
    name = meta.get("name", "")
    if obj.get("aggregationRule") and _missing(registry, user, "", _ALL):
        raise forbidden(kind, name, "must have cluster-admin privileges to use the aggregationRule")
    _confirm(registry, kind, meta, user, obj.get("rules") or [])


def _check_binding(registry: Registry, kind: Kind, obj: Manifest, old: Manifest | None, user: User) -> None:
    if old is not None and all(obj.get(name) == old.get(name) for name in ("roleRef", "subjects")):
        return
    meta, reference = obj["metadata"], obj["roleRef"]
    plural = "clusterroles" if reference["kind"] == "ClusterRole" else "roles"
    if _may(registry, user, "bind", plural, {**meta, "name": reference["name"]}):
        return
    namespace = "" if plural == "clusterroles" else meta.get("namespace", "")
    role = registry.object(GROUP, plural, reference["name"], namespace)
    if role is None:
        raise not_found(registry.kind(GROUP, plural), reference["name"])
    _confirm(registry, kind, meta, user, role.get("rules") or [])


def _may(registry: Registry, user: User, verb: str, plural: str, meta: Manifest) -> bool:
    wanted = Attributes(
        verb=verb, group=GROUP, resource=plural, name=meta.get("name", ""), namespace=meta.get("namespace", "")
    )
    return Authorizer(registry).allows(user, wanted)


def _confirm(registry: Registry, kind: Kind, meta: Manifest, user: User, rules: Iterable[Manifest]) -> None:
    missing = _missing(registry, user, meta.get("namespace", ""), rules)
    if missing:
        raise _escalating(kind, meta.get("name", ""), user, missing)


def _missing(registry: Registry, user: User, namespace: str, rules: Iterable[Manifest]) -> list[Single]:
    """The rights that the rules give and the user has not."""
    own = list(Authorizer(registry).rules(user, namespace))
    return [right for rule in rules for right in _singles(rule) if not any(_covers(mine, right) for mine in own)]


def _singles(rule: Manifest) -> Iterator[Single]:
    for verb in rule.get("verbs") or []:
        for url in rule.get("nonResourceURLs") or []:
            yield verb, "", "", "", url
        for group in rule.get("apiGroups") or []:
            for resource in rule.get("resources") or []:
                for name in rule.get("resourceNames") or [""]:
                    yield verb, group, resource, name, ""


def _covers(rule: Manifest, right: Single) -> bool:
    verb, group, resource, name, url = right
    if not {verb, "*"} & set(rule.get("verbs") or []):
        return False
    if url:
        held = rule.get("nonResourceURLs") or []
        return any(url == mine or (mine.endswith("*") and url.startswith(mine[:-1])) for mine in held)
    below = {f"*/{resource.partition('/')[2]}"} if "/" in resource else set()
    names = rule.get("resourceNames") or []
    return (
        bool({group, "*"} & set(rule.get("apiGroups") or []))
        and bool({resource, "*", *below} & set(rule.get("resources") or []))
        and (not names or name in names)
    )


def _escalating(kind: Kind, name: str, user: User, missing: list[Single]) -> StatusError:
    who = f'user "{user.name}" (groups={_quoted(user.groups)})'
    lines = "\n".join(sorted(_compact(missing)))
    text = f"{who} is attempting to grant RBAC permissions not currently held:\n{lines}"
    return forbidden(kind, name, text)


def _compact(missing: list[Single]) -> Iterator[str]:
    """The rights, those of one resource together, as Kubernetes prints rules."""
    verbs: dict[tuple[str, ...], list[str]] = {}
    for verb, *rest in missing:
        found = verbs.setdefault(tuple(rest), [])
        if verb not in found:
            found.append(verb)
    for (group, resource, name, url), held in verbs.items():
        rule: Manifest = {"nonResourceURLs": [url]} if url else {"apiGroups": [group], "resources": [resource]}
        rule |= {"resourceNames": [name] if name else [], "verbs": held}
        parts = [f"{shown}:{_quoted(rule[field])}" for field, shown in _FIELDS if rule.get(field)]
        yield "{" + ", ".join(parts) + "}"


def _quoted(values: Iterable[str]) -> str:
    """A list of texts as Go prints it with %q."""
    return "[" + " ".join(f'"{value}"' for value in values) + "]"
