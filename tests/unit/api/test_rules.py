# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Which new Workspaces are admitted, and what the others are told."""

from __future__ import annotations

from typing import Any

import pytest

from kaito.api.rules import Policy, create_errors
from kaito.api.workspace import Workspace

from .manifests import ADAPTER, GONE, INFERENCE, TUNING, changed

POLICY = Policy(preset_problem=lambda name: None if "phi" in name else "there is no such preset")

# What users already have in their files.
SEEDS: list[dict[str, Any]] = [
    {
        "apiVersion": "kaito.sh/v1alpha1",
        "kind": "Workspace",
        "metadata": {"name": "workspace-phi-3-mini-adapter"},
        "resource": {
            "instanceType": "Standard_NC6s_v3",
            "labelSelector": {"matchLabels": {"apps": "phi-3-adapter"}},
        },
        "inference": {
            "preset": {"name": "phi-3-mini-128k-instruct"},
            "adapters": [
                {
                    "source": {"name": "phi-3-adapter", "image": "ACR_REPO_HERE.azurecr.io/ADAPTER_HERE:0.0.1"},
                    "strength": "1.0",
                }
            ],
        },
    },
    {
        "apiVersion": "kaito.sh/v1alpha1",
        "kind": "Workspace",
        "metadata": {"name": "workspace-tuning-phi-3"},
        "resource": {"instanceType": "Standard_NC6s_v3", "labelSelector": {"matchLabels": {"app": "tuning-phi-3"}}},
        "tuning": {
            "preset": {"name": "phi-3-mini-128k-instruct"},
            "method": "qlora",
            "input": {"urls": ["https://huggingface.co/datasets/a/b/resolve/main/data/train.parquet?download=true"]},
            "output": {
                "image": "ACR_REPO_HERE.azurecr.io/IMAGE_NAME_HERE:0.0.1",
                "imagePushSecret": "ACR_REGISTRY_SECRET_HERE",
            },
        },
    },
]


def wrong(manifest: dict[str, Any], policy: Policy = POLICY) -> list[tuple[str, str]]:
    return [(error.path, error.message) for error in create_errors(Workspace.parse(manifest), policy)]


def paths(manifest: dict[str, Any], policy: Policy = POLICY) -> list[str]:
    return [path for path, _ in wrong(manifest, policy)]


@pytest.mark.parametrize(
    "manifest",
    [
        INFERENCE,
        TUNING,
        *SEEDS,
        changed(INFERENCE, apiVersion="kaito.sh/v1alpha1"),
        changed(INFERENCE, resource=GONE),
        changed(INFERENCE, metadata={"generateName": "demo-"}),
        changed(INFERENCE, inference={"template": {"spec": {"containers": []}}}),
        changed(INFERENCE, inference__adapters=[ADAPTER, changed(ADAPTER, source__name="other.one")]),
        changed(INFERENCE, inference__adapters=[{"source": {"name": "a", "volumeSource": {"emptyDir": {}}}}] * 1),
        changed(INFERENCE, resource__partition={"mode": "mig", "profile": "1g.10gb+me"}),
        changed(INFERENCE, resource__partition={"mode": "accelerator", "count": 2}),
        changed(INFERENCE, resource__labelSelector={"matchLabels": {"kaito.sh/workspace": "demo", "apps": "x"}}),
        changed(
            INFERENCE,
            resource__labelSelector={
                "matchExpressions": [
                    {"key": "gpu/kind", "operator": "In", "values": ["a", "b"]},
                    {"key": "busy", "operator": "DoesNotExist"},
                ]
            },
        ),
        changed(
            INFERENCE,
            metadata__annotations={
                "kaito.sh/runtime": "anything",
                "kaito.sh/performance-mode": "throughput",
                "kaito.sh/use-local-weights": "true",
                "kaito.sh/node-image-family": " AzureLinux ",
                "kaito.sh/enablelb": "yes",
            },
        ),
        changed(TUNING, tuning__method="QLoRA"),
        changed(TUNING, tuning__input={"image": "registry:5000/data@sha256:" + "a" * 64}),
        changed(TUNING, tuning__output={"volumeSource": {"persistentVolumeClaim": {"claimName": "results"}}}),
    ],
)
def test_a_sound_workspace_is_admitted(manifest: dict[str, Any]) -> None:
    assert wrong(manifest) == []


@pytest.mark.parametrize(
    ("manifest", "path", "message"),
    [
        (changed(INFERENCE, inference=GONE), "inference", "is required, unless tuning is given"),
        (changed(INFERENCE, tuning=TUNING["tuning"]), "tuning", "must not be given together with inference"),
        (changed(INFERENCE, metadata__name="Demo"), "metadata.name", "lower-case letters"),
        (changed(INFERENCE, metadata__name="a.b"), "metadata.name", "lower-case letters"),
        (changed(INFERENCE, metadata__name="a" * 64), "metadata.name", "at most 63"),
        (changed(INFERENCE, resource__count=0), "resource.count", "at least 1"),
        (
            changed(
                TUNING,
                resource__count=2,
                tuning__output={"volumeSource": {"azureDisk": {"diskName": "d"}}},
            ),
            "tuning.output.volumeSource",
            "Use a persistentVolumeClaim with ReadWriteMany, or tuning.output.image",
        ),
        (
            changed(INFERENCE, resource__partition={"mode": "mig", "profile": "half"}),
            "resource.partition.profile",
            "e.g. 3g.40gb",
        ),
        (
            changed(INFERENCE, resource__partition={"mode": "mig", "profile": "1g.5gb", "count": 1}),
            "resource.partition.count",
            "must not be given with mode mig",
        ),
        (
            changed(INFERENCE, resource__partition={"mode": "accelerator"}),
            "resource.partition.count",
            "is required with mode accelerator",
        ),
        (
            changed(INFERENCE, resource__partition={"mode": "accelerator", "count": 1, "profile": "1g.5gb"}),
            "resource.partition.profile",
            "must not be given with mode accelerator",
        ),
        (
            changed(TUNING, resource__partition={"mode": "accelerator", "count": 1}),
            "resource.partition",
            "tuning takes whole GPUs",
        ),
        (
            changed(INFERENCE, resource__labelSelector__matchLabels={"a b": "c"}),
            "resource.labelSelector.matchLabels[a b]",
            "is not a label key",
        ),
        (
            changed(INFERENCE, resource__labelSelector__matchLabels={"a": "b c"}),
            "resource.labelSelector.matchLabels[a]",
            "is not a label value",
        ),
        (
            changed(INFERENCE, resource__labelSelector__matchLabels={"kaito.sh/workspace": "demo"}),
            "resource.labelSelector.matchLabels",
            "needs at least one label besides those that are reserved",
        ),
        (
            changed(INFERENCE, resource__labelSelector={"matchExpressions": [{"key": "a", "operator": "In"}]}),
            "resource.labelSelector.matchExpressions[0].values",
            "is required with In",
        ),
        (
            changed(
                INFERENCE,
                resource__labelSelector={"matchExpressions": [{"key": "a", "operator": "Exists", "values": ["b"]}]},
            ),
            "resource.labelSelector.matchExpressions[0].values",
            "must not be given with Exists",
        ),
        (
            changed(INFERENCE, resource__labelSelector={"matchExpressions": [{"key": "a", "operator": "Gt"}]}),
            "resource.labelSelector.matchExpressions[0].operator",
            "must be In, NotIn, Exists or DoesNotExist",
        ),
        (
            changed(INFERENCE, metadata__annotations={"kaito.sh/performance-mode": "fast"}),
            "metadata.annotations[kaito.sh/performance-mode]",
            "must be balanced, interactivity or throughput",
        ),
        (
            changed(INFERENCE, metadata__annotations={"kaito.sh/benchmark": "heavy"}),
            "metadata.annotations[kaito.sh/benchmark]",
            "must be light or full",
        ),
        (
            changed(TUNING, metadata__annotations={"kaito.sh/output-format": "tar"}),
            "metadata.annotations[kaito.sh/output-format]",
            "must be image or artifact",
        ),
        (
            changed(TUNING, metadata__annotations={"kaito.sh/registry-checkpoints": "yes"}),
            "metadata.annotations[kaito.sh/registry-checkpoints]",
            "must be true or false",
        ),
        (
            changed(INFERENCE, metadata__annotations={"kaito.sh/use-local-weights": "True"}),
            "metadata.annotations[kaito.sh/use-local-weights]",
            "must be true or false",
        ),
        (
            changed(INFERENCE, metadata__annotations={"kaito.sh/node-image-family": "windows"}),
            "metadata.annotations[kaito.sh/node-image-family]",
            "must be azurelinux or ubuntu",
        ),
        (changed(INFERENCE, inference={}), "inference.preset", "is required, unless inference.template is given"),
        (changed(INFERENCE, inference__template={"spec": {}}), "inference.template", "choose one"),
        (changed(INFERENCE, inference__preset__name="gpt"), "inference.preset.name", "there is no such preset"),
        (changed(INFERENCE, inference__preset__name=""), "inference.preset.name", "is required"),
        (changed(INFERENCE, inference__config="My Config"), "inference.config", "lower-case letters"),
        (
            changed(INFERENCE, inference__adapters=[changed(ADAPTER, source__name=f"a{n}") for n in range(11)]),
            "inference.adapters",
            "must be at most 10, and there are 11",
        ),
        (
            changed(INFERENCE, inference__adapters=[ADAPTER, ADAPTER]),
            "inference.adapters",
            "2 of them are called 'poet'",
        ),
        (changed(INFERENCE, inference__adapters=[{}]), "inference.adapters[0].source", "is required"),
        (
            changed(INFERENCE, inference__adapters=[changed(ADAPTER, source__name=GONE)]),
            "inference.adapters[0].source.name",
            "is required",
        ),
        (
            changed(INFERENCE, inference__adapters=[changed(ADAPTER, source__name="A_b")]),
            "inference.adapters[0].source.name",
            "lower-case letters",
        ),
        (
            changed(INFERENCE, inference__adapters=[changed(ADAPTER, source__image=GONE)]),
            "inference.adapters[0].source",
            "needs image, volumeSource, urls or workspace",
        ),
        (
            changed(INFERENCE, inference__adapters=[changed(ADAPTER, source__volumeSource={"emptyDir": {}})]),
            "inference.adapters[0].source",
            "only one of image, volumeSource",
        ),
        (
            changed(
                INFERENCE, inference__adapters=[changed(ADAPTER, source={"name": "a", "urls": ["http://10.0.0.1/c"]})]
            ),
            "inference.adapters[0].source.urls[0]",
            "must not point at a loopback",
        ),
        (
            changed(INFERENCE, inference__adapters=[changed(ADAPTER, source__image="not an image")]),
            "inference.adapters[0].source.image",
            "is not the name of an image",
        ),
        (
            changed(INFERENCE, inference__adapters=[changed(ADAPTER, strength="1.5")]),
            "inference.adapters[0].strength",
            "from 0 to 1",
        ),
        (changed(TUNING, tuning__preset=GONE), "tuning.preset", "is required"),
        (changed(TUNING, tuning__preset__name="gpt"), "tuning.preset.name", "there is no such preset"),
        (changed(TUNING, tuning__method="dora"), "tuning.method", "must be lora, qlora or full"),
        (changed(TUNING, tuning__method=GONE), "tuning.method", "must be lora, qlora or full"),
        (changed(TUNING, tuning__input={}), "tuning.input", "needs urls, image or volumeSource"),
        (
            changed(TUNING, tuning__input__image="registry.example.com/data:1"),
            "tuning.input",
            "only one of urls, image",
        ),
        (
            changed(TUNING, tuning__input__urls=["hf://datasets/org/name@v1", "hf://models/org/name"]),
            "tuning.input.urls[1]",
            "must begin with hf://datasets/",
        ),
        (
            changed(
                INFERENCE, inference__adapters=[changed(ADAPTER, source={"name": "a", "urls": ["hf://datasets/o/n"]})]
            ),
            "inference.adapters[0].source.urls[0]",
            "must be an absolute http:// or https:// URL",
        ),
        (
            changed(TUNING, tuning__input__urls=["https://example.com/a", "http://127.0.0.1/b"]),
            "tuning.input.urls[1]",
            "loopback",
        ),
        (changed(TUNING, tuning__output={}), "tuning.output", "needs image or volumeSource"),
        (
            changed(TUNING, tuning__output__imagePushSecret=GONE),
            "tuning.output.imagePushSecret",
            "is required with an image",
        ),
    ],
)
def test_an_unsound_workspace_is_refused_with_one_error_that_names_the_field(
    manifest: dict[str, Any], path: str, message: str
) -> None:
    found = wrong(manifest)
    assert [at for at, _ in found] == [path]
    assert message in found[0][1]


@pytest.mark.parametrize(
    ("rule", "instance_type", "refused"),
    [
        ("optional", "", False),
        ("optional", "Standard_NC6s_v3", False),
        ("required", "", True),
        ("required", "Standard_NC6s_v3", False),
        ("forbidden", "", False),
        ("forbidden", "Standard_NC6s_v3", True),
    ],
)
def test_the_instance_type_is_for_the_one_who_makes_the_nodes(rule: Any, instance_type: str, refused: bool) -> None:
    manifest = changed(INFERENCE, resource__instanceType=instance_type)
    assert paths(manifest, Policy(instance_type=rule)) == (["resource.instanceType"] if refused else [])


def test_a_machine_type_that_cannot_be_had_is_refused() -> None:
    policy = Policy(instance_type_problem=lambda name: f"{name} is not sold")
    manifest = changed(INFERENCE, resource__instanceType="Abacus")
    assert wrong(manifest, policy) == [("resource.instanceType", "Abacus is not sold")]


def test_all_errors_are_told_at_once() -> None:
    manifest = changed(INFERENCE, metadata__name="A", inference__config="B", inference__preset__name="gpt")
    assert paths(manifest) == ["metadata.name", "inference.preset.name", "inference.config"]


def test_private_addresses_are_fine_on_a_machine_of_ones_own() -> None:
    manifest = changed(TUNING, tuning__input__urls=["http://127.0.0.1:8000/data.parquet"])
    assert paths(manifest, Policy(private_urls=True)) == []


def test_an_error_about_an_address_does_not_repeat_its_secrets() -> None:
    manifest = changed(TUNING, tuning__input__urls=["http://me:word@127.0.0.1/a?sig=secret"])
    (error,) = create_errors(Workspace.parse(manifest), POLICY)
    assert error.value == "http://127.0.0.1/a"
