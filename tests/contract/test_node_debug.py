# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""`kubectl debug` of a running pod: ephemeral containers beside the others."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.contract.node_cluster import NodeCluster, Object, cluster, eventually, shell


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeCluster]:
    with cluster(tmp_path_factory.mktemp("debug")) as running:
        running.apply(shell("app", "echo app; exec sleep 600", volumes=[{"name": "data", "emptyDir": {}}]))
        running.ready("app")
        yield running


def ephemeral(node: NodeCluster, pod: str, name: str) -> Object:
    """What the pod's status says of one of its ephemeral containers; nothing yet is an empty object."""
    statuses = node.get("pod", pod)["status"].get("ephemeralContainerStatuses") or []
    return next((status for status in statuses if status["name"] == name), {})


def test_a_debugging_shell_runs_beside_the_container(node: NodeCluster) -> None:
    before = node.container("app")["containerID"]
    arguments = ("debug", "-it", "app", "--image=busybox", "-c", "shell", "--", "sh")
    _, screen = node.on_terminal(*arguments, keys=b"echo on $((1 + 1)) $HOSTNAME; exit 3\n")
    assert "on 2 app" in screen, screen
    eventually(lambda: "terminated" in ephemeral(node, "app", "shell").get("state", {}), "the shell has ended")
    status = ephemeral(node, "app", "shell")
    assert status["state"]["terminated"]["exitCode"] == 3
    assert (status["ready"], status["restartCount"]) == (False, 0)
    assert node.container("app")["containerID"] == before
    assert node.phase("app") == "Running"
    assert "on 2 app" in node.kubectl("logs", "app", "-c", "shell").stdout


def test_it_can_be_entered_attached_to_and_read(node: NodeCluster) -> None:
    script = "echo started; read line; echo got $line"
    node.kubectl("debug", "app", "--image=busybox", "-c", "reader", "-i", "--attach=false", "--", "sh", "-c", script)
    eventually(lambda: "running" in ephemeral(node, "app", "reader").get("state", {}), "it runs")
    assert node.kubectl("logs", "app", "-c", "reader").stdout == "started\n"
    assert node.kubectl("exec", "app", "-c", "reader", "--", "echo", "inside").stdout == "inside\n"
    _, screen = node.on_terminal("attach", "-i", "app", "-c", "reader", keys=b"a line\n")
    assert "got a line" in screen, screen
    shown = node.kubectl("describe", "pod", "app").stdout
    assert "Ephemeral Containers:" in shown


def test_what_there_is_stays_as_it_is(node: NodeCluster) -> None:
    node.kubectl("debug", "app", "--image=busybox", "-c", "kept", "--attach=false", "--", "sleep", "600")
    path = "/api/v1/namespaces/default/pods/app/ephemeralcontainers"
    pod = node.get("pod", "app")
    for change, text in (
        (lambda item: item.update(image="alpine"), 'existing ephemeral containers "kept" may not be changed'),
        (lambda item: item.update(name="other"), 'existing ephemeral containers "kept" may not be removed'),
    ):
        wanted = json.loads(json.dumps(pod))
        del wanted["metadata"]["resourceVersion"]  # the node writes meanwhile
        change(next(item for item in wanted["spec"]["ephemeralContainers"] if item["name"] == "kept"))
        done = node.kubectl("replace", f"--raw={path}", "-f", "-", input=json.dumps(wanted).encode(), check=False)
        assert text in done.stderr


def test_it_ends_with_its_pod(node: NodeCluster) -> None:
    node.apply(shell("brief", "exec sleep 600"))
    node.ready("brief")
    node.kubectl("debug", "brief", "--image=busybox", "-c", "long", "--attach=false", "--", "sleep", "600")
    eventually(lambda: "running" in ephemeral(node, "brief", "long").get("state", {}), "it runs")
    node.kubectl("delete", "pod", "brief", timeout=30)
    assert "brief" not in node.kubectl("get", "pods").stdout


def test_a_pod_that_does_not_start_can_be_looked_into(node: NodeCluster) -> None:
    waiting: Object = {"name": "first", "image": "busybox", "command": ["sleep", "600"]}
    node.apply(shell("stuck", "exec sleep 600", initContainers=[waiting]))
    eventually(lambda: node.phase("stuck") == "Pending", "it is there")
    node.kubectl("debug", "stuck", "--image=busybox", "-c", "look", "--attach=false", "--", "echo", "seen")
    eventually(lambda: "terminated" in ephemeral(node, "stuck", "look").get("state", {}), "it has looked")
    assert node.kubectl("logs", "stuck", "-c", "look").stdout == "seen\n"
    assert node.phase("stuck") == "Pending"


def test_an_unknown_image_is_told(node: NodeCluster) -> None:
    node.kubectl("debug", "app", "--image=no.example.com/tools", "-c", "tools", "--attach=false")
    eventually(lambda: "no.example.com/tools" in waiting(node, "app", "tools").get("message", ""), "it is told")
    assert waiting(node, "app", "tools")["reason"] in ("ErrImagePull", "ImagePullBackOff")


def waiting(node: NodeCluster, pod: str, name: str) -> Object:
    """What the ephemeral container waits for."""
    found: Object = ephemeral(node, pod, name).get("state", {}).get("waiting", {})
    return found
