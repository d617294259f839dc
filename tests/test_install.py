# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""What is installed on a cluster is valid, the same from `kaito install` and from Helm, and allows what the code does.

Helm here is Helm itself, as a library.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
import warnings
from importlib import metadata
from pathlib import Path
from typing import Any, get_args

import helm_python as helm
import kubernetes_validate
import pytest
import yaml
from typer.testing import CliRunner

from kaito.api.meta import WORKSPACES
from kaito.api.release import VERSION, image
from kaito.cli import install as cli_install
from kaito.cli.main import application
from kaito.kube.resource import EVENTS, NODES, SECRETS
from kaito.operator.flags import read
from kaito.operator.install import chart
from kaito.operator.install.access import WRITES, cluster_rules, namespace_rules
from kaito.operator.install.objects import PROVISIONERS, Installation, Source, arguments, installed, operator_objects
from kaito.operator.settings import CloudName
from tests.golden.test_rendering import planned
from tests.golden.workspaces import CASES, Case

CHART = Path(__file__).parents[1] / "charts" / "kaito"
CHOICES: list[tuple[Installation, dict[str, Any]]] = [
    (Installation(), {}),
    (
        Installation(namespace="other", provisioner="nodeclaim", cloud="aws", replicas=3),
        {"nodeProvisioner": "azure-gpu-provisioner", "cloudProviderName": "aws", "replicaCount": 3},
    ),
    (Installation(machines_config_map="our-machines"), {"machinesConfigMap": "our-machines"}),
]

Object = dict[str, Any]


def rendered(values: dict[str, Any], namespace: str = "kaito-system") -> list[Object]:
    """The objects that Helm makes of the chart."""
    with helm.Chart.load(str(CHART)) as loaded:
        files = loaded.render(values, name="kaito", namespace=namespace)
    return [
        found
        for name, text in files.items()
        if name.endswith(".yaml")
        for found in yaml.safe_load_all(text)
        if found is not None
    ]


def by_name(objects: list[Object]) -> dict[tuple[str, str], Object]:
    return {(found["kind"], found["metadata"]["name"]): found for found in objects}


@pytest.mark.parametrize(("choice", "values"), CHOICES, ids=["default", "ordering", "machines"])
def test_helm_renders_what_kaito_install_prints(choice: Installation, values: dict[str, Any]) -> None:
    assert by_name(rendered(values, choice.namespace)) == by_name(operator_objects(choice))


@pytest.mark.parametrize("source", PROVISIONERS)
def test_every_object_is_valid_against_the_published_schemas(source: Source) -> None:
    for manifest in installed(Installation(provisioner=source)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            kubernetes_validate.validate(manifest, "1.36", strict=True)


def test_machine_types_of_ones_own_are_mounted_where_the_operator_reads_them() -> None:
    choice = Installation(machines_config_map="our-machines")
    objects = by_name(installed(choice))
    warnings.simplefilter("ignore")
    kubernetes_validate.validate(objects["Deployment", "kaito-operator"], "1.36", strict=True)
    spec = objects["Deployment", "kaito-operator"]["spec"]["template"]["spec"]
    [mount] = spec["containers"][0]["volumeMounts"]
    machines = read(arguments(choice), {}).machines
    assert machines is not None and machines.parent == Path(mount["mountPath"])
    assert [volume["configMap"]["name"] for volume in spec["volumes"]] == ["our-machines"]


def test_helm_finds_nothing_wrong_with_the_chart() -> None:
    report = helm.lint(str(CHART), strict=True)
    assert [message for message in report.get("messages") or [] if "icon" not in str(message)] == []


def test_the_chart_takes_the_values_of_kaito() -> None:
    values = {
        "featureGates": {"vLLM": False, "enableMIG": True},
        "defaultNodeImageFamily": "azurelinux",
        "commonLabels": {"team": "ai"},
        "podAnnotations": {"a": "b"},
        "podTemplateLabels": {"c": "d"},
        "imagePullSecrets": [{"name": "pull"}],
        "tolerations": [{"operator": "Exists"}],
        "logging": {"level": "debug"},
        "image": {"repository": "example.com/op", "tag": "2"},
        "affinity": {"nodeAffinity": {}},
        "clusterName": "kept-from-kaito",
        "presetRegistryName": "mcr.microsoft.com/aks/kaito",
        "podDisruptionBudget": {"enabled": False},
        "networkPolicy": {"enabled": False},
        "extraArgs": ["--workers=2"],
    }
    objects = by_name(rendered(values))
    deployment = objects["Deployment", "kaito-operator"]
    template = deployment["spec"]["template"]
    [container] = template["spec"]["containers"]
    settings = read(container["args"], {})
    assert settings.default_runtime == "transformers"
    assert settings.node_image_family == "azurelinux"
    assert (settings.log_level, settings.workers) == ("debug", 2)
    assert container["image"] == "example.com/op:2"
    assert deployment["metadata"]["labels"]["team"] == "ai"
    assert template["metadata"]["annotations"] == {"a": "b"}
    assert template["metadata"]["labels"]["c"] == "d"
    assert template["spec"]["affinity"] == {"nodeAffinity": {}}
    assert not {"PodDisruptionBudget", "NetworkPolicy"} & {kind for kind, _ in objects}


def test_kaitos_values_for_karpenter_name_the_node_class() -> None:
    ubuntu = {"name": "image-family-ubuntu", "default": True, "spec": {"imageFamily": "Ubuntu2204"}}
    azure = {"group": "karpenter.azure.com", "kind": "AKSNodeClass", "version": "v1beta1",
             "nodeClasses": [{"name": "image-family-azure-linux"}, ubuntu]}  # fmt: skip
    aws = {"group": "karpenter.k8s.aws", "kind": "EC2NodeClass", "nodeClasses": [{"name": "gpu", "default": True}]}
    for provider, wanted in (
        ("azure", "karpenter.azure.com/AKSNodeClass/image-family-ubuntu"),
        ("aws", "karpenter.k8s.aws/EC2NodeClass/gpu"),
        ("other", Installation().node_class),
    ):
        values = {"nodeProvisioner": "karpenter", "karpenterProvider": provider}
        objects = by_name(rendered({**values, "karpenterProviders": {"azure": azure, "aws": aws}}))
        [container] = objects["Deployment", "kaito-operator"]["spec"]["template"]["spec"]["containers"]
        assert read(container["args"], {}).node_class == wanted


def test_the_chart_keeps_its_crds_where_helm_never_removes_them() -> None:
    assert not any("CustomResourceDefinition" in file.read_text() for file in (CHART / "templates").glob("*.yaml"))
    with helm.Chart.load(str(CHART)) as loaded:
        assert "workspaces.kaito.sh" in str(loaded.crds)


@pytest.mark.parametrize("part", ["rbac", "webhook"])
def test_the_generated_templates_are_what_make_generate_writes(part: str) -> None:
    assert (CHART / "templates" / f"{part}.yaml").read_text() == getattr(chart, part)()


def test_the_operator_takes_the_arguments_of_its_deployment() -> None:
    settings = read(arguments(Installation()), {"POD_NAMESPACE": "elsewhere"})
    assert settings.elects, "two replicas"
    assert settings.namespace == "elsewhere"
    objects = by_name(operator_objects(Installation()))
    [container] = objects["Deployment", "kaito-operator"]["spec"]["template"]["spec"]["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {"webhook": settings.webhook_port, "metrics": settings.metrics_port, "health": settings.health_port}
    assert ("Service", settings.webhook_service) in objects


def allowed(source: Source) -> set[tuple[str, str, str]]:
    """Group, plural and verb of all that the ClusterRole allows of whole kinds."""
    return {
        (group, plural, verb)
        for rule in cluster_rules(PROVISIONERS[source])
        if "resourceNames" not in rule
        for group in rule["apiGroups"]
        for plural in rule["resources"]
        for verb in rule["verbs"]
    }


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_plan_may_be_carried_out(case: Case) -> None:
    plan = planned(case)
    source: Source = {"local": "byo"}.get(case.provisioner.name, case.provisioner.name)  # type: ignore[assignment]
    may = {(plural, verb) for _, plural, verb in allowed(source)}
    for manifest in plan.apply:
        plural = f"{manifest['kind'].lower()}s"
        assert {(plural, "patch"), (plural, "create")} <= may
    for create in plan.create:
        assert (f"{create.manifest['kind'].lower()}s", "create") in may
    for patch in plan.patches:
        assert (patch.resource.plural, "patch") in may
    for deletion in plan.delete:
        assert (deletion.resource.plural, "delete") in may


def test_no_secret_of_the_cluster_is_read_and_nothing_is_allowed_for_nothing() -> None:
    for source in PROVISIONERS:
        kinds = {(group, plural) for group, plural, _ in allowed(source)}
        assert (SECRETS.group, SECRETS.plural) not in kinds
        assert not any("*" in kind for kind in kinds)
    assert ("", NODES.plural, "patch") not in allowed("byo"), "only who orders nodes labels them"
    assert not [rule for rule in cluster_rules(PROVISIONERS["byo"]) if "karpenter.sh" in rule["apiGroups"]]
    for rule in namespace_rules():
        assert rule["resources"] != ["secrets"] or rule["resourceNames"] == ["kaito-webhook-ca"]
    assert {WORKSPACES, EVENTS} <= set(WRITES)


def printed(*arguments: str) -> list[Object]:
    done = subprocess.run(
        [sys.executable, "-m", "kaito.cli", "install", *arguments], capture_output=True, check=True, text=True
    )
    return list(yaml.safe_load_all(done.stdout))


def test_kaito_install_prints_it() -> None:
    wanted = installed(Installation(namespace="other", provisioner="karpenter"))
    assert printed("--namespace", "other", "--provisioner", "karpenter") == wanted
    assert [found["kind"] for found in printed("--crds-only")] == ["CustomResourceDefinition"]


def test_the_command_line_knows_what_can_be_chosen() -> None:
    assert tuple(PROVISIONERS) == cli_install.PROVISIONERS
    assert get_args(CloudName) == cli_install.CLOUDS


def test_the_version_is_the_same_wherever_it_is_said() -> None:
    project = tomllib.loads((CHART.parents[1] / "pyproject.toml").read_text())
    assert project["project"]["dynamic"] == ["version"]
    assert project["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "kaito.api.release.VERSION"}
    assert metadata.version("kaito") == VERSION, "install the package anew"
    described = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert (described["version"], described["appVersion"]) == (VERSION, VERSION)
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    assert (values["image"]["tag"], values["runtimeImage"]) == ("", image("runtime"))
    kustomized = yaml.safe_load((CHART.parents[1] / "deploy/provisioner/kustomization.yaml").read_text())
    assert [f"{one['newName']}:{one['newTag']}" for one in kustomized["images"]] == [image("provisioner")]
    shown = CliRunner().invoke(application(), ["--version"])
    assert shown.stdout == f"kaito {VERSION}\n"
    for name in ("operator", "runtime", "provisioner"):
        for page in (CHART.parents[1] / "docs").glob("*.md"):
            assert set(re.findall(rf"/kaito-{name}:([\w.]+)", page.read_text())) <= {VERSION}, page


def test_kaito_install_says_what_can_be_chosen() -> None:
    refused = CliRunner().invoke(application(), ["install", "--provisioner", "azur"])
    assert "--provisioner azur is not known" in str(refused.exception)
