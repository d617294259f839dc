# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""A gibibyte of weights pulled out of a registry on this machine, verified and laid out, beside `cp` of the same files.

The registry is Debian's docker-registry with basic auth, in a process of its own; what it sends lies in the page cache,
as what `cp` reads does. The pull is what `kaito-runtime fetch` does: login, manifest, every layer, the folder in its
place. Two more figures say what of it is physics: sha256 of the same bytes on all cores, and curl writing the same
blobs to files without looking at them, all at once.
"""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tests.registry_process import PASSWORD, USER, Served, registry_process

from kaito.api.contracts import FetchConfig, FetchItem, OciSource
from kaito.runtime.artifacts.fetch import fetch_item
from kaito.runtime.artifacts.push import Target, push_image, push_model
from kaito.runtime.settings import Settings

GIB = 1 << 30
SHARDS = 4
"""Files of a gibibyte together, as hubs split weights."""


@dataclass(frozen=True, slots=True)
class Pulled:
    """One try, in seconds."""

    cp: float
    hashed: float
    """sha256 of every file, on all cores at once."""
    curl: float
    """The blobs as they come, one curl for each, all at once, unverified."""
    model: float
    """A ModelPack artifact, a file a layer."""
    image: float
    """A container image, a tar archive a layer."""


def measure(folder: Path, tries: int = 5, size: int = GIB) -> list[Pulled]:
    """Push the files once, and pull them as often as there are tries."""
    files = folder / "files"
    _write(files, size)
    (folder / "registry").mkdir()
    with registry_process(folder / "registry") as registry:
        target = registry.login(folder / "login.json")
        push_model(files, Target(f"{registry.host}/bench/model:1", (target,)))
        push_image(files, Target(f"{registry.host}/bench/image:1", (target,)))
        os.sync()  # what the pushes wrote is not to be written while something is measured
        return [_tried(registry, files, folder / "try", target) for _ in range(tries)]


def _tried(registry: Served, files: Path, work: Path, login: Path) -> Pulled:
    def seconds(run: Callable[[], object]) -> float:
        work.mkdir()
        began = time.monotonic()
        run()
        took = time.monotonic() - began
        shutil.rmtree(work)
        os.sync()
        return took

    found = Pulled(
        cp=seconds(lambda: subprocess.run(["cp", "-r", str(files), str(work / "copy")], check=True)),
        hashed=seconds(lambda: _hash(files)),
        curl=seconds(lambda: _curl(registry, work)),
        model=seconds(lambda: _fetch(f"{registry.host}/bench/model:1", work, login)),
        image=seconds(lambda: _fetch(f"{registry.host}/bench/image:1", work, login)),
    )
    print(found, flush=True)
    return found


def _write(folder: Path, size: int) -> None:
    folder.mkdir()
    dice = random.Random(3)
    (folder / "config.json").write_text("{}\n")
    for number in range(SHARDS):
        with (folder / f"model-{number + 1:05}-of-{SHARDS:05}.safetensors").open("wb") as file:
            for _ in range(64):
                file.write(dice.randbytes(size // SHARDS // 64))


def _hash(folder: Path) -> None:
    def one(path: Path) -> None:
        with path.open("rb") as file:
            hashlib.file_digest(file, "sha256")

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(one, folder.iterdir()))


def _curl(registry: Served, work: Path) -> None:
    layers = registry.manifest("bench/model", "1")["layers"]
    url = f"http://{registry.host}/v2/bench/model/blobs"
    running = []
    for layer in layers:
        name = str(work / layer["digest"][-12:])
        argv = ["curl", "-sf", "-u", f"{USER}:{PASSWORD}", "-o", name, f"{url}/{layer['digest']}"]
        running.append(subprocess.Popen(argv))
    assert not any(process.wait() for process in running)


def _fetch(reference: str, work: Path, login: Path) -> None:
    source = OciSource(reference=reference)
    item = FetchItem(name="weights", destination=str(work / "weights"), source=source, credentials=(str(login),))
    fetch_item(item, FetchConfig(items=(item,)), Settings())
    assert (work / "weights" / "config.json").is_file()
