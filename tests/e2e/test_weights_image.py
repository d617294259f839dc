# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""A model out of a registry of one's own, with TLS and a password: `kaito models push`, a Workspace, an answer."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml

from kaito.kube.certificates import new_authority, serving_pair
from tests.e2e.machine import KAITO, Machine, eventually, processes_below
from tests.registry_process import PASSWORD, USER, Served, registry_process

pytestmark = pytest.mark.slow
NAME = "from-a-registry"
SECRETS = "kaito.sh/weights-image-pull-secrets"


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A registry whose certificate only those trust who have `ca.pem`."""
    folder, now = tmp_path_factory.mktemp("registry"), datetime.now(UTC)
    authority = new_authority("test", now)
    pair = serving_pair(authority, ["127.0.0.1"], now)
    for name, text in (("ca.pem", authority.cert_pem), ("cert.pem", pair.cert_pem), ("key.pem", pair.key_pem)):
        (folder / name).write_text(text)
    with registry_process(folder, certificate=folder / "cert.pem", key=folder / "key.pem") as served:
        yield served


@pytest.fixture(scope="module")
def trusting(cache: Path, registry: Served, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A machine whose pods trust the registry, as nodes do that have its authority among the system's."""
    folder = tmp_path_factory.mktemp("machine")
    found = Machine(folder, cache=cache)
    found.env["SSL_CERT_FILE"] = str(registry.folder / "ca.pem")
    found.env["DOCKER_CONFIG"] = str(registry.login(folder / "config.json").parent)
    found.up()
    yield found
    found.down()
    assert processes_below(folder) == []


def manifest(reference: str, **annotations: str) -> str:
    return yaml.safe_dump({
        "apiVersion": "kaito.sh/v1beta1",
        "kind": "Workspace",
        "metadata": {"name": NAME, "annotations": {"kaito.sh/weights-image": reference, **annotations}},
        "resource": {"labelSelector": {"matchLabels": {"apps": "registry"}}},
        "inference": {"preset": {"name": "phi-3.5-mini-instruct"}},
    })  # fmt: skip


def test_a_model_is_pushed_and_served_with_a_pull_secret(trusting: Machine, registry: Served, cache: Path) -> None:
    reference = f"{registry.host}/models/phi:1"
    model = cache / "kaito/models/kaito/demo-phi-3"
    push = ("env", "-u", "SSL_CERT_FILE", KAITO, "models", "push", str(model), reference)
    distrusted = trusting.run(*push, check=False)
    assert distrusted.returncode == 1 and "certificate is not trusted" in distrusted.stderr
    assert f"Pushed {reference}" in trusting.run(*push, "--ca-file", str(registry.folder / "ca.pem")).stdout

    trusting.run("kubectl", "apply", "-f", "-", input=manifest(reference))
    eventually(
        lambda: trusting.condition(NAME, "InferenceReady").get("reason") == "ArtifactUnauthorized",
        within=60,
        what="the registry's refusal in a condition",
    )
    trusting.kubectl(
        "create", "secret", "docker-registry", "login", f"--docker-server={registry.host}",
        f"--docker-username={USER}", f"--docker-password={PASSWORD}",
    )  # fmt: skip
    trusting.run("kubectl", "apply", "-f", "-", input=manifest(reference, **{SECRETS: "login"}))
    trusting.wait_ready(NAME)
    assert "kubernetes" in trusting.kaito("chat", NAME, "What is kaito?").stdout.lower()
    told = trusting.kubectl("get", "workspaces,pods,events,configmaps,statefulsets", "-o", "yaml").stdout
    assert PASSWORD not in told + "".join(file.read_text(errors="replace") for file in trusting.logs())
