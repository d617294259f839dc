# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""The group metrics.k8s.io, which `kubectl top` reads: the use of the node and its pods, measured when asked for.

Stands for the metrics server of a cluster. What is used is measured by the node (`kaito.engine.node.usage`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from datetime import datetime

from kaito.engine.kinds import Kind
from kaito.engine.objects.listing import parse_selection
from kaito.engine.objects.podaccess import PodAccess, node_refusal
from kaito.engine.objects.registry import Registry
from kaito.engine.stream import NodeError, NodeUsage, Usage
from kaito.engine.turns import in_task
from kaito.engine.wire.codec import decode
from kaito.engine.wire.requests import Request, Response, Target, json_response
from kaito.engine.wire.status import method_not_allowed, not_found
from kaito.kube.clock import Clock
from kaito.kube.manifest import Manifest, labels_of, rfc3339


class Metrics:
    """Answers questions about use."""

    def __init__(self, registry: Registry, pods: PodAccess, clock: Clock) -> None:
        self._registry, self._pods, self._clock = registry, pods, clock

    async def handle(self, request: Request, target: Target, kind: Kind) -> Response:
        """The use of one object, or of all that are selected. Raises StatusError."""
        if request.method not in ("GET", "HEAD"):
            raise method_not_allowed(request.method.lower(), None)
        await in_task()
        try:
            used = await self._pods.node().usage()
        except NodeError as error:
            raise node_refusal(error) from None
        objects = self._registry.kind("", kind.plural)
        selection = parse_selection(request, objects, target.namespace, name=target.name)
        records = [
            record
            for record in self._registry.store.scan(objects.collection, target.namespace or None)
            if selection.matches(record, lambda record: record.value)
        ]
        found = list(self._items(kind, [decode(record.value) for record in records], used))
        if target.name:
            if not found:
                raise not_found(kind, target.name)
            return json_response({"kind": kind.kind, "apiVersion": kind.api_version, **found[0]})
        return json_response(
            {"kind": kind.list_kind_name, "apiVersion": kind.api_version, "metadata": {}, "items": found}
        )

    def _items(self, kind: Kind, objects: Iterable[Manifest], used: NodeUsage) -> Iterable[Manifest]:
        """What is known of each: pods that do not run here use nothing that could be told."""
        now, here = self._clock.now(), self._pods.node().name
        for obj in objects:
            meta = obj["metadata"]
            if kind.plural == "nodes" and meta["name"] == here:
                yield {**_head(obj, now, used.window_s), "usage": _amounts(used.node)}
            elif kind.plural == "pods":
                of_pod = sorted((name, use) for (uid, name), use in used.containers.items() if uid == meta["uid"])
                if of_pod:
                    containers = [{"name": name, "usage": _amounts(use)} for name, use in of_pod]
                    yield {**_head(obj, now, used.window_s), "containers": containers}


def _head(obj: Manifest, now: datetime, window_s: float) -> Manifest:
    meta = {"name": obj["metadata"]["name"], "creationTimestamp": rfc3339(now)}
    if "namespace" in obj["metadata"]:
        meta["namespace"] = obj["metadata"]["namespace"]
    if labels_of(obj):
        meta["labels"] = dict(labels_of(obj))
    return {"metadata": meta, "timestamp": rfc3339(now), "window": f"{window_s:.3f}s"}


def _amounts(use: Usage) -> Manifest:
    return {"cpu": f"{math.ceil(use.cpu * 1e9)}n", "memory": f"{math.ceil(use.memory_bytes / 1024)}Ki"}
