# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Workspaces that KAITO v0.12 made go on under this operator without a restart, until they ask for something else."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from kaito.api import names
from kaito.api.meta import WORKSPACES
from kaito.kube.manifest import Key, Manifest, owner_reference
from kaito.kube.resource import CONTROLLER_REVISIONS, PODS, SERVICES, STATEFUL_SETS
from kaito.operator.facts import catalogue_lookup
from kaito.operator.provisioners.byo import BYO
from kaito.operator.settings import Settings
from kaito.operator.workspace.controller import workspace_controller
from tests.builders import node, workspace
from tests.scenario.world import World, starting_kubelet

CONTROLLER = workspace_controller(Settings(), BYO, catalogue_lookup)
TEMPLATE = {"inference": {"preset": None, "template": {"spec": {"containers": [{"name": "own", "image": "own:1"}]}}}}


def left_by_kaito(**changes: Any) -> World:
    """What KAITO leaves: the annotated Workspace, a revision in Go's way of writing, a StatefulSet, a Service."""
    manifest = workspace(resource={"instanceType": ""}, **changes)
    manifest["metadata"]["annotations"] = {names.REVISION_HASH_ANNOTATION: "5e3ac" * 12, names.REVISION_ANNOTATION: "3"}
    manifest["metadata"]["finalizers"] = [names.WORKSPACE_FINALIZER]
    inference = copy.deepcopy(manifest["inference"])
    if inference.get("preset"):
        inference["preset"] |= {"presetOptions": {}, "accessMode": "public"}
    data = {"resource": {**manifest["resource"], "count": 1}, "inference": inference, "tuning": None}
    meta = {"namespace": "default", "ownerReferences": [owner_reference(manifest)]}
    labels = {names.WORKSPACE_LABEL: "demo"}
    revision = {"apiVersion": "apps/v1", "kind": "ControllerRevision", "revision": 3, "data": data,
                "metadata": {**meta, "name": "demo-5e3ac", "labels": {names.REVISION_NAME_LABEL: "demo"}}}  # fmt: skip
    container = {"name": "demo", "image": "mcr.microsoft.com/aks/kaito/kaito-base:0.5.0"}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [container]}}
    spec = {"replicas": 1, "selector": {"matchLabels": labels}, "serviceName": "demo-headless", "template": template,
            "podManagementPolicy": "Parallel"}  # fmt: skip
    stateful_set = {"apiVersion": "apps/v1", "kind": "StatefulSet", "spec": spec,
                    "metadata": {**meta, "name": "demo", "annotations": {names.REVISION_ANNOTATION: "3"}}}  # fmt: skip
    service = {"apiVersion": "v1", "kind": "Service", "metadata": {**meta, "name": "demo"},
               "spec": {"selector": {**labels, "statefulset.kubernetes.io/pod-name": "demo-0"}}}  # fmt: skip
    here = World(manifest, revision, stateful_set, service, node("mine", gpus=1, metadata={"labels": {"apps": "demo"}}),
                 known=(WORKSPACES,))  # fmt: skip
    for _ in range(4):
        here.move(starting_kubelet)
        pod = here.get(PODS, "demo-0", "default")
        assert pod is not None
        here.put({**pod, "metadata": {**pod["metadata"], "labels": {
            **pod["metadata"]["labels"], "statefulset.kubernetes.io/pod-name": "demo-0"}}})  # fmt: skip
    return here


@pytest.mark.parametrize("changes", [{}, TEMPLATE], ids=["preset", "template"])
def test_what_kaito_made_goes_on_without_a_restart(changes: dict[str, Any]) -> None:
    here = left_by_kaito(**changes)
    before = {resource: copy.deepcopy(here.objects[resource]) for resource in (STATEFUL_SETS, SERVICES, PODS)}
    revisions = copy.deepcopy(here.objects[CONTROLLER_REVISIONS])
    here.settle(CONTROLLER, starting_kubelet)
    for resource, objects in before.items():
        assert here.objects[resource] == objects, resource.kind
    assert here.objects[CONTROLLER_REVISIONS] == revisions
    found = here.get(WORKSPACES, "demo", "default")
    assert found is not None
    assert found["status"]["state"] == "Ready"
    assert found["metadata"]["annotations"][names.REVISION_ANNOTATION] == "3"
    assert here.reconcile(CONTROLLER) == 0


def test_an_edit_rolls_it_out_in_our_way_with_what_cannot_be_changed_kept() -> None:
    here = left_by_kaito()
    here.settle(CONTROLLER, starting_kubelet)
    here.change(WORKSPACES, "demo", lambda obj: obj["inference"].update(adapters=[
        {"source": {"name": "a", "volumeSource": {"emptyDir": {}}}}]))  # fmt: skip
    here.settle(CONTROLLER, starting_kubelet)
    stateful_set = here.objects[STATEFUL_SETS][Key("default", "demo")]
    [container] = stateful_set["spec"]["template"]["spec"]["containers"]
    assert container["command"][0] == "kaito-runtime"
    assert stateful_set["metadata"]["annotations"][names.REVISION_ANNOTATION] == "4"
    assert stateful_set["spec"]["selector"] == {"matchLabels": {names.WORKSPACE_LABEL: "demo"}}


def test_deleting_the_stateful_set_is_how_to_move_to_our_runtime() -> None:
    here = left_by_kaito()
    here.settle(CONTROLLER, starting_kubelet)
    here.delete(STATEFUL_SETS, Key("default", "demo"))
    here.settle(CONTROLLER, starting_kubelet)
    found: Manifest = here.objects[STATEFUL_SETS][Key("default", "demo")]
    assert found["spec"]["template"]["spec"]["containers"][0]["command"][0] == "kaito-runtime"
