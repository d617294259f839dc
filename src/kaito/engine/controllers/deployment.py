# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Deployments: one ReplicaSet for each pod template, sized so that the newest takes over.

`sizing.py` says how large each may be, `progress.py` what the status says; here are the ReplicaSets themselves,
revisions (which `kubectl rollout` reads) and events.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from kaito.engine.controllers import pods as pod
from kaito.engine.controllers import progress, sizing
from kaito.engine.controllers.ownership import Claimed, claim
from kaito.engine.controllers.status import status_patch
from kaito.kube.manifest import Key, Manifest, annotations_of, controller_of, is_deleting, key_of, owner_reference
from kaito.kube.plan import Controller, Create, Delete, Event, Patch, Plan, Reader, Watch, owner_keys
from kaito.kube.resource import DEPLOYMENTS, PODS, REPLICA_SETS

HASH_LABEL = "pod-template-hash"
REVISION = "deployment.kubernetes.io/revision"
REVISION_HISTORY = "deployment.kubernetes.io/revision-history"
# Annotations of a Deployment that are about itself and do not go to its ReplicaSets
_OWN_ANNOTATIONS = frozenset(
    {
        "kubectl.kubernetes.io/last-applied-configuration",
        REVISION,
        REVISION_HISTORY,
        sizing.DESIRED,
        sizing.MAXIMUM,
        "deprecated.deployment.rollback.to",
    }
)


@dataclass(frozen=True, slots=True)
class Observed:
    """A Deployment, its ReplicaSets, and whether pods of older ones still run."""

    deployment: Manifest
    new: Manifest | None
    old: tuple[Manifest, ...]
    claimed: Claimed
    old_pods_run: bool
    collides: bool
    """Whether somebody else's ReplicaSet has the name that ours would get."""


def controller() -> Controller[Observed]:
    """The Deployment controller."""
    return Controller(
        name="deployment-controller",
        resource=DEPLOYMENTS,
        observe=observe,
        plan=plan,
        watches=(Watch(REPLICA_SETS, owner_keys("Deployment")), Watch(PODS, recreate_keys)),
    )


def recreate_keys(obj: Manifest) -> list[Key]:
    """The Deployment of a finished or vanishing pod, by its ReplicaSet's name: Recreate waits for the last old pod."""
    reference = controller_of(obj)
    if reference is None or reference["kind"] != "ReplicaSet" or pod.phase(obj) == "Pending":
        return []
    return [Key(obj["metadata"]["namespace"], reference["name"].rpartition("-")[0])]


def observe(reader: Reader, key: Key) -> Observed | None:
    """The Deployment with its ReplicaSets; None when it is gone."""
    deployment = reader.get(DEPLOYMENTS, key.name, key.namespace)
    if deployment is None:
        return None
    claimed = claim(reader, REPLICA_SETS, deployment, deployment["spec"].get("selector"))
    template = _plain(deployment["spec"]["template"])
    same = [rs for rs in sizing.oldest_first(claimed.objects) if _plain(rs["spec"]["template"]) == template]
    new = same[0] if same else None
    old = tuple(rs for rs in claimed.objects if rs is not new)
    wanted = reader.get(REPLICA_SETS, new_name(deployment), key.namespace)
    return Observed(
        deployment=deployment,
        new=new,
        old=old,
        claimed=claimed,
        old_pods_run=any(not pod.is_finished(p) for rs in old for p in reader.owned_by(PODS, rs["metadata"]["uid"])),
        collides=new is None and wanted is not None,
    )


def _plain(template: Manifest) -> Manifest:
    """The template without the hash label, for comparison."""
    meta = template.get("metadata") or {}
    labels = {key: value for key, value in (meta.get("labels") or {}).items() if key != HASH_LABEL}
    rest = {key: value for key, value in meta.items() if key not in ("labels", "creationTimestamp") and value}
    return {**template, "metadata": {**rest, "labels": labels}}


def _collisions(deployment: Manifest) -> int:
    return int((deployment.get("status") or {}).get("collisionCount") or 0)


def _hash(deployment: Manifest) -> str:
    return pod.content_hash(_plain(deployment["spec"]["template"]), _collisions(deployment))


def new_name(deployment: Manifest) -> str:
    """The name of the ReplicaSet for the current template."""
    return f"{deployment['metadata']['name']}-{_hash(deployment)}"


def plan(observed: Observed, now: datetime) -> Plan:
    """One step of the rollout, or of scaling, and the status."""
    deployment, new, old = observed.deployment, observed.new, observed.old
    if is_deleting(deployment):
        return Plan(patches=_status(observed, now, created=False))
    bounds = sizing.limits(deployment)
    sizes, create = _step(observed, bounds)
    every = (*old, new) if new else old
    revision = _revision(observed)
    patches = [
        patch
        for rs in every
        if (patch := _patch(rs, observed, bounds, sizes=sizes, revision=revision if rs is new else None))
    ]
    return Plan(
        patches=(
            *observed.claimed.patches,
            *patches,
            *(_own_revision(deployment, revision) if new or create else ()),
            *_status(observed, now, created=bool(create)),
        ),
        create=create,
        delete=_cleanup(observed),
        events=(*_created_events(deployment, create), *_scaled_events(deployment, every, sizes)),
        requeue_after_s=_requeue(observed, now),
    )


def _step(observed: Observed, bounds: sizing.Limits) -> tuple[sizing.Sizes, tuple[Create, ...]]:
    """The sizes to change now, and the ReplicaSet to create."""
    deployment, new, old = observed.deployment, observed.new, observed.old
    recreate = (deployment["spec"].get("strategy") or {}).get("type") == "Recreate"
    every = (*old, new) if new else old
    if deployment["spec"].get("paused") or (not recreate and sizing.is_scaling(deployment, every)):
        return sizing.scaled_sizes(new, old, bounds, rolling=not recreate), ()
    if recreate:
        down = {rs["metadata"]["name"]: 0 for rs in old if sizing.size(rs) > 0}
        if down or observed.old_pods_run:
            return down, ()
    wanted = sizing.new_size(new, old, bounds)
    if new is None:
        return {}, () if observed.collides else (Create(_replica_set(observed, bounds, wanted)),)
    if wanted != sizing.size(new):
        return {new["metadata"]["name"]: wanted}, ()
    return sizing.old_sizes(new, old, bounds), ()


def _replica_set(observed: Observed, bounds: sizing.Limits, replicas: int) -> Manifest:
    """The ReplicaSet of the current template."""
    deployment = observed.deployment
    spec, digest = deployment["spec"], _hash(deployment)
    meta = spec["template"].get("metadata") or {}
    labels = {**(meta.get("labels") or {}), HASH_LABEL: digest}
    selector = spec["selector"]
    return {
        "apiVersion": "apps/v1",
        "kind": "ReplicaSet",
        "metadata": {
            "name": new_name(deployment),
            "namespace": deployment["metadata"]["namespace"],
            "labels": labels,
            "annotations": {**_inherited(deployment), **_size_annotations(bounds), REVISION: _revision(observed)},
            "ownerReferences": [owner_reference(deployment)],
        },
        "spec": {
            "replicas": replicas,
            **({"minReadySeconds": spec["minReadySeconds"]} if spec.get("minReadySeconds") else {}),
            "selector": {**selector, "matchLabels": {**(selector.get("matchLabels") or {}), HASH_LABEL: digest}},
            "template": {**spec["template"], "metadata": {**meta, "labels": labels}},
        },
    }


def _inherited(deployment: Manifest) -> dict[str, str]:
    return {key: value for key, value in annotations_of(deployment).items() if key not in _OWN_ANNOTATIONS}


def _size_annotations(bounds: sizing.Limits) -> dict[str, str]:
    return {sizing.DESIRED: str(bounds.replicas), sizing.MAXIMUM: str(bounds.maximum)}


def _number(rs: Manifest) -> int:
    text = annotations_of(rs).get(REVISION, "0")
    return int(text) if text.isdigit() else 0


def _revision(observed: Observed) -> str:
    """The newest ReplicaSet's revision: higher than that of all others."""
    highest = max((_number(rs) for rs in observed.old), default=0)
    return str(max(highest + 1, _number(observed.new) if observed.new else 0))


def _patch(
    rs: Manifest, observed: Observed, bounds: sizing.Limits, *, sizes: sizing.Sizes, revision: str | None
) -> Patch | None:
    """What changes about a ReplicaSet: its size, and for the newest one its revision and inherited annotations."""
    deployment = observed.deployment
    annotations: dict[str, str] = {}
    spec: Manifest = {}
    name = rs["metadata"]["name"]
    if name in sizes:
        annotations |= _size_annotations(bounds)
        spec["replicas"] = sizes[name]
    if revision is not None:
        annotations |= {**_inherited(deployment), REVISION: revision}
        if _number(rs) and str(_number(rs)) != revision:
            before = annotations_of(rs).get(REVISION_HISTORY)
            annotations[REVISION_HISTORY] = f"{before},{_number(rs)}" if before else str(_number(rs))
        if rs["spec"].get("minReadySeconds", 0) != deployment["spec"].get("minReadySeconds", 0):
            spec["minReadySeconds"] = deployment["spec"].get("minReadySeconds", 0)
    have = annotations_of(rs)
    changed = {key: value for key, value in annotations.items() if have.get(key) != value}
    if not changed and all(rs["spec"].get(key) == value for key, value in spec.items()):
        return None
    meta: Manifest = {"resourceVersion": rs["metadata"]["resourceVersion"]}
    if changed:
        meta["annotations"] = changed
    return Patch(REPLICA_SETS, key_of(rs), {"metadata": meta, **({"spec": spec} if spec else {})})


def _own_revision(deployment: Manifest, revision: str) -> tuple[Patch, ...]:
    if annotations_of(deployment).get(REVISION) == revision:
        return ()
    return (Patch(DEPLOYMENTS, key_of(deployment), {"metadata": {"annotations": {REVISION: revision}}}),)


def _status(observed: Observed, now: datetime, *, created: bool) -> tuple[Patch, ...]:
    deployment, new = observed.deployment, observed.new
    collisions = _collisions(deployment) + (1 if observed.collides else 0)
    status = progress.counts(deployment, new, observed.old, collisions=collisions or None)
    status["conditions"] = progress.conditions(
        deployment,
        status,
        sizing.limits(deployment),
        new_name=new["metadata"]["name"] if new else new_name(deployment),
        created=created,
        now=now,
    )
    return status_patch(DEPLOYMENTS, deployment, status)


def _cleanup(observed: Observed) -> tuple[Delete, ...]:
    """Old, empty ReplicaSets beyond the history limit, once the rollout is complete."""
    deployment = observed.deployment
    status = progress.counts(deployment, observed.new, observed.old, collisions=None)
    if observed.new is None or deployment["spec"].get("paused") or not progress.is_complete(deployment, status):
        return ()
    doomed = sizing.surplus(deployment, observed.old)
    return tuple(Delete(REPLICA_SETS, key_of(rs), rs["metadata"]["uid"]) for rs in doomed)


def _created_events(deployment: Manifest, create: tuple[Create, ...]) -> list[Event]:
    return [
        _event(deployment, c.manifest["metadata"]["name"], 0, c.manifest["spec"]["replicas"])
        for c in create
        if c.manifest["spec"]["replicas"]
    ]


def _scaled_events(deployment: Manifest, every: tuple[Manifest, ...], sizes: sizing.Sizes) -> list[Event]:
    before = {rs["metadata"]["name"]: sizing.size(rs) for rs in every}
    return [_event(deployment, name, before[name], now) for name, now in sizes.items() if before[name] != now]


def _event(deployment: Manifest, name: str, before: int, after: int) -> Event:
    direction = "up" if after > before else "down"
    return Event(deployment, "ScalingReplicaSet", f"Scaled {direction} replica set {name} from {before} to {after}")


def _requeue(observed: Observed, now: datetime) -> float | None:
    """When the progress deadline is due, with a second for rounding."""
    wait = progress.deadline_in_s(observed.deployment, now)
    return wait + 1.0 if wait else None
