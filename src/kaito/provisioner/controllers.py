# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""The controllers as values: one for each kind of claim, one for the budget, and how a change finds its claim."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from kaito.api import nodeclaims as names
from kaito.kube.manifest import Key, Manifest, key_of, labels_of
from kaito.kube.plan import Controller, Outside, Plan, Reader, Watch, no_keys
from kaito.kube.resource import NODES, POD_DISRUPTION_BUDGETS, PODS, Resource
from kaito.provisioner.budget import Books, observe_books, plan_budget
from kaito.provisioner.fleet import Fleet
from kaito.provisioner.observe import BUDGET, CLAIM_KINDS, VOLUME_ATTACHMENTS, Observed, observe
from kaito.provisioner.plan import plan
from kaito.provisioner.rehearsal import rehearse
from kaito.provisioner.settings import Settings

NAME = "kaito-provisioner"
POOL_LABELS = (names.CLAIM_LABEL, "kubernetes.azure.com/agentpool", "cloud.google.com/gke-nodepool")
"""By which a node names its claim: ours, and those of pools that have the claim's name."""
OF_NODES = ("spec.providerID", "spec.taints", "status.allocatable", "status.capacity", "status.conditions")
OF_PODS = (
    *("spec.nodeName", "spec.priorityClassName", "spec.terminationGracePeriodSeconds", "spec.tolerations"),
    "status.phase",
)
"""All that is looked at of them."""


class Interest:
    """What does not say itself which claim it is about: pods of nodes that are being emptied, and reservations."""

    def __init__(self) -> None:
        self._emptying: dict[str, Key] = {}
        self._nodes: dict[Key, tuple[str, ...]] = {}
        self._grants: dict[str, float] = {}
        self._named: dict[str, Key] = {}

    def note(self, key: Key, observed: Observed | None) -> None:
        """Remember the nodes whose pods matter."""
        for name in self._nodes.pop(key, ()):
            self._emptying.pop(name, None)
        if observed is None or not observed.work.pods:
            return
        nodes = tuple(node["metadata"]["name"] for node in observed.nodes)
        self._nodes[key] = nodes
        self._emptying |= dict.fromkeys(nodes, key)

    def of_pod(self, pod: Manifest) -> Iterable[Key]:
        """The claim whose node has to be emptied of it."""
        key = self._emptying.get((pod.get("spec") or {}).get("nodeName") or "")
        return () if key is None else (key,)

    def of_budget(self, budget: Manifest) -> Iterable[Key]:
        """The claims whose reservation has changed."""
        reservations = (budget.get("status") or {}).get("reservations") or {}
        grants = {uid: float(r.get("dollarsPerHour") or 0.0) for uid, r in reservations.items()}
        names_of = {uid: Key("", str(r.get("claim"))) for uid, r in reservations.items()}
        woken = [names_of[uid] for uid, dollars in grants.items() if self._grants.get(uid) != dollars]
        woken += [key for uid, key in self._named.items() if uid not in grants]
        self._grants, self._named = grants, names_of
        return woken


def claim_controller(kind: Resource, fleet: Fleet, outside: Outside, settings: Settings) -> Controller[Observed]:
    """The controller of a kind of claim; the server need not have the kind."""
    interest = Interest()

    def observe_and_note(reader: Reader, key: Key) -> Observed | None:
        observed = observe(reader, key, kind, fleet, settings)
        interest.note(key, observed)
        return observed

    def plan_one(observed: Observed, now: datetime) -> Plan:
        return rehearse(observed, now) if settings.dry_run else plan(observed, settings, now)

    others = [Watch(other, lambda claim: [key_of(claim)], optional=True) for other in CLAIM_KINDS]
    return Controller(
        name=f"{NAME}-{kind.plural}",
        resource=kind,
        observe=observe_and_note,
        plan=plan_one,
        watches=(
            *others,
            Watch(NODES, of_node, keeps=OF_NODES),
            Watch(PODS, interest.of_pod, keeps=OF_PODS),
            Watch(POD_DISRUPTION_BUDGETS, no_keys),
            Watch(VOLUME_ATTACHMENTS, no_keys, optional=True),
            Watch(names.NODE_BUDGETS, interest.of_budget),
        ),
        workers=settings.workers,
        outside=outside,
    )


def of_node(node: Manifest) -> Iterable[Key]:
    """The claim that the node came of."""
    labels = labels_of(node)
    return {Key("", labels[label]) for label in POOL_LABELS if label in labels}


def budget_controller(fleet: Fleet, outside: Outside, settings: Settings) -> Controller[Books]:
    """The controller of NodeBudget/default. It works without the object too: then it makes it."""

    def plan_one(books: Books, now: datetime) -> Plan:
        return Plan() if settings.dry_run else plan_budget(books, settings, now)

    everything = [Watch(kind, lambda claim: [Key("", BUDGET)], optional=True) for kind in CLAIM_KINDS]
    return Controller(
        name=f"{NAME}-budget",
        resource=names.NODE_BUDGETS,
        observe=lambda reader, key: observe_books(reader, key, fleet, settings),
        plan=plan_one,
        watches=tuple(everything),
        workers=1,
        outside=outside,
    )
