# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""kill -9 of any part at any moment, then `kaito up`: no object is lost and everything ends Ready again.

The moments are random within windows; a failing run shows the seed, and KAITO_TEST_SEED repeats it.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.e2e.machine import REPOSITORY, Machine, eventually, kill_9, pids_below, processes_below

pytestmark = pytest.mark.slow

WINDOWS_S = ((0.0, 0.15), (0.0, 0.6), (0.3, 1.2), (0.5, 3.0))
"""When a kill comes, counted from the apply or the last `kaito up`."""
SLEEPER = """
apiVersion: kaito.sh/v1beta1
kind: Workspace
metadata: {name: THIS}
resource: {labelSelector: {matchLabels: {apps: THIS}}}
inference:
  template:
    spec:
      terminationGracePeriodSeconds: 1
      containers:
        - {name: main, image: busybox, command: [sleep, "100000"], env: [{name: MACHINE, value: FOLDER}]}
"""
"""Ready as soon as its pod runs: a model would only make the tests longer."""
PARTS = {
    "front": "kaito-runtime serve",
    "guard": "guard.py",
    "model server": "-m kaito.runtime.textgen",
    "shim": "shim.py",
}
CONTROL_PLANE = ("engine", "operator", "supervisor")


@pytest.fixture(scope="module")
def machine(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    folder = tmp_path_factory.mktemp("crashes")
    found = Machine(folder, cache=cache)
    found.up()
    yield found
    found.up()
    found.down()
    assert processes_below(folder) == []


@pytest.fixture
def chance() -> random.Random:
    seed = int(os.environ.get("KAITO_TEST_SEED") or random.randrange(10**6))
    print(f"KAITO_TEST_SEED={seed}")
    return random.Random(seed)


def apply_sleeper(machine: Machine, name: str) -> None:
    machine.run(
        "kubectl", "apply", "-f", "-", input=SLEEPER.replace("THIS", name).replace("FOLDER", str(machine.folder))
    )


def names_of(machine: Machine, kinds: str) -> list[str]:
    return machine.kubectl("get", kinds, "-o", "name").stdout.split()


@contextmanager
def writer(machine: Machine, prefix: str) -> Iterator[list[str]]:
    """Creates ConfigMaps in the background, one after the other; yields the names of those that were acknowledged."""
    acknowledged: list[str] = []
    over = threading.Event()

    def write() -> None:
        number = 0
        while not over.is_set():
            name, number = f"{prefix}-{number}", number + 1
            if machine.kubectl("create", "configmap", name, check=False).returncode == 0:
                acknowledged.append(f"configmap/{name}")

    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield acknowledged
    finally:
        over.set()
        thread.join()


@pytest.mark.parametrize("which", CONTROL_PLANE)
def test_a_kill_at_any_moment_loses_nothing(machine: Machine, which: str, chance: random.Random) -> None:
    expected = []
    with writer(machine, f"kept-{which}") as acknowledged:
        for number, window in enumerate(WINDOWS_S):
            name = f"{which}-{number}"
            apply_sleeper(machine, name)
            expected.append(f"workspace.kaito.sh/{name}")
            time.sleep(chance.uniform(*window))
            machine.kill(which)
            if number % 2:
                time.sleep(chance.uniform(0, 0.4))
                machine.kill(which)
            machine.up()
    assert acknowledged
    assert {*expected, *acknowledged} <= set(names_of(machine, "workspaces,configmaps"))
    for number in range(len(WINDOWS_S)):
        machine.wait_ready(f"{which}-{number}", timeout=30)
    kinds = "pods,statefulsets,services"
    made = sorted(name.partition("/")[2] for name in names_of(machine, kinds) if f"/{which}-" in name)
    numbers = range(len(WINDOWS_S))
    assert made == sorted(f"{which}-{n}{end}" for n in numbers for end in ("", "", "-0", "-headless"))
    assert len(pids_below(machine.folder, "sleep 100000")) == sum(
        name.startswith("pod/") for name in names_of(machine, "pods")
    )
    machine.kubectl("delete", "configmap", "--all", "--wait=false")


@pytest.mark.parametrize("which", CONTROL_PLANE)
def test_a_kill_while_deleting_leaves_nothing_behind(machine: Machine, which: str, chance: random.Random) -> None:
    names = [f"gone-{which}-{number}" for number in range(3)]
    for name in names:
        apply_sleeper(machine, name)
    for name in names:
        machine.wait_ready(name, timeout=30)
    for name in names:
        machine.kubectl("delete", "workspace", name, "--wait=false")
        time.sleep(chance.uniform(0, 0.5))
        machine.kill(which)
        machine.up()
    kinds = "workspaces,statefulsets,pods,services,configmaps,controllerrevisions"
    eventually(
        lambda: not [name for name in names_of(machine, kinds) if f"gone-{which}" in name], within=30, what="all gone"
    )
    assert len(pids_below(machine.folder, "sleep 100000")) == len(names_of(machine, "pods"))


def test_a_model_comes_up_through_kills_of_everything_around_it(machine: Machine, chance: random.Random) -> None:
    machine.kubectl("apply", "-f", str(REPOSITORY / "examples" / "quickstart.yaml"))
    for which in (*CONTROL_PLANE, "engine"):
        time.sleep(chance.uniform(0, 2.5))
        machine.kill(which)
        machine.up()
    machine.wait_ready("demo", timeout=60)
    assert restarts(machine) == "0", "the model server was not disturbed"
    assert machine.kaito("chat", "demo", "What is kaito?").stdout.strip()


@pytest.mark.parametrize("part", PARTS)
def test_a_killed_part_of_the_pod_comes_back(machine: Machine, part: str, chance: random.Random) -> None:
    machine.kubectl("delete", "pod", "demo-0", "--ignore-not-found", "--grace-period=1")
    machine.kubectl("apply", "-f", str(REPOSITORY / "examples" / "quickstart.yaml"))
    eventually(lambda: bool(pids_below(machine.folder, PARTS[part])), within=20, what=f"{part} runs")
    time.sleep(chance.uniform(0, 3))
    for pid in pids_below(machine.folder, PARTS[part]):
        kill_9(pid)
    eventually(lambda: restarts(machine) == "1", within=20, what="one restart counted")
    machine.wait_ready("demo", timeout=60)
    assert {name: len(pids_below(machine.folder, word)) for name, word in PARTS.items() if name != "shim"} == {
        "front": 1,
        "guard": 1,
        "model server": 2,  # itself, and in the guard's command line
    }


def test_everything_killed_at_once_comes_back(machine: Machine) -> None:
    before = set(names_of(machine, "workspaces,services,statefulsets"))
    machine.kill_everything()
    machine.up()
    assert set(names_of(machine, "workspaces,services,statefulsets")) == before
    eventually(lambda: machine.condition("demo", "WorkspaceReady").get("status") != "True", within=15, what="noticed")
    machine.wait_ready("demo", timeout=60)
    assert machine.kaito("chat", "demo", "What is kaito?").stdout.strip()


@pytest.mark.parametrize("killed", ["all but the pods", "everything"])
def test_down_after_a_kill_leaves_nothing_running(machine: Machine, killed: str) -> None:
    machine.up()
    if killed == "everything":
        machine.kill_everything()
    else:
        machine.kill("supervisor")
    machine.down()
    assert processes_below(machine.folder) == []
    assert "Nothing was running" in machine.kaito("down").stdout


def restarts(machine: Machine) -> str:
    path = "jsonpath={.status.containerStatuses[0].restartCount}"
    return machine.kubectl("get", "pod", "demo-0", "-o", path, check=False).stdout
