# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""A cloud in the world of dicts: turns claims into nodes step by step, loses some, and fails when it is told to."""

from __future__ import annotations

import copy

from kaito.kube.manifest import Key, Manifest, is_deleting, key_of, labels_of, owner_reference, rfc3339
from kaito.kube.resource import NODES, Resource
from kaito.operator.provisioners.nodeclaim import MACHINES, NODE_CLAIMS, POOL_LABEL
from kaito.operator.provisioners.nodepool import NODE_POOLS
from tests.builders import node
from tests.scenario.world import World

FINALIZER = "karpenter.sh/termination"


class Cloud:
    """Takes each claim a step further whenever it is asked: launched, registered, ready; deleted ones go."""

    def __init__(self, world: World, *, gpus: int = 1, kinds: tuple[Resource, ...] = (NODE_CLAIMS, MACHINES)) -> None:
        self.world = world
        self.gpus = gpus
        self.kinds = kinds
        self.failure = ""
        """What launching fails with; empty when it succeeds."""
        self.made: list[str] = []
        """The name of every claim that was ever launched, in order."""

    def claims(self) -> list[Manifest]:
        return [claim for kind in self.kinds for claim in self.world.list(kind)]

    def live(self) -> list[Manifest]:
        return [claim for claim in self.claims() if not is_deleting(claim)]

    def step(self) -> int:
        """Move every claim; how many moved."""
        return sum(self.advance(kind, claim) for kind in self.kinds for claim in self.world.list(kind))

    def advance(self, kind: Resource, claim: Manifest) -> bool:
        if is_deleting(claim):
            return self._terminate(kind, claim)
        claim = copy.deepcopy(claim)
        status = claim.setdefault("status", {})
        name = claim["metadata"]["name"]
        if "conditions" not in status:
            claim["metadata"]["finalizers"] = [FINALIZER]
            self._tell(claim, Launched=not self.failure, Registered=False)
            self.made.append(name)
        elif status["conditions"][0]["status"] == "False":
            self._tell(claim, Launched=not self.failure, Registered=False)
        elif not status.get("nodeName"):
            status["nodeName"] = f"node-{name}-{claim['metadata']['uid']}"
            self._tell(claim, Launched=True, Registered=True, Ready=False)
            self.world.put(self._node(claim, ready=False))
        elif self.world.get(NODES, status["nodeName"]) is not None and status["conditions"][-1]["status"] == "False":
            self._tell(claim, Launched=True, Registered=True, Ready=True)
            self.world.put(self._node(claim, ready=True))
        return self.world.put(claim)

    def lose(self, claim: Manifest, *, remove: bool) -> None:
        """The claim's machine dies: its node is gone, or stays and is not ready."""
        name = (claim.get("status") or {}).get("nodeName")
        found = self.world.get(NODES, name) if name else None
        if found is not None and remove:
            self.world.delete(NODES, key_of(found))
        elif found is not None:
            self.world.put(self._node(claim, ready=False))

    def _terminate(self, kind: Resource, claim: Manifest) -> bool:
        name = (claim.get("status") or {}).get("nodeName")
        if name:
            self.world.delete(NODES, Key("", name))
        self.world.put({**claim, "metadata": {**claim["metadata"], "finalizers": []}})
        return True

    def _tell(self, claim: Manifest, **stages: bool) -> None:
        prefix = "Machine" if claim["kind"] == "Machine" else ""
        before = {c["type"]: c for c in claim["status"].get("conditions", [])}
        conditions = []
        for stage, reached in stages.items():
            type_ = stage if stage == "Ready" else f"{prefix}{stage}"
            condition = {"type": type_, "status": str(reached), "reason": stage, "message": ""}
            if not reached:
                failed = stage == "Launched"
                condition |= {"reason": "LaunchFailed", "message": self.failure} if failed else {}
                condition |= {} if failed else {"reason": "AwaitingReconciliation", "message": "object is awaiting"}
            same = before.get(type_, {}).get("status") == condition["status"]
            now = rfc3339(self.world.now)
            conditions.append({**condition, "lastTransitionTime": before[type_]["lastTransitionTime"] if same else now})
        claim["status"]["conditions"] = conditions

    def _node(self, claim: Manifest, *, ready: bool) -> Manifest:
        asked = {term["key"]: term["values"][0] for term in claim["spec"]["requirements"] if term["operator"] == "In"}
        labels = {**asked, **labels_of(claim)}
        made = node(claim["status"]["nodeName"], ready=ready, gpus=self.gpus, metadata={"labels": labels})
        made["status"]["conditions"][0]["lastTransitionTime"] = rfc3339(self.world.now)
        found = self.world.get(NODES, made["metadata"]["name"])
        if found is not None:  # keep what others wrote on it
            made["metadata"] = {**made["metadata"], "labels": {**made["metadata"]["labels"], **labels_of(found)}}
        return made


class Karpenter:
    """Keeps as many claims for each NodePool as it has replicas, under names of its own choice."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.made = 0

    def step(self) -> int:
        """Move every pool; how many moved."""
        return sum(self._tend(pool) for pool in self.world.list(NODE_POOLS))

    def _tend(self, pool: Manifest) -> int:
        meta = pool["metadata"]
        claims = self.world.list(NODE_CLAIMS, labels={POOL_LABEL: meta["name"]})
        live = [claim for claim in claims if not is_deleting(claim)]
        wanted = 0 if is_deleting(pool) else pool["spec"]["replicas"]
        for claim in live[wanted:]:
            self.world.delete(NODE_CLAIMS, key_of(claim))
        for _ in range(wanted - len(live)):
            self.made += 1
            self.world.put(self._claim(pool, f"{meta['name']}-{self.made}"))
        if is_deleting(pool) and not claims:
            self.world.put({**pool, "metadata": {**meta, "finalizers": []}})
            return 1
        if not is_deleting(pool) and not meta.get("finalizers"):
            self.world.put({**pool, "metadata": {**meta, "finalizers": [FINALIZER]}})
        moved: int = abs(wanted - len(live))
        return moved

    def _claim(self, pool: Manifest, name: str) -> Manifest:
        template = pool["spec"]["template"]
        reference = {**owner_reference(pool, controller=False)}
        labels = {POOL_LABEL: pool["metadata"]["name"], **template["metadata"]["labels"]}
        return {
            "apiVersion": NODE_CLAIMS.api_version,
            "kind": NODE_CLAIMS.kind,
            "metadata": {"name": name, "labels": labels, "ownerReferences": [reference]},
            "spec": copy.deepcopy(template["spec"]),
        }
