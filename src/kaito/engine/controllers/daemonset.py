# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""DaemonSets: one pod on every node that admits it. The scheduler binds the pods; each names its node by affinity."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from kaito.engine.controllers import pods as pod
from kaito.engine.controllers import revisions
from kaito.engine.controllers.ownership import Claimed, claim
from kaito.engine.controllers.quantities import scaled
from kaito.engine.controllers.selection import node_matches, tolerates
from kaito.engine.controllers.status import status_patch, without_zeros
from kaito.kube.manifest import Key, Manifest, is_deleting, key_of, labels_of
from kaito.kube.plan import Controller, Create, Delete, Event, Plan, Reader, Watch, owner_keys
from kaito.kube.resource import CONTROLLER_REVISIONS, DAEMON_SETS, NODES, PODS

GENERATION_LABEL = "pod-template-generation"
# What every daemon pod tolerates (Kubernetes' AddOrUpdateDaemonPodTolerations)
TOLERATED = (
    ("node.kubernetes.io/not-ready", "NoExecute"),
    ("node.kubernetes.io/unreachable", "NoExecute"),
    ("node.kubernetes.io/disk-pressure", "NoSchedule"),
    ("node.kubernetes.io/memory-pressure", "NoSchedule"),
    ("node.kubernetes.io/pid-pressure", "NoSchedule"),
    ("node.kubernetes.io/unschedulable", "NoSchedule"),
)


@dataclass(frozen=True, slots=True)
class Observed:
    """A DaemonSet, its pods, its revisions and all nodes."""

    daemon_set: Manifest
    claimed: Claimed
    revisions: tuple[Manifest, ...]
    nodes: tuple[Manifest, ...]


class NodeWatch:
    """Which DaemonSets a change of a node wakes: all that were seen. One for each controller, never shared."""

    def __init__(self) -> None:
        self._seen: set[Key] = set()

    def saw(self, daemon_set: Manifest) -> list[Key]:
        """Remember a DaemonSet; wakes nothing by itself."""
        self._seen.add(key_of(daemon_set))
        return []

    def keys(self, node: Manifest) -> list[Key]:
        """The DaemonSets."""
        return sorted(self._seen)


def controller() -> Controller[Observed]:
    """The DaemonSet controller."""
    nodes = NodeWatch()
    return Controller(
        name="daemonset-controller",
        resource=DAEMON_SETS,
        observe=observe,
        plan=plan,
        watches=(
            Watch(DAEMON_SETS, nodes.saw),
            Watch(NODES, nodes.keys),
            Watch(PODS, owner_keys("DaemonSet")),
            Watch(CONTROLLER_REVISIONS, owner_keys("DaemonSet")),
        ),
    )


def observe(reader: Reader, key: Key) -> Observed | None:
    """The DaemonSet with what it looks at; None when it is gone."""
    daemon_set = reader.get(DAEMON_SETS, key.name, key.namespace)
    if daemon_set is None:
        return None
    return Observed(
        daemon_set=daemon_set,
        claimed=claim(reader, PODS, daemon_set, daemon_set["spec"].get("selector")),
        revisions=tuple(reader.owned_by(CONTROLLER_REVISIONS, daemon_set["metadata"]["uid"])),
        nodes=tuple(reader.list(NODES)),
    )


def node_of(p: Manifest) -> str:
    """The node that a daemon pod runs on, or is meant for."""
    if p["spec"].get("nodeName"):
        return str(p["spec"]["nodeName"])
    for term in _terms(p["spec"]):
        for field in term.get("matchFields") or []:
            if field.get("key") == "metadata.name" and field.get("values"):
                return str(field["values"][0])
    return ""


def _terms(spec: Manifest) -> list[Manifest]:
    required = ((spec.get("affinity") or {}).get("nodeAffinity") or {}).get(
        "requiredDuringSchedulingIgnoredDuringExecution"
    )
    found: list[Manifest] = (required or {}).get("nodeSelectorTerms") or []
    return found


def _tolerations(spec: Manifest) -> list[Manifest]:
    own = spec.get("tolerations") or []
    return [*own, *({"key": key, "operator": "Exists", "effect": effect} for key, effect in TOLERATED)]


def is_wanted_on(daemon_set: Manifest, node: Manifest) -> bool:
    """Whether a pod of the DaemonSet should be on the node."""
    spec = daemon_set["spec"]["template"]["spec"]
    taints = [t for t in node["spec"].get("taints") or [] if t["effect"] != "PreferNoSchedule"]
    return node_matches(spec, node) and all(tolerates(_tolerations(spec), taint) for taint in taints)


def plan(observed: Observed, now: datetime) -> Plan:
    """Creates and deletes pods so that each wanted node has one of the newest template."""
    daemon_set = observed.daemon_set
    history = revisions.history(daemon_set, observed.revisions, revisions.REVISION_LABEL)
    digest = history.name.rpartition("-")[2]
    status = _status(observed, digest, now)
    if is_deleting(daemon_set):
        return Plan(patches=status_patch(DAEMON_SETS, daemon_set, status))
    create, delete = _step(observed, digest, now)
    in_use = {history.name, *(f"{daemon_set['metadata']['name']}-{_digest_of(p)}" for p in observed.claimed.objects)}
    limit = daemon_set["spec"].get("revisionHistoryLimit", 10)
    return Plan(
        patches=(*observed.claimed.patches, *history.patches, *status_patch(DAEMON_SETS, daemon_set, status)),
        create=(*history.create, *create),
        delete=(
            *(Delete(PODS, key_of(p), p["metadata"]["uid"]) for p in delete),
            *revisions.surplus(observed.revisions, in_use, limit),
        ),
        events=_events(daemon_set, create, delete),
        refused=pod.creation_refused(daemon_set),
        requeue_after_s=pod.next_available_in_s(list(observed.claimed.objects), _min_ready_s(daemon_set), now),
    )


def _digest_of(p: Manifest) -> str:
    return labels_of(p).get(revisions.REVISION_LABEL, "")


def _min_ready_s(daemon_set: Manifest) -> int:
    return int(daemon_set["spec"].get("minReadySeconds", 0))


def _by_node(observed: Observed) -> dict[str, list[Manifest]]:
    found: dict[str, list[Manifest]] = {}
    for p in sorted(observed.claimed.objects, key=lambda p: (pod.created_at(p), p["metadata"]["name"])):
        found.setdefault(node_of(p), []).append(p)
    return found


def _step(observed: Observed, digest: str, now: datetime) -> tuple[list[Create], list[Manifest]]:
    daemon_set, by_node = observed.daemon_set, _by_node(observed)
    create: list[Create] = []
    delete: list[Manifest] = []
    wanted = {node["metadata"]["name"] for node in observed.nodes if is_wanted_on(daemon_set, node)}
    known = {node["metadata"]["name"] for node in observed.nodes}
    for name in sorted(wanted):
        here = by_node.get(name, [])
        staying = [p for p in here if not is_deleting(p)]
        delete += [p for p in staying if pod.is_finished(p)]
        delete += [p for p in staying if not pod.is_finished(p)][1:]
        if not here:
            create.append(Create(_daemon_pod(daemon_set, name, digest)))
    for name, here in by_node.items():
        if name in known and name not in wanted:
            delete += [p for p in here if not is_deleting(p)]
    return create, [*delete, *_outdated(observed, wanted, by_node, digest, now)]


def _outdated(
    observed: Observed, wanted: set[str], by_node: dict[str, list[Manifest]], digest: str, now: datetime
) -> list[Manifest]:
    """Pods of older templates to delete now, at most `maxUnavailable` of them away at a time."""
    daemon_set = observed.daemon_set
    strategy = daemon_set["spec"].get("updateStrategy") or {}
    if strategy.get("type", "RollingUpdate") != "RollingUpdate":
        return []
    limit = (strategy.get("rollingUpdate") or {}).get("maxUnavailable")
    most = max(1, scaled(limit, len(wanted), round_up=True, default=1))
    min_ready_s = _min_ready_s(daemon_set)

    def serves(p: Manifest) -> bool:
        return pod.is_active(p) and pod.is_available(p, min_ready_s, now)

    away = sum(not any(serves(p) for p in by_node.get(name, [])) for name in wanted)
    chosen: list[Manifest] = []
    for name in sorted(wanted):
        for p in [p for p in by_node.get(name, [])[:1] if pod.is_active(p) and _digest_of(p) != digest]:
            if not serves(p):
                chosen.append(p)
            elif away < most:
                chosen.append(p)
                away += 1
    return chosen


def _daemon_pod(daemon_set: Manifest, node: str, digest: str) -> Manifest:
    meta = daemon_set["metadata"]
    prefix = f"{meta['name']}-"
    generation = str(meta.get("generation", 1))
    seed = (meta["uid"], meta["resourceVersion"], node)
    made = pod.pod_from_template(
        daemon_set["spec"]["template"],
        daemon_set,
        name=next(pod.generated_names(prefix, *seed)),
        generate_name=prefix,
        labels={revisions.REVISION_LABEL: digest, GENERATION_LABEL: generation},
    )
    spec = made["spec"]
    spec["affinity"] = _bound_to(spec.get("affinity") or {}, node)
    spec["tolerations"] = _tolerations(spec)
    return made


def _bound_to(affinity: Manifest, node: str) -> Manifest:
    """The affinity with its required node terms replaced by the one node's name."""
    field = {"key": "metadata.name", "operator": "In", "values": [node]}
    required: dict[str, Any] = {"nodeSelectorTerms": [{"matchFields": [field]}]}
    node_affinity = {
        **(affinity.get("nodeAffinity") or {}),
        "requiredDuringSchedulingIgnoredDuringExecution": required,
    }
    return {**affinity, "nodeAffinity": node_affinity}


def _status(observed: Observed, digest: str, now: datetime) -> Manifest:
    daemon_set, by_node = observed.daemon_set, _by_node(observed)
    wanted = [n["metadata"]["name"] for n in observed.nodes if is_wanted_on(daemon_set, n)]
    first = [by_node[name][0] for name in wanted if by_node.get(name)]
    ready = [p for p in first if pod.is_ready(p)]
    available = sum(pod.is_available(p, _min_ready_s(daemon_set), now) for p in ready)
    others = {n["metadata"]["name"] for n in observed.nodes} - set(wanted)
    status = {
        "currentNumberScheduled": len(first),
        "desiredNumberScheduled": len(wanted),
        "numberAvailable": available,
        "numberMisscheduled": sum(bool(by_node.get(name)) for name in others),
        "numberReady": len(ready),
        "numberUnavailable": len(wanted) - available,
        "observedGeneration": daemon_set["metadata"].get("generation", 0),
        "updatedNumberScheduled": sum(_digest_of(p) == digest for p in first),
        "collisionCount": (daemon_set.get("status") or {}).get("collisionCount"),
        "conditions": (daemon_set.get("status") or {}).get("conditions"),
    }
    always = ("currentNumberScheduled", "desiredNumberScheduled", "numberMisscheduled", "numberReady")
    return without_zeros(status, *always)


def _events(daemon_set: Manifest, create: list[Create], delete: list[Manifest]) -> tuple[Event, ...]:
    created = [Event(daemon_set, "SuccessfulCreate", f"Created pod: {c.manifest['metadata']['name']}") for c in create]
    deleted = [Event(daemon_set, "SuccessfulDelete", f"Deleted pod: {p['metadata']['name']}") for p in delete]
    return (*created, *deleted)
