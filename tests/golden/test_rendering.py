# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""What the operator makes of real Workspaces, kept as files: a change of what we render is a diff to look at.

KAITO_UPDATE_GOLDEN=1 writes the files anew. Every manifest is checked against Kubernetes' published schema.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from kaito.kube.manifest import Key
from kaito.kube.plan import Plan
from kaito.operator.facts import catalogue_lookup
from kaito.operator.workspace.controller import workspace_controller
from tests.golden.workspaces import CASES, EXAMPLES, Case
from tests.scenario.world import starting_kubelet

HERE = Path(__file__).parent
KUBERNETES = "1.36"
ON_THE_NODE = ("weights_on_the_node", "tuning_on_hub_data")
"""Cases whose weights an administrator has put on the node."""


def planned(case: Case) -> Plan:
    """The plan for a Workspace that was just created."""
    here, name = case.world()
    controller = workspace_controller(case.settings, case.provisioner, catalogue_lookup)
    observed = controller.observe(here, Key("default", name))
    assert observed is not None
    plan = controller.plan(observed, here.now)
    assert plan == controller.plan(observed, here.now), "same input, same plan"
    return plan


class Literal(yaml.SafeDumper):
    """Several lines of text as a block."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


Literal.add_representer(str, _text)


def rendered(plan: Plan) -> str:
    documents: list[dict[str, Any]] = [
        *({"patch": patch.body} for patch in plan.patches),
        *plan.apply,
        *(create.manifest for create in plan.create),
        {"status": plan.status},
        {"events": [f"{event.type} {event.reason}: {event.message}" for event in plan.events]},
    ]
    return "".join("---\n" + yaml.dump(d, Dumper=Literal, sort_keys=False, width=120) for d in documents)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_workspace_is_rendered_as_before(case: Case) -> None:
    golden = HERE / "rendered" / f"{case.name}.yaml"
    text = rendered(planned(case))
    if os.environ.get("KAITO_UPDATE_GOLDEN"):
        golden.write_text(text)
    assert text == golden.read_text()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_manifest_is_valid_kubernetes(case: Case) -> None:
    plan = planned(case)
    for manifest in (*plan.apply, *(create.manifest for create in plan.create)):
        if manifest["apiVersion"].startswith("karpenter.sh/"):
            continue  # not Kubernetes' own
        kubernetes_validate.validate(manifest, KUBERNETES, strict=True)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_pods_keep_to_the_restricted_profile_of_pod_security(case: Case) -> None:
    """https://kubernetes.io/docs/concepts/security/pod-security-standards/#restricted, for what we render ourselves.

    Folders of the node, which the profile does not allow, are mounted where the operator's settings name one: for the
    weights that are kept there the pod's user is root, without a capability.
    """
    for manifest in planned(case).apply:
        if manifest["kind"] not in ("StatefulSet", "Job") or case.name.endswith("template"):
            continue
        spec = manifest["spec"]["template"]["spec"]
        pod, keeps_weights = spec["securityContext"], bool(case.settings.weights_cache)
        assert pod["seccompProfile"] == {"type": "RuntimeDefault"}
        assert keeps_weights or (pod["runAsNonRoot"], pod["runAsUser"] > 0) == (True, True)
        assert not any(spec.get(field) for field in ("hostNetwork", "hostPID", "hostIPC"))
        for container in (*spec.get("initContainers", ()), *spec["containers"]):
            security = container["securityContext"]
            assert security["allowPrivilegeEscalation"] is False
            assert security["capabilities"] == {"drop": ["ALL"]}
            assert security["readOnlyRootFilesystem"] is True
        kinds = {kind for volume in spec["volumes"] for kind in volume if kind != "name"}
        allowed = {"configMap", "emptyDir", "secret", "persistentVolumeClaim", "projected", "csi", "ephemeral"}
        of_node = keeps_weights or case.settings.local_weights or case.name in ON_THE_NODE
        assert kinds <= allowed | ({"hostPath"} if of_node else set())


def test_every_example_is_a_case() -> None:
    examples = {path for path in EXAMPLES.rglob("*.yaml") if path.name != "training_config.yaml"}
    assert examples <= {case.path for case in CASES}


def test_no_golden_file_is_left_over() -> None:
    assert {file.stem for file in (HERE / "rendered").iterdir()} == {case.name for case in CASES}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_world_comes_to_rest_and_nothing_is_left_to_do(case: Case) -> None:
    here, _ = case.world()
    controller = workspace_controller(case.settings, case.provisioner, catalogue_lookup)
    assert here.settle(controller, starting_kubelet) <= (9 if case.provisioner.orders else 6)
    assert here.reconcile(controller) == 0
