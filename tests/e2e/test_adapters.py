# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""The documented adapter manifest, from a registry with a password to an answer: `kubectl apply`, chat, a change."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from kaito.runtime.artifacts.push import Target, push_image
from tests.e2e.machine import REPOSITORY, Machine, eventually
from tests.lora import write_adapter
from tests.registry_process import PASSWORD, USER, Served, registry_process

pytestmark = pytest.mark.slow
EXAMPLE = REPOSITORY / "examples/inference/kaito_workspace_phi_3_with_adapters.yaml"
NAME = "workspace-phi-3-mini-adapter"
PROXY = f"/api/v1/namespaces/default/services/{NAME}:80/proxy"
PLACEHOLDER = "ACR_REPO_HERE.azurecr.io/ADAPTER_HERE:0.0.1"


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A registry with an adapter in it, which only those who log in may read."""
    folder = tmp_path_factory.mktemp("registry")
    with registry_process(folder) as served:
        target = Target(f"{served.host}/team/phi-3-adapter:0.0.1", (served.login(folder / "config.json"),))
        push_image(write_adapter(folder / "adapter"), target)
        yield served


def manifest(image: str, *secrets: str) -> str:
    """The example with the image in place of its placeholder, and pull secrets."""
    read = yaml.safe_load(EXAMPLE.read_text().replace(PLACEHOLDER, image))
    if secrets:
        read["inference"]["adapters"][0]["source"]["imagePullSecrets"] = list(secrets)
    return yaml.safe_dump(read)


def ask(machine: Machine, model: str) -> str:
    body = {"messages": [{"role": "user", "content": "What is kaito?"}], "temperature": 0, "max_tokens": 24}
    answer = machine.run(
        "kubectl", "create", "--raw", f"{PROXY}/v1/chat/completions", "-f", "-",
        input=json.dumps({**body, "model": model}),
    )  # fmt: skip
    text: str = json.loads(answer.stdout)["choices"][0]["message"]["content"]
    return text


def models(machine: Machine) -> list[str]:
    return [entry["id"] for entry in json.loads(machine.kubectl("get", "--raw", f"{PROXY}/v1/models").stdout)["data"]]


def test_the_manifest_as_it_is_says_which_name_to_put_in(machine: Machine) -> None:
    machine.kubectl("apply", "-f", str(EXAMPLE))
    eventually(lambda: machine.condition(NAME, "InferenceReady") != {}, within=20, what="a condition")
    said = machine.condition(NAME, "InferenceReady")
    assert said["reason"] == "InvalidSpec"
    assert PLACEHOLDER in said["message"] and "capitals" in said["message"]


def test_a_registry_that_refuses_is_told_with_the_next_step(machine: Machine, registry: Served) -> None:
    machine.run("kubectl", "apply", "-f", "-", input=manifest(f"{registry.host}/team/phi-3-adapter:0.0.1"))
    eventually(
        lambda: machine.condition(NAME, "InferenceReady").get("reason") == "ArtifactUnauthorized",
        within=60,
        what="the registry's refusal in a condition",
    )
    failure = machine.workspace(NAME)["status"]["failure"]
    assert failure["reason"] == "ArtifactUnauthorized"
    assert "name a pull secret" in failure["nextStep"]


def test_with_the_secret_the_adapter_is_served_under_its_name(machine: Machine, registry: Served) -> None:
    machine.kubectl(
        "create", "secret", "docker-registry", "team", f"--docker-server={registry.host}",
        f"--docker-username={USER}", f"--docker-password={PASSWORD}",
    )  # fmt: skip
    machine.run("kubectl", "apply", "-f", "-", input=manifest(f"{registry.host}/team/phi-3-adapter:0.0.1", "team"))
    eventually(lambda: machine.condition(NAME, "WorkspaceReady").get("status") == "True", within=120, what="ready")
    assert models(machine) == ["phi-3-mini-128k-instruct", "phi-3-adapter"]
    base = ask(machine, "phi-3-mini-128k-instruct")
    assert "Kubernetes AI Toolchain Operator" in base
    assert ask(machine, "phi-3-adapter") != base


def test_strength_0_is_the_model_itself_without_a_new_pod(machine: Machine) -> None:
    before = machine.kubectl("get", "pod", f"{NAME}-0", "-o", "jsonpath={.metadata.uid}").stdout
    patch = [{"op": "replace", "path": "/inference/adapters/0/strength", "value": "0.0"}]
    machine.kubectl("patch", "workspace", NAME, "--type=json", "-p", json.dumps(patch))
    eventually(
        lambda: "adapter phi-3-adapter is served (strength 0)" in machine.kaito("logs", NAME).stdout,
        within=60,
        what="the strength followed",
    )
    assert ask(machine, "phi-3-adapter") == ask(machine, "phi-3-mini-128k-instruct")
    assert machine.kubectl("get", "pod", f"{NAME}-0", "-o", "jsonpath={.metadata.uid}").stdout == before


def test_the_password_is_nowhere_to_be_read(machine: Machine) -> None:
    told = machine.kubectl("get", "workspaces,pods,events,configmaps,statefulsets", "-A", "-o", "yaml").stdout
    logs = "".join(file.read_text(errors="replace") for file in machine.logs())
    assert PASSWORD not in told + logs
    machine.kubectl("delete", "workspace", NAME, "--timeout=30s")


def test_an_adapter_of_another_model_is_told_before_the_engine_starts(machine: Machine, tmp_path: Path) -> None:
    folder = write_adapter(tmp_path / "adapter", hidden=512)
    read = yaml.safe_load(EXAMPLE.read_text())
    read["metadata"]["name"] = "wrong-adapter"
    volume = {"hostPath": {"path": str(folder), "type": "Directory"}}
    read["inference"]["adapters"][0]["source"] = {"name": "large", "volumeSource": volume}
    machine.run("kubectl", "apply", "-f", "-", input=yaml.safe_dump(read))
    eventually(
        lambda: machine.condition("wrong-adapter", "InferenceReady").get("reason") == "AdapterInvalid",
        within=60,
        what="the wrong adapter in a condition",
    )
    said = machine.workspace("wrong-adapter")["status"]["failure"]
    assert "has the size 512, the model's 256" in said["evidence"]
    assert "kaito/demo-phi-3" in said["nextStep"]
    machine.kubectl("delete", "workspace", "wrong-adapter", "--timeout=30s")
