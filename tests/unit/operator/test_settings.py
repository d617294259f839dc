# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Flags and environment of the operator."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from kaito.kube.config import ClusterConfig
from kaito.operator.__main__ import main
from kaito.operator.app import CannotStart, run
from kaito.operator.flags import read
from kaito.operator.settings import BadSettings, Settings


def test_without_flags_the_defaults_hold() -> None:
    assert read([], {}) == Settings()


def test_flags_become_settings(tmp_path: Path) -> None:
    config, first, second = tmp_path / "config", tmp_path / "a", tmp_path / "b"
    config.touch()
    first.mkdir()
    second.mkdir()
    found = read(
        ["--kubeconfig", str(config), "--provisioner", "local", "--install-crds", "--webhook-port", "0",
         "--webhook-url-host", "127.0.0.1", "--local-weights", f"{first},{second}", "--default-runtime", "transformers",
         "--runtime-image", "example.com/r:1", "--metrics-port", "0", "--offline"],
        {},
    )  # fmt: skip
    assert found == Settings(
        kubeconfig=config,
        provisioner="local",
        install_crds=True,
        webhook_port=0,
        webhook_url_host="127.0.0.1",
        local_weights=(str(first), str(second)),
        default_runtime="transformers",
        runtime_image="example.com/r:1",
        metrics_port=0,
        offline=True,
    )


def test_the_environment_names_the_image_and_the_namespace() -> None:
    found = read([], {"KAITO_RUNTIME_IMAGE": "example.com/r:2", "POD_NAMESPACE": "mine"})
    assert (found.runtime_image, found.namespace) == ("example.com/r:2", "mine")


@pytest.mark.parametrize(
    ("arguments", "environ", "expected"),
    [
        (["--provisioner", "nodeclaim"], {}, ("nodeclaim", "azure", "ubuntu")),
        (["--provisioner", "azure-gpu-provisioner"], {"CLOUD_PROVIDER": "AWS"}, ("nodeclaim", "aws", "ubuntu")),
        (["--cloud", "arc", "--node-image-family", "azurelinux"], {}, ("byo", "arc", "azurelinux")),
    ],
)
def test_where_nodes_are_ordered_is_chosen_as_in_kaito(
    arguments: list[str], environ: dict[str, str], expected: tuple[str, str, str]
) -> None:
    found = read(arguments, environ)
    assert (found.provisioner, found.cloud, found.node_image_family) == expected


def test_an_unknown_cloud_of_the_environment_matters_only_where_nodes_are_ordered() -> None:
    assert read([], {"CLOUD_PROVIDER": "moon"}).cloud == "azure"
    with pytest.raises(BadSettings, match="CLOUD_PROVIDER is moon"):
        read(["--provisioner", "nodeclaim"], {"CLOUD_PROVIDER": "moon"})
    assert read(["--provisioner", "nodeclaim", "--cloud", "aws"], {"CLOUD_PROVIDER": "moon"}).cloud == "aws"


@pytest.mark.parametrize("flag", ["--local-weights", "--kubeconfig"])
def test_a_path_that_does_not_exist_is_named(flag: str) -> None:
    with pytest.raises(BadSettings, match=f"{flag} names /does/not/exist"):
        read(["--provisioner", "local", flag, "/does/not/exist"], {})


def test_a_mistake_ends_the_process_with_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--kubeconfig", "/does/not/exist"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("arguments", [["--webhook-port", "70000"], ["--workers", "0"], ["--provisioner", "x"]])
def test_a_value_out_of_range_is_refused(arguments: list[str]) -> None:
    with pytest.raises(BadSettings, match=arguments[0]):
        read(arguments, {})


def test_every_setting_has_a_flag_with_a_help_text(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        read(["--help"], {})
    shown = " ".join(capsys.readouterr().out.split())
    for name, field in Settings.model_fields.items():
        assert f"--{name.replace('_', '-')}" in shown
        assert field.description and " ".join(field.description.split()[:3]) in shown


async def test_a_table_of_machines_that_cannot_be_used_is_told_at_once(tmp_path: Path) -> None:
    table = tmp_path / "machines.yaml"
    table.write_text("instance_types: [{names: [a]}]")
    server = ClusterConfig(server="http://127.0.0.1:9")
    with pytest.raises(CannotStart, match=r"--machines .*machines.yaml cannot be used: instance_types.0.gpus: "):
        await run(Settings(machines=table), server)
    with pytest.raises(CannotStart, match="--machines /does/not/exist cannot be used"):
        await run(Settings(machines=Path("/does/not/exist")), server)


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        ([], "karpenter.azure.com/AKSNodeClass/default"),
        (['--karpenter-node-classes=[{"name":"a"},{"name":"b","default":true,"spec":{}}]'],
         "karpenter.azure.com/AKSNodeClass/b"),
        (["--karpenter-node-class-group=karpenter.k8s.aws", "--karpenter-node-class-kind=EC2NodeClass"],
         "karpenter.k8s.aws/EC2NodeClass/default"),
        (['--karpenter-node-classes=[{"name":"b","default":true}]', "--node-class=g/K/n"], "g/K/n"),
    ],
)  # fmt: skip
def test_kaitos_flags_for_node_classes_name_the_default_one(arguments: list[str], wanted: str) -> None:
    assert read(arguments, {}).node_class == wanted


@pytest.mark.parametrize(
    ("text", "said"), [("{", "JSON list"), ("[1]", "JSON list"), ('[{"name":"a"}]', "has 0 default"),
                       ('[{"name":"a","default":true},{"name":"b","default":true}]', "has 2 default")],
)  # fmt: skip
def test_node_classes_that_name_no_default_are_refused(text: str, said: str) -> None:
    with pytest.raises(BadSettings, match=re.escape(said)):
        read([f"--karpenter-node-classes={text}"], {})
