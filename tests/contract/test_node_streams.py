# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""logs, exec, attach, run and cp of the real kubectl against pods that are processes."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.contract.node_cluster import NodeCluster, cluster, eventually, pod, shell

BODY = "".join(f"{number:05d} {'x' * 60}\n" for number in range(300)) + "THE END\n"
SERVER = f"""
import http.server, os
BODY = {BODY!r}.encode()
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", str(len(BODY)))
        self.end_headers()
        self.wfile.write(BODY)
    def log_message(self, *ignored):
        pass
http.server.ThreadingHTTPServer((os.environ["ADDRESS"], 5000), Handler).serve_forever()
"""


def web(name: str) -> dict[str, object]:
    container = {
        "env": [{"name": "ADDRESS", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}],
        "readinessProbe": {"httpGet": {"path": "/", "port": 5000}, "periodSeconds": 1},
    }
    return pod(name, "python3", "-c", SERVER, image="python", container=container)


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeCluster]:
    with cluster(tmp_path_factory.mktemp("streams")) as found:
        found.apply(
            shell("talker", "echo one; sleep 0.1; echo two >&2; sleep 0.1; echo three; exec sleep 600"),
            shell("restarted", "date +%s%N; sleep 0.2; exit 3"),
            web("web"),
            {
                "apiVersion": "v1",
                "kind": "Service",
                "metadata": {"name": "web"},
                "spec": {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 5000}]},
            },
        )
        for name in ("talker", "web"):
            found.ready(name)
        eventually(lambda: "three" in found.kubectl("logs", "talker").stdout, "it has talked")
        yield found


LOGS = [
    ((), "one\ntwo\nthree\n"),
    (("--tail=1",), "three\n"),
    (("--tail=0",), ""),
    (("--since=1h",), "one\ntwo\nthree\n"),
    (("--limit-bytes=5",), "one\nt"),
    (("-l", "app=talker"), "one\ntwo\nthree\n"),
]


@pytest.mark.parametrize(
    ("options", "text"), LOGS, ids=lambda value: " ".join(value) if isinstance(value, tuple) else ""
)
def test_logs_show_what_was_asked_for(node: NodeCluster, options: tuple[str, ...], text: str) -> None:
    which = () if "-l" in options else ("talker",)
    assert node.kubectl("logs", *which, *options).stdout == text


def test_logs_since_leaves_out_what_is_older(node: NodeCluster) -> None:
    node.apply(shell("old", "echo old; sleep 2.2; echo new; exec sleep 600"))
    eventually(lambda: "new" in node.kubectl("logs", "old", check=False).stdout, "it has talked")
    assert node.kubectl("logs", "old", "--since=1s").stdout == "new\n"


def test_logs_tell_the_time_of_every_line(node: NodeCluster) -> None:
    lines = node.kubectl("logs", "talker", "--timestamps").stdout.splitlines()
    assert [line.split(" ")[1] for line in lines] == ["one", "two", "three"]
    assert all(line.startswith("20") and line.split(" ")[0].endswith("Z") for line in lines)


def test_logs_of_the_run_before_the_restart(node: NodeCluster) -> None:
    eventually(lambda: node.container("restarted")["restartCount"] >= 1, "it was restarted")
    eventually(lambda: node.kubectl("logs", "restarted").stdout != "", "it wrote something again")
    before, now = (node.kubectl("logs", "restarted", *more).stdout for more in (("--previous",), ()))
    assert int(before) < int(now)
    refused = node.kubectl("logs", "talker", "--previous", check=False)
    assert 'previous terminated container "main" in pod "talker" not found' in refused.stderr


def test_logs_are_followed_to_the_end_of_the_container(node: NodeCluster) -> None:
    node.apply(shell("steps", "for i in 1 2 3 4 5; do echo $i; sleep 0.2; done; printf last", restartPolicy="Never"))
    eventually(lambda: node.phase("steps") in ("Running", "Succeeded"), "it runs")
    assert node.kubectl("logs", "-f", "steps").stdout == "1\n2\n3\n4\n5\nlast"


@pytest.mark.parametrize("code", [0, 1, 7, 126, 255])
def test_exec_ends_with_the_commands_exit_code(node: NodeCluster, code: int) -> None:
    done = node.kubectl("exec", "talker", "--", "sh", "-c", f"echo out; echo err >&2; exit {code}", check=False)
    assert (done.returncode, done.stdout) == (code, "out\n")
    assert done.stderr.startswith("err\n")


def test_exec_feeds_and_returns_every_byte(node: NodeCluster) -> None:
    data = os.urandom(2_000_000)
    argv = ["kubectl", "exec", "-i", "talker", "--", "cat"]
    done = subprocess.run(argv, env=node.env, input=data, capture_output=True, timeout=30)
    assert (done.returncode, done.stdout == data) == (0, True)


def test_exec_on_a_terminal_has_a_terminal(node: NodeCluster) -> None:
    code, screen = node.on_terminal(
        "exec", "-it", "talker", "--", "sh", "-c", "tty; stty size; read x; echo got:$x; exit 5", keys=b"hello\n"
    )
    assert code == 5
    assert "/dev/pts/" in screen and "got:hello" in screen


def test_an_interactive_shell_ends_with_ctrl_d(node: NodeCluster) -> None:
    code, screen = node.on_terminal("exec", "-it", "talker", "--", "sh", keys=b"echo 4$((1+1))\n\x04")
    assert code == 0
    assert "42" in screen


def test_ctrl_c_reaches_the_command(node: NodeCluster) -> None:
    command = "trap 'echo caught; exit 9' INT; echo begun; while :; do sleep 0.1; done"
    code, screen = node.on_terminal("exec", "-it", "talker", "--", "sh", "-c", command, keys=b"\x03")
    assert (code, "caught" in screen) == (9, True)


REFUSED = [
    (("exec", "talker", "--", "no-such-program"), "no-such-program"),
    (("exec", "talker", "-c", "nobody", "--", "true"), "container nobody is not valid for pod talker"),
    (("exec", "nobody", "--", "true"), 'pods "nobody" not found'),
    (("logs", "nobody"), 'pods "nobody" not found'),
]


@pytest.mark.parametrize(
    ("arguments", "text"), REFUSED, ids=lambda value: " ".join(value) if isinstance(value, tuple) else ""
)
def test_a_refusal_says_what_is_wrong(node: NodeCluster, arguments: tuple[str, ...], text: str) -> None:
    done = node.kubectl(*arguments, check=False)
    assert done.returncode != 0
    assert text in done.stderr


def test_a_command_ends_with_its_client(node: NodeCluster) -> None:
    client = subprocess.Popen(
        ["kubectl", "exec", "talker", "--", "sh", "-c", "echo $$ > pid; exec sleep 600"], env=node.env
    )
    where = node.folder / "data/node/pods" / node.get("pod", "talker")["metadata"]["uid"] / "root/main/pid"
    eventually(lambda: where.exists() and bool(where.read_text()), "the command runs")
    client.kill()
    client.wait()
    eventually(lambda: not Path(f"/proc/{where.read_text().strip()}").exists(), "the command has ended")


def test_attach_shows_what_comes_and_feeds_the_process(node: NodeCluster) -> None:
    container = {"stdin": True, "stdinOnce": True}
    node.apply(
        shell(
            "listener",
            'while read line; do echo "heard $line"; done; echo bye',
            container=container,
            restartPolicy="Never",
        )
    )
    node.ready("listener")
    done = node.kubectl("attach", "-i", "listener", input=b"a\nb\n")
    assert "heard a\nheard b\nbye\n" in done.stdout
    eventually(lambda: node.phase("listener") == "Succeeded", "it has ended with its input")


def service_url(node: NodeCluster) -> str:
    return f"http://{node.get('service', 'web')['spec']['clusterIP']}/"


@pytest.mark.parametrize("words", [(), ("curl",)], ids=["arguments alone", "with the command's name"])
def test_curl_in_a_pod_returns_the_whole_answer_every_time(node: NodeCluster, words: tuple[str, ...]) -> None:
    for number in range(5):
        done = node.kubectl(
            "run",
            "-it",
            "--rm",
            "--restart=Never",
            "curl",
            "--image=curlimages/curl",
            "--",
            *words,
            "-s",
            service_url(node),
        )
        assert BODY in done.stdout.replace("\r\n", "\n"), f"run {number}: {done.stdout[-200:]}{done.stderr}"


def test_curl_in_a_pod_on_a_terminal_returns_the_whole_answer_every_time(node: NodeCluster) -> None:
    wanted = BODY.splitlines()
    for number in range(20):
        code, screen = node.on_terminal(
            "run", "-it", "--rm", "--restart=Never", "curl", "--image=curlimages/curl", "--", "-s", service_url(node)
        )
        assert code == 0
        seen = [line.strip() for line in screen.splitlines()]
        assert [line for line in seen if line in wanted] == wanted, f"run {number}"
    assert node.kubectl("get", "pod", "curl", check=False).returncode == 1


def test_run_tells_how_a_pod_that_fails_ended(node: NodeCluster) -> None:
    done = node.kubectl(
        "run", "-i", "--rm", "--restart=Never", "bad", "--image=busybox", "--", "sh", "-c", "exit 4", check=False
    )
    assert done.returncode == 4
    assert "terminated (Error)" in done.stderr


def test_cp_takes_files_in_and_out(node: NodeCluster, tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    one.write_bytes(os.urandom(1_500_000))
    node.kubectl("cp", str(one), "talker:copied")
    node.kubectl("cp", "talker:copied", str(other))
    assert one.read_bytes() == other.read_bytes()


def test_the_server_passes_requests_on_to_a_pod_and_a_service(node: NodeCluster) -> None:
    for path in ("pods/web:5000/proxy/", "services/web:80/proxy/"):
        assert node.kubectl("get", "--raw", f"/api/v1/namespaces/default/{path}").stdout == BODY


def test_an_idle_node_writes_nothing_but_its_heartbeat(node: NodeCluster) -> None:
    def revisions() -> dict[str, str]:
        found = {}
        for kind in ("pods", "nodes", "events", "services", "endpointslices"):
            for item in node.get(kind, "-A")["items"]:
                found[f"{kind}/{item['metadata']['name']}"] = item["metadata"]["resourceVersion"]
        return {name: value for name, value in found.items() if "restarted" not in name}

    node.kubectl("delete", "pod", "restarted", "old", "steps", "listener", "--ignore-not-found")
    time.sleep(1)
    before = revisions()
    time.sleep(6)
    assert revisions() == before
