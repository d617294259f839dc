# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""kill -9 of the engine while pods start, run and end: they are adopted or restarted, never doubled or left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator

import pytest

from kaito.engine.node.leftovers import end_leftovers
from tests.contract.node_cluster import NodeCluster, cluster, eventually, processes_with, shell

STARTING_S = (0.0, 0.03, 0.06, 0.1, 0.2)
ENDING_S = (0.0, 0.2, 0.6)


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeCluster]:
    with cluster(tmp_path_factory.mktemp("crashes")) as found:
        yield found


def marked(name: str, script: str = "exec sleep 600", **spec: object) -> tuple[dict[str, object], str]:
    """A pod whose container's processes can be told from all others."""
    mark = f"mark-{name}-{time.monotonic_ns()}"
    return shell(name, script, container={"env": [{"name": "MARK", "value": mark}]}, **spec), mark


def crash(node: NodeCluster) -> None:
    node.kill()
    node.start()


@pytest.mark.parametrize("after_s", STARTING_S)
def test_a_pod_that_was_being_started_runs_once(node: NodeCluster, after_s: float) -> None:
    name = f"starting-{int(after_s * 1000)}"
    manifest, mark = marked(name)
    file = node.folder / "pod.json"
    file.write_text(json.dumps(manifest))
    node.kubectl("create", "-f", str(file))
    time.sleep(after_s)
    crash(node)
    node.ready(name)
    assert len(processes_with(mark)) == 1
    node.kubectl("delete", "pod", name, "--grace-period=1")
    eventually(lambda: not processes_with(mark), "nothing of it is left", within=20)


def test_a_running_pod_goes_on(node: NodeCluster) -> None:
    manifest, mark = marked("running", "echo begun; exec sleep 600")
    node.apply(manifest)
    node.ready("running")
    (before,) = processes_with(mark)
    crash(node)
    node.ready("running")
    assert node.container("running")["restartCount"] == 0
    assert processes_with(mark) == [before]
    assert node.kubectl("logs", "running").stdout == "begun\n"
    assert node.kubectl("exec", "running", "--", "sh", "-c", "echo $MARK").stdout.strip() == mark


def test_a_pod_that_ends_while_no_engine_runs_is_noticed(node: NodeCluster) -> None:
    manifest, _ = marked("ending", "sleep 1; echo over; exit 5", restartPolicy="Never")
    node.apply(manifest)
    node.ready("ending")
    node.kill()
    time.sleep(1.2)
    node.start()
    eventually(lambda: node.phase("ending") == "Failed", "its end is known")
    assert node.container("ending")["state"]["terminated"]["exitCode"] == 5
    assert node.kubectl("logs", "ending").stdout == "over\n"


def test_a_container_whose_keeper_was_killed_is_restarted_once(node: NodeCluster) -> None:
    manifest, mark = marked("orphan", "sleep 600 & wait")
    node.apply(manifest)
    node.ready("orphan")
    uid = node.get("pod", "orphan")["metadata"]["uid"]
    state = json.loads((node.folder / "data/node/pods" / uid / "containers/main/0/state.json").read_text())
    node.kill()
    os.kill(state["shim_pid"], signal.SIGKILL)
    node.start()
    eventually(lambda: node.container("orphan")["restartCount"] == 1, "it was restarted")
    node.ready("orphan")
    eventually(lambda: len(processes_with(mark)) == 2, "one shell and one sleep")


@pytest.mark.parametrize("after_s", ENDING_S)
def test_a_pod_that_was_being_deleted_is_reaped(node: NodeCluster, after_s: float) -> None:
    name = f"ending-{int(after_s * 1000)}"
    manifest, mark = marked(name, "trap 'sleep 0.4; exit 0' TERM; echo up; while :; do sleep 0.05; done")
    node.apply(manifest)
    node.ready(name)
    uid = node.get("pod", name)["metadata"]["uid"]
    node.kubectl("delete", "pod", name, "--wait=false")
    time.sleep(after_s)
    crash(node)
    eventually(lambda: node.kubectl("get", "pod", name, check=False).returncode != 0, "the pod is gone")
    eventually(lambda: not processes_with(mark), "its processes are gone", within=20)
    eventually(lambda: not (node.folder / "data/node/pods" / uid).exists(), "its folder is gone", within=20)


def test_a_pod_deleted_behind_the_nodes_back_is_reaped(node: NodeCluster) -> None:
    manifest, mark = marked("unseen")
    node.apply(manifest)
    node.ready("unseen")
    pods = node.folder / "data/node/pods"
    uid = node.get("pod", "unseen")["metadata"]["uid"]
    node.kill()
    node.arguments = ("--no-node",)
    node.start()
    node.kubectl("delete", "pod", "unseen", "--force", "--grace-period=0")
    node.kill()
    node.arguments = ()
    assert processes_with(mark)
    node.start()
    eventually(lambda: not processes_with(mark), "its processes are gone", within=8)
    eventually(lambda: not (pods / uid).exists(), "its folder is gone", within=20)


def test_a_command_beside_a_container_ends_with_a_killed_engine(node: NodeCluster) -> None:
    manifest, mark = marked("beside")
    node.apply(manifest)
    node.ready("beside")
    script = "sleep 600 & sleep 601"
    with subprocess.Popen(["kubectl", "exec", "beside", "--", "sh", "-c", script], env=node.env) as client:
        eventually(lambda: len(processes_with(mark)) == 4, "the container's, a shell and what it started")
        crash(node)
        client.wait(20)
    node.ready("beside")
    eventually(lambda: len(processes_with(mark)) == 1, "the container's process alone is left", within=20)


async def test_what_a_killed_engine_left_can_be_ended(node: NodeCluster) -> None:
    manifest, mark = marked("left", "sleep 600 & setsid sleep 601 & wait")
    node.apply(manifest)
    node.ready("left")
    assert await end_leftovers(node.folder / "data", 1.0) == 0, "not while an engine runs"
    node.kill()
    assert await end_leftovers(node.folder / "data", 1.0) >= 1
    assert not processes_with(mark)
    assert not processes_with(str(node.folder / "data/node/pods"))
    assert await end_leftovers(node.folder / "data", 1.0) == 0
    node.start()
    node.ready("left")
