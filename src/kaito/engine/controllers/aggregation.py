# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Aggregated ClusterRoles: one with an `aggregationRule` holds the rules of all those that its selectors choose."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from kaito.engine.schema.select import SelectorError, from_label_selector
from kaito.kube.manifest import Key, Manifest, is_deleting, key_of, labels_of
from kaito.kube.plan import Controller, Patch, Plan, Reader, Watch
from kaito.kube.resource import CLUSTER_ROLES


@dataclass(frozen=True, slots=True)
class Observed:
    """A role that aggregates, and all the others, by name."""

    role: Manifest
    others: tuple[Manifest, ...]


def controller() -> Controller[Observed]:
    """The controller that keeps aggregated roles right."""
    return Controller(
        name="clusterrole-aggregation-controller",
        resource=CLUSTER_ROLES,
        observe=observe,
        plan=plan,
        watches=(Watch(CLUSTER_ROLES, _wakes()),),
    )


def _wakes() -> Callable[[Manifest], list[Key]]:
    """For a Watch: a change of any role may concern all that aggregate, which are remembered as they go by."""
    aggregating: set[Key] = set()

    def keys(role: Manifest) -> list[Key]:
        if role.get("aggregationRule"):
            aggregating.add(key_of(role))
        return sorted(aggregating)

    return keys


def observe(reader: Reader, key: Key) -> Observed | None:
    """The role; None when it is gone or aggregates nothing."""
    role = reader.get(CLUSTER_ROLES, key.name)
    if role is None or not role.get("aggregationRule"):
        return None
    return Observed(role, tuple(other for other in reader.list(CLUSTER_ROLES) if key_of(other) != key))


def plan(observed: Observed, now: datetime) -> Plan:
    """The rules of the chosen roles, each once, in the order of the roles' names."""
    role = observed.role
    if is_deleting(role):
        return Plan()
    rules: list[Manifest] = []
    for other in observed.others:
        if _is_chosen(role["aggregationRule"], other):
            rules += [rule for rule in other.get("rules") or [] if rule not in rules]
    if rules == (role.get("rules") or []):
        return Plan()
    meta = {"resourceVersion": role["metadata"]["resourceVersion"]}
    return Plan(patches=(Patch(CLUSTER_ROLES, key_of(role), {"metadata": meta, "rules": rules}),))


def _is_chosen(aggregation: Manifest, role: Manifest) -> bool:
    for selector in aggregation.get("clusterRoleSelectors") or []:
        try:
            if from_label_selector(selector).matches(labels_of(role)):
                return True
        except SelectorError:
            continue
    return False
