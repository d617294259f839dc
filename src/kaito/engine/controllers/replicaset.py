# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""ReplicaSets: so many pods of one template, whichever they are.

New pods get names derived from the ReplicaSet's uid and resourceVersion: the same plan asks for the same pods, and a
pod that was deleted is replaced under another name. `deployment.py` is the layer above.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import datetime
from itertools import islice

from kaito.engine.controllers import pods as pod
from kaito.engine.controllers.ownership import Claimed, claim
from kaito.engine.controllers.status import status_patch, without_zeros
from kaito.kube.manifest import Key, Manifest, annotations_of, has_labels, is_deleting, key_of
from kaito.kube.plan import Controller, Create, Delete, Event, Plan, Reader, Watch, owner_keys
from kaito.kube.resource import PODS, REPLICA_SETS

# As many pods at once as Kubernetes' controller (BurstReplicas)
BURST = 500
DELETION_COST = "controller.kubernetes.io/pod-deletion-cost"


@dataclass(frozen=True, slots=True)
class Observed:
    """A ReplicaSet and its pods."""

    replica_set: Manifest
    claimed: Claimed


def controller() -> Controller[Observed]:
    """The ReplicaSet controller."""
    return Controller(
        name="replicaset-controller",
        resource=REPLICA_SETS,
        observe=observe,
        plan=plan,
        watches=(Watch(PODS, owner_keys("ReplicaSet")),),
    )


def observe(reader: Reader, key: Key) -> Observed | None:
    """The ReplicaSet with its pods; None when it is gone."""
    replica_set = reader.get(REPLICA_SETS, key.name, key.namespace)
    if replica_set is None:
        return None
    return Observed(replica_set, claim(reader, PODS, replica_set, replica_set["spec"].get("selector")))


def plan(observed: Observed, now: datetime) -> Plan:
    """Creates what is missing, deletes what is too much, and counts."""
    replica_set, owned = observed.replica_set, observed.claimed.objects
    active = [p for p in owned if pod.is_active(p)]
    missing = replica_set["spec"].get("replicas", 1) - len(active)
    create: tuple[Create, ...] = ()
    delete: tuple[Delete, ...] = ()
    if not is_deleting(replica_set) and missing > 0:
        create = _missing(replica_set, owned, min(missing, BURST))
    elif not is_deleting(replica_set) and missing < 0:
        delete = tuple(_delete(p) for p in by_deletion_order(active)[: min(-missing, BURST)])
    min_ready_s = replica_set["spec"].get("minReadySeconds", 0)
    return Plan(
        patches=(*observed.claimed.patches, *status_patch(REPLICA_SETS, replica_set, status(observed, now))),
        create=create,
        delete=delete,
        events=_events(replica_set, create, delete),
        refused=pod.creation_refused(replica_set),
        requeue_after_s=pod.next_available_in_s(active, min_ready_s, now),
    )


def _missing(replica_set: Manifest, owned: tuple[Manifest, ...], count: int) -> tuple[Create, ...]:
    """Pods under names that none of the present ones has."""
    meta = replica_set["metadata"]
    prefix = f"{meta['name']}-"
    taken = {p["metadata"]["name"] for p in owned}
    fresh = (n for n in pod.generated_names(prefix, meta["uid"], meta["resourceVersion"]) if n not in taken)
    template = replica_set["spec"]["template"]
    return tuple(
        Create(pod.pod_from_template(template, replica_set, name=name, generate_name=prefix))
        for name in islice(fresh, count)
    )


def by_deletion_order(active: list[Manifest]) -> list[Manifest]:
    """The pods, the one to delete first in front.

    Kubernetes' order (ActivePodsWithRanks): unassigned, not running, not ready, cheapest by annotation, most crowded
    node, ready for the shortest time, most restarts, youngest.
    """
    crowd = Counter(p["spec"].get("nodeName", "") for p in active)

    def rank(p: Manifest) -> tuple[object, ...]:
        since = pod.ready_since(p)
        return (
            bool(p["spec"].get("nodeName")),
            {"Pending": 0, "Unknown": 1}.get(pod.phase(p), 2),
            pod.is_ready(p),
            _deletion_cost(p),
            -crowd[p["spec"].get("nodeName", "")],
            -since.timestamp() if since else 0.0,
            -pod.restarts(p),
            -pod.created_at(p).timestamp(),
            p["metadata"]["name"],
        )

    return sorted(active, key=rank)


def _deletion_cost(p: Manifest) -> int:
    try:
        return int(annotations_of(p).get(DELETION_COST, "0"))
    except ValueError:
        return 0


def _delete(p: Manifest) -> Delete:
    return Delete(PODS, key_of(p), p["metadata"]["uid"])


def status(observed: Observed, now: datetime) -> Manifest:
    """The counts of a ReplicaSet's status. Pods that are being deleted count as terminating and nothing else."""
    spec = observed.replica_set["spec"]
    owned = observed.claimed.objects
    active = [p for p in owned if pod.is_active(p)]
    labels = (spec["template"].get("metadata") or {}).get("labels") or {}
    ready = [p for p in active if pod.is_ready(p)]
    counts = {
        "replicas": len(active),
        "fullyLabeledReplicas": sum(has_labels(p, labels) for p in active),
        "readyReplicas": len(ready),
        "availableReplicas": sum(pod.is_available(p, spec.get("minReadySeconds", 0), now) for p in ready),
        "terminatingReplicas": sum(is_deleting(p) and not pod.is_finished(p) for p in owned),
        "observedGeneration": observed.replica_set["metadata"].get("generation", 0),
        "conditions": (observed.replica_set.get("status") or {}).get("conditions"),
    }
    return without_zeros(counts, "replicas", "terminatingReplicas")


def _events(replica_set: Manifest, create: tuple[Create, ...], delete: tuple[Delete, ...]) -> tuple[Event, ...]:
    created = [Event(replica_set, "SuccessfulCreate", f"Created pod: {c.manifest['metadata']['name']}") for c in create]
    deleted = [Event(replica_set, "SuccessfulDelete", f"Deleted pod: {d.key.name}") for d in delete]
    return (*created, *deleted)
