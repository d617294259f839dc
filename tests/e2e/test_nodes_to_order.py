# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""`kaito up --provisioner nodeclaim`: nodes come of claims, simulated ones and the machine itself."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.machine import Machine, eventually, processes_below

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def ordering(cache: Path, weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    folder = tmp_path_factory.mktemp("ordering")
    found = Machine(folder, "--provisioner", "nodeclaim", "--weights", str(weights), cache=cache)
    found.up()
    yield found
    found.down()
    assert processes_below(folder) == []


def order(machine: Machine, name: str, instance_type: str) -> None:
    manifest = {
        "apiVersion": "kaito.sh/v1beta1",
        "kind": "Workspace",
        "metadata": {"name": name},
        "resource": {"instanceType": instance_type, "labelSelector": {"matchLabels": {"apps": name}}},
        "inference": {"preset": {"name": "phi-3-mini-4k-instruct"}},
    }
    machine.run("kubectl", "apply", "-f", "-", input=json.dumps(manifest))


def nodes(machine: Machine, selector: str = "") -> list[str]:
    return machine.kubectl("get", "nodes", "-o", "name", "-l", selector).stdout.split()


def test_the_machine_itself_is_had_by_one_claim_at_a_time_and_answers(ordering: Machine) -> None:
    order(ordering, "here", "local")
    ordering.wait_ready("here")
    assert "kubernetes" in ordering.kaito("chat", "here", "What is kaito?").stdout.lower()
    assert len(nodes(ordering, "kaito.sh/workspace=here")) == 1
    order(ordering, "second", "local")
    eventually(
        lambda: "has this machine" in ordering.condition("second", "ResourceReady").get("message", ""),
        within=30,
        what="the second Workspace says who has the machine",
    )
    ordering.kubectl("delete", "workspace", "second", "here")
    assert not nodes(ordering, "kaito.sh/workspace")
    eventually(lambda: len(nodes(ordering)) == 1, within=30, what="the machine is there again")
    assert not ordering.kubectl("get", "nodeclaims", "-o", "name").stdout


def test_a_simulated_machine_comes_and_goes(ordering: Machine) -> None:
    order(ordering, "simulated", "Standard_NC24ads_A100_v4")
    ordering.wait_ready("simulated")
    (node,) = nodes(ordering, "kaito.sh/workspace=simulated")
    gpus = ordering.kubectl("get", node, "-o", r"jsonpath={.status.capacity.nvidia\.com/gpu}").stdout
    assert gpus == "1"
    ordering.kubectl("delete", "workspace", "simulated")
    assert not nodes(ordering, "kaito.sh/workspace")
