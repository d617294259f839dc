# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Where pods may and would like to be because of other pods: affinity, anti-affinity and spreading over a topology.

Pure. `Neighbours` is what a round of the scheduler knows of the pods on nodes, with those that the round itself has
placed; `Rules` are one pod's, judged against it. As in kube-scheduler (plugins InterPodAffinity and
PodTopologySpread), but that preferences of pods that are placed already are not looked at.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from kaito.engine.controllers.selection import matches, node_matches, tolerates
from kaito.kube.manifest import Manifest, is_deleting, labels_of

REQUIRED: Final = "requiredDuringSchedulingIgnoredDuringExecution"
PREFERRED: Final = "preferredDuringSchedulingIgnoredDuringExecution"
SOFT_SHARE: Final = 2.0
"""What the most disliked node of all gets for its unmet preferences, where a full node gets 1: kube-scheduler weighs
preferences twice as much as room."""

AFFINITY: Final = "node(s) didn't match pod affinity rules"
ANTI_AFFINITY: Final = "node(s) didn't match pod anti-affinity rules"
EXISTING: Final = "node(s) didn't satisfy existing pods anti-affinity rules"
SPREAD: Final = "node(s) didn't match pod topology spread constraints"
SPREAD_LABEL: Final = f"{SPREAD} (missing required label)"


@dataclass(frozen=True, slots=True)
class Term:
    """Which pods a rule means, and which label of their nodes makes two nodes one place."""

    topology: str
    selector: str
    """The LabelSelector as JSON: terms of equal pods are equal, and counted once."""
    namespaces: frozenset[str] | None
    """None means all."""
    living: bool = False
    """Whether pods that are on their way out do not count."""
    _parsed: list[Manifest | None] = field(default_factory=list, compare=False, repr=False)

    def means(self, pod: Manifest) -> bool:
        """Whether the pod is one of those."""
        if self.namespaces is not None and pod["metadata"].get("namespace", "") not in self.namespaces:
            return False
        if self.living and is_deleting(pod):
            return False
        if not self._parsed:
            self._parsed.append(json.loads(self.selector))
        return matches(self._parsed[0], labels_of(pod))


class Neighbours:
    """The pods on nodes."""

    def __init__(
        self, nodes: Iterable[Manifest], pods: Iterable[Manifest], namespaces: Mapping[str, Mapping[str, str]]
    ) -> None:
        """`pods`: those that have a node and have not ended; `namespaces`: the labels of each."""
        self._labels = {node["metadata"]["name"]: labels_of(node) for node in nodes}
        self._namespaces = namespaces
        self._placed: list[tuple[Manifest, str]] = []
        self._counts: dict[tuple[Term, ...], Counter[str]] = {}
        self._keep_away: dict[Term, set[str]] = {}
        """For each required anti-affinity of pods on nodes: the places that they keep free of those it means."""
        for pod in pods:
            self.add(pod, pod["spec"]["nodeName"])

    def add(self, pod: Manifest, node: str) -> None:
        """One more pod on a node."""
        self._placed.append((pod, node))
        for terms, counted in self._counts.items():
            if all(term.means(pod) for term in terms):
                counted[node] += 1
        for term in self.terms(pod, "podAntiAffinity"):
            place = self.place(node, term)
            if place is not None:
                self._keep_away.setdefault(term, set()).add(place)

    def place(self, node: str, term: Term) -> str | None:
        """The node's place by the term's topology; None for a node without the label."""
        return self._labels.get(node, {}).get(term.topology)

    def on_nodes(self, *terms: Term) -> Counter[str]:
        """How many pods that all of the terms mean are on each node."""
        if terms not in self._counts:
            meant = (node for pod, node in self._placed if all(term.means(pod) for term in terms))
            self._counts[terms] = Counter(meant)
        return self._counts[terms]

    def kept_free_of(self, pod: Manifest) -> list[tuple[Term, set[str]]]:
        """The places that pods on nodes keep free of this one."""
        return [(term, places) for term, places in self._keep_away.items() if term.means(pod)]

    def terms(self, pod: Manifest, kind: str) -> list[Term]:
        """The pod's required terms of `podAffinity` or `podAntiAffinity`."""
        rules = (pod["spec"].get("affinity") or {}).get(kind) or {}
        return [self.term(raw, pod) for raw in rules.get(REQUIRED) or []]

    def preferred(self, pod: Manifest) -> list[tuple[float, Term]]:
        """The pod's preferences, with the weight of each neighbour: below 0 for those it does not want."""
        found = []
        for kind, sign in (("podAffinity", 1.0), ("podAntiAffinity", -1.0)):
            rules = (pod["spec"].get("affinity") or {}).get(kind) or {}
            for raw in rules.get(PREFERRED) or []:
                found.append((sign * float(raw["weight"]), self.term(raw["podAffinityTerm"], pod)))
        return found

    def term(self, raw: Manifest, pod: Manifest) -> Term:
        """A term of the pod's affinity, with what it takes from the pod itself filled in."""
        names: frozenset[str] | None = frozenset(raw.get("namespaces") or ())
        selector = raw.get("namespaceSelector")
        if selector == {}:
            names = None
        elif selector is not None:
            chosen = (name for name, labels in self._namespaces.items() if matches(selector, labels))
            names = frozenset((*(raw.get("namespaces") or ()), *chosen))
        elif not names:
            names = frozenset((pod["metadata"].get("namespace", ""),))
        return Term(raw["topologyKey"], _selector(raw, pod), names)


def spread_term(constraint: Manifest, pod: Manifest) -> Term:
    """The pods among which a topologySpreadConstraint of the pod keeps a balance."""
    names = frozenset((pod["metadata"].get("namespace", ""),))
    return Term(constraint["topologyKey"], _selector(constraint, pod), names, living=True)


def _selector(raw: Manifest, pod: Manifest) -> str:
    """The rule's label selector, with the labels that it takes from the pod."""
    selector, labels = raw.get("labelSelector"), labels_of(pod)
    keys = (("matchLabelKeys", "In"), ("mismatchLabelKeys", "NotIn"))
    added = [
        {"key": key, "operator": operator, "values": [labels[key]]}
        for name, operator in keys
        for key in raw.get(name) or []
        if key in labels
    ]
    if selector is not None and added:
        selector = {**selector, "matchExpressions": [*(selector.get("matchExpressions") or []), *added]}
    return json.dumps(selector, sort_keys=True)


class Rules:
    """What a pod demands and prefers of its neighbours, as they are now."""

    def __init__(self, pod: Manifest, nodes: Sequence[Manifest], neighbours: Neighbours) -> None:
        """`nodes`: all of the cluster's."""
        self._pod, self._neighbours = pod, neighbours
        constraints = pod["spec"].get("topologySpreadConstraints") or []
        hard = [c for c in constraints if c.get("whenUnsatisfiable") != "ScheduleAnyway"]
        soft = [c for c in constraints if c.get("whenUnsatisfiable") == "ScheduleAnyway"]
        self._checks: list[Callable[[str], str]] = [
            *(self._balanced(constraint, hard, nodes) for constraint in hard),
            *self._affinity(neighbours.terms(pod, "podAffinity")),
            *(self._away(term) for term in neighbours.terms(pod, "podAntiAffinity")),
            *(self._kept_free(term, places) for term, places in neighbours.kept_free_of(pod)),
        ]
        self._preferred = neighbours.preferred(pod)
        self._spread = [spread_term(constraint, pod) for constraint in soft]

    def __bool__(self) -> bool:
        return bool(self._checks or self._preferred or self._spread)

    def problem(self, node: str) -> str:
        """Why the pod cannot be on the node, in kube-scheduler's words; empty when it can."""
        return next((found for check in self._checks if (found := check(node))), "")

    def dislikes(self, nodes: Sequence[str]) -> dict[str, float]:
        """How little the pod would like to be on each of the nodes, from 0 up."""
        found = dict.fromkeys(nodes, 0.0)
        wishes = [(-weight, term) for weight, term in self._preferred]
        for scores in (self._scores(nodes, wishes), self._scores(nodes, [(1.0, term) for term in self._spread])):
            least, most = min(scores.values(), default=0.0), max(scores.values(), default=0.0)
            if most > least:
                for name, score in scores.items():
                    found[name] += SOFT_SHARE * (score - least) / (most - least)
        return found

    def _scores(self, nodes: Sequence[str], weighed: Sequence[tuple[float, Term]]) -> dict[str, float]:
        scores = dict.fromkeys(nodes, 0.0)
        for weight, term in weighed:
            counts = self._by_place(term, self._neighbours.on_nodes(term))
            for name in nodes:
                scores[name] += weight * counts.get(self._neighbours.place(name, term), 0)
        return scores

    def _by_place(self, term: Term, on_nodes: Counter[str]) -> Counter[str | None]:
        counts: Counter[str | None] = Counter()
        for node, count in on_nodes.items():
            place = self._neighbours.place(node, term)
            if place is not None:
                counts[place] += count
        return counts

    def _affinity(self, terms: Sequence[Term]) -> list[Callable[[str], str]]:
        """A neighbour that all of the terms mean at the place of each; the first of pods that want each other may be
        anywhere."""
        if not terms:
            return []
        on_nodes = self._neighbours.on_nodes(*terms)
        counted = [self._by_place(term, on_nodes) for term in terms]
        is_first = not any(counted) and all(term.means(self._pod) for term in terms)

        def check(node: str) -> str:
            places = [self._neighbours.place(node, term) for term in terms]
            has_all = all(place is not None for place in places)
            met = all(counts[place] > 0 for counts, place in zip(counted, places, strict=True))
            return "" if has_all and (met or is_first) else AFFINITY

        return [check]

    def _away(self, term: Term) -> Callable[[str], str]:
        counts = self._by_place(term, self._neighbours.on_nodes(term))
        return lambda node: ANTI_AFFINITY if counts.get(self._neighbours.place(node, term), 0) else ""

    def _kept_free(self, term: Term, places: set[str]) -> Callable[[str], str]:
        return lambda node: EXISTING if self._neighbours.place(node, term) in places else ""

    def _balanced(
        self, constraint: Manifest, all_hard: Sequence[Manifest], nodes: Sequence[Manifest]
    ) -> Callable[[str], str]:
        """No place may have more than `maxSkew` pods above the place that has least."""
        term = spread_term(constraint, self._pod)
        counts = self._neighbours.on_nodes(term)
        by_place: Counter[str | None] = Counter()
        for node in nodes:
            if _counts_for(self._pod, constraint, all_hard, node):
                name = node["metadata"]["name"]
                by_place[self._neighbours.place(name, term)] += counts.get(name, 0)
        least = min(by_place.values(), default=0)
        if len(by_place) < (constraint.get("minDomains") or 1):
            least = 0
        itself = int(term.means(self._pod))

        def check(node: str) -> str:
            place = self._neighbours.place(node, term)
            if place is None:
                return SPREAD_LABEL
            return SPREAD if by_place.get(place, 0) + itself - least > constraint["maxSkew"] else ""

        return check


def _counts_for(pod: Manifest, constraint: Manifest, all_hard: Sequence[Manifest], node: Manifest) -> bool:
    """Whether the node's place is one of those that are compared."""
    labels = labels_of(node)
    if any(other["topologyKey"] not in labels for other in all_hard):
        return False
    if constraint.get("nodeAffinityPolicy", "Honor") == "Honor" and not node_matches(pod["spec"], node):
        return False
    if constraint.get("nodeTaintsPolicy", "Ignore") == "Ignore":
        return True
    hard = [taint for taint in node["spec"].get("taints") or [] if taint["effect"] != "PreferNoSchedule"]
    return all(tolerates(pod["spec"].get("tolerations") or [], taint) for taint in hard)


def has_rules(pod: Manifest) -> bool:
    """Whether the pod says anything about its neighbours."""
    affinity = pod["spec"].get("affinity") or {}
    asked = affinity.get("podAffinity") or affinity.get("podAntiAffinity")
    return bool(asked or pod["spec"].get("topologySpreadConstraints"))
