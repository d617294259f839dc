# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Runs one pod: looks, lets `lifecycle.decide` decide, does it, writes the status; again when something happens.

One worker for each pod bound to this node, from the moment the agent sees it until it is gone. What has to survive
the engine is in the pod's folder; a new worker picks up what an old one started.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from kaito.engine.node import launching, process, rootfs
from kaito.engine.node.environment import Placement, Sources
from kaito.engine.node.folder import PodFolder, Record
from kaito.engine.node.handlers import HandlerFailure, Handlers
from kaito.engine.node.images import repository_of
from kaito.engine.node.lifecycle import decide
from kaito.engine.node.model import Action, ContainerView, PodView, Problem, Remove, Start, Stop, all_containers
from kaito.engine.node.mounting import PodVolumes
from kaito.engine.node.probes import Health, Prober, initial_health
from kaito.kube.client import Client
from kaito.kube.clock import Clock
from kaito.kube.errors import ApiError, Conflict, NotFound
from kaito.kube.events import Recorder
from kaito.kube.manifest import Manifest
from kaito.kube.plan import Event
from kaito.kube.resource import PODS

RETRY_S = 1.0
CACHE_LAG_S = 0.2
GONE_GRACE_S = 2.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Site:
    """What all workers of a node share."""

    client: Client
    clock: Clock
    host: launching.Host
    sources: Sources
    recorder: Recorder
    written: Callable[[Manifest], None]
    """Told of the pod as the server answered a write of ours."""


@dataclass(slots=True)
class _Container:
    """What the worker holds in memory of one container."""

    manifest: Manifest
    problem: Problem | None = None
    image_id: str = ""
    health: Health = field(default_factory=lambda: Health(started=True, ready=True))
    stopping: bool = False
    hook_done: bool = True
    told_backoff_of: int = -1
    """The attempt whose back-off the latest event is about."""
    tasks: list[asyncio.Task[None]] = field(default_factory=list)


class PodWorker:
    """One pod on this node."""

    def __init__(
        self,
        pod: Manifest,
        site: Site,
        folder: PodFolder,
        record: Record,
        placement: Placement,
        gpu_env: Mapping[str, str],
        *,
        rejected: tuple[str, str] | None = None,
    ) -> None:
        self.pod = pod
        self.folder = folder
        self.record = record
        self._site = site
        self._placement = placement
        self._gpu_env = gpu_env
        self._rejected = rejected
        self._wake = asyncio.Event()
        self._volumes = PodVolumes(folder.volumes, site.client, site.clock, site.sources, placement)
        self._containers = {item["name"]: _Container(item) for item in all_containers(pod)}
        self._answered: Manifest | None = None
        self._sent: Manifest | None = None
        self._stops: set[asyncio.Task[None]] = set()

    # What others tell the worker

    def update(self, pod: Manifest) -> None:
        """The object changed."""
        renamed = any(pod["metadata"].get(part) != self.pod["metadata"].get(part) for part in ("labels", "annotations"))
        self.pod = pod
        if renamed and self._volumes.places is not None:
            self._volumes.lay_out(pod)  # the downward API shows them
        for item in all_containers(pod):
            self._containers.setdefault(item["name"], _Container(item)).manifest = item
        if pod["metadata"].get("deletionGracePeriodSeconds") == 0:
            self.kill()
        self._wake.set()

    def refresh(self) -> None:
        """Something that the pod refers to changed: bring files of volumes up to date, try waiting starts."""
        if self._volumes.places is not None:
            self._volumes.lay_out(self.pod)
        for state in self._containers.values():
            if state.problem is not None and state.problem.reason == "CreateContainerConfigError":
                state.problem = None
        self._wake.set()

    @property
    def is_over(self) -> bool:
        """Whether the pod has ended for good and holds nothing any more."""
        return (self.pod.get("status") or {}).get("phase") in ("Succeeded", "Failed")

    def kill(self) -> None:
        """End all processes at once."""
        for name in self._containers:
            latest = self.folder.latest(name)
            if latest is not None:
                process.send(latest, signal.SIGKILL)

    # The loop

    async def run(self) -> None:
        """Until the pod is gone. Cancelling leaves its processes running."""
        try:
            await self._adopt()
            while await self._pass():
                pass
        finally:
            for state in self._containers.values():
                _cancel(state)
            for task in self._stops:
                task.cancel()

    async def end(self, grace_s: float) -> None:
        """Stop every process without touching the object, for a node that goes down or a pod that is gone."""
        running = [name for name in self._containers if self._view(name).is_running]
        folders = [self.folder.latest(name) for name in running]
        await asyncio.gather(*(process.stop(folder, grace_s) for folder in folders if folder is not None))

    async def _pass(self) -> bool:
        """One look; says whether there will be another."""
        self._wake.clear()
        decision = decide(self._pod_view(), self._site.clock.now())
        wake_after_s = decision.wake_after_s
        if decision.prepare:
            wake_after_s = await self._prepare()
        elif self._volumes.next_renewal_s() == 0.0 and await self._volumes.renew_tokens(self.pod):
            self._volumes.lay_out(self.pod)
        started = False
        await self._tell_backoffs(decision.waiting)
        for action in decision.actions:
            if isinstance(action, Remove):
                await self._publish(decision.status)
                return not await self._remove()
            started = await self._do(action) or started
        if started or (decision.prepare and self._volumes.places is not None):
            return True
        if not await self._publish(decision.status):
            wake_after_s = RETRY_S
        waits = [wait for wait in (wake_after_s, self._volumes.next_renewal_s()) if wait is not None]
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._wake.wait(), min(waits, default=None))
        return True

    async def _tell_backoffs(self, waiting: Mapping[str, str]) -> None:
        """One event for each wait; its repeats are counted."""
        meta = self.pod["metadata"]
        for name, text in waiting.items():
            state, numbers = self._containers[name], self.folder.numbers(name)
            if numbers and state.told_backoff_of != numbers[-1]:
                state.told_backoff_of = numbers[-1]
                about = f"{text} {name} in pod {meta['name']}_{meta.get('namespace', '')}({meta['uid']})"
                await self.tell("BackOff", about, warning=True)

    def _pod_view(self) -> PodView:
        return PodView(
            pod=self.pod,
            containers={name: self._view(name) for name in self._containers},
            address=self.record.address,
            host_address=self._placement.host_address,
            volumes_ready=self._volumes.places is not None,
            rejected=self._rejected,
        )

    def _view(self, name: str) -> ContainerView:
        state = self._containers[name]
        attempts = self.folder.attempts(self.record.uid, name)
        return ContainerView(
            current=attempts[-1] if attempts else None,
            previous=attempts[-2] if len(attempts) > 1 else None,
            problem=state.problem,
            started=state.health.started and state.hook_done,
            ready=state.health.ready,
            unhealthy=state.health.unhealthy,
            stopping=state.stopping,
            image_id=state.image_id,
        )

    async def _do(self, action: Action) -> bool:
        """Carry out a start or a stop; says whether something was tried that changes the view at once."""
        if isinstance(action, Start):
            await self._start(action)
            return True
        if isinstance(action, Stop):
            self._containers[action.container].stopping = True
            task = asyncio.create_task(self._stop(action))
            self._stops.add(task)
            task.add_done_callback(self._stops.discard)
        return False

    async def _prepare(self) -> float | None:
        """Set the volumes up; returns when to try again if that failed."""
        missing = await self._volumes.prepare(self.pod)
        if missing is None:
            return None
        problem, again_s = missing
        if problem:
            await self.tell("FailedMount", problem, warning=True)
        return again_s

    # Starting

    async def _launch(self, action: Start, state: _Container) -> tuple[process.Launch, str]:
        place = launching.PodPlace(
            self._placement, self._volumes.places or {}, self.folder.root(action.container), self._gpu_env
        )
        try:
            return launching.launch(self.pod, state.manifest, self._site.host, place, self._site.sources)
        except launching.Unready as error:
            if error.reason != "CreateContainerConfigError" or state.problem is not None:
                raise
            # What a pod refers to may have been created a moment before it and not be in our cache yet.
            await self._site.clock.sleep(CACHE_LAG_S)
            return launching.launch(self.pod, state.manifest, self._site.host, place, self._site.sources)

    async def _start(self, action: Start) -> None:
        state = self._containers[action.container]
        try:
            made, image_id = await self._launch(action, state)
            folder = self.folder.new_attempt(action.container, action.attempt, action.backoff)
            await process.start(folder, made)
        except launching.Unready as error:
            await self._has_problem(state, error.reason, str(error))
            return
        except (process.StartFailure, OSError) as error:
            await self._has_problem(state, "RunContainerError", str(error))
            return
        state.problem, state.image_id, state.stopping = None, image_id, False
        state.hook_done = "postStart" not in (state.manifest.get("lifecycle") or {})
        end = process.ended(folder)
        if end is not None and end.start_error:
            await self.tell("Failed", f"Error: {end.start_error}", warning=True, container=action.container)
            return
        self._accompany(state, folder, hook=True)
        image = state.manifest.get("image", "")
        await self.tell("Pulled", f'Container image "{image}" is a local command: {made.argv[0]}')
        await self.tell("Created", f"Created container: {action.container}")
        await self.tell("Started", f"Started container {action.container}")

    async def _has_problem(self, state: _Container, reason: str, message: str) -> None:
        tries = state.problem.tries + 1 if state.problem else 1
        if reason == "ErrImagePull" and tries > 1:
            image = state.manifest.get("image", "")
            reason, message = "ImagePullBackOff", f'Back-off pulling image "{image}": ErrImagePull: {message}'
        state.problem = Problem(reason, message, self._site.clock.now(), tries)
        wording = {"ImagePullBackOff": message, "ErrImagePull": f"Failed to pull image: {message}"}
        text = wording.get(reason, f"Error: {message}")
        event = "BackOff" if reason == "ImagePullBackOff" else "Failed"
        await self.tell(event, text, warning=True, container=state.manifest["name"])

    async def _adopt(self) -> None:
        """Go on with what an earlier engine started."""
        for name in self._containers:
            latest = self.folder.latest(name)
            if latest is not None:
                await process.settle(latest)
                process.end_strays(latest)
        if self.folder.containers():
            await self._volumes.prepare(self.pod)
        for name, state in self._containers.items():
            latest = self.folder.latest(name)
            if latest is None or (process.running(latest) is None and process.ended(latest) is None):
                continue  # begun, and never started: the next pass begins anew
            entry = self._site.host.images.find(state.manifest.get("image", ""))
            state.image_id = f"local://{repository_of(state.manifest['image'])}" if entry else ""
            self._accompany(state, latest, hook=False)

    def _accompany(self, state: _Container, folder: Path, *, hook: bool) -> None:
        """Watch an attempt for its end, and its probes as long as it runs."""
        _cancel(state)
        state.health = initial_health(state.manifest)
        state.tasks = [asyncio.create_task(self._until_end(state, folder))]
        if process.ended(folder) is None:
            state.tasks.append(asyncio.create_task(self._care(state, folder, hook=hook)))

    async def _until_end(self, state: _Container, folder: Path) -> None:
        await process.wait(folder)
        self.folder.keep_last_words(state.manifest, folder, rootfs.termination_path(state.manifest))
        for task in state.tasks[1:]:
            task.cancel()
        state.stopping = False
        self._wake.set()

    async def _care(self, state: _Container, folder: Path, *, hook: bool) -> None:
        """The postStart hook, then the probes."""
        handlers = Handlers(state.manifest, self.record.address, folder)
        action = (state.manifest.get("lifecycle") or {}).get("postStart")
        if action and hook:
            try:
                await handlers.act(action, timeout_s=None)
            except HandlerFailure as error:
                await self.tell("FailedPostStartHook", str(error), warning=True, container=state.manifest["name"])
                state.health = replace(state.health, unhealthy="failed postStart hook")
                self._wake.set()
                return
        state.hook_done = True
        self._wake.set()
        prober = Prober(
            state.manifest,
            handlers.probe,
            self._site.clock,
            changed=lambda: self._health_changed(state, prober.health),
            told=lambda kind, text: self._unhealthy(state, kind, text),
        )
        await prober.run()

    def _health_changed(self, state: _Container, health: Health) -> None:
        state.health = health
        self._wake.set()

    def _unhealthy(self, state: _Container, kind: str, text: str) -> None:
        message = f"{kind.capitalize()} probe failed: {text}"
        task = asyncio.create_task(self.tell("Unhealthy", message, warning=True, container=state.manifest["name"]))
        self._stops.add(task)
        task.add_done_callback(self._stops.discard)

    # Stopping

    async def _stop(self, action: Stop) -> None:
        state = self._containers[action.container]
        folder = self.folder.latest(action.container)
        if folder is None:
            return
        name = action.container
        text = f"Container {name} {action.why}, will be restarted" if action.unhealthy else f"Stopping container {name}"
        await self.tell("Killing", text)
        left_s = action.grace_s
        hook = (state.manifest.get("lifecycle") or {}).get("preStop")
        if hook and left_s > 0:
            before = self._site.clock.monotonic()
            handlers = Handlers(state.manifest, self.record.address, folder)
            try:
                await handlers.act(hook, timeout_s=left_s)
            except HandlerFailure as error:
                await self.tell("FailedPreStopHook", str(error), warning=True, container=action.container)
            left_s = max(1.0, left_s - (self._site.clock.monotonic() - before))
        await process.stop(folder, left_s)
        self._wake.set()

    async def _remove(self) -> bool:
        """Let the object go and clean up; says whether that succeeded."""
        meta = self.pod["metadata"]
        try:
            await self._site.client.delete(
                PODS, meta["name"], meta.get("namespace", ""), uid=meta["uid"], grace_period_s=0
            )
        except (NotFound, Conflict):
            pass
        except ApiError as error:
            _log.warning("pod %s/%s: cannot be let go: %s", meta.get("namespace"), meta["name"], error)
            await self._site.clock.sleep(RETRY_S)
            return False
        self.folder.remove()
        return True

    # Telling

    async def tell(self, reason: str, message: str, *, warning: bool = False, container: str = "") -> None:
        """Record an event about the pod."""
        text = f"{container}: {message}" if container and container not in message else message
        await self._site.recorder.record(Event(self.pod, reason, text, "Warning" if warning else "Normal"))

    async def _publish(self, status: Manifest) -> bool:
        """Write the status if it says something new; says whether the server has it."""
        have = self.pod.get("status") or {}
        if all(have.get(name) == value for name, value in status.items()):
            return True
        if status == self._sent and have == self._answered:
            return True  # the server words something differently; writing it again would not help
        meta = self.pod["metadata"]
        body = {"metadata": {"uid": meta["uid"]}, "status": status}
        try:
            answer = await self._site.client.patch(
                PODS, meta["name"], meta.get("namespace", ""), body, subresource="status"
            )
        except NotFound:
            return True
        except ApiError as error:
            _log.warning("pod %s/%s: status was not written: %s", meta.get("namespace"), meta["name"], error)
            return False
        self._sent, self._answered = status, answer.get("status")
        self._site.written(answer)
        return True


def _cancel(state: _Container) -> None:
    for task in state.tasks:
        task.cancel()
    state.tasks = []
