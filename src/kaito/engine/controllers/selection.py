# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Which objects a selector means: label selectors, node selectors, taints and tolerations.

Pure predicates over plain dicts. A selector that makes no sense selects nothing; saying so is validation's business.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from kaito.kube.manifest import Manifest, labels_of


def matches(selector: Manifest | None, labels: Mapping[str, str]) -> bool:
    """Whether a LabelSelector (matchLabels and matchExpressions) selects these labels; None selects nothing."""
    if selector is None:
        return False
    exact = selector.get("matchLabels") or {}
    if any(labels.get(key) != value for key, value in exact.items()):
        return False
    return all(_expression(expression, labels) for expression in selector.get("matchExpressions") or [])


def _expression(expression: Manifest, labels: Mapping[str, str]) -> bool:
    """One requirement of a label or node selector."""
    value = labels.get(expression["key"])
    values = expression.get("values") or []
    match expression.get("operator"):
        case "In":
            return value in values
        case "NotIn":
            return value not in values
        case "Exists":
            return value is not None
        case "DoesNotExist":
            return value is None
        case "Gt":
            return _compare(value, values) > 0
        case "Lt":
            return _compare(value, values) < 0
        case _:
            return False


def _compare(value: str | None, values: list[str]) -> int:
    """1, -1 or 0 like value - values[0]; 0 where either is no whole number."""
    try:
        left, right = int(value or ""), int(values[0])
    except (ValueError, IndexError):
        return 0
    return (left > right) - (left < right)


def node_matches(pod_spec: Manifest, node: Manifest) -> bool:
    """Whether the pod's nodeSelector and required node affinity admit the node."""
    wanted = pod_spec.get("nodeSelector") or {}
    labels = labels_of(node)
    if any(labels.get(key) != value for key, value in wanted.items()):
        return False
    required = ((pod_spec.get("affinity") or {}).get("nodeAffinity") or {}).get(
        "requiredDuringSchedulingIgnoredDuringExecution"
    )
    return required is None or any(term_matches(term, node) for term in required.get("nodeSelectorTerms") or [])


def preference_met(pod_spec: Manifest, node: Manifest) -> float:
    """How much of its preferred node affinity the pod finds on the node, from 0 to 1; 1 when it prefers nothing."""
    affinity = (pod_spec.get("affinity") or {}).get("nodeAffinity") or {}
    wishes = affinity.get("preferredDuringSchedulingIgnoredDuringExecution") or []
    total = sum(wish["weight"] for wish in wishes)
    met = sum(wish["weight"] for wish in wishes if term_matches(wish["preference"], node))
    return float(met / total) if total else 1.0


def term_matches(term: Manifest, node: Manifest) -> bool:
    """Whether one node selector term admits the node; an empty term admits none, as in Kubernetes."""
    expressions, fields = term.get("matchExpressions") or [], term.get("matchFields") or []
    if not expressions and not fields:
        return False
    named = {"metadata.name": node["metadata"]["name"]}
    return all(_expression(e, labels_of(node)) for e in expressions) and all(_expression(f, named) for f in fields)


def tolerates(tolerations: Iterable[Manifest], taint: Manifest) -> bool:
    """Whether one of the tolerations covers the taint, for however long."""
    return any(_covers(toleration, taint) for toleration in tolerations)


def _covers(toleration: Manifest, taint: Manifest) -> bool:
    if toleration.get("effect") and toleration["effect"] != taint["effect"]:
        return False
    if toleration.get("key") and toleration["key"] != taint["key"]:
        return False
    if toleration.get("operator", "Equal") == "Exists":
        return True
    return bool(toleration.get("key")) and (toleration.get("value") or "") == (taint.get("value") or "")


def tolerated_for_s(tolerations: Iterable[Manifest], taint: Manifest) -> float | None:
    """How long a pod may stay in spite of a NoExecute taint: 0 without a toleration, None for ever."""
    covering = [toleration for toleration in tolerations if _covers(toleration, taint)]
    if not covering:
        return 0.0
    limits = [t["tolerationSeconds"] for t in covering if t.get("tolerationSeconds") is not None]
    return float(max(0, min(limits))) if limits else None
