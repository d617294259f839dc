# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""A cluster and a cloud in a few dicts, for histories by the thousand: replicas with caches that lag, calls whose
answers are lost or whose effects come late, stock-outs, machines that fail, never join, show no GPUs, or die.

Objects are never changed in place, so a lagging cache is a copy of a dict of references.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from random import Random
from typing import Any

from kaito.api import nodeclaims as names
from kaito.kube.manifest import Key, Manifest, key_of, rfc3339
from kaito.kube.plan import Plan
from kaito.kube.resource import NODES, POD_DISRUPTION_BUDGETS, PODS, Resource
from kaito.provisioner import errors
from kaito.provisioner.budget import observe_books, plan_budget
from kaito.provisioner.fleet import Fleet
from kaito.provisioner.guard import is_orphan, may_create
from kaito.provisioner.instances import Create, Delete, Instance
from kaito.provisioner.observe import CLAIM_KINDS, VOLUME_ATTACHMENTS, observe
from kaito.provisioner.offers import Market, offer
from kaito.provisioner.plan import plan
from kaito.provisioner.settings import Settings

KINDS = (*CLAIM_KINDS, names.NODE_BUDGETS, NODES, PODS, POD_DISRUPTION_BUDGETS, VOLUME_ATTACHMENTS)
LANDS_WITHIN_S = 30.0
"""How late the effect of a call can come: less than what is waited for (`Settings.settle_s`)."""
SETTINGS = Settings(max_nodes=3, max_dollars_per_hour=10.0, gpu_replacements=1)
OFFERS = [
    offer("small", "a", "spot", dollars=2.0, gpus=1),
    offer("small", "b", "on-demand", dollars=2.0, gpus=1),
    offer("large", "a", "on-demand", dollars=6.0, gpus=2),
]


class Conflict(Exception):
    """The object has changed."""


class Objects:
    """An API server in a dict."""

    def __init__(self) -> None:
        self.now = datetime(2026, 1, 1, tzinfo=UTC)
        self.kinds: dict[Resource, dict[str, Manifest]] = {kind: {} for kind in KINDS}
        self.version = 0

    def put(self, kind: Resource, manifest: Manifest) -> None:
        """Store it with a new version; one that is being deleted and has no finalizers goes."""
        self.version += 1
        meta = {"creationTimestamp": rfc3339(self.now), "uid": f"u{self.version}", **manifest["metadata"]}
        meta["resourceVersion"] = str(self.version)
        if meta.get("deletionTimestamp") and not meta.get("finalizers"):
            self.kinds[kind].pop(meta["name"], None)
            return
        self.kinds[kind][meta["name"]] = {**manifest, "metadata": meta}

    def delete(self, kind: Resource, name: str) -> None:
        """Ask for deletion."""
        found = self.kinds[kind].get(name)
        if found is not None and not found["metadata"].get("deletionTimestamp"):
            self.put(kind, {**found, "metadata": {**found["metadata"], "deletionTimestamp": rfc3339(self.now)}})

    def patch(self, kind: Resource, name: str, body: Manifest) -> None:
        """Merge; raises Conflict when the version that the patch names is not the present one."""
        found = self.kinds[kind].get(name)
        if found is None:
            return
        version = body.get("metadata", {}).get("resourceVersion")
        if version not in (None, found["metadata"]["resourceVersion"]):
            raise Conflict
        merged = _merged(found, body)
        if merged != found:
            self.put(kind, merged)

    def carry_out(self, plan: Plan, kind: Resource, name: str) -> None:
        """Do what the plan says, but its calls. Raises Conflict."""
        for patch in plan.patches:
            self.patch(patch.resource, patch.key.name, patch.body)
        for create in plan.create:
            if create.subresource is None and create.manifest["metadata"]["name"] not in self.kinds[names.NODE_BUDGETS]:
                self.put(names.NODE_BUDGETS, create.manifest)
        for deletion in plan.delete:
            found = self.kinds[deletion.resource].get(deletion.key.name)
            if found is not None and deletion.uid in (None, found["metadata"]["uid"]):
                self.delete(deletion.resource, deletion.key.name)
        found = self.kinds[kind].get(name)
        if plan.status is not None and found is not None and found.get("status") != plan.status:
            self.put(kind, {**found, "status": plan.status})


def _merged(current: Manifest, body: Manifest) -> Manifest:
    result = dict(current)
    for key, value in body.items():
        if value is None:
            result.pop(key, None)
        elif isinstance(value, dict) and isinstance(result.get(key, {}), dict):
            result[key] = _merged(result.get(key) or {}, value)
        else:
            result[key] = value
    return result


@dataclass
class Machine:
    """One in the cloud."""

    instance: Instance
    lands: datetime
    """When it begins to exist."""
    goes: datetime | None = None
    """When it ends to."""


@dataclass
class SimulatedCloud:
    """Makes machines late, now and then for nobody's ears."""

    chance: Random
    trouble: float = 1.0
    """How much goes wrong: 1 a lot, 0 nothing."""
    machines: dict[str, Machine] = field(default_factory=dict)
    tokens: dict[tuple[str, int], str] = field(default_factory=dict)
    created: int = 0
    changes: int = 0
    """Calls that may have changed something."""
    refuses: errors.CloudError | None = None
    """What it answers whoever asks for a machine."""

    def happens(self, share: float) -> bool:
        """Whether a misfortune of this share comes now."""
        return self.trouble > 0 and self.chance.random() < share * self.trouble

    def create(self, call: Create, now: datetime) -> Instance:
        order = call.order
        self.changes += 1
        if self.refuses is not None:
            raise self.refuses
        if self.happens(0.1):
            raise errors.Throttled("slow down", self.chance.choice([None, 3.0]))
        token = (order.claim_uid, order.attempt)
        lands = now + timedelta(seconds=self.chance.uniform(0, LANDS_WITHIN_S) if self.happens(0.3) else 0.0)
        if token not in self.tokens:
            if self.happens(0.25):
                raise self.chance.choice([errors.OutOfCapacity, errors.QuotaExceeded])("none")
            self.created += 1
            id_ = f"i{self.created}"
            self.tokens[token] = id_
            made = Instance(
                id_, order.claim, order.claim_uid, "pending", order.offer.instance_type, order.offer.zone,
                order.offer.capacity_type, provider_id=f"sim://{id_}",
            )  # fmt: skip
            self.machines[id_] = Machine(made, lands)
        machine = self.machines[self.tokens[token]]
        if self.happens(0.2):
            raise errors.Unclear("no answer")
        gone = machine.goes is not None and machine.goes <= now
        return replace(machine.instance, state="gone") if gone else machine.instance

    def list(self, now: datetime) -> list[Instance]:
        return [self._seen(m, now) for m in self.machines.values() if m.lands <= now and not (m.goes and m.goes <= now)]

    @staticmethod
    def _seen(machine: Machine, now: datetime) -> Instance:
        return replace(machine.instance, state="stopping") if machine.goes else machine.instance

    def delete(self, call: Delete, now: datetime) -> None:
        machine = self.machines.get(call.instance.id)
        if self.happens(0.1):
            raise errors.Throttled("slow down")
        if machine is None or (machine.goes and machine.goes <= now):
            raise errors.NotFound("gone")
        machine.goes = machine.goes or now + timedelta(seconds=self.chance.choice([0, 5, 60]))
        if self.happens(0.1):
            raise errors.Unclear("no answer")

    def alive(self, now: datetime) -> list[Instance]:
        """What exists, or will without anybody's doing: what is paid for."""
        return [m.instance for m in self.machines.values() if not (m.goes and m.goes <= now)]


class View:
    """A replica's caches: each kind as it was when it last caught up."""

    def __init__(self, objects: Objects) -> None:
        self.objects = objects
        self.kinds: dict[Resource, dict[str, Manifest]] = {kind: {} for kind in KINDS}

    def catch_up(self, kind: Resource) -> None:
        self.kinds[kind] = dict(self.objects.kinds[kind])

    def catch_up_all(self) -> None:
        for kind in KINDS:
            self.catch_up(kind)

    def get(self, kind: Resource, name: str, namespace: str = "") -> Manifest | None:
        return self.kinds[kind].get(name)

    def list(
        self, kind: Resource, namespace: str | None = None, *, labels: Mapping[str, str] | None = None
    ) -> list[Manifest]:
        wanted = (labels or {}).items()
        found = self.kinds[kind].values()
        return [o for o in found if wanted <= (o["metadata"].get("labels") or {}).items()] if labels else list(found)

    def on_node(self, kind: Resource, name: str) -> list[Manifest]:
        return [pod for pod in self.kinds[kind].values() if pod["spec"].get("nodeName") == name]


class Replica:
    """A provisioner with caches and a memory of its own, which acts whenever it likes."""

    def __init__(self, objects: Objects, cloud: SimulatedCloud, market: Market, *, is_alone: bool) -> None:
        self.objects, self.cloud = objects, cloud
        self.view = View(objects)
        self.fleet = Fleet(market)
        self.fleet.started = objects.now if is_alone else None
        self.conflicts = 0
        for kind in KINDS:
            self.view.catch_up(kind)

    def list(self) -> None:
        if self.cloud.happens(0.1):
            self.fleet.not_listed(errors.Unclear("no answer"))
        else:
            self.fleet.listed(self.cloud.list(self.objects.now), self.objects.now)

    def budget(self) -> None:
        books = observe_books(self.view, Key("", "default"), self.fleet, SETTINGS)
        assert books is not None
        self._do(lambda: plan_budget(books, SETTINGS, self.objects.now), names.NODE_BUDGETS, "default")

    def work(self, name: str) -> None:
        for kind in (names.NODE_CLAIMS,):
            observed = observe(self.view, Key("", name), kind, self.fleet, SETTINGS)
            if observed is not None:
                self._do(partial(plan, observed, SETTINGS, self.objects.now), kind, name)

    def _do(self, make: Callable[[], Plan], kind: Resource, name: str) -> None:
        made = make()
        try:
            self.objects.carry_out(made, kind, name)
        except Conflict:
            self.conflicts += 1
            self.view.catch_up(kind)
            return
        for call in made.calls:
            self._call(call)

    def _call(self, call: Any) -> None:
        """As `kaito.provisioner.cloud` does it: look at the API server itself, then ask the cloud."""
        now, server = self.objects.now, self.objects.kinds
        if isinstance(call, Create):
            order = call.order
            claim = server[call.resource].get(order.claim)
            if not may_create(call, claim, server[names.NODE_BUDGETS].get("default")):
                self.fleet.abandoned(order, now)
                return
            self.fleet.began(call)
            try:
                self.fleet.made(order, self.cloud.create(call, now), now)
            except errors.CloudError as error:
                self.fleet.not_made(order, error, now)
            return
        if call.orphan_of and not is_orphan(
            call.instance, [server[kind].get(call.instance.claim) for kind in KINDS[:2]]
        ):
            return
        try:
            self.cloud.delete(call, now)
            self.fleet.deleted(call.instance, now)
        except errors.NotFound:
            self.fleet.deleted(call.instance, now, is_gone=True)
        except errors.CloudError:
            pass


def node_of(instance: Instance, claim: Manifest, *, gpus: int) -> Manifest:
    """What the kubelet of a machine registers."""
    labels = {names.CLAIM_LABEL: instance.claim, names.CLAIM_UID_LABEL: instance.claim_uid}
    amounts = {"nvidia.com/gpu": str(gpus)} if gpus else {}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": f"node-{instance.id}", "labels": labels},
        "spec": {
            "providerID": instance.provider_id,
            "taints": [{"key": names.UNREGISTERED_TAINT, "effect": "NoExecute"}],
        },
        "status": {
            "conditions": [{"type": "Ready", "status": "True"}],
            "capacity": amounts,
            "allocatable": amounts,
        },
    }


def claim_of(name: str, types: Iterable[str], **spec: Any) -> Manifest:
    """A NodeClaim."""
    term = {"key": names.INSTANCE_TYPE_LABEL, "operator": "In", "values": list(types)}
    reference = {"group": "kaito.sh", "kind": "KaitoNodeClass", "name": "default"}
    return {
        "apiVersion": names.NODE_CLAIMS.api_version,
        "kind": "NodeClaim",
        "metadata": {"name": name},
        "spec": {
            "nodeClassRef": reference,
            "requirements": [term, {"key": names.CAPACITY_TYPE_LABEL, "operator": "Exists"}],
            **spec,
        },
    }


__all__ = ["OFFERS", "SETTINGS", "Machine", "Objects", "Replica", "SimulatedCloud", "claim_of", "key_of", "node_of"]
