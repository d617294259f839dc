# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""The life of pods that are processes: images, volumes, probes, restarts, init containers, deletion, Services."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.contract.node_cluster import NodeCluster, Object, cluster, eventually, pod, processes_with, shell

PROBE = {"periodSeconds": 1, "timeoutSeconds": 1, "failureThreshold": 1}


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeCluster]:
    with cluster(tmp_path_factory.mktemp("pods"), "--simulated-nodes", "0") as found:
        yield found


def config_map(name: str, **data: str) -> Object:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data}


def waiting(node: NodeCluster, name: str) -> Object:
    found: Object = node.container(name)["state"].get("waiting") or {}
    return found


def test_an_unknown_image_says_how_to_map_it(node: NodeCluster) -> None:
    node.apply(pod("strange", image="registry.example/strange:1"))
    reasons = ("ErrImagePull", "ImagePullBackOff")
    eventually(lambda: waiting(node, "strange").get("reason") in reasons, "the image is refused")
    assert "kaito up --images FILE" in waiting(node, "strange")["message"]
    assert ("Failed", 1) in [(reason, count) for reason, _, count in node.events("strange")]


def test_what_a_pod_refers_to_may_come_later(node: NodeCluster) -> None:
    source = {"valueFrom": {"configMapKeyRef": {"name": "later", "key": "word"}}}
    node.apply(shell("early", "echo $WORD; exec sleep 600", container={"env": [{"name": "WORD", **source}]}))
    eventually(lambda: waiting(node, "early").get("reason") == "CreateContainerConfigError", "it waits")
    assert 'configmap "later" not found' in waiting(node, "early")["message"]
    node.apply(config_map("later", word="now"))
    node.ready("early", timeout=20)
    assert node.kubectl("logs", "early").stdout == "now\n"


def test_a_changed_config_map_reaches_the_folder(node: NodeCluster) -> None:
    node.apply(config_map("settings", file="first"))
    mount = {"volumeMounts": [{"name": "settings", "mountPath": "/etc/settings"}]}
    volumes = [{"name": "settings", "configMap": {"name": "settings"}}]
    node.apply(shell("reader", "exec sleep 600", container=mount, volumes=volumes))
    node.ready("reader")
    read = ("exec", "reader", "--", "cat", "/etc/settings/file")
    assert node.kubectl(*read).stdout == "first"
    node.apply(config_map("settings", file="second", other="new"))
    eventually(lambda: node.kubectl(*read).stdout == "second", "the new text is there")
    assert node.kubectl("exec", "reader", "--", "ls", "/etc/settings").stdout.split() == ["file", "other"]


def test_changed_labels_reach_the_downward_volume(node: NodeCluster) -> None:
    items = [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]
    mount = {"volumeMounts": [{"name": "about", "mountPath": "/etc/about"}]}
    volumes = [{"name": "about", "downwardAPI": {"items": items}}]
    node.apply(shell("labelled", "exec sleep 600", container=mount, volumes=volumes))
    node.ready("labelled")
    node.kubectl("label", "pod", "labelled", "colour=blue")
    read = ("exec", "labelled", "--", "cat", "/etc/about/labels")
    eventually(lambda: 'colour="blue"' in node.kubectl(*read).stdout, "the new label is there")


def test_a_claim_outlives_the_pods_that_use_it(node: NodeCluster) -> None:
    spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
    node.apply({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "kept"}, "spec": spec})
    volumes = [{"name": "data", "persistentVolumeClaim": {"claimName": "kept"}}]
    env = [{"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]
    mounts = [
        {"name": "data", "mountPath": "/data"},
        {"name": "data", "mountPath": "/own", "subPathExpr": "by-$(POD)"},
        {"name": "data", "mountPath": "/part", "subPath": "a/part"},
    ]
    probe = {"exec": {"command": ["sh", "-c", "test -e /data/there && test -e /own/mine && test -e /part/p"]}, **PROBE}
    container = {"env": env, "volumeMounts": mounts, "readinessProbe": probe}
    script = "cat /data/there; echo seen > /data/there; touch /own/mine /part/p; exec sleep 600"
    for name, seen in (("first", ""), ("second", "seen\n")):
        node.apply(shell(name, script, container=container, volumes=volumes))
        node.ready(name)
        assert node.kubectl("exec", name, "--", "ls", "/own").stdout == "mine\n"
        assert node.kubectl("exec", name, "--", "cat", "/data/there").stdout == "seen\n"
        assert node.kubectl("logs", name).stdout.endswith(seen)
        node.kubectl("delete", "pod", name)


def test_containers_wait_for_init_containers_and_sidecars_last_as_long(node: NodeCluster) -> None:
    share = {"volumeMounts": [{"name": "share", "mountPath": "/share"}]}
    first = {"name": "first", "image": "busybox", "command": ["sh", "-c", "echo made > /share/file"], **share}
    side: Object = {
        "name": "side",
        "image": "busybox",
        "command": ["sh", "-c", "touch /share/side; exec sleep 600"],
        "restartPolicy": "Always",
        "startupProbe": {"exec": {"command": ["test", "-e", "/share/side"]}, **PROBE},
        **share,
    }
    node.apply(
        shell(
            "ordered",
            "cat /share/file; test -e /share/side && echo beside",
            container=share,
            initContainers=[first, side],
            volumes=[{"name": "share", "emptyDir": {}}],
            restartPolicy="Never",
        )
    )
    eventually(lambda: node.phase("ordered") == "Succeeded", "it is done, sidecar and all")
    assert node.kubectl("logs", "ordered", "-c", "main").stdout == "made\nbeside\n"
    init = node.get("pod", "ordered")["status"]["initContainerStatuses"]
    assert [item["state"]["terminated"]["exitCode"] for item in init][:1] == [0]
    assert not processes_with(str(node.folder / "data/node/pods" / node.get("pod", "ordered")["metadata"]["uid"]))


def test_a_failed_init_container_fails_the_pod(node: NodeCluster) -> None:
    bad = {"name": "bad", "image": "busybox", "command": ["sh", "-c", "exit 3"]}
    node.apply(shell("unlucky", "echo never", initContainers=[bad], restartPolicy="Never"))
    eventually(lambda: node.phase("unlucky") == "Failed", "it failed")
    assert "Init:Error" in node.kubectl("get", "pod", "unlucky").stdout


def test_a_container_that_keeps_ending_waits_longer_each_time(node: NodeCluster) -> None:
    node.apply(shell("crashing", "echo crash; exit 1"))
    eventually(lambda: waiting(node, "crashing").get("reason") == "CrashLoopBackOff", "it backs off")
    status = node.container("crashing")
    assert status["restartCount"] == 1
    assert status["lastState"]["terminated"]["exitCode"] == 1
    events = node.events("crashing")
    assert [(reason, count) for reason, _, count in events if reason in ("Started", "BackOff")] == [
        ("Started", 1),
        ("BackOff", 1),
    ]


def test_events_tell_the_life_of_a_container(node: NodeCluster) -> None:
    node.apply(shell("eventful", "exec sleep 600"))
    node.ready("eventful")
    node.kubectl("delete", "pod", "eventful")
    events = node.events("eventful")
    assert [(reason, count) for reason, _, count in events] == [
        ("Pulled", 1),
        ("Created", 1),
        ("Started", 1),
        ("Killing", 1),
    ]
    assert [message for _, message, _ in events][1:] == [
        "Created container: main",
        "Started container main",
        "Stopping container main",
    ]


def test_a_pod_is_ready_as_long_as_its_probe_says_so(node: NodeCluster) -> None:
    probe = {"exec": {"command": ["test", "-e", "ok"]}, **PROBE}
    node.apply(shell("probed", "exec sleep 600", container={"readinessProbe": probe}))
    eventually(lambda: node.phase("probed") == "Running", "it runs")
    eventually(lambda: any(reason == "Unhealthy" for reason, _, _ in node.events("probed")), "the failure is told")
    assert node.container("probed")["ready"] is False
    node.kubectl("exec", "probed", "--", "touch", "ok")
    node.ready("probed", timeout=20)
    node.kubectl("exec", "probed", "--", "rm", "ok")
    node.kubectl("wait", "--for=condition=Ready=false", "pod/probed", "--timeout=5s")
    assert node.container("probed")["restartCount"] == 0


def test_a_container_that_is_not_alive_is_restarted(node: NodeCluster) -> None:
    probe = {"exec": {"command": ["sh", "-c", "test ! -e sick"]}, **PROBE}
    node.apply(shell("sickly", "echo up; exec sleep 600", container={"livenessProbe": probe}))
    node.ready("sickly")
    node.kubectl("exec", "sickly", "--", "touch", "sick")
    eventually(lambda: node.container("sickly")["restartCount"] == 1, "it was restarted")
    node.ready("sickly")
    reasons = [reason for reason, _, _ in node.events("sickly")]
    assert {"Unhealthy", "Killing"} <= set(reasons)


def test_a_deleted_pod_gets_its_grace_period_and_no_more(node: NodeCluster) -> None:
    polite = "trap 'sleep 0.3; echo done > /dev/termination-log; exit 0' TERM; echo up; while :; do sleep 0.1; done"
    stubborn = "trap '' TERM; echo up; while :; do sleep 0.1; done"
    node.apply(
        shell("polite", polite, terminationGracePeriodSeconds=60),
        shell("stubborn", stubborn, terminationGracePeriodSeconds=2),
    )
    for name in ("polite", "stubborn"):
        node.ready(name)
        eventually(lambda name=name: "up" in node.kubectl("logs", name).stdout, "it is up")  # type: ignore[misc]
    for name, least_s, most_s in (("polite", 0.3, 50), ("stubborn", 1.9, 30)):
        uid = node.get("pod", name)["metadata"]["uid"]
        began = time.monotonic()
        node.kubectl("delete", "pod", name)
        assert least_s <= time.monotonic() - began <= most_s
        assert not processes_with(uid)
        # As with a kubelet, the folder goes after the object.
        eventually(lambda uid=uid: not (node.folder / "data/node/pods" / uid).exists(), "its folder is gone")  # type: ignore[misc]


def test_a_pod_deleted_by_force_is_gone_at_once(node: NodeCluster) -> None:
    node.apply(shell("forced", "trap '' TERM; while :; do sleep 0.1; done"))
    node.ready("forced")
    uid = node.get("pod", "forced")["metadata"]["uid"]
    node.kubectl("delete", "pod", "forced", "--force", "--grace-period=0")
    eventually(lambda: not processes_with(uid), "its processes have ended", within=20)


def test_what_a_container_leaves_behind_ends_with_it(node: NodeCluster) -> None:
    script = "setsid sleep 601 & (sleep 602 &) ; nohup sleep 603 >/dev/null 2>&1 & sleep 0.2"
    node.apply(shell("messy", script, restartPolicy="Never"))
    eventually(lambda: node.phase("messy") == "Succeeded", "it is done")
    assert not processes_with(node.get("pod", "messy")["metadata"]["uid"])


def web(name: str, port: int = 5000) -> Object:
    env = [{"name": "ADDRESS", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}]
    probe = {"tcpSocket": {"port": port}, "periodSeconds": 1}
    script = f"echo {name} > index.html; exec python3 -m http.server --bind $ADDRESS {port}"
    container = {"env": env, "readinessProbe": probe}
    return shell(name, script, image="python", container=container)


def service(name: str, **spec: Any) -> Object:
    whole = {"selector": {"app": name}, "ports": [{"port": 80, "targetPort": 5000}], **spec}
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": whole}


def curl(*arguments: str) -> str:
    return subprocess.run(["curl", "-sS", "-m", "5", *arguments], capture_output=True, text=True).stdout


def test_two_pods_listen_on_one_port_and_services_find_them(node: NodeCluster) -> None:
    node.apply(web("here"), web("there"), service("here"), service("there", type="NodePort"))
    for name in ("here", "there"):
        node.ready(name)
        address = node.get("service", name)["spec"]["clusterIP"]
        eventually(lambda a=address, n=name: curl(f"http://{a}/") == f"{n}\n", "the Service answers")  # type: ignore[misc]
    port = node.get("service", "there")["spec"]["ports"][0]["nodePort"]
    assert curl(f"http://127.0.0.1:{port}/") == "there\n"
    node.kubectl("delete", "service", "here", "there")


def test_a_pod_finds_services_by_name_through_its_proxy(node: NodeCluster) -> None:
    node.apply(web("named"), service("named"))
    node.ready("named")
    for host in ("named", "named.default", "named.default.svc.cluster.local"):
        done = node.kubectl(
            "run", "-i", "--rm", "--restart=Never", "curl", "--image=curlimages/curl", "--", "-s", f"http://{host}/"
        )
        assert done.stdout.startswith("named\n"), host


def test_a_node_goes_down_with_its_pods_on_sigquit(tmp_path: Path) -> None:
    with cluster(tmp_path) as node:
        node.apply(shell("one", "exec sleep 600"), shell("starting", "sleep 600 & wait"))
        node.ready("one")


def test_an_ordinary_users_services_answer_on_another_port(tmp_path: Path) -> None:
    found = Unprivileged(tmp_path)
    found.start()
    try:
        eventually(lambda: "Ready" in found.kubectl("get", "nodes", check=False).stdout, "the node is there")
        found.apply(web("low"), service("low"))
        found.ready("low")

        def moved() -> str:
            meta = found.get("service", "low")["metadata"]
            return str(meta.get("annotations", {}).get("engine.kaito.sh/reachable-at", ""))

        eventually(lambda: moved().startswith("80=127."), "the Service says where it answers")
        assert curl(f"http://{moved().removeprefix('80=')}/") == "low\n"
        address = found.get("service", "low")["spec"]["clusterIP"]
        done = found.kubectl(
            "run", "-i", "--rm", "--restart=Never", "curl", "--image=curlimages/curl", "--", "-s", f"http://{address}/"
        )
        assert done.stdout.startswith("low\n"), "the address as written answers inside pods"
    finally:
        found.end()


class Unprivileged(NodeCluster):
    """An engine that may not bind ports below 1024."""

    prefix = ("setpriv", "--bounding-set=-net_bind_service", "--inh-caps=-net_bind_service")
