# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""The scheduler: chooses a node for each pod that names `default-scheduler` and has none.

All waiting pods are placed in one plan, in the order of their creation, so that two pods never get the same GPU: the
sums of the plan itself are what the next pod sees. `capacity.py` does the sums, `selection.py` the predicates,
`topology.py` knows what pods want of each other, `preemption.py` who makes room for whom.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import datetime
from functools import partial

from kaito.engine.controllers import pods as pod
from kaito.engine.controllers.candidates import Candidates, form_of
from kaito.engine.controllers.capacity import Load, Placed, Requests, loads, requests_of, short_of
from kaito.engine.controllers.nodelifecycle import effective_taints
from kaito.engine.controllers.preemption import eviction_for, may_preempt, priority_of, remove, waits_for_leaving
from kaito.engine.controllers.selection import node_matches, preference_met, tolerates
from kaito.engine.controllers.topology import SOFT_SHARE, Neighbours, Rules, has_rules
from kaito.kube.manifest import Key, Manifest, condition_of, is_deleting, key_of, labels_of, rfc3339
from kaito.kube.plan import Controller, Create, Delete, Event, Patch, Plan, Reader, Watch, no_keys
from kaito.kube.resource import NAMESPACES, NODES, PERSISTENT_VOLUME_CLAIMS, PODS

SCHEDULER = "default-scheduler"
ROUND = Key("", "every waiting pod")
"""The one key of this controller: a round over all of them."""
# How soon to look again while something waits, for changes that wake nobody
RETRY_S = 5.0
# How long a pod may wait for a new claim to be bound before it is called unschedulable
PATIENCE_S = 3.0
# How many pods with wishes about their neighbours one round places, as each is held against every node
RULED_AT_ONCE = 100
SOON_S = 0.05


@dataclass(frozen=True, slots=True)
class Observed:
    """The pods that wait, what other pods take of which node, the nodes, and the claims of the waiting pods."""

    waiting: tuple[Manifest, ...]
    placed: tuple[tuple[str, Requests], ...]
    nodes: tuple[Manifest, ...]
    claims: dict[Key, Manifest]
    on_nodes: tuple[Manifest, ...] = ()
    """The pods that `placed` sums up."""
    namespaces: tuple[Manifest, ...] = ()
    is_ruled: bool = False
    """Whether any pod has wishes about others."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a pod has no node."""

    message: str
    passing: bool = False
    """Whether this is what every such pod goes through, for a moment."""


def controller() -> Controller[Observed]:
    """The scheduler."""
    return Controller(
        name=SCHEDULER,
        resource=NODES,
        observe=partial(observe, Placed()),
        plan=plan,
        watches=(
            Watch(NODES, lambda obj: [ROUND]),
            Watch(PODS, pod_keys),
            Watch(PERSISTENT_VOLUME_CLAIMS, lambda obj: [ROUND]),
            Watch(NAMESPACES, no_keys),
        ),
        workers=1,
    )


def pod_keys(p: Manifest) -> list[Key]:
    """A round when a pod waits, or when it gives its room back."""
    return [ROUND] if is_waiting(p) or pod.is_finished(p) or is_deleting(p) else []


def is_waiting(p: Manifest) -> bool:
    """Whether the pod is ours to place."""
    spec = p["spec"]
    return (
        not spec.get("nodeName")
        and spec.get("schedulerName", SCHEDULER) == SCHEDULER
        and pod.is_active(p)
        and not spec.get("schedulingGates")
    )


def observe(placed: Placed, reader: Reader, key: Key) -> Observed | None:
    """Everything that a round needs; None for the keys of nodes and when no pod waits."""
    if key != ROUND:
        return None
    every = reader.list(PODS)
    waiting = [p for p in every if is_waiting(p)]
    if not waiting:
        return None
    claims = {}
    for p in waiting:
        for name in claim_names(p):
            claim = reader.get(PERSISTENT_VOLUME_CLAIMS, name, p["metadata"]["namespace"])
            if claim is not None:
                claims[key_of(claim)] = claim
    on_nodes = [p for p in every if p["spec"].get("nodeName") and not pod.is_finished(p)]
    is_ruled = any(map(has_rules, waiting)) or any(map(has_rules, on_nodes))
    return Observed(
        waiting=tuple(sorted(waiting, key=_queue_order)),
        placed=placed.of(on_nodes),
        nodes=tuple(reader.list(NODES)),
        claims=claims,
        on_nodes=tuple(on_nodes),
        is_ruled=is_ruled,
        namespaces=tuple(reader.list(NAMESPACES)) if is_ruled else (),
    )


def _queue_order(p: Manifest) -> tuple[object, ...]:
    return (-int(p["spec"].get("priority") or 0), p["metadata"]["creationTimestamp"], key_of(p))


def claim_names(p: Manifest) -> list[str]:
    """The claims that the pod's volumes name."""
    volumes = p["spec"].get("volumes") or []
    return [v["persistentVolumeClaim"]["claimName"] for v in volumes if "persistentVolumeClaim" in v]


def plan(observed: Observed, now: datetime) -> Plan:
    """A binding for each pod that fits somewhere, a condition and an event for each that does not."""
    board = Board(observed)
    ruled = 0
    create: list[Create] = []
    patches: list[Patch] = []
    delete: list[Delete] = []
    events: list[Event] = []
    for p in observed.waiting:
        if ruled == RULED_AT_ONCE:
            break
        rules = board.rules_of(p)
        choice = board.place(p, rules)
        if isinstance(choice, Refusal):
            if choice.passing and (now - pod.created_at(p)).total_seconds() < PATIENCE_S:
                continue
            chance = None if choice.passing else board.make_room(p, rules)
            node, victims = chance or ("", ())
            patches += _unschedulable(p, choice, now, node=node)
            for victim in victims:
                patches.append(_preempted(victim, now))
                delete.append(Delete(PODS, key_of(victim), victim["metadata"]["uid"]))
                events.append(Event(victim, "Preempted", f"Preempted by pod {p['metadata']['uid']} on node {node}"))
            if not _is_known(p, choice):
                events.append(Event(p, "FailedScheduling", choice.message, type="Warning"))
            continue
        board.add(p, choice)
        ruled += rules is not None
        create.append(_binding(p, choice))
        name = key_of(p)
        events.append(Event(p, "Scheduled", f"Successfully assigned {name} to {choice}"))
    stuck = len(create) < len(observed.waiting)
    return Plan(
        patches=tuple(patches),
        create=tuple(create),
        delete=tuple(delete),
        events=tuple(events),
        requeue_after_s=SOON_S if ruled == RULED_AT_ONCE else RETRY_S if stuck else None,
    )


class Board:
    """One round: the room on the nodes and the pods there, and what was placed since the round began."""

    def __init__(self, observed: Observed) -> None:
        self._observed = observed
        self._room = loads(observed.nodes, observed.placed)
        self._candidates: dict[str, Candidates] = {}
        """The nodes for the forms of pods that have come so far."""
        namespaces = {item["metadata"]["name"]: labels_of(item) for item in observed.namespaces}
        rest = (observed.nodes, observed.on_nodes, namespaces)
        self._neighbours = Neighbours(*rest) if observed.is_ruled else None
        self._there: dict[str, list[Manifest]] | None = None
        """The pods on each node that may have to leave, once somebody wants to know."""
        self._hopeless: set[tuple[str, int]] = set()
        """The forms and priorities for which nobody can make room."""

    def add(self, p: Manifest, node: str) -> None:
        """The pod goes to the node."""
        self._room[node].add(requests_of(p))
        if self._neighbours is not None:
            self._neighbours.add(p, node)

    def rules_of(self, p: Manifest) -> Rules | None:
        """What the pod and its neighbours want of each other, if anything."""
        if self._neighbours is None:
            return None
        return Rules(p, self._observed.nodes, self._neighbours) or None

    def place(self, p: Manifest, rules: Rules | None) -> str | Refusal:
        """The name of the node for the pod: of those that may have it, the one that suits it best."""
        nodes = self._observed.nodes
        problem = _unbound_claim(p, self._observed.claims)
        if problem is not None:
            return Refusal(f"0/{len(nodes)} nodes are available: {problem}.", passing=True)
        form = form_of(p)
        if form not in self._candidates:
            self._candidates[form] = _candidates(p, nodes, self._room)
        candidates = self._candidates[form]
        if rules is None:
            return candidates.best() or Refusal(self._refusal_of(p, candidates))
        free = [name for name in candidates.fitting() if not rules.problem(name)]
        dislikes = rules.dislikes(free)
        best = min(free, key=lambda name: (candidates.score(name) + dislikes[name], name), default=None)
        return best or Refusal(self._refusal(p, rules))

    def make_room(self, p: Manifest, rules: Rules | None) -> tuple[str, tuple[Manifest, ...]] | None:
        """The node that the refused pod is to get, and who has to leave it now; None when nobody can make room."""
        names = {node["metadata"]["name"] for node in self._observed.nodes}
        likeness = (form_of(p), priority_of(p))
        if not may_preempt(p) or likeness in self._hopeless:
            return None
        if self._there is None:
            self._there = {}
            for other in self._observed.on_nodes:
                self._there.setdefault(other["spec"]["nodeName"], []).append(other)
        nominated = (p.get("status") or {}).get("nominatedNodeName", "")
        if nominated in names and waits_for_leaving(p, self._there.get(nominated, ())):
            self._room[nominated].add(requests_of(p))
            return nominated, ()
        suitable = [
            node["metadata"]["name"]
            for node in self._observed.nodes
            if not _problems(p, node, EMPTY, {}) and not (rules and rules.problem(node["metadata"]["name"]))
        ]
        found = eviction_for(p, suitable, self._there, self._room)
        if found is None:
            if rules is None:
                self._hopeless.add(likeness)
            return None
        for victim in found.victims:
            self._there[found.node].remove(victim)
            remove(self._room[found.node], victim)
        self._room[found.node].add(requests_of(p))
        return found.node, tuple(victim for victim in found.victims if not is_deleting(victim))

    def _refusal_of(self, p: Manifest, candidates: Candidates) -> str:
        """Why none of the nodes takes the pod: found out for the first one of its form in a round."""
        if not candidates.refusal:
            candidates.refusal = self._refusal(p, None)
        return candidates.refusal

    def _refusal(self, p: Manifest, rules: Rules | None) -> str:
        wanted, nodes = requests_of(p), self._observed.nodes
        reasons: Counter[str] = Counter()
        for node in nodes:
            problems = _problems(p, node, _load(node, self._room), wanted)
            if not problems and rules is not None:
                problems = [rules.problem(node["metadata"]["name"])]
            reasons.update(problems)
        return _explain(len(nodes), reasons)


def _candidates(p: Manifest, nodes: tuple[Manifest, ...], room: dict[str, Load]) -> Candidates:
    """The nodes that can take the pod now."""
    wanted = requests_of(p)
    dislikes = {n["metadata"]["name"]: _dislike(p, n) for n in nodes if not _problems(p, n, _load(n, room), wanted)}
    return Candidates(wanted, dislikes, room)


def _load(node: Manifest, room: dict[str, Load]) -> Load:
    return room[node["metadata"]["name"]]


def _unbound_claim(p: Manifest, claims: dict[Key, Manifest]) -> str | None:
    """Why the pod's claims keep it from running, if they do."""
    for name in claim_names(p):
        claim = claims.get(Key(p["metadata"]["namespace"], name))
        if claim is None:
            return f'persistentvolumeclaim "{name}" not found'
        if is_deleting(claim):
            return f'persistentvolumeclaim "{name}" is being deleted'
        if (claim.get("status") or {}).get("phase") != "Bound":
            return "pod has unbound immediate PersistentVolumeClaims"
    return None


def _problems(p: Manifest, node: Manifest, load: Load, wanted: Requests) -> list[str]:
    """Why the node cannot take the pod, in kube-scheduler's words; empty when it can."""
    tolerations = p["spec"].get("tolerations") or []
    taints = effective_taints(node)
    if node["spec"].get("unschedulable") and not tolerates(tolerations, UNSCHEDULABLE):
        return ["node(s) were unschedulable"]
    for taint in taints:
        if taint["effect"] != "PreferNoSchedule" and not tolerates(tolerations, taint):
            return [f"node(s) had untolerated taint(s) {{{taint['key']}: {taint.get('value') or ''}}}"]
    if not node_matches(p["spec"], node):
        return ["node(s) didn't match Pod's node affinity/selector"]
    return [f"Insufficient {name}" if name != "pods" else "Too many pods" for name in short_of(load, wanted)]


EMPTY = Load({}, {})
UNSCHEDULABLE = {"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}


def _dislike(p: Manifest, node: Manifest) -> float:
    """What PreferNoSchedule taints and unmet preferences add to a node's load."""
    tolerations = p["spec"].get("tolerations") or []
    taints = node["spec"].get("taints") or []
    soft = [t for t in taints if t["effect"] == "PreferNoSchedule" and not tolerates(tolerations, t)]
    return len(soft) + SOFT_SHARE * (1.0 - preference_met(p["spec"], node))


def _explain(count: int, reasons: Counter[str]) -> str:
    """kube-scheduler's message: `0/3 nodes are available: 1 Insufficient cpu, 2 node(s) were unschedulable.`"""
    if not count:
        return "0/0 nodes are available: no nodes available to schedule pods."
    parts = sorted(f"{number} {reason}" for reason, number in reasons.items())
    return f"0/{count} nodes are available: {', '.join(parts)}."


def _binding(p: Manifest, node: str) -> Create:
    meta = p["metadata"]
    manifest = {
        "apiVersion": "v1",
        "kind": "Binding",
        "metadata": {"name": meta["name"], "namespace": meta["namespace"], "uid": meta["uid"]},
        "target": {"apiVersion": "v1", "kind": "Node", "name": node},
    }
    return Create(manifest, subresource=(PODS, key_of(p), "binding"))


def _is_known(p: Manifest, refusal: Refusal) -> bool:
    old = condition_of(p, "PodScheduled") or {}
    return old.get("status") == "False" and old.get("message") == refusal.message


def _preempted(p: Manifest, now: datetime) -> Patch:
    """Tells in the pod's status why it is deleted."""
    condition = {
        "type": "DisruptionTarget",
        "status": "True",
        "reason": "PreemptionByScheduler",
        "message": f"{SCHEDULER}: preempting to accommodate a higher priority pod",
        "lastTransitionTime": rfc3339(now),
    }
    others = [c for c in (p.get("status") or {}).get("conditions") or [] if c["type"] != "DisruptionTarget"]
    return Patch(PODS, key_of(p), {"status": {"conditions": [*others, condition]}}, subresource="status")


def _unschedulable(p: Manifest, refusal: Refusal, now: datetime, *, node: str) -> list[Patch]:
    """Sets the condition PodScheduled False, and the node that the pod is to get when there is room; nothing if they
    say so already."""
    nominated = (p.get("status") or {}).get("nominatedNodeName", "")
    if _is_known(p, refusal) and nominated == node:
        return []
    old = condition_of(p, "PodScheduled") or {}
    since = old["lastTransitionTime"] if old.get("status") == "False" else rfc3339(now)
    condition = {
        "type": "PodScheduled",
        "status": "False",
        "reason": "Unschedulable",
        "message": refusal.message,
        "lastProbeTime": None,
        "lastTransitionTime": since,
    }
    others = [c for c in (p.get("status") or {}).get("conditions") or [] if c["type"] != "PodScheduled"]
    status: Manifest = {"conditions": [*others, condition]}
    if nominated != node:
        status["nominatedNodeName"] = node or None
    return [Patch(PODS, key_of(p), {"status": status}, subresource="status")]
