# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""What dashboards, scripts and routers made for KAITO v0.12 look for, in what is rendered for real Workspaces.

The strings are KAITO's, written out here: a change of a name in the code must not change them.
"""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml

from kaito.api import names
from kaito.api.contracts import TRAINING_CONFIG_KEY, USER_CONFIG_KEY
from kaito.kube.resource import STATEFUL_SETS
from kaito.operator.facts import catalogue_lookup
from kaito.operator.workspace.controller import workspace_controller
from kaito.operator.workspace.status import Report
from tests.golden.test_rendering import planned
from tests.golden.workspaces import CASES
from tests.scenario.world import starting_kubelet

CASE = {case.name: case for case in CASES}
Object = dict[str, Any]
REASONS = """
NodesReady NodeNotReady NodeClaimsReady NodeClaimNotReady workspaceResourceStatusSuccess WorkspaceInferenceStatusSuccess
WorkspaceInferenceStatusPending ContainerOOMKilled ImagePullError ContainerStartError ContainerCrashLoopBackOff
NodeDiskPressure NodeMemoryPressure PodEvicted Unschedulable BenchmarkCompleted BenchmarkFailed
WorkspaceTuningJobStatusStarted WorkspaceTuningJobStatusPending WorkspaceTuningJobStatusFailed workspaceSucceeded
workspacePending workspaceFailed workspaceDeleted
"""
ANNOTATIONS = """
enablelb runtime bypass-resource-checks node-image-family node-class-name disable-benchmark performance-mode
use-local-weights
"""


def objects(name: str) -> dict[tuple[str, str], Object]:
    plan = planned(CASE[name])
    made = (*plan.apply, *(create.manifest for create in plan.create))
    return {(found["kind"], found["metadata"]["name"]): found for found in made}


def pod_of(workload: Object) -> Object:
    spec: Object = workload["spec"]["template"]["spec"]
    return spec


def mounts(workload: Object) -> dict[str, str]:
    return {mount["mountPath"]: mount["name"] for mount in pod_of(workload)["containers"][0]["volumeMounts"]}


def test_the_kind_has_kaitos_versions_names_and_columns() -> None:
    file = Path(__file__).parents[2] / "charts/kaito/crds/kaito.sh_workspaces.yaml"
    spec = yaml.safe_load(file.read_text())["spec"]
    assert (spec["group"], spec["names"]["shortNames"], spec["names"]["categories"]) == (
        "kaito.sh", ["wk", "wks"], ["workspace"],
    )  # fmt: skip
    versions = {version["name"]: version for version in spec["versions"]}
    assert {name: version["storage"] for name, version in versions.items()} == {"v1alpha1": False, "v1beta1": True}
    shown = ["Instance", "ResourceReady", "InferenceReady", "JobStarted", "WorkspaceSucceeded"]
    for name, columns in (("v1alpha1", [*shown, "Age"]), ("v1beta1", [*shown, "TargetNodeCount", "State", "Age"])):
        ours = [column["name"] for column in versions[name]["additionalPrinterColumns"]]
        assert [column for column in ours if column in columns] == columns
        assert "status" in versions[name]["subresources"]


def test_children_have_kaitos_names_labels_and_ports() -> None:
    made = objects("kaito_workspace_byo")
    [name] = [name for kind, name in made if kind == "StatefulSet"]
    stateful_set, service = made["StatefulSet", name], made["Service", name]
    assert ("Service", f"{name}-headless") in made
    assert stateful_set["spec"]["serviceName"] == f"{name}-headless"
    assert stateful_set["spec"]["podManagementPolicy"] == "Parallel"
    assert stateful_set["spec"]["selector"]["matchLabels"] == {"kaito.sh/workspace": name}
    assert stateful_set["metadata"]["annotations"] == {"workspace.kaito.io/revision": "1"}
    [container] = pod_of(stateful_set)["containers"]
    assert container["name"] == name
    assert {port["name"]: port["containerPort"] for port in container["ports"]} == {"http": 5000, "kv-events": 5557}
    assert {probe: container[probe]["httpGet"]["path"] for probe in ("livenessProbe", "readinessProbe")} == {
        "livenessProbe": "/health", "readinessProbe": "/health",
    }  # fmt: skip
    ports = {port["name"]: (port["port"], port["targetPort"]) for port in service["spec"]["ports"]}
    assert ports["http"] == (80, 5000) and ports["kv-events"] == (5557, 5557)
    assert service["spec"]["selector"] == {"kaito.sh/workspace": name, "apps.kubernetes.io/pod-index": "0"}
    tolerated = {(one["key"], one.get("value")) for one in pod_of(stateful_set)["tolerations"]}
    assert {("nvidia.com/gpu", None), ("sku", "gpu")} <= tolerated


def test_a_load_balancer_shows_the_world_no_more_than_the_api() -> None:
    [service] = [
        found for (kind, name), found in objects("load_balancer").items()
        if kind == "Service" and not name.endswith("-headless")
    ]  # fmt: skip
    assert service["spec"]["type"] == "LoadBalancer"
    assert 5557 not in {port["port"] for port in service["spec"]["ports"]}


def test_a_replica_of_a_set_carries_the_sets_label_as_autoscalers_select_by() -> None:
    [stateful_set] = [found for (kind, _), found in objects("set_member").items() if kind == "StatefulSet"]
    labels = {"inferenceset.kaito.sh/created-by": "chat", "kaito.sh/workspace": "chat-x7k2p"}
    assert stateful_set["spec"]["selector"]["matchLabels"] == labels
    assert labels.items() <= stateful_set["spec"]["template"]["metadata"]["labels"].items()


def test_config_maps_are_mounted_where_kaito_mounts_them() -> None:
    case = CASE["kaito_workspace_custom_config"]
    here, name = case.world()
    here.settle(workspace_controller(case.settings, case.provisioner, catalogue_lookup), starting_kubelet)
    serving = here.get(STATEFUL_SETS, name, "default")
    assert serving is not None
    assert mounts(serving)["/mnt/config"] == "config-volume"
    assert USER_CONFIG_KEY == "inference_config.yaml" and TRAINING_CONFIG_KEY == "training_config.yaml"
    [job] = [found for (kind, _), found in objects("kaito_workspace_tuning_phi_3").items() if kind == "Job"]
    assert {"/mnt/data", "/mnt/output"} & mounts(job).keys()


@pytest.mark.parametrize(
    ("case", "reference"),
    [
        ("ordered_azure", {"group": "kaito.sh", "kind": "KaitoNodeClass", "name": "default"}),
        ("ordered_aws_spot", {"group": "karpenter.k8s.aws", "kind": "EC2NodeClass", "name": "default"}),
    ],
)
def test_node_claims_have_kaitos_labels_taint_and_node_class(case: str, reference: Object) -> None:
    claims = [found for (kind, _), found in objects(case).items() if kind == "NodeClaim"]
    assert claims
    for claim in claims:
        labels = claim["metadata"]["labels"]
        assert labels["karpenter.sh/nodepool"] == "kaito"
        assert labels["kaito.sh/workspacenamespace"] == "default" and labels["kaito.sh/workspace"]
        assert claim["metadata"]["annotations"]["karpenter.sh/do-not-disrupt"] == "true"
        assert claim["spec"]["taints"] == [{"key": "sku", "value": "gpu", "effect": "NoSchedule"}]
        assert claim["spec"]["nodeClassRef"] == reference


def test_node_pools_have_kaitos_labels_taint_and_node_class() -> None:
    [pool] = [found for (kind, _), found in objects("ordered_pool").items() if kind == "NodePool"]
    owner = {"karpenter.kaito.sh/workspace-name", "karpenter.kaito.sh/workspace-namespace"}
    assert {"karpenter.kaito.sh/managed-by", *owner} <= pool["metadata"]["labels"].keys()
    assert owner <= pool["spec"]["template"]["metadata"]["labels"].keys()
    template = pool["spec"]["template"]["spec"]
    assert template["taints"] == [{"key": "sku", "value": "gpu", "effect": "NoSchedule"}]
    assert template["nodeClassRef"]["kind"] == "AKSNodeClass"


def test_finalizer_conditions_states_and_phases_are_kaitos() -> None:
    assert names.WORKSPACE_FINALIZER == "workspace.finalizer.kaito.sh"
    for type_ in ("NodesReady", "NodeClaimReady", "ResourceReady", "InferenceReady", "BenchmarkCompleted", "JobStarted",
                  "WorkspaceSucceeded", "WorkspaceDeleting"):  # fmt: skip
        assert type_ in vars(names).values()
    assert set(REASONS.split()) <= set(filter(None, map(str, vars(names).values())))
    assert set(get_args(inspect.get_annotations(Report, eval_str=True)["stage"])) == {
        "Pending", "Running", "Succeeded", "Failed",
    }  # fmt: skip


@pytest.mark.parametrize("key", ANNOTATIONS.split())
def test_the_annotations_that_users_of_kaito_set_are_known(key: str) -> None:
    assert f"kaito.sh/{key}" in vars(names).values()
