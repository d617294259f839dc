# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""`kaito-runtime tune`: the one place that puts a tuning together, step by step.

Order: may the result be pushed, is there a checkpoint in the registry, fetch the data, find the weights, train in a
child process, push. Every step finds what it did before a sudden end: the folder with the output holds all state. A
child that dies goes on from its checkpoint.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import FrameType

from pydantic import ValidationError

from kaito.api.contracts import USELESS_TO_RETRY, Failure, FetchConfig, FetchItem, TuneConfig, TunePhase, TuneProgress
from kaito.api.names import (
    REASON_ARTIFACT_UNAVAILABLE,
    REASON_CUDA_MEMORY,
    REASON_ENGINE_MISSING,
    REASON_INVALID_SPEC,
    REASON_TUNING_FAILED,
)
from kaito.api.training import progress_of
from kaito.runtime.artifacts.fetch import fetch_item, place_of
from kaito.runtime.failure import Failed, failure_line, write_termination_message
from kaito.runtime.serve.guard import tie_to_parent
from kaito.runtime.serve.launch import cache_variables, cpu_threads
from kaito.runtime.serve.prepare import writable_cache
from kaito.runtime.settings import Settings
from kaito.runtime.tune.checkpoints import newest
from kaito.runtime.tune.job import (
    FAILED,
    FAILURE,
    OUT_OF_MEMORY,
    SENTINEL,
    SHORT_OF_MEMORY,
    Job,
    Summary,
    read,
    state_dir,
    write,
)
from kaito.runtime.tune.meeting import Alone, Company, company_of
from kaito.runtime.tune.origin import data_sets, pinned
from kaito.runtime.tune.progress import Teller, line_of, say
from kaito.runtime.tune.publish import check_permission, described, publish, target_of
from kaito.runtime.tune.ranks import Ended, Order
from kaito.runtime.tune.shipping import Shipping, restored, shipping_of
from kaito.runtime.weights import Weights, resolve

MISSING_MODULE = "ModuleNotFoundError"
MOST_DEATHS = 3
"""So often in a row the worker may die without having written a checkpoint since."""
LAST_LINES = 30
TRANSIENT = frozenset({REASON_ARTIFACT_UNAVAILABLE})
"""Reasons that another try may not meet again."""
STOP_GRACE_S = 100.0
"""What torch's launcher gives its workers to write a checkpoint."""
SCRATCH = "/tmp"
"""Where a rank that is not the first has its state: nothing of it is of use to others."""
_EXIT_CODE = re.compile(r"exitcode\s*:\s*(-?\d+)")
"""In what torch's launcher says of workers that failed: at last of the one that did so first."""
_ERROR = re.compile(r"(\[rank\d+\]: ?)?[\w.]+(Error|Exception)\b")
"""The last line of a traceback."""


class Interrupted(Exception):
    """The pod is to end; the state is kept."""


def tune(config_path: str, settings: Settings) -> int:
    """Tune and push; 0, 143 when told to stop, or another code with the failure as the termination message."""
    try:
        config = load_config(settings.path(config_path))
        done = Tuning(config, settings).run()
    except Failed as error:
        say(failure_line(error.failure).removeprefix("kaito-runtime: "))
        write_termination_message(error.failure, settings.path(settings.termination_log))
        return 1 if error.failure.reason in TRANSIENT else USELESS_TO_RETRY
    except Interrupted:
        return 143
    settings.path(settings.termination_log).write_text(done.model_dump_json(exclude_defaults=True), "utf-8")
    return 0


def load_config(path: Path) -> TuneConfig:
    """The config file; raises Failed naming the field that is wrong."""
    step = "The operator writes this file; delete the pod to have it mounted anew, or correct it if it is yours."
    try:
        return TuneConfig.model_validate_json(path.read_bytes())
    except OSError as error:
        raise Failed(REASON_INVALID_SPEC, f"The config file {path} cannot be read: {error.strerror}.", step) from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        what = f"The config file {path} is wrong at {where}: {first['msg']}."
        raise Failed(REASON_INVALID_SPEC, what, step) from None


@dataclass(slots=True)
class Tuning:
    """One run of a tuning pod."""

    config: TuneConfig
    settings: Settings
    teller: Teller = field(default_factory=Teller)
    _stop: threading.Event = field(default_factory=threading.Event)
    _child: subprocess.Popen[str] | None = None
    _last: TuneProgress | None = None
    _company: Company = field(default_factory=Alone)
    _shipping: Shipping | None = None

    def run(self) -> TuneProgress:
        """Everything; what came of it. Raises Failed or Interrupted."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._asked_to_stop)
        with company_of(self.config.together, self.settings) as self._company:
            return self._lead() if self._company.rank == 0 else self._take_part()

    def _lead(self) -> TuneProgress:
        """What rank 0 does, which mostly is all there is."""
        output = place_of(self.config.output_dir, self.settings)
        output.mkdir(parents=True, exist_ok=True)
        self._tell("Starting")
        if self.config.output is not None:
            check_permission(target_of(self.config, self.config.output, self.settings))
        self._shipping = shipping_of(self.config, output, self.settings)
        if not (output / SENTINEL).is_file():
            self._restore(output)
            items = self._fetch(output)
            job = self._job(output, items)
            with self._shipped():
                self._train(job, output)
        done = self._finish(output)
        if self._shipping is not None:
            self._shipping.discard()
        self._company.finish(self._wait)
        return done

    def _take_part(self) -> TuneProgress:
        """What another rank does: train along, from data and weights of its own, until rank 0 has the result."""
        self.teller.speaks = False
        output = place_of(SCRATCH, self.settings) / "tuning"
        output.mkdir(parents=True, exist_ok=True)
        self._train(self._job(output, self._fetch(output)), output)
        say("rank 0 has the result")
        return TuneProgress(phase="Done")

    def _wait(self, seconds: float) -> None:
        self._stop.wait(seconds)
        self._check_stop()

    def _restore(self, output: Path) -> None:
        """Go on from the registry where this node knows nothing of the training."""
        place = self.config.checkpoints
        if self._shipping is not None and place is not None and newest(output) is None:
            restored(self._shipping, self.config, place, self.settings)
            self._check_stop()

    @contextmanager
    def _shipped(self) -> Iterator[None]:
        """Keep checkpoints in the registry meanwhile, the last one too when the pod is to end."""
        if self._shipping is None:
            yield
            return
        self._shipping.start()
        try:
            yield
        finally:
            self._shipping.end(send=self._stop.is_set())

    def _asked_to_stop(self, number: int, frame: FrameType | None) -> None:
        self._stop.set()
        if self._child is not None and self._child.poll() is None:
            self._child.send_signal(signal.SIGTERM)

    def _tell(self, phase: TunePhase, note: str = "") -> None:
        self._check_stop()
        self.teller.tell(TuneProgress(phase=phase, note=note), now=True)

    def _check_stop(self) -> None:
        if self._stop.is_set():
            raise Interrupted

    def _fetch(self, output: Path) -> tuple[FetchItem, ...]:
        self._tell("Fetching")
        fetching = FetchConfig(
            items=pinned(self.config, output, self.settings),
            registry_mirrors=self.config.registry_mirrors,
            ca_file=self.config.ca_file,
            public_only=not self.config.private_urls,
        )
        for item in fetching.items:
            got = fetch_item(item, fetching, self.settings)
            self._check_stop()
            say(f"{item.name}: {got.bytes} bytes")
        return fetching.items

    def _job(self, output: Path, items: Sequence[FetchItem]) -> Job:
        config = self.config
        weights: Weights = asyncio.run(resolve(config.model, self.settings))
        return Job(
            workspace=config.workspace,
            model=weights.model,
            model_id=config.model.id,
            revision=config.model.revision,
            download_dir=str(weights.download_dir) if weights.download_dir else None,
            preset=config.preset,
            method=config.method,
            device=config.device,
            trust_remote_code=config.trust_remote_code,
            training_config=str(self.settings.path(config.training_config)),
            data_dir=str(self.settings.path(config.data_dir)),
            data_sets=data_sets(items),
            output_dir=str(output),
            checkpoint_s=config.checkpoint_s,
            merge=config.merge,
        )

    def _train(self, job: Job, output: Path) -> None:
        """See the worker to its end, again and again as long as that helps. Another rank than the first leaves it to
        that one to say when it helps no more."""
        deaths, reached = 0, newest(output)
        self._check(job, output)
        while True:
            order = self._company.gather(job.batch_divisor, self._wait, self._tell_waiting)
            if order is None:
                return
            job = job.model_copy(update={"batch_divisor": order.divisor})
            code, lines = self._process(job, output, partial(worker_command, self.config, self._company.rank, order))
            self._check_stop()
            if code == FAILED:
                raise self._failure(output)
            _check_modules(lines)
            ended = self._company.ended(code, last_words(lines), self._wait)
            if self._company.rank > 0:
                continue
            if ended.code == 0 and (output / SENTINEL).is_file():
                return
            if ended.code == OUT_OF_MEMORY:
                job = smaller(job)
                continue
            if ended.is_lost or newest(output) != reached:
                deaths = 0
            deaths += not ended.is_lost
            reached = newest(output)
            if deaths >= MOST_DEATHS:
                raise died(ended, self.config.together is not None)
            where = reached.name if reached else "the start"
            say(f"the training process ended with code {ended.code}; it goes on from {where}")

    def _check(self, job: Job, output: Path) -> None:
        """Have the data looked at; again where the process dies. Raises Failed."""
        for _ in range(MOST_DEATHS):
            code, lines = self._process(job, output, check_command)
            self._check_stop()
            if code == 0:
                return
            if code == FAILED:
                raise self._failure(output)
            _check_modules(lines)
        raise died(Ended(code, said=last_words(lines)), False)

    def _tell_waiting(self, note: str) -> None:
        self._tell("Starting", note)

    def _failure(self, output: Path) -> Failed:
        found = read(state_dir(output) / FAILURE, Failure)
        if found is None:
            return Failed(REASON_TUNING_FAILED, "The training failed and left no reason.", "See the pod's log.")
        return Failed(found.reason, found.message, found.next_step)

    def _process(self, job: Job, output: Path, command: Callable[[Path], list[str]]) -> tuple[int, list[str]]:
        """Run the check or the worker; its exit code, and the last lines that it wrote."""
        file = state_dir(output) / "job.json"
        write(file, job)
        for mark in (FAILURE, SHORT_OF_MEMORY):
            (state_dir(output) / mark).unlink(missing_ok=True)
        with self._started(command(file)) as child:
            lines = self._follow(child)
            return code_of(child.wait(), lines, state_dir(output)), lines

    @contextmanager
    def _started(self, argv: list[str]) -> Iterator[subprocess.Popen[str]]:
        self._child = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            bufsize=1,
            env=worker_environment(self.settings),
            start_new_session=True,
            preexec_fn=tie_to_parent,
        )
        try:
            # A signal may have come before there was a child to hand it to.
            if self._stop.is_set():
                self._child.send_signal(signal.SIGTERM)
            self._company.on_trouble(self._child.kill)
            yield self._child
        finally:
            self._company.on_trouble(None)
            if self._child.poll() is None:
                self._child.kill()
            self._child.wait()
            self._child = None

    def _follow(self, child: subprocess.Popen[str]) -> list[str]:
        """Hand the worker's lines on to the log."""
        last: list[str] = []
        for line in child.stdout or ():
            progress = progress_of(line)
            if progress is not None:
                self._last = progress
                if self._company.rank > 0:
                    continue
                sys.stdout.write(self._with_trouble(line, progress))
                sys.stdout.flush()
                continue
            sys.stderr.write(line)
            sys.stderr.flush()
            last = [*last[-LAST_LINES:], line.strip()]
        return last

    def _with_trouble(self, line: str, progress: TuneProgress) -> str:
        """The worker's line, with what it does not know."""
        trouble = self._shipping.trouble if self._shipping is not None else ""
        if not trouble:
            return line
        return line_of(progress.model_copy(update={"note": " ".join(filter(None, (progress.note, trouble)))})) + "\n"

    def _finish(self, output: Path) -> TuneProgress:
        summary = read(state_dir(output) / "summary.json", Summary)
        done = TuneProgress(phase="Done")
        if summary is not None:
            done = TuneProgress(
                phase="Done", step=summary.steps, steps=summary.steps, loss=summary.loss, eval_loss=summary.eval_loss,
                tokens_per_second=summary.tokens_per_second, rows=summary.rows, note=" ".join(summary.notes),
            )  # fmt: skip
        if self.config.output is not None:
            self._tell("Pushing")
            wanted = self.config.output
            target = target_of(self.config, wanted, self.settings)
            notes = described(self.config, wanted, summary)
            pushed = publish(output, target, notes, self._wait_for_registry, format_=wanted.format)
            say(f"pushed {pushed.reference}, {pushed.digest}")
            done = done.model_copy(update={"image": self.config.output.image, "digest": pushed.digest})
        self.teller.tell(done, now=True)
        return done

    def _wait_for_registry(self, pause_s: float, why: str) -> None:
        self._tell("Pushing", f"The result is kept and pushed again: {why}")
        self._stop.wait(pause_s)
        self._check_stop()


def check_command(job: Path) -> list[str]:
    """The command line of the process that looks at the data."""
    return [sys.executable, "-m", "kaito.runtime.tune.check", str(job)]


def worker_command(config: TuneConfig, rank: int, order: Order, job: Path) -> list[str]:
    """The worker's command line: one process, or one for each GPU of each pod under torch's launcher."""
    module = ["-m", "kaito.runtime.tune.worker", str(job)]
    if config.processes == 1 and config.together is None:
        return [sys.executable, *module]
    options: dict[str, str | int] = {
        "nproc-per-node": config.processes,
        "max-restarts": 0,
        "shutdown-timeout": round(STOP_GRACE_S),
    }
    if config.together is not None:
        options |= {"nnodes": config.together.nodes, "node-rank": rank, "rdzv-id": order.attempt}
        options |= {"master-addr": order.address, "master-port": order.port}
    where = ["--standalone"] if config.together is None else []
    words = [f"--{name}={value}" for name, value in options.items()]
    return [sys.executable, "-m", "torch.distributed.run", *where, *words, *module]


def code_of(code: int, lines: Sequence[str], state: Path) -> int:
    """The worker's own exit code; torch's launcher ends with 1 whatever its workers did, and says in its last lines how
    the first of them ended."""
    if code != 1:
        return code
    if (state / FAILURE).is_file():
        return FAILED
    if (state / SHORT_OF_MEMORY).is_file():
        return OUT_OF_MEMORY
    told = (match for line in reversed(lines) if (match := _EXIT_CODE.search(line)))
    return next((int(match[1]) for match in told), code)


def worker_environment(settings: Settings) -> dict[str, str]:
    """What the worker inherits, and what keeps the libraries from telling others about it."""
    ours = {
        "PYTHONUNBUFFERED": "1",
        "TOKENIZERS_PARALLELISM": "true",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True",
    }
    if settings.pod_address.startswith("127."):
        ours["GLOO_SOCKET_IFNAME"] = "lo"  # The pods are processes of one machine.
    caches = cache_variables(writable_cache(settings.environment))
    return {**cpu_threads(len(os.sched_getaffinity(0))), **caches, **settings.environment, **ours}


def smaller(job: Job) -> Job:
    """The job with a micro batch of half the size, once; raises Failed when that was tried already."""
    if job.batch_divisor > 1:
        what = "The GPU ran out of memory, with half the micro batch too."
        step = "Set a smaller per_device_train_batch_size or max_length, use qlora, or a GPU with more memory."
        raise Failed(REASON_CUDA_MEMORY, what, step)
    say("the GPU ran out of memory: goes on with half the micro batch")
    return job.model_copy(update={"batch_divisor": 2})


def _check_modules(lines: Sequence[str]) -> None:
    """Raises Failed when what the worker said last is that a package is missing."""
    missing = next((line for line in lines if line.startswith(MISSING_MODULE)), None)
    if missing is not None:
        step = "Use an image with the packages of `pip install 'kaito[tune]'`."
        raise Failed(REASON_ENGINE_MISSING, f"The image cannot tune: {missing}.", step)


def last_words(lines: Sequence[str]) -> str:
    """The line of a log's end that tells most."""
    told = (line for line in reversed(lines) if _ERROR.match(line))
    named = (line for line in reversed(lines) if "Error" in line or "error" in line)
    return next(told, next(named, lines[-1] if lines else ""))[:300]


def died(ended: Ended, is_of_several: bool) -> Failed:
    """The worker ends again and again."""
    of = f" of rank {ended.rank}" if is_of_several else ""
    if ended.code == -signal.SIGKILL:
        what = f"The training process{of} was killed {MOST_DEATHS} times, most likely for using too much memory."
        return Failed(REASON_TUNING_FAILED, what, "Use nodes with more memory, or a smaller micro batch.")
    what = f"The training process{of} ended with code {ended.code} {MOST_DEATHS} times: {ended.said}"
    return Failed(REASON_TUNING_FAILED, what, "See the pod's log.")
