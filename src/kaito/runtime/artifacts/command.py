# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""`kaito-runtime push`, which `kaito models push` runs: a folder into a registry, for somebody who watches."""

from __future__ import annotations

import argparse
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from kaito.runtime.artifacts.pack import files_of, only_safe
from kaito.runtime.artifacts.push import LICENSES, REVISION, SOURCE, Pushed, Target, push_image, push_model
from kaito.runtime.failure import Failed

SAY_EVERY_S = 2.0
MIB = 1 << 20


def arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    parser.add_argument("folder", type=Path, metavar="DIR", help="the folder with the model's or the adapter's files")
    parser.add_argument("reference", metavar="REFERENCE", help="where to, as registry/name:tag")
    parser.add_argument("--image", action="store_true", help="a container image with the files below /data")
    parser.add_argument("--license", default="", help="the licence, as an SPDX expression")
    parser.add_argument("--source", default="", help="where the files come from, as a URL")
    parser.add_argument("--revision", default="", help="the commit of the source")
    parser.add_argument("--allow-pickle", action="store_true", help="weights in formats that can run code, too")
    parser.add_argument("--ca-file", type=Path, help="certificate authorities (PEM) of the registry")
    parser.add_argument("--docker-config", type=Path, required=True, help="the file that docker login writes")


def push(given: argparse.Namespace) -> int:
    """Push, and say what lies where; 0, or 1 with what is wrong and what to do on standard error."""
    try:
        pushed = _pushed(given)
    except Failed as error:
        say(f"Error: {error.failure.message}")
        say(error.failure.next_step)
        return 1
    sent = "" if pushed.sent == pushed.bytes else f", of which {pushed.sent / MIB:.1f} MiB were sent now"
    lines = [f"Pushed {pushed.reference}: {pushed.bytes / MIB:.1f} MiB{sent}.", f"Digest: {pushed.digest}"]
    if given.image:
        lines.append(f"A Workspace takes it as an adapter with source.image: {pushed.reference}")
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    return 0


def say(line: str) -> None:
    """One line for whoever watches."""
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


def _pushed(given: argparse.Namespace) -> Pushed:
    notes = {LICENSES: given.license, SOURCE: given.source, REVISION: given.revision}
    annotations = {key: value for key, value in notes.items() if value}
    target = Target(given.reference, (given.docker_config,), ca_file=given.ca_file, ask_helpers=True)
    files = files_of(given.folder)
    if not given.allow_pickle:
        only_safe(files)
    progress = Progress(sum(path.stat().st_size for path in files.values()), time.monotonic)
    if given.image:
        return push_image(files, target, annotations=annotations, watch=progress)
    return push_model(given.folder, target, annotations=annotations, allow_pickle=given.allow_pickle, watch=progress)


class Progress:
    """Says every two seconds how far it is; called from several threads."""

    def __init__(self, total: int, now: Callable[[], float]) -> None:
        self._total, self._now = total, now
        self._lock = threading.Lock()
        self._count = 0
        self._said = now()

    def __call__(self, count: int) -> None:
        with self._lock:
            self._count += count
            if self._now() - self._said >= SAY_EVERY_S:
                self._said = self._now()
                say(f"Pushing: {self._count / MIB:.0f} of {self._total / MIB:.0f} MiB")
