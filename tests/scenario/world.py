# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""A cluster in a dict: what plans write is kept, and a StatefulSet gets its pods, which become ready step by step.

Counts every write that changes something, so that a test can say that nothing is left to do.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from kaito.api.names import POD_INDEX_LABEL
from kaito.kube.manifest import Key, Manifest, controller_of, has_labels, is_deleting, key_of, labels_of, rfc3339
from kaito.kube.plan import Controller, Event, Plan, Reader, RetryLater
from kaito.kube.resource import PODS, STATEFUL_SETS, WELL_KNOWN, Resource, resource_of

REVISION_LABEL = "controller-revision-hash"
Kubelet = Callable[[Manifest], Manifest]
"""A pod's next status from the pod."""


class World:
    """Objects by resource and key; also the `Reader` that controllers observe through."""

    def __init__(self, *objects: Manifest, known: Iterable[Resource] = ()) -> None:
        self.known = (*known, *WELL_KNOWN)
        self.objects: dict[Resource, dict[Key, Manifest]] = {}
        self.applied: dict[tuple[Resource, Key], Manifest] = {}
        self.events: list[Event] = []
        self.absent: set[Resource] = set()
        self.others: list[Callable[[], int]] = []
        """Who else moves things in each step, such as a cloud; each says how many."""
        self.writes = 0
        self.now = datetime(2026, 1, 1, tzinfo=UTC)
        self._versions = 100
        for obj in objects:
            self.put(obj)

    def get(self, resource: Resource, name: str, namespace: str = "") -> Manifest | None:
        return self.objects.get(resource, {}).get(Key(namespace, name))

    def serves(self, resource: Resource) -> bool:
        return resource not in self.absent

    def owned_by(self, resource: Resource, uid: str) -> list[Manifest]:
        return [obj for obj in self.list(resource) if (controller_of(obj) or {}).get("uid") == uid]

    def about(self, resource: Resource, kind: str, key: Key) -> list[Manifest]:
        return [event for event in self.list(resource) if subject_of(event) == (kind, key)]

    def list(
        self, resource: Resource, namespace: str | None = None, *, labels: Mapping[str, str] | None = None
    ) -> list[Manifest]:
        found = sorted(self.objects.get(resource, {}).items())
        return [obj for key, obj in found if namespace in (None, key.namespace) and has_labels(obj, labels or {})]

    def put(self, obj: Manifest) -> bool:
        """Store the object as it is, with a new resourceVersion; whether it differed from what was there."""
        resource = resource_of(obj, self.known)
        key = key_of(obj)
        before = self.objects.setdefault(resource, {}).get(key)
        made = rfc3339(self.now) if before is None else before["metadata"]["creationTimestamp"]
        obj = {**obj, "metadata": {"creationTimestamp": made, **obj["metadata"]}}
        if before is not None and _without_version(before) == _without_version(obj):
            return False
        self._versions += 1
        fresh = copy.deepcopy(obj)
        fresh["metadata"]["resourceVersion"] = str(self._versions)
        fresh["metadata"].setdefault("uid", f"uid-{self._versions}")
        generation = (before or fresh)["metadata"].get("generation", 0 if before is None else 1)
        if _spec(before) != _spec(fresh):
            fresh["metadata"]["generation"] = generation + (0 if before is None and generation else 1)
        self.objects[resource][key] = fresh
        self._finalise(resource, key)
        return True

    def change(self, resource: Resource, name: str, changes: Callable[[Manifest], None]) -> None:
        """Let somebody else change an object of the default namespace (or without one)."""
        namespace = "default" if resource.namespaced else ""
        obj = copy.deepcopy(self.objects[resource][Key(namespace, name)])
        changes(obj)
        self.put(obj)

    def delete(self, resource: Resource, key: Key) -> None:
        """Ask for deletion: at once without finalizers, else marked."""
        obj = self.objects.get(resource, {}).get(key)
        if obj is None or is_deleting(obj):
            return
        self.writes += 1
        obj = copy.deepcopy(obj)
        obj["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
        self.objects[resource][key] = obj
        self._finalise(resource, key)

    def _finalise(self, resource: Resource, key: Key) -> None:
        obj = self.objects[resource][key]
        if not is_deleting(obj) or obj["metadata"].get("finalizers"):
            return
        del self.objects[resource][key]
        for owned in list(self.objects):
            for child in self.owned_by(owned, obj["metadata"]["uid"]):
                self.delete(owned, key_of(child))

    def carry_out(self, plan: Plan, resource: Resource, key: Key) -> None:
        """Do what the plan says, in its order, as an API server would."""
        for patch in plan.patches:
            current = self.objects[patch.resource].get(patch.key)
            if current is None:
                continue
            version = patch.body.get("metadata", {}).get("resourceVersion")
            if version not in (None, current["metadata"]["resourceVersion"]):
                raise RetryLater("conflict")
            self._count(self.put(_patched(current, patch.body)))
        for manifest in plan.apply:
            self._apply(manifest)
        for create in plan.create:
            found = self.get(resource_of(create.manifest, self.known), *reversed(key_of(create.manifest)))
            if found is None:
                self._count(self.put(create.manifest))
        for deletion in plan.delete:
            target = self.objects.get(deletion.resource, {}).get(deletion.key)
            if target is not None and deletion.uid in (None, target["metadata"]["uid"]):
                self.delete(deletion.resource, deletion.key)
        if plan.status is not None and key in self.objects.get(resource, {}):
            self._count(self.put({**self.objects[resource][key], "status": plan.status}))
        self.events.extend(plan.events)

    def _apply(self, manifest: Manifest) -> None:
        resource, key = resource_of(manifest, self.known), key_of(manifest)
        before = self.applied.get((resource, key), {})
        current = self.objects.get(resource, {}).get(key) or {}
        self._count(self.put(_merged(_pruned(current, before, manifest), manifest)))
        self.applied[(resource, key)] = copy.deepcopy(manifest)

    def _count(self, changed: bool) -> None:
        self.writes += changed

    def reconcile(self, controller: Controller[Any], reader: Reader | None = None) -> int:
        """Observe, plan and carry out once for each object of the controller; the number of writes."""
        before = self.writes
        for obj in self.list(controller.resource):
            observed = controller.observe(reader or self, key_of(obj))
            if observed is not None:
                self.carry_out(controller.plan(observed, self.now), controller.resource, key_of(obj))
        return self.writes - before

    def settle(self, controller: Controller[Any], kubelet: Kubelet, *, steps: int = 12) -> int:
        """Reconcile and let the cluster move until the world stands still; how many steps it took."""
        for step in range(1, steps + 1):
            self.now += timedelta(seconds=1)
            changed = self.reconcile(controller)
            moved = self.move(kubelet) + sum(other() for other in self.others)
            if not changed and not moved:
                return step
        raise AssertionError(f"the world still moves after {steps} steps")

    def move(self, kubelet: Kubelet) -> int:
        """Let StatefulSets make and count their pods, and the kubelet take each pod a step further."""
        moved = 0
        for stateful_set in self.list(STATEFUL_SETS):
            moved += sum(self.put(pod) for pod in self._missing_pods(stateful_set))
        for pod in self.list(PODS):
            if not is_deleting(pod):
                moved += self.put(kubelet(copy.deepcopy(pod)))
        for stateful_set in self.list(STATEFUL_SETS):
            moved += self.put({**stateful_set, "status": self._counted(stateful_set)})
        return moved

    def _missing_pods(self, stateful_set: Manifest) -> Iterable[Manifest]:
        """The pods that it lacks; once all are there and ready, a new one for the highest outdated one."""
        meta, spec = stateful_set["metadata"], stateful_set["spec"]
        keys = [Key(meta["namespace"], f"{meta['name']}-{index}") for index in range(spec["replicas"])]
        there = {key: pod for key in keys if (pod := self.objects.get(PODS, {}).get(key)) is not None}
        if len(there) == len(keys):
            current = _revision_of(stateful_set)
            outdated = [key for key in keys if labels_of(there[key])[REVISION_LABEL] != current]
            updated = [pod for key, pod in there.items() if key not in outdated]
            if not outdated or not all(_is_ready(pod) for pod in updated):
                return
            del self.objects[PODS][outdated[-1]], there[outdated[-1]]
        for index, key in enumerate(keys):
            if key not in there:
                yield self._pod(stateful_set, index)

    def _pod(self, stateful_set: Manifest, index: int) -> Manifest:
        meta, template = stateful_set["metadata"], stateful_set["spec"]["template"]
        owner = {"apiVersion": "apps/v1", "kind": "StatefulSet", "controller": True}
        own_labels = {POD_INDEX_LABEL: str(index), REVISION_LABEL: _revision_of(stateful_set)}
        return {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": f"{meta['name']}-{index}",
                "namespace": meta["namespace"],
                "labels": {**template["metadata"]["labels"], **own_labels},
                "ownerReferences": [{**owner, "name": meta["name"], "uid": meta["uid"]}],
            },
            "spec": copy.deepcopy(template["spec"]),
            "status": {"phase": "Pending"},
        }

    def _counted(self, stateful_set: Manifest) -> Manifest:
        pods = self.owned_by(PODS, stateful_set["metadata"]["uid"])
        newest = _revision_of(stateful_set)
        updated = [pod for pod in pods if labels_of(pod)[REVISION_LABEL] == newest]
        ready = [pod for pod in pods if _is_ready(pod)]
        before = (stateful_set.get("status") or {}).get("currentRevision", newest)
        return {
            "observedGeneration": stateful_set["metadata"]["generation"],
            "replicas": len(pods),
            "readyReplicas": len(ready),
            "updatedReplicas": len(updated),
            "currentRevision": newest if len(updated) == len(ready) == len(pods) else before,
            "updateRevision": newest,
        }


def _revision_of(stateful_set: Manifest) -> str:
    text = json.dumps(stateful_set["spec"]["template"], sort_keys=True)
    return f"{stateful_set['metadata']['name']}-{hashlib.sha256(text.encode()).hexdigest()[:10]}"


def _is_ready(pod: Manifest) -> bool:
    return bool(pod["status"].get("containerStatuses", [{}])[0].get("ready"))


def subject_of(event: Manifest) -> tuple[str, Key]:
    """What an event is about."""
    about = event["involvedObject"]
    return about["kind"], Key(about.get("namespace", ""), about["name"])


def starting_kubelet(pod: Manifest) -> Manifest:
    """Takes a pod from nothing over a node and a running container to ready, a step each time."""
    status = pod["status"]
    if not pod["spec"].get("nodeName"):
        pod["spec"]["nodeName"] = "laptop"
        status["conditions"] = [{"type": "PodScheduled", "status": "True"}]
    elif status["phase"] == "Pending":
        status["phase"] = "Running"
        status["containerStatuses"] = [{"name": "main", "ready": False, "state": {"running": {}}}]
    else:
        status["containerStatuses"][0]["ready"] = True
        status["conditions"] = [{"type": "PodScheduled", "status": "True"}, {"type": "Ready", "status": "True"}]
    return pod


def _without_version(obj: Manifest) -> Manifest:
    return {**obj, "metadata": {**obj["metadata"], "resourceVersion": "", "uid": "", "generation": 0}}


def _spec(obj: Manifest | None) -> Manifest:
    return {key: value for key, value in (obj or {}).items() if key not in ("metadata", "status")}


def _patched(current: Manifest, body: Manifest) -> Manifest:
    result = dict(current)
    for key, value in body.items():
        if value is None:
            result.pop(key, None)
        elif isinstance(value, dict):
            result[key] = _patched(result.get(key) or {}, value)
        else:
            result[key] = value
    return result


def _merged(current: Manifest, manifest: Manifest) -> Manifest:
    result = dict(current)
    for key, value in manifest.items():
        result[key] = _merged(result.get(key) or {}, value) if isinstance(value, dict) else value
    return result


def _pruned(current: Manifest, before: Manifest, manifest: Manifest) -> Manifest:
    """`current` without what we applied before and do not apply any more."""
    result = {}
    for key, value in current.items():
        if key in before and key not in manifest:
            continue
        if isinstance(value, dict) and isinstance(before.get(key), dict) and isinstance(manifest.get(key), dict):
            value = _pruned(value, before[key], manifest[key])
        result[key] = value
    return result
