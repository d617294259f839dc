# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Logs, exec, attach and connections of the pods on this node, from what lies in their folders.

Needs no worker: a container that has ended still has its log, and one that an earlier engine started its FIFO.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from itertools import chain
from pathlib import Path

from kaito.engine.node import execution, logs, process
from kaito.engine.node.attach import AttachSession
from kaito.engine.node.folder import PodFolder
from kaito.engine.node.model import all_containers
from kaito.engine.node.rootfs import Rewriter
from kaito.engine.stream import LogOptions, NodeError, Session, Streams
from kaito.kube.manifest import Manifest

ATTACHED_MARK = "attached"


class NodeStreams:
    """The pods below one folder."""

    def __init__(self, pods: Path) -> None:
        self._pods = pods

    async def logs(self, pod: Manifest, options: LogOptions) -> AsyncIterator[bytes]:
        """The log of the current attempt, or of the one before."""
        folder, name = self._folder(pod), options.container
        numbers = folder.numbers(name)
        if options.previous:
            if len(numbers) < 2:
                raise NodeError(400, f'previous terminated container "{name}" in pod "{_name(pod)}" not found')
            numbers = numbers[:-1]
        if not numbers:
            raise NodeError(400, f'container "{name}" in pod "{_name(pod)}" is waiting to start: {_waiting(pod, name)}')
        place = folder.attempt_folder(name, numbers[-1])
        async for piece in logs.read(place, options, lambda: _is_over(place)):
            yield piece

    async def exec(self, pod: Manifest, container: str, command: list[str], streams: Streams) -> Session:
        """Start a process with the container's environment and folders."""
        place = self._running(pod, container)
        launch = process.launch_of(place)
        if launch is None:
            raise NodeError(500, f'container "{container}" cannot be entered: its files are gone')
        rewriter = Rewriter(launch.places)
        return await execution.start(place, launch, [rewriter.text(word) for word in command], streams)

    async def attach(self, pod: Manifest, container: str, streams: Streams) -> Session:
        """Connect to the container's process. The first client of a container with stdin sees all its output."""
        manifest = _container(pod, container)
        place = self._folder(pod).latest(container)
        if place is None or (process.running(place) is None and process.ended(place) is None):
            raise NodeError(400, f'container "{container}" in pod "{_name(pod)}" is not running yet')
        mark = place / ATTACHED_MARK
        first = bool(manifest.get("stdin")) and not mark.exists()
        if not first and process.ended(place) is not None:
            raise NodeError(400, f'container "{container}" in pod "{_name(pod)}" has ended')
        mark.touch()
        return AttachSession(
            place,
            lambda: _is_over(place),
            streams,
            from_start=first,
            closes_input=bool(manifest.get("stdinOnce")),
            left=lambda: None,
        )

    async def connect(self, pod: Manifest, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A TCP connection to a port of the pod."""
        record = self._folder(pod).read_record()
        if record is None:
            raise NodeError(404, f'pod "{_name(pod)}" does not run on this node')
        try:
            return await asyncio.open_connection(record.address, port)
        except OSError as error:
            text = f'pod "{_name(pod)}": nothing accepts connections at {record.address}:{port}'
            raise NodeError(500, text) from error

    async def remove(self, folder: PodFolder, grace_s: float) -> None:
        """End what still runs of a pod that is gone, and delete its folder."""
        places = [place for name in folder.containers() if (place := folder.latest(name)) is not None]
        await asyncio.gather(*(process.stop(place, grace_s) for place in places if process.running(place) is not None))
        folder.remove()

    def _folder(self, pod: Manifest) -> PodFolder:
        return PodFolder(self._pods / pod["metadata"]["uid"])

    def _running(self, pod: Manifest, container: str) -> Path:
        _container(pod, container)
        place = self._folder(pod).latest(container)
        if place is None or process.running(place) is None or process.ended(place) is not None:
            raise NodeError(500, f'container "{container}" in pod "{_name(pod)}" is not running')
        return place


def _is_over(place: Path) -> bool:
    """Whether the attempt has ended (or was removed)."""
    if process.ended(place) is not None or not place.exists():
        return True
    what = process.running(place)
    return what is not None and not process.is_alive(what.shim_pid, what.shim_start)


def _container(pod: Manifest, name: str) -> Manifest:
    for item in all_containers(pod):
        if item["name"] == name:
            return item
    raise NodeError(400, f"container {name} is not valid for pod {_name(pod)}")


def _name(pod: Manifest) -> str:
    return str(pod["metadata"]["name"])


def _waiting(pod: Manifest, container: str) -> str:
    status = pod.get("status") or {}
    lists = (status.get(f"{kind}tatuses") or [] for kind in ("initContainerS", "containerS", "ephemeralContainerS"))
    for item in chain.from_iterable(lists):
        if item["name"] == container:
            waiting = (item.get("state") or {}).get("waiting") or {}
            return str(waiting.get("message") or waiting.get("reason") or "ContainerCreating")
    return "ContainerCreating"
