# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""A pod on disk: what has to survive the engine, and where everything of a pod lies.

    record.json                 who the pod is, its address and its GPUs
    volumes/NAME/               volumes that live as long as the pod
    root/CONTAINER/             what the container takes for its file system
    containers/CONTAINER/N/     attempt N: see `shim`, plus `meta.json` and `message`

The two latest attempts of a container are kept, so that `kubectl logs --previous` works.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from kaito.engine.node import process
from kaito.engine.node.model import Attempt
from kaito.kube.manifest import Manifest

KEPT_ATTEMPTS = 2
LONGEST_MESSAGE = 4096
LONGEST_LOG_MESSAGE = 2048
LOG_MESSAGE_LINES = 80


@dataclass(frozen=True, slots=True)
class Record:
    """What the node decided for a pod once."""

    uid: str
    namespace: str
    name: str
    address: str
    gpus: tuple[int, ...] = ()


class PodFolder:
    """One pod's folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def volumes(self) -> Path:
        """Where volumes are laid out."""
        return self.path / "volumes"

    def root(self, container: str) -> Path:
        """What the container takes for its file system."""
        return self.path / "root" / container

    def read_record(self) -> Record | None:
        """What was decided for the pod; None when the folder is not (or no longer) a pod's."""
        try:
            value = json.loads((self.path / "record.json").read_text())
            return Record(value["uid"], value["namespace"], value["name"], value["address"], tuple(value["gpus"]))
        except (OSError, ValueError, KeyError):
            return None

    def write_record(self, record: Record) -> None:
        """Keep what was decided."""
        self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
        value = {name: getattr(record, name) for name in ("uid", "namespace", "name", "address", "gpus")}
        temporary = self.path / "record.tmp"
        temporary.write_text(json.dumps(value))
        temporary.replace(self.path / "record.json")

    def containers(self) -> list[str]:
        """The containers that were started at least once."""
        where = self.path / "containers"
        return sorted(item.name for item in where.iterdir()) if where.is_dir() else []

    def numbers(self, container: str) -> list[int]:
        """The attempts that are on disk, oldest first."""
        where = self.path / "containers" / container
        if not where.is_dir():
            return []
        return sorted(int(item.name) for item in where.iterdir() if item.name.isdigit())

    def attempt_folder(self, container: str, number: int) -> Path:
        """Where one attempt lies."""
        return self.path / "containers" / container / str(number)

    def latest(self, container: str) -> Path | None:
        """The folder of the latest attempt."""
        numbers = self.numbers(container)
        return self.attempt_folder(container, numbers[-1]) if numbers else None

    def new_attempt(self, container: str, number: int, backoff: timedelta) -> Path:
        """Make the folder of the next attempt, and drop the ones that nobody can ask for any more."""
        for old in self.numbers(container):
            if old <= number - KEPT_ATTEMPTS or old >= number:
                shutil.rmtree(self.attempt_folder(container, old), ignore_errors=True)
        folder = self.attempt_folder(container, number)
        folder.mkdir(parents=True, mode=0o700)
        (folder / "meta.json").write_text(json.dumps({"backoff_s": backoff.total_seconds()}))
        return folder

    def attempts(self, uid: str, container: str) -> list[Attempt]:
        """What is known of the attempts on disk, oldest first."""
        found = [self._attempt(uid, container, number) for number in self.numbers(container)]
        return [attempt for attempt in found if attempt is not None]

    def _attempt(self, uid: str, container: str, number: int) -> Attempt | None:
        folder = self.attempt_folder(container, number)
        what, end = process.running(folder), process.ended(folder)
        if what is None and end is None:
            return None
        try:
            backoff = timedelta(seconds=json.loads((folder / "meta.json").read_text())["backoff_s"])
        except (OSError, ValueError, KeyError):
            backoff = timedelta(0)
        identity = f"{uid}/{container}/{number}"
        started_at = what.started_at if what else end.finished_at if end else None
        if end is None:
            return Attempt(number, identity, backoff, started_at)
        message = end.start_error or _read_message(folder)
        reason = "StartError" if end.start_error else ""
        return Attempt(
            number, identity, backoff, started_at, end.finished_at, end.exit_code, end.signal, reason, message
        )

    def keep_last_words(self, container: Manifest, folder: Path, inside: str) -> None:
        """Save the termination message of an ended attempt, before the next one starts with an empty file."""
        end = process.ended(folder)
        if end is None or (folder / "message").exists():
            return
        text = ""
        with contextlib.suppress(OSError):
            text = (
                (self.root(container["name"]) / inside.lstrip("/"))
                .read_bytes()[:LONGEST_MESSAGE]
                .decode(errors="replace")
            )
        if not text and end.exit_code != 0 and container.get("terminationMessagePolicy") == "FallbackToLogsOnError":
            text = log_tail(folder)
        (folder / "message").write_text(text)

    def remove(self) -> None:
        """Delete everything of the pod."""
        shutil.rmtree(self.path, ignore_errors=True)


def _read_message(folder: Path) -> str:
    try:
        return (folder / "message").read_text()
    except OSError:
        return ""


def log_tail(folder: Path) -> str:
    """The end of the log, as much as a termination message may hold."""
    try:
        raw = (folder / "log").read_bytes()[-4 * LONGEST_LOG_MESSAGE :]
    except OSError:
        return ""
    lines = [line.split(b" ", 3)[3] for line in raw.split(b"\n") if line.count(b" ") >= 3]
    text = b"\n".join(lines[-LOG_MESSAGE_LINES:])[-LONGEST_LOG_MESSAGE:]
    return text.decode(errors="replace").strip()
