# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""`kaito-runtime demo-model`: a model of our own in a folder of weights, made once and found again.

The training itself (`demo_train.py`) is a child process, so that a second call needs neither torch nor time. A model
appears under its name only when it is complete, and only a folder that this command made is ever replaced.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from kaito.runtime.serve.guard import tie_to_parent
from kaito.runtime.serve.launch import cpu_threads

DEMO_ID = "kaito/demo-phi-3"
MARKER = "kaito-demo.sha256"
"""A file in the model's folder that says what it was made from."""
SOURCES = ("demo_corpus.txt", "demo_text.py", "demo_muon.py", "demo_train.py")
THREADS = 2
"""As many as `demo_train.py` computes on, wherever it runs: its result depends on the number."""
MODEL_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


def fingerprint() -> str:
    """A digest of everything that decides the model's bytes."""
    digest = hashlib.sha256()
    for name in SOURCES:
        digest.update((Path(__file__).parent / name).read_bytes())
    return digest.hexdigest()


def say(line: str) -> None:
    """One line for the user."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def build(out: Path, model_id: str, environment: Mapping[str, str]) -> int:
    """Make sure that `out/<model_id>` holds the demo model; 0 when it does, 1 with one line on stderr when not.

    The training gets the environment. An interruption ends it and leaves nothing half made.
    """
    if MODEL_ID.fullmatch(model_id) is None:
        return complain(f"{model_id!r} is no model id; write ORG/NAME, for example {DEMO_ID}.")
    place = out / model_id
    if is_current(place):
        say(f"demo model: {place} is there already")
        return 0
    if place.exists() and not (place / MARKER).is_file():
        return complain(f"{place} holds other weights; choose another folder or another --id.")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".demo-", dir=place.parent) as folder:
            made = Path(folder) / "model"
            like = same_model(out, environment)
            if like is not None:
                shutil.copytree(like, made)
            elif (code := train_into(made, environment)) != 0:
                return code
            return put(made, place)
    except OSError as error:
        return complain(f"{place} cannot be written: {error.strerror}.")


def same_model(out: Path, environment: Mapping[str, str]) -> Path | None:
    """A folder that holds the model already, under any id: beside the new one, or where `kaito demo` keeps its own."""
    home = environment.get("HOME", "")
    cache = Path(environment.get("XDG_CACHE_HOME") or Path(home) / ".cache") / "kaito" / "models"
    markers = [*out.glob(f"*/*/{MARKER}"), cache / DEMO_ID / MARKER]
    return next((marker.parent for marker in markers if is_current(marker.parent)), None)


def is_current(place: Path) -> bool:
    """The folder holds a demo model made from the present text and recipe."""
    marker = place / MARKER
    return marker.is_file() and marker.read_text("utf-8").strip() == fingerprint()


def train_into(made: Path, environment: Mapping[str, str]) -> int:
    """Train into a new folder; the exit code."""
    say("demo model: training a small Phi-3 on the CPU, once (under a minute on two idle cores)")
    started = time.monotonic()
    command = [sys.executable, "-m", "kaito.runtime.demo_train", "--out", str(made)]
    # A session of its own: on Ctrl-C we end it, and a terminal does not see it break off in the middle.
    code = subprocess.run(
        command,
        check=False,
        env={**environment, **cpu_threads(THREADS)},
        start_new_session=True,
        preexec_fn=tie_to_parent,
    ).returncode
    if code != 0:
        packages = "it needs the packages of `pip install 'kaito[transformers]'`"
        return complain(f"the training ended with code {code}; {packages}.")
    (made / MARKER).write_text(fingerprint() + "\n", "utf-8")
    say(f"demo model: trained in {time.monotonic() - started:.0f} s")
    return 0


def put(made: Path, place: Path) -> int:
    """Give the finished folder its name, in place of an outdated one; the exit code."""
    for file in made.iterdir():
        file.chmod(0o644)
    if place.exists():
        shutil.rmtree(place)
    made.rename(place)
    say(f"demo model: ready in {place}")
    return 0


def complain(message: str) -> int:
    """One line on stderr; the exit code."""
    sys.stderr.write(f"kaito-runtime: {message}\n")
    return 1
