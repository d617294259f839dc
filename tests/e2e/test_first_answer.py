# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""The documented way from a manifest to a chat answer, with the real kubectl, as its users type it."""

from __future__ import annotations

import json
import re

import pytest

from tests.e2e.machine import REPOSITORY, Machine, eventually

pytestmark = pytest.mark.slow
PHI_3 = "examples/inference/kaito_workspace_phi_3.yaml"


@pytest.fixture(scope="module")
def phi_3(machine: Machine) -> Machine:
    machine.kubectl("apply", "-f", str(REPOSITORY / PHI_3))
    machine.wait_ready("workspace-phi-3-mini")
    return machine


def test_kubectl_get_shows_the_three_ready_columns(phi_3: Machine) -> None:
    header, row = phi_3.kubectl("get", "workspace", "workspace-phi-3-mini").stdout.splitlines()
    assert header.split()[:5] == ["NAME", "INSTANCE", "RESOURCEREADY", "INFERENCEREADY", "WORKSPACEREADY"]
    assert row.split()[:5] == ["workspace-phi-3-mini", "Standard_NC6s_v3", "True", "True", "True"]


def test_the_service_has_the_documented_ports(phi_3: Machine) -> None:
    row = phi_3.kubectl("get", "svc", "workspace-phi-3-mini").stdout.splitlines()[1].split()
    assert (row[1], row[3], row[4]) == ("ClusterIP", "<none>", "80/TCP,29500/TCP")


def test_curl_in_a_pod_reaches_chat_through_the_cluster_ip(phi_3: Machine) -> None:
    address = phi_3.kubectl("get", "svc", "workspace-phi-3-mini", "-o", "jsonpath={.spec.clusterIPs[0]}").stdout
    answer = phi_3.run(
        "kubectl", "run", "-it", "--rm", "--restart=Never", "curl", "--image=curlimages/curl", "--", "curl", "-sS",
        "-X", "POST", f"http://{address}/chat", "-H", "accept: application/json",
        "-H", "Content-Type: application/json",
        "-d", '{"prompt":"What is kaito?"}',
    ).stdout  # fmt: skip
    found = re.search(r'\{"Result".*\}', answer)
    assert found, answer
    assert "kaito" in json.loads(found.group())["Result"].lower()


def test_openai_routes_answer_through_the_api_server(phi_3: Machine) -> None:
    proxy = "/api/v1/namespaces/default/services/workspace-phi-3-mini:80/proxy"
    models = json.loads(phi_3.kubectl("get", "--raw", f"{proxy}/v1/models").stdout)
    assert [model["id"] for model in models["data"]] == ["phi-3-mini-4k-instruct"]


def test_kaito_chat_streams_a_sensible_answer(phi_3: Machine) -> None:
    assert "kubernetes" in phi_3.kaito("chat", "workspace-phi-3-mini", "What is kaito?").stdout.lower()


def test_kaito_get_and_logs_say_what_runs(phi_3: Machine) -> None:
    assert "Ready" in phi_3.kaito("get").stdout
    assert "http://127." in phi_3.kaito("get", "workspace-phi-3-mini").stdout
    assert phi_3.kaito("logs", "workspace-phi-3-mini").stdout.strip()


def test_deleting_the_workspace_removes_everything_it_made(phi_3: Machine) -> None:
    manifest = (REPOSITORY / PHI_3).read_text().replace("workspace-phi-3-mini", "short-lived")
    phi_3.run("kubectl", "apply", "-f", "-", input=manifest)
    eventually(lambda: "short-lived-0" in phi_3.kubectl("get", "pods", "-o", "name").stdout, within=10, what="pod")
    phi_3.kubectl("delete", "workspace", "short-lived", "--timeout=30s")
    kinds = "statefulsets,pods,services,configmaps,controllerrevisions"
    eventually(
        lambda: "short-lived" not in phi_3.kubectl("get", kinds, "-o", "name").stdout, within=30, what="all removed"
    )


def test_the_quick_start_runs_on_vllm(machine: Machine) -> None:
    quick = (REPOSITORY / "examples" / "quickstart.yaml").read_text()
    machine.run("kubectl", "apply", "-f", "-", input=quick)
    wishes = ("kaito.sh/runtime=vllm", "kaito.sh/benchmark=light")
    machine.kubectl("annotate", "--overwrite", "workspace", "demo", *wishes)
    eventually(
        lambda: (
            machine.condition("demo", "WorkspaceReady").get("status") == "True"
            and "vllm" in machine.kaito("logs", "demo").stdout.lower()
        ),
        within=120,
        what="demo ready on vLLM",
    )
    assert "workspace" in machine.kaito("chat", "demo", "What is a Workspace?").stdout.lower()
    speed = "jsonpath={.status.performance.metrics.peakTokensPerMinute}"
    eventually(
        lambda: machine.kubectl("get", "workspace", "demo", "-o", speed).stdout,
        within=90,
        what="its speed in the status",
    )
    metric = json.loads(machine.kubectl("get", "workspace", "demo", "-o", speed).stdout)
    assert float(metric["value"]) > 0 and metric["config"]["engine"] == "vllm" and metric["config"]["engineVersion"]
    steps = "jsonpath={.status.timeline[*].step}"
    told = {"WeightsLoaded", "EngineReady", "FirstToken"}
    eventually(
        lambda: told <= set(machine.kubectl("get", "workspace", "demo", "-o", steps).stdout.split()),
        within=60,
        what="the story of its start",
    )
    machine.kaito("delete", "demo")
