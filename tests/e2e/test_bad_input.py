# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Wrong manifests are refused with the field's path, and nothing is created."""

from __future__ import annotations

import pytest

from tests.e2e.machine import KAITO, Machine, eventually

pytestmark = pytest.mark.slow

HEAD = "apiVersion: kaito.sh/v1beta1\nkind: Workspace\nmetadata: {name: wrong}\n"
RESOURCE = "resource: {labelSelector: {matchLabels: {app: x}}}\n"
PRESET = "inference: {preset: {name: kaito-demo}}\n"

CASES = {
    "an unknown field": (HEAD + RESOURCE + "inference: {preset: {name: kaito-demo, nam: x}}\n", "inference.preset.nam"),
    "a wrong type": (HEAD + "resource: {count: many, labelSelector: {}}\n" + PRESET, "resource.count"),
    "inference and tuning": (
        HEAD + RESOURCE + PRESET + "tuning: {preset: {name: kaito-demo}, input: {}, output: {}}\n",
        "tuning",
    ),
    "an unknown preset": (HEAD + RESOURCE + "inference: {preset: {name: kaito-dmo}}\n", "inference.preset.name"),
    "neither inference nor tuning": (HEAD + RESOURCE, "inference"),
}


@pytest.mark.parametrize("case", CASES)
def test_kubectl_apply_refuses(machine: Machine, case: str) -> None:
    manifest, path = CASES[case]
    done = machine.run("kubectl", "apply", "-f", "-", input=manifest, check=False)
    assert done.returncode != 0
    assert path in done.stderr
    assert machine.kubectl("get", "workspace", "wrong", check=False).returncode != 0


@pytest.mark.parametrize("case", CASES)
def test_kaito_apply_refuses_in_one_sentence_without_a_traceback(machine: Machine, case: str) -> None:
    manifest, path = CASES[case]
    done = machine.run(KAITO, "apply", "-f", "-", input=manifest, check=False)
    assert done.returncode == 1
    assert path in done.stderr
    assert "Traceback" not in done.stderr


def test_missing_weights_without_a_network_are_said_within_seconds(machine: Machine) -> None:
    manifest = HEAD.replace("wrong", "no-weights") + RESOURCE + "inference: {preset: {name: phi-4}}\n"
    machine.run("kubectl", "apply", "-f", "-", input=manifest)

    def is_said() -> bool:
        return machine.condition("no-weights", "InferenceReady").get("reason") == "ModelWeightsNotFound"

    eventually(is_said, within=15, what="ModelWeightsNotFound")
    assert "--weights" in machine.condition("no-weights", "InferenceReady")["message"]
    machine.kaito("delete", "no-weights")


def test_an_unknown_image_says_what_to_do(machine: Machine) -> None:
    machine.kubectl("run", "strange", "--image=example.com/strange:1", "--restart=Never")
    eventually(
        lambda: "--images" in machine.kubectl("describe", "pod", "strange").stdout, within=10, what="a next step"
    )
    assert "ErrImagePull" in machine.kubectl("describe", "pod", "strange").stdout
    machine.kubectl("delete", "pod", "strange", "--wait=false")


@pytest.mark.parametrize("command", [["get", "nope"], ["logs", "nope"], ["chat", "nope", "hi"], ["delete", "nope"]])
def test_an_unknown_name_is_an_error_with_a_next_step(machine: Machine, command: list[str]) -> None:
    done = machine.run(KAITO, *command, check=False)
    assert done.returncode == 1
    assert "nope" in done.stderr
    assert "kaito get" in done.stderr
    assert "Traceback" not in done.stderr
