# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""A small world in memory: objects, plans applied to them, controllers run until nothing changes.

It keeps the few rules of a server that controllers rely on (uids, versions, generations, finalizers, conflicts) and
counts what is written, so that a test can ask whether anything still moves.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from kaito.engine.controllers.endpointslice import ENDPOINTS
from kaito.kube.manifest import Key, Manifest, controller_of, has_labels, key_of, rfc3339
from kaito.kube.plan import Controller, Create, Delete, Event, Patch, Plan, RetryLater
from kaito.kube.resource import PODS, WELL_KNOWN, Resource, resource_of

KNOWN = (*WELL_KNOWN, ENDPOINTS)
START = datetime(2026, 1, 1, tzinfo=UTC)
Manifests = list[Manifest]
Names = list[str]


@dataclass
class World:
    """Objects by resource and key. It is a `kaito.kube.plan.Reader` too."""

    now: datetime = START
    objects: dict[tuple[Resource, Key], Manifest] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)
    writes: int = 0
    known: tuple[Resource, ...] = KNOWN
    bindings: list[tuple[Key, str]] = field(default_factory=list)
    _version: int = 0
    _listeners: list[Any] = field(default_factory=list)

    # --- the Reader -------------------------------------------------------------------------------------------------

    def get(self, resource: Resource, name: str, namespace: str = "") -> Manifest | None:
        return self.objects.get((resource, Key(namespace, name)))

    def serves(self, resource: Resource) -> bool:
        return True

    def owned_by(self, resource: Resource, uid: str) -> Manifests:
        return [o for o in self.list(resource) if (controller_of(o) or {}).get("uid") == uid]

    def list(
        self, resource: Resource, namespace: str | None = None, *, labels: Mapping[str, str] | None = None
    ) -> Manifests:
        found = sorted((key, obj) for (r, key), obj in self.objects.items() if r == resource)
        return [o for k, o in found if namespace in (None, k.namespace) and has_labels(o, labels or {})]

    # --- the server -------------------------------------------------------------------------------------------------

    def add(self, manifest: Manifest) -> Manifest:
        """Create an object as a client would."""
        obj = copy.deepcopy(manifest)
        resource, key = resource_of(obj, self.known), key_of(obj)
        self._version += 1
        meta = obj["metadata"]
        meta.update(
            uid=f"uid-{self._version}",
            resourceVersion=str(self._version),
            creationTimestamp=rfc3339(self.now),
            generation=1,
        )
        assert (resource, key) not in self.objects, f"{key} exists"
        self.objects[resource, key] = obj
        self._tell(resource, None, obj)
        return obj

    def change(self, resource: Resource, key: Key, body: Manifest) -> Manifest:
        """Apply a JSON merge patch; a changed spec moves the generation; a last finalizer may end the object."""
        old = self.objects[resource, key]
        version = body.get("metadata", {}).get("resourceVersion")
        if version is not None and version != old["metadata"]["resourceVersion"]:
            raise RetryLater("conflict")
        new: Manifest = merged(old, body)
        if new == old:
            return old
        self._version += 1
        self.writes += 1
        new["metadata"]["resourceVersion"] = str(self._version)
        if new.get("spec") != old.get("spec"):
            new["metadata"]["generation"] += 1
        self.objects[resource, key] = new
        self._tell(resource, old, new)
        waits = new["metadata"].get("finalizers") or new.get("spec", {}).get("finalizers")
        if new["metadata"].get("deletionTimestamp") and not waits and not self._is_running(resource, new):
            self.remove(resource, key)
        return new

    def delete(
        self, resource: Resource, key: Key, *, propagation: str = "Background", grace: int | None = None
    ) -> None:
        """Ask for an object's deletion, as a client would."""
        obj = self.objects.get((resource, key))
        if obj is None:
            return
        extra = {"Foreground": ["foregroundDeletion"], "Orphan": ["orphan"]}.get(propagation, [])
        finalizers = [*(obj["metadata"].get("finalizers") or []), *extra]
        self.writes += 1
        stays = finalizers or obj.get("spec", {}).get("finalizers") or (grace != 0 and self._is_running(resource, obj))
        if not stays:
            self.remove(resource, key)
            return
        marks = {"deletionTimestamp": rfc3339(self.now), "finalizers": finalizers or None}
        if not obj["metadata"].get("deletionTimestamp"):
            self.change(resource, key, {"metadata": marks})

    def _is_running(self, resource: Resource, obj: Manifest) -> bool:
        ended = (obj.get("status") or {}).get("phase") in ("Succeeded", "Failed")
        return resource == PODS and bool(obj["spec"].get("nodeName")) and not ended

    def remove(self, resource: Resource, key: Key) -> None:
        """The object is gone."""
        old = self.objects.pop((resource, key))
        self._version += 1
        self._tell(resource, old, None)

    # --- plans ------------------------------------------------------------------------------------------------------

    def carry_out(self, plan: Plan) -> None:
        """Apply a Plan, in the order that plans are applied in."""
        for patch in plan.patches:
            self._patch(patch)
        for create in plan.create:
            self._create(create)
        for delete in plan.delete:
            self._delete(delete)
        self.events += plan.events

    def _patch(self, patch: Patch) -> None:
        if (patch.resource, patch.key) not in self.objects:
            return
        body = patch.body
        if patch.subresource == "status":
            body = {key: value for key, value in body.items() if key in ("metadata", "status")}
        self.change(patch.resource, patch.key, body)

    def _create(self, create: Create) -> None:
        if create.subresource is not None:
            resource, key, name = create.subresource
            assert name == "binding"
            target = create.manifest["target"]["name"]
            self.bindings.append((key, target))
            self.change(resource, key, {"spec": {"nodeName": target}})
            return
        resource = resource_of(create.manifest, self.known)
        if (resource, key_of(create.manifest)) not in self.objects:
            self.writes += 1
            self.add(create.manifest)

    def _delete(self, delete: Delete) -> None:
        obj = self.objects.get((delete.resource, delete.key))
        if obj is not None and delete.uid in (None, obj["metadata"]["uid"]):
            self.delete(delete.resource, delete.key, propagation=delete.propagation, grace=delete.grace_period_s)

    # --- controllers ------------------------------------------------------------------------------------------------

    def _tell(self, resource: Resource, old: Manifest | None, new: Manifest | None) -> None:
        for listener in self._listeners:
            listener(resource, old, new)

    def run(self, *controllers: Controller[Any], rounds: int = 200) -> int:
        """Let the controllers work until no key is left; returns the number of plans. Fails after `rounds` of them."""
        queues: list[dict[Key, None]] = [{} for _ in controllers]
        self._listeners = [_listener(c, queue) for c, queue in zip(controllers, queues, strict=True)]
        for (resource, _), obj in sorted(self.objects.items(), key=lambda item: item[0][1]):
            self._tell(resource, None, obj)
        count = 0
        while any(queues):
            for controller, queue in zip(controllers, queues, strict=True):
                for key in list(queue):
                    del queue[key]
                    count += 1
                    assert count <= rounds, f"{controller.name} does not come to rest: {key}"
                    self._reconcile(controller, key, queue)
        self._listeners = []
        return count

    def _reconcile(self, controller: Controller[Any], key: Key, queue: dict[Key, None]) -> None:
        observed = controller.observe(self, key)
        if observed is None:
            return
        plan = controller.plan(observed, self.now)
        assert controller.plan(observed, self.now) == plan, "same input, other plan"
        try:
            self.carry_out(plan)
        except RetryLater:
            queue[key] = None

    def later(self, seconds: float) -> None:
        """Let time pass."""
        self.now += timedelta(seconds=seconds)

    # --- a stand-in for kubelets ------------------------------------------------------------------------------------

    def pods(self) -> Manifests:
        return self.list(PODS)

    def names(self, resource: Resource = PODS) -> Names:
        return [obj["metadata"]["name"] for obj in self.list(resource)]

    def set_pod(self, name: str, phase: str = "Running", *, ready: bool = True, namespace: str = "default") -> None:
        """Give a pod a phase and readiness, as a node agent would."""
        moment = rfc3339(self.now)
        state = "True" if ready and phase == "Running" else "False"
        condition = {"type": "Ready", "status": state, "lastTransitionTime": moment}
        status = {"phase": phase, "podIP": "10.0.0.1", "conditions": [condition]}
        self.change(PODS, Key(namespace, name), {"status": status})

    def set_all(self, phase: str = "Running", *, ready: bool = True) -> None:
        """Give every pod that is there a phase and readiness."""
        for pod in self.pods():
            meta = pod["metadata"]
            self.set_pod(meta["name"], phase, ready=ready, namespace=meta["namespace"])


def _listener(controller: Controller[Any], queue: dict[Key, None]) -> Any:
    def listen(resource: Resource, old: Manifest | None, new: Manifest | None) -> None:
        for obj in (old, new):
            if obj is None:
                continue
            if resource == controller.resource:
                queue[key_of(obj)] = None
            for watch in controller.watches:
                if watch.resource == resource:
                    for key in watch.keys(obj):
                        queue[key] = None

    return listen


def merged(target: Any, patch: Any) -> Any:
    """RFC 7386."""
    if not isinstance(patch, dict):
        return copy.deepcopy(patch)
    result = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merged(result.get(key), value)
    return result


def assert_at_rest(world: World, *controllers: Controller[Any]) -> None:
    """Nothing is written when everything is as it should be."""
    before = world.writes
    world.run(*controllers)
    assert world.writes == before
