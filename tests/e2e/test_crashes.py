# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""kill -9 of any part at any moment, then `kaito up`: no object is lost and everything ends Ready again."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.machine import REPOSITORY, Machine, eventually, processes_below

pytestmark = pytest.mark.slow
MOMENTS_S = (0.05, 0.3, 1.0, 2.5, 6.0)
"""When the kill comes, counted from the apply: before, while and after the parts do their work."""


@pytest.fixture(scope="module")
def machine(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    folder = tmp_path_factory.mktemp("crashes")
    found = Machine(folder, cache=cache)
    found.up()
    yield found
    found.up()
    found.down()
    assert processes_below(folder) == []


def objects(machine: Machine) -> set[str]:
    kinds = "workspaces,configmaps,secrets,services,statefulsets"
    return set(machine.kubectl("get", kinds, "-o", "name").stdout.split())


@pytest.mark.parametrize("which", ["engine", "operator", "supervisor"])
def test_a_kill_at_any_moment_loses_nothing(machine: Machine, which: str) -> None:
    for number, moment in enumerate(MOMENTS_S):
        name = f"{which}-{number}"
        machine.up()
        machine.kubectl("create", "configmap", f"kept-{name}", f"--from-literal=n={number}")
        quick = (REPOSITORY / "examples" / "quickstart.yaml").read_text().replace("name: demo", f"name: {name}", 1)
        machine.run("kubectl", "apply", "-f", "-", input=quick)
        time.sleep(moment + random.uniform(0, 0.1))
        machine.kill(which)
        machine.up()
        assert {f"workspace.kaito.sh/{name}", f"configmap/kept-{name}"} <= objects(machine)
        machine.wait_ready(name, timeout=60)
        machine.kaito("delete", name)


def test_a_killed_model_server_comes_back(machine: Machine) -> None:
    quick = (REPOSITORY / "examples" / "quickstart.yaml").read_text()
    machine.run("kubectl", "apply", "-f", "-", input=quick)
    machine.wait_ready("demo")
    for line in processes_of(machine, "kaito-runtime"):
        os.kill(line, signal.SIGKILL)
    eventually(
        lambda: machine.kubectl(
            "get", "pod", "demo-0", "-o", "jsonpath={.status.containerStatuses[0].restartCount}", check=False
        ).stdout == "1",
        within=30,
        what="one restart counted",
    )  # fmt: skip
    machine.wait_ready("demo")
    assert machine.kaito("chat", "demo", "What is kaito?").stdout.strip()


def processes_of(machine: Machine, program: str) -> list[int]:
    """Pids of the processes that run the program for this machine."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            line = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
            environment = (entry / "environ").read_bytes().decode(errors="replace")
        except OSError:
            continue
        if any(part.endswith(program) for part in line[:2]) and str(machine.folder) in environment:
            found.append(int(entry.name))
    return found
