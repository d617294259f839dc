# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""`kaito-runtime serve`: the one place that puts front, engine and their surroundings together.

Order: read the config, listen, check what can be checked without the engine, start the engine, wait until it answers;
then until it ends or this process is told to stop.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
import tempfile
import time
from dataclasses import KW_ONLY, dataclass
from functools import partial
from pathlib import Path
from typing import NoReturn

import uvloop
from aiohttp import ClientSession

from kaito.api.contracts import ServeConfig
from kaito.api.names import REASON_ENGINE_FAILED
from kaito.runtime.failure import Failed, failure_line, write_termination_message
from kaito.runtime.serve import adapters, memory, transformers, vllm
from kaito.runtime.serve.afterwards import benchmark
from kaito.runtime.serve.backend import ON_THE_SOCKET, Backend, is_healthy, session_on
from kaito.runtime.serve.diagnose import diagnose, phase_of
from kaito.runtime.serve.following import Following, bring, wishes
from kaito.runtime.serve.front import Front
from kaito.runtime.serve.keys import Keys
from kaito.runtime.serve.launch import Facts, Launch
from kaito.runtime.serve.peers import keep_company
from kaito.runtime.serve.prepare import (
    check_engine,
    check_whole,
    gather,
    has_chat_template,
    load_config,
    read_user_options,
    resolved,
)
from kaito.runtime.serve.relay import EnginePool
from kaito.runtime.serve.start import Start, first_token
from kaito.runtime.serve.state import READY, STOPPING, ServingState
from kaito.runtime.serve.supervise import EngineProcess
from kaito.runtime.serve.tensors import shapes_in
from kaito.runtime.serve.watch import bytes_below, follow_download, watch
from kaito.runtime.serve.wire import Listener
from kaito.runtime.settings import Settings
from kaito.runtime.starting import Teller
from kaito.runtime.weights import hub_bytes, resolve

DRAIN_S = 5.0
POLL_S = 0.2
KEYS_POLL_S = 1.0
ENDED = "The engine ended"
SECRET_OPTIONS = ("--api-key",)


def serve(config_path: str, settings: Settings) -> int:
    """Serve until told to stop (0) or until something fails (1); a failure is left as the termination message."""
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(run(config_path, settings))
    except Failed as error:
        say(failure_line(error.failure))
        write_termination_message(error.failure, settings.path(settings.termination_log))
        return 1
    return 0


def say(line: str) -> None:
    """One line for the log."""
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


async def run(config_path: str, settings: Settings) -> None:
    """Listen, start the engine, and stay until a signal or its end; raises Failed."""
    config = load_config(settings.path(config_path))
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    keys = await api_keys(config, settings)
    front = Front(ServingState(config.engine, time.monotonic), keys=keys)
    listener = Listener(front)
    await listen(listener, settings.host, config.port)
    say(f"kaito-runtime: listening on {settings.host}:{config.port} for {config.served_model_name} ({config.engine})")
    watching = asyncio.create_task(watch_keys(keys)) if keys is not None else None
    try:
        with tempfile.TemporaryDirectory(prefix="kaito-runtime-") as scratch:
            start = Start(Teller(say), front.state)
            serving = Serving(
                config, settings, front, config_path=config_path, listener=listener, stop=stop, start=start
            )
            await serving.run(Path(scratch))
    finally:
        if watching is not None:
            watching.cancel()
        await listener.close(within_s=DRAIN_S)


async def api_keys(config: ServeConfig, settings: Settings) -> Keys | None:
    """The clients that may ask; None where everybody may."""
    if config.api_keys_dir is None:
        return None
    keys = Keys(settings.path(config.api_keys_dir), asyncio.get_running_loop().time())
    tell_keys(keys)
    return keys


def tell_keys(keys: Keys) -> None:
    """Say how many keys there are, and what is wrong with the others."""
    say(f"kaito-runtime: API keys of {len(keys)} clients are valid")
    for problem in keys.problems:
        say(f"kaito-runtime: an API key is left out: {problem}")


async def watch_keys(keys: Keys) -> None:
    """Follow the Secret."""
    while True:
        await asyncio.sleep(KEYS_POLL_S)
        if keys.reload(asyncio.get_running_loop().time()):
            tell_keys(keys)


async def listen(listener: Listener, host: str, port: int) -> None:
    """Open the port; raises Failed when it cannot be had."""
    try:
        await listener.open(host, port)
    except OSError as error:
        what = f"The address {host}:{port} cannot be listened on: {error.strerror or error}."
        raise Failed(REASON_ENGINE_FAILED, what, "Stop what uses the port, or set KAITO_HOST.") from None


@dataclass(frozen=True, slots=True)
class Serving:
    """Everything that one run of a server stands on, once the port is open."""

    config: ServeConfig
    settings: Settings
    front: Front
    _: KW_ONLY
    config_path: str
    listener: Listener
    stop: asyncio.Event
    start: Start

    async def run(self, scratch: Path) -> None:
        """Prepare, start the engine and see it to its end; raises Failed when that comes unasked."""
        launch, facts = await prepared(self.config, self.settings, self.front.state, scratch=scratch)
        if self.stop.is_set():
            return
        for option in launch.ignored:
            say(f"kaito-runtime: the option {option} of inference_config.yaml is left out: the front sets it")
        say("kaito-runtime: starting " + " ".join(masked(launch.argv)))
        self.start.weigh = partial(weight_of, facts)
        self.front.state.enter("Loading the engine")
        engine = await EngineProcess.start(launch, self.settings.environment, on_line=self.note_phase)
        backend = backend_of(self.config, launch, facts)
        self.front.queue.running = launch.sequences
        async with session_on(launch.socket) as session:
            pool = EnginePool(launch.socket)
            if facts.rank == 0:
                self.front.attach(backend, session, pool)
            ready = asyncio.create_task(announce_ready(self.start, session, backend, has_api=facts.rank == 0))
            watching = asyncio.create_task(self.watched(session, backend, ready, rank=facts.rank))
            downloading = asyncio.create_task(self.follow(facts))
            greeting = asyncio.create_task(self.greeted(session, backend, ready, rank=facts.rank))
            measuring = asyncio.create_task(self.measured(session, backend, ready))
            following = asyncio.create_task(self.follow_adapters(facts, session, ready, scratch=scratch))
            try:
                await self.until_the_end(engine, watching)
            finally:
                watching.cancel()
                downloading.cancel()
                greeting.cancel()
                measuring.cancel()
                ready.cancel()
                following.cancel()
                await engine.stop()
                pool.close()

    async def follow_adapters(
        self, facts: Facts, session: ClientSession, ready: asyncio.Task[None], *, scratch: Path
    ) -> None:
        """Once the engine answers, load and unload adapters as the config file changes; over several pods, where one
        has to be in all of them first, they start anew instead."""
        if not self.config.adapters or self.config.nodes > 1:
            return
        await ready
        following = Following(
            self.settings.path(self.config_path),
            self.settings,
            session,
            ON_THE_SOCKET,
            model=await asyncio.to_thread(shapes_in, Path(facts.model)) if facts.local else {},
            rank=vllm.room_for(facts.lora_rank) if self.config.engine == "vllm" else adapters.HIGHEST_RANK,
            scratch=scratch,
            say=say,
            restart=self.stop.set,
            loaded=wishes(self.config, self.settings),
        )
        await following.run()

    def note_phase(self, line: str) -> None:
        """Follow the engine's start through its output."""
        state = self.front.state
        phase = None if state.ready else phase_of(self.config.engine, line)
        if phase is not None and phase != state.phase:
            state.enter(phase)
            say(f"kaito-runtime: {phase} ({state.seconds():.1f} s)")
            self.start.entered(phase)

    async def watched(self, session: ClientSession, backend: Backend, ready: asyncio.Task[None], *, rank: int) -> None:
        """Watch the other ranks from the start, and the engine once it is ready; raises Failed when one is lost or it
        hangs."""
        async with asyncio.TaskGroup() as group:
            group.create_task(keep_company(self.config, rank, time.monotonic))
            await asyncio.wait((ready,))
            if rank == 0:
                group.create_task(watch(session, backend, self.front.queue, time.monotonic))

    async def greeted(self, session: ClientSession, backend: Backend, ready: asyncio.Task[None], *, rank: int) -> None:
        """Once the engine answers, see it make a token."""
        await asyncio.wait((ready,))
        if rank == 0:
            await first_token(session, backend, self.start)

    async def measured(self, session: ClientSession, backend: Backend, ready: asyncio.Task[None]) -> None:
        """Measure the server once it is Ready, if that is wanted."""
        kind = self.config.benchmark
        if kind == "off":
            return
        await asyncio.wait((ready,))
        await benchmark(kind, session, backend, state=self.front.state, queue=self.front.queue, say=say)

    async def follow(self, facts: Facts) -> None:
        """Follow the engine's download of the weights, if it makes one."""
        if facts.local or facts.download_dir is None:
            return
        total = await hub_bytes(facts.model, facts.revision, self.settings)
        await follow_download(folder_of(facts), total, self.start.downloaded, time.monotonic)

    async def until_the_end(self, engine: EngineProcess, watching: asyncio.Task[None]) -> None:
        """Return when told to stop; raises Failed when the engine ends before that, or hangs."""
        ended = asyncio.create_task(engine.wait())
        stopped = asyncio.create_task(self.stop.wait())
        try:
            await asyncio.wait((ended, stopped, watching), return_when=asyncio.FIRST_COMPLETED)
            if watching.done() and not ended.done() and not self.stop.is_set():
                self.front.state.phase = ENDED
                raise_first(watching)
            if ended.done() and not self.stop.is_set():
                self.front.state.phase = ENDED
                raise_failure(self.config, engine, ended.result())
            await shut_down(self.front.state, self.listener)
        finally:
            ended.cancel()
            stopped.cancel()


def raise_first(watching: asyncio.Task[None]) -> None:
    """Raise what a watcher ended with, out of its groups."""
    error = watching.exception()
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if error is not None:
        raise error from None


def raise_failure(config: ServeConfig, engine: EngineProcess, code: int) -> NoReturn:
    """Turn the engine's end into a Failed."""
    failure = diagnose(config.engine, code, list(engine.lines), oom_kills=memory.oom_kills() - engine.oom_kills)
    raise Failed(failure.reason, failure.message, failure.next_step)


async def prepared(
    config: ServeConfig, settings: Settings, state: ServingState, *, scratch: Path
) -> tuple[Launch, Facts]:
    """The engine's command line, after all checks that need no engine; raises Failed."""
    check_engine(config.engine)
    options = read_user_options(config, settings)
    state.enter("Looking for the weights")
    weights = await resolve(config.model, settings)
    if weights.local:
        await asyncio.to_thread(check_whole, Path(weights.model), config.model.id)
    if config.adapters:
        state.enter("Looking at the adapters")
        await asyncio.to_thread(bring, config, settings)
        shapes = await asyncio.to_thread(shapes_in, Path(weights.model)) if weights.local else {}
        config = adapters.applied(resolved(config, settings), scratch, shapes)
    facts = gather(config, weights, settings, options, socket=str(scratch / "engine.sock"))
    build = vllm.launch if config.engine == "vllm" else transformers.launch
    return build(config, facts), facts


def backend_of(config: ServeConfig, launch: Launch, facts: Facts) -> Backend:
    """How the front speaks to the engine."""
    chat = has_chat_template(Path(facts.model)) or bool(config.chat_template)
    return Backend(engine=config.engine, names=launch.served_names, chat=chat)


def folder_of(facts: Facts) -> Path:
    """Where the weights are, or come to: a folder of the user's, or one of the hub's cache."""
    if facts.local or facts.download_dir is None:
        return Path(facts.model)
    return Path(facts.download_dir) / ("models--" + facts.model.replace("/", "--"))


def weight_of(facts: Facts) -> int:
    """The bytes of the model's files, as far as they can be counted; files of a folder may be links to a cache."""
    folder = folder_of(facts)
    if not facts.local:
        return bytes_below(folder)
    with contextlib.suppress(OSError):
        return sum(file.stat().st_size for file in folder.iterdir() if file.is_file())
    return 0


async def announce_ready(start: Start, session: ClientSession, backend: Backend, *, has_api: bool = True) -> None:
    """Wait until the engine answers, and say so; a rank without an API is ready to compute once it is started."""
    while has_api and not await is_healthy(session, backend):  # noqa: ASYNC110 - another process cannot set an event
        await asyncio.sleep(POLL_S)
    start.state.enter(READY)
    say(f"kaito-runtime: ready after {start.state.seconds():.1f} s")
    start.entered(READY)


async def shut_down(state: ServingState, listener: Listener) -> None:
    """Accept nothing new, and give what is under way a moment."""
    state.phase = STOPPING if not state.ready else state.phase
    listener.stop_accepting()
    with contextlib.suppress(asyncio.TimeoutError):
        async with asyncio.timeout(DRAIN_S):
            while state.in_flight:  # noqa: ASYNC110 - only at the end, and for seconds at most
                await asyncio.sleep(0.05)


def masked(argv: tuple[str, ...]) -> list[str]:
    """The command line for the log, secrets replaced."""
    words: list[str] = []
    secret = False
    for word in argv:
        secret = word in SECRET_OPTIONS if word.startswith("--") else secret
        words.append("…" if secret and not word.startswith("--") else word)
    return words
