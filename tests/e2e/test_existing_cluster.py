# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""`kaito up --kubeconfig` of a cluster that exists: the operator alone runs here, and leaves the rest as it is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.machine import KAITO, REPOSITORY, Machine, processes_below
from tests.engine_process import EngineProcess


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineProcess]:
    """A cluster of somebody else, with a node of its own."""
    folder = tmp_path_factory.mktemp("cluster")
    with EngineProcess(folder, "--no-node", "--simulated-nodes", "1") as found:
        yield found


@pytest.fixture(scope="module")
def machine(cluster: EngineProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    folder = tmp_path_factory.mktemp("machine")
    found = Machine(folder, "--yes", cache=folder / "cache")
    found.kubeconfig = cluster.kubeconfig
    found.env["KUBECONFIG"] = str(cluster.kubeconfig)
    yield found
    found.down()
    assert processes_below(folder) == []


def up(machine: Machine, *arguments: str) -> tuple[int, str]:
    argv = (KAITO, "up", "--detach", "--kubeconfig", str(machine.kubeconfig), *arguments)
    done = machine.run(*argv, check=False)
    return done.returncode, done.stdout + done.stderr


def test_nothing_happens_to_a_cluster_before_somebody_agrees(machine: Machine) -> None:
    code, said = up(machine)
    assert (code, "It installs there: workspaces.kaito.sh" in said, "Add --yes" in said) == (1, True, True)
    assert machine.kubectl("get", "crd,ns", "-o", "name").stdout.count("kaito") == 0


@pytest.mark.parametrize("option", ["--port=7001"])
def test_options_of_the_engine_are_refused_there(machine: Machine, option: str) -> None:
    code, said = up(machine, "--yes", option)
    assert (code, f"{option.partition('=')[0]} is for the engine on this machine" in said) == (1, True)


def test_workspaces_become_ready_on_the_clusters_own_nodes(machine: Machine, cluster: EngineProcess) -> None:
    before = Path(cluster.kubeconfig).read_bytes()
    code, said = up(machine, "--yes")
    assert (code, "The operator is up after" in said, cluster.server in said) == (0, True, True)
    machine.kubectl("label", "node", "simulated-0000", "apps=demo")
    machine.kubectl("apply", "-f", str(REPOSITORY / "examples" / "quickstart.yaml"))
    machine.wait_ready("demo", timeout=30)
    code, said = up(machine, "--yes")
    assert (code, "was up already" in said) == (0, True)
    own = machine.run(KAITO, "up", "--detach", check=False)
    assert f"kaito is up already, for {cluster.server}" in own.stderr
    assert "The cluster and what runs in it go on." in machine.kaito("down").stdout
    assert machine.kubectl("get", "pods", "-o", "name").stdout == "pod/demo-0\n"
    assert Path(cluster.kubeconfig).read_bytes() == before
