# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Checkpoints in a registry while a training runs: where a node is lost with its disk, another one goes on.

The front does this beside the training, which waits for nothing here: a registry that is away costs at most what was
trained meanwhile. Under one tag lies the newest checkpoint; an older one is deleted where the registry allows it.
Only files that have changed are sent. `checkpoints.py` says which folder is a checkpoint.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import threading
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

from kaito.api.contracts import FetchConfig, FetchItem, OciSource, TuneConfig, TuneTarget
from kaito.api.names import CHECKPOINT_OF_ANNOTATION, REASON_ARTIFACT_INVALID, REASON_ARTIFACT_NOT_FOUND
from kaito.api.references import parse
from kaito.runtime.artifacts.fetch import fetch_item
from kaito.runtime.artifacts.push import Pushed, Target, push_files
from kaito.runtime.artifacts.tags import look, remove
from kaito.runtime.failure import Failed
from kaito.runtime.settings import Settings
from kaito.runtime.tune.checkpoints import MARK, checkpoints, mark_whole
from kaito.runtime.tune.job import STATE, state_dir
from kaito.runtime.tune.origin import FILE as ORIGIN
from kaito.runtime.tune.progress import say
from kaito.runtime.tune.publish import pauses, target_of

KIND = "application/vnd.kaito.checkpoint.v1+json"
LOOK_S = 1.0
MIB = 1 << 20
LEFT_OUT = frozenset({MARK, "training_args.bin"})
"""The mark is made anew when all is there again; the other is a pickle that nobody reads."""
OUTGOING, INCOMING = "outgoing", "incoming"
"""In the state folder."""


def identity(config: TuneConfig, training: str) -> str:
    """A name for what is trained: a checkpoint of anything else must not be gone on from."""
    decides = {
        "model": [config.model.id, config.model.revision],
        "method": config.method,
        "device": config.device,
        "processes": config.processes,
        "data": [item.source.model_dump(mode="json") for item in config.data],
        "training": training,
    }
    return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()


@dataclass(slots=True)
class Shipping:
    """Keeps the newest checkpoint of an output folder in a registry, from a thread of its own."""

    output: Path
    target: Target
    identity: str
    every_s: float
    trouble: str = ""
    """Why the newest checkpoint is not in the registry, as far as that is known; empty while all is well."""
    digest: str = ""
    """Of what lies in the registry."""
    sent: int = -1
    """The step of what lies there."""
    look_s: float = LOOK_S
    _keeps_old: bool = False
    _ended: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to look for checkpoints."""
        self._thread = threading.Thread(target=self._run, name="checkpoints", daemon=True)
        self._thread.start()

    def end(self, *, send: bool) -> None:
        """Look no more; send what has come since, if asked, in one try."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join()
        newest = self._newest() if send else None
        if newest is not None:
            self._send(*newest)

    def discard(self) -> None:
        """Take out of the registry what lies there: the training is over. What cannot be removed stays, and is said."""
        if not self.digest:
            return
        try:
            is_gone = remove(self.target, self.digest)
        except Failed as error:
            is_gone = False
            say(error.failure.message)
        if not is_gone:
            say(f"the last checkpoint stays in the registry as {self.target.reference}: it may be deleted")

    def _run(self) -> None:
        waits, due = pauses(), 0.0
        while not self._ended.wait(self.look_s):
            newest = self._newest() if time.monotonic() >= due else None
            if newest is None:
                continue
            began = time.monotonic()
            if self._send(*newest):
                waits, due = pauses(), began + self.every_s
            else:
                due = time.monotonic() + next(waits)

    def _newest(self) -> tuple[int, Path] | None:
        """The newest whole checkpoint that is not in the registry."""
        whole = [(step, path) for step, path in checkpoints(self.output) if (path / MARK).is_file()]
        return whole[-1] if whole and whole[-1][0] > self.sent else None

    def _send(self, step: int, path: Path) -> bool:
        """Bring a checkpoint into the registry; whether it is there. Raises nothing: the training goes on."""
        try:
            pushed = self._pushed(path)
        except Failed as error:
            return self._failed(error.failure.message)
        except OSError as error:
            if not path.is_dir():
                return False  # A newer one took its place; that is the next.
            return self._failed(f"{path.name} cannot be read: {error.strerror or 'files are missing'}.")
        say(f"{path.name} is in the registry: {pushed.bytes / MIB:.1f} MiB, {pushed.sent / MIB:.1f} of them sent now")
        before, self.digest = self.digest, pushed.digest
        self.sent, self.trouble = step, ""
        self._forget(before)
        return True

    def _failed(self, why: str) -> bool:
        self.trouble = f"The newest checkpoint is not in the registry yet, and is tried again: {why}"
        say(self.trouble)
        return False

    def _pushed(self, path: Path) -> Pushed:
        # The trainer removes old checkpoints while they are sent: links keep the files.
        aside = state_dir(self.output) / OUTGOING
        shutil.rmtree(aside, ignore_errors=True)
        shutil.copytree(path, aside / path.name, copy_function=os.link)
        try:
            files = {str(file.relative_to(aside)): file for file in aside.rglob("*") if file.is_file()}
            files = {name: file for name, file in files.items() if file.name not in LEFT_OUT}
            origin = state_dir(self.output) / ORIGIN
            if origin.is_file():
                files[ORIGIN] = origin
            notes = {CHECKPOINT_OF_ANNOTATION: self.identity}
            return push_files(files, self.target, kind=KIND, annotations=notes)
        finally:
            shutil.rmtree(aside, ignore_errors=True)

    def _forget(self, digest: str) -> None:
        """Delete an older checkpoint; a registry that does not allow it is not asked again."""
        if not digest or digest == self.digest or self._keeps_old:
            return
        try:
            self._keeps_old = not remove(self.target, digest)
        except Failed:
            return  # It is untagged, so nobody takes it for the newest.
        if self._keeps_old:
            say("the registry does not let us delete older checkpoints: they stay in it without a tag")


def restored(shipping: Shipping, config: TuneConfig, place: TuneTarget, settings: Settings) -> str:
    """Bring the checkpoint in the registry, if there is one of this very training, into the output folder; its name.

    One that is damaged is no reason to fail: the training begins anew, and that is said. Raises Failed when the
    registry does not answer.
    """
    there = look(shipping.target)
    if there is None:
        return ""
    shipping.digest = there.digest
    if there.annotations.get(CHECKPOINT_OF_ANNOTATION) != shipping.identity:
        say(f"the checkpoint {place.image} is of another training: this one begins anew")
        return ""
    reference = replace(parse(place.image), tag=None, digest=there.digest)
    item = FetchItem(
        name="the checkpoint",
        source=OciSource(reference=str(reference)),
        destination=f"{config.output_dir}/{STATE}/{INCOMING}",
        credentials=place.credentials,
    )
    fetching = FetchConfig(items=(item,), registry_mirrors=config.registry_mirrors, ca_file=config.ca_file)
    try:
        folder = fetch_item(item, fetching, settings).destination
    except Failed as error:
        if error.failure.reason not in (REASON_ARTIFACT_INVALID, REASON_ARTIFACT_NOT_FOUND):
            raise
        say(f"{error.failure.message} The training begins anew.")
        return ""
    return _taken(folder, shipping, reference_text=str(reference))


def _taken(folder: Path, shipping: Shipping, *, reference_text: str) -> str:
    """Move what was fetched to where a training looks for it: what its data are first, the checkpoint last."""
    found = checkpoints(folder)
    if not found:
        say(f"{reference_text} holds no checkpoint: the training begins anew")
        return ""
    step, path = found[-1]
    if (folder / ORIGIN).is_file():
        (folder / ORIGIN).replace(state_dir(shipping.output) / ORIGIN)
    path.rename(shipping.output / path.name)
    mark_whole(shipping.output / path.name)
    shutil.rmtree(folder, ignore_errors=True)
    shipping.sent = step
    say(f"{path.name} was taken from {reference_text}")
    return path.name


def shipping_of(config: TuneConfig, output: Path, settings: Settings) -> Shipping | None:
    """How this tuning's checkpoints are kept in a registry; None where they are not."""
    if config.checkpoints is None:
        return None
    try:
        training = settings.path(config.training_config).read_bytes().decode("utf-8", "replace")
    except OSError:
        return None  # The check says what is wrong with it.
    target = target_of(config, config.checkpoints, settings)
    return Shipping(output, target, identity(config, training), config.checkpoint_s)
