# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""The demo model, built once, stand-in weights for the documented presets, and a machine to run them on."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from kaito.cli import settings
from tests.e2e.machine import Machine, processes_below

STAND_INS = ("microsoft/Phi-3-mini-4k-instruct", "microsoft/Phi-3-mini-128k-instruct")


@contextmanager
def alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No other worker of this run is in here."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    with (shared / "demo-model.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache folder with the demo model in it: a copy of KAITO_TEST_WEIGHTS, or of the one that `kaito demo` keeps."""
    folder = tmp_path_factory.mktemp("cache")
    given = os.environ.get("KAITO_TEST_WEIGHTS")
    models = Path(given) if given else settings.read().cache_dir / "models"
    if not given:
        argv = [sys.executable, "-m", "kaito.runtime", "demo-model", "--out", str(models)]
        with alone(tmp_path_factory):
            subprocess.run(argv, check=True, capture_output=True, timeout=600)
    shutil.copytree(models, folder / "kaito" / "models")
    return folder


@pytest.fixture(scope="session")
def weights(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A weights folder laid out by model id: the demo model stands in for two presets of its architecture."""
    folder = tmp_path_factory.mktemp("weights")
    for model in STAND_INS:
        shutil.copytree(cache / "kaito" / "models" / "kaito" / "demo-phi-3", folder / model)
    return folder


@pytest.fixture(scope="session")
def machine(cache: Path, weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A machine that is up, for all tests that do not break it; nothing of it is left behind."""
    folder = tmp_path_factory.mktemp("machine")
    found = Machine(folder, "--weights", str(weights), cache=cache)
    found.up()
    yield found
    found.down()
    assert processes_below(folder) == []
