# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Simulated machines to order: a ConfigMap in one namespace is a machine, its deletion the machine's end.

For whoever makes nodes through an API, as a cloud has one: after its boot time the machine registers as a node with the
capacity, labels, taints and provider id that the ConfigMap names, and plays its pods' lives (`simulated.py`). When the
ConfigMap goes, the node stops reporting, and is not ready at once; the Node object is left to whoever ordered it.

    data: {bootSeconds: "2", providerID: engine:///name, capacity: JSON, labels: JSON, taints: JSON}
"""

from __future__ import annotations

import asyncio
import json
import logging

from kaito.engine.node.simulated import SimulatedNodes, SimulatedSpec
from kaito.kube.cache import Cache
from kaito.kube.client import Client
from kaito.kube.clock import Clock, RealClock
from kaito.kube.manifest import Manifest
from kaito.kube.resource import CONFIG_MAPS

SIMULATED = "engine.kaito.sh/machine=true"
"""The label of the ConfigMaps that are machines to be played."""

_log = logging.getLogger(__name__)


class SimulatedMachines:
    """All machines that ConfigMaps describe."""

    def __init__(self, client: Client, *, clock: Clock | None = None) -> None:
        self._clock = clock or RealClock()
        self._nodes = SimulatedNodes(client, count=0, clock=self._clock)
        self._wanted = Cache(client, CONFIG_MAPS, SIMULATED, clock=self._clock)
        self._wanted.subscribe(self._changed)
        self._booting: dict[str, asyncio.Task[None]] = {}

    async def run(self) -> None:
        """Until cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._nodes.run())
                group.create_task(self._wanted.run())
        finally:
            for task in self._booting.values():
                task.cancel()

    def _changed(self, old: Manifest | None, new: Manifest | None) -> None:
        name = (new or old or {})["metadata"]["name"]
        if new is None:
            task = self._booting.pop(name, None)
            if task is not None:
                task.cancel()
            self._nodes.remove(name)
        elif old is None:
            task = asyncio.create_task(self._boot(new))
            self._booting[name] = task
            task.add_done_callback(lambda done: self._booting.pop(name, None) if not done.cancelled() else None)

    async def _boot(self, machine: Manifest) -> None:
        name = machine["metadata"]["name"]
        try:
            boot_s, spec = read_machine(machine)
        except (ValueError, TypeError, AttributeError) as error:
            _log.warning("machine %s cannot be understood: %s", name, error)
            return
        await self._clock.sleep(boot_s)
        self._nodes.add(name, spec)


def read_machine(machine: Manifest) -> tuple[float, SimulatedSpec]:
    """The boot time in seconds and the node. Raises ValueError for what is no JSON or no number."""
    data = machine.get("data") or {}
    return float(data.get("bootSeconds") or 0), SimulatedSpec(
        capacity={str(k): str(v) for k, v in json.loads(data.get("capacity") or "{}").items()},
        labels={str(k): str(v) for k, v in json.loads(data.get("labels") or "{}").items()},
        taints=tuple(dict(taint) for taint in json.loads(data.get("taints") or "[]")),
        provider_id=str(data.get("providerID") or ""),
    )
