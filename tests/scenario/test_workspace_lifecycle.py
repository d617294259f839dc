# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""The Workspace controller in a world of dicts: manifests in, conditions out, on virtual time."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from kaito.api import names
from kaito.api.meta import WORKSPACES
from kaito.kube.manifest import Key, Manifest, condition_of
from kaito.kube.resource import CONFIG_MAPS, CONTROLLER_REVISIONS, NODES, PODS, SERVICES, STATEFUL_SETS
from kaito.operator.facts import catalogue_lookup
from kaito.operator.provisioners.byo import BYO
from kaito.operator.provisioners.local import LOCAL
from kaito.operator.settings import Settings
from kaito.operator.workspace.controller import workspace_controller
from tests.builders import config_map, container_status, node, workspace
from tests.scenario.world import World, starting_kubelet

EXAMPLES = Path(__file__).parents[2] / "examples"
DEMO = Key("default", "demo")
LOCAL_CONTROLLER = workspace_controller(Settings(local_weights=("/srv/weights",)), LOCAL, catalogue_lookup)
BYO_CONTROLLER = workspace_controller(Settings(), BYO, catalogue_lookup)


def world(*objects: Manifest) -> World:
    return World(*objects, known=(WORKSPACES,))


def found(here: World, name: str = "demo") -> Manifest:
    obj = here.get(WORKSPACES, name, "default")
    assert obj is not None
    return obj


def verdicts(obj: Manifest) -> dict[str, tuple[str, str]]:
    return {c["type"]: (c["status"], c["reason"]) for c in obj["status"]["conditions"]}


def message(obj: Manifest, type_: str) -> str:
    condition = condition_of(obj, type_)
    assert condition is not None
    return str(condition["message"])


def example(path: str) -> Manifest:
    manifest: Manifest = yaml.safe_load((EXAMPLES / path).read_text())
    manifest["metadata"] |= {"namespace": "default", "uid": "uid-example", "generation": 1}
    return {**manifest, "apiVersion": "kaito.sh/v1beta1"}


@pytest.mark.parametrize("path", ["quickstart.yaml", "inference/kaito_workspace_phi_3.yaml"])
def test_an_example_becomes_ready_and_then_nothing_is_left_to_do(path: str) -> None:
    manifest = example(path)
    here = world(manifest, node())
    assert here.settle(LOCAL_CONTROLLER, starting_kubelet) <= 6
    obj = found(here, manifest["metadata"]["name"])
    assert verdicts(obj) == {
        names.NODES_READY: ("True", names.REASON_NODES_READY),
        names.RESOURCE_READY: ("True", names.REASON_RESOURCE_READY),
        names.INFERENCE_READY: ("True", names.REASON_INFERENCE_READY),
        names.WORKSPACE_READY: ("True", names.REASON_SUCCEEDED),
        names.WORKSPACE_SUCCEEDED: ("True", names.REASON_SUCCEEDED),
    }
    assert obj["status"]["state"] == "Ready"
    assert obj["status"]["workerNodes"] == ["laptop"]
    assert obj["status"]["targetNodeCount"] == 1
    assert here.reconcile(LOCAL_CONTROLLER) == 0
    assert [event.reason for event in here.events] == [names.EVENT_NODES_READY, names.EVENT_SERVING]


@pytest.mark.parametrize(
    ("path", "type_", "reason", "says"),
    [
        (
            "inference/kaito_workspace_phi_3_with_adapters.yaml",
            names.INFERENCE_READY,
            names.REASON_INVALID_SPEC,
            "ACR_REPO_HERE.azurecr.io/ADAPTER_HERE:0.0.1 is no image reference",
        ),
    ],
)
def test_an_example_that_cannot_work_as_it_is_says_so_and_creates_nothing(
    path: str, type_: str, reason: str, says: str
) -> None:
    manifest = example(path)
    here = world(manifest, node())
    here.settle(LOCAL_CONTROLLER, starting_kubelet)
    obj = found(here, manifest["metadata"]["name"])
    assert verdicts(obj)[type_] == ("False", reason)
    assert says in message(obj, type_)
    assert not here.list(STATEFUL_SETS) and not here.list(SERVICES) and not here.list(CONFIG_MAPS)


def test_two_hundred_ready_workspaces_cost_no_write_and_no_timer() -> None:
    here = world(node(), *(workspace(f"demo-{index}") for index in range(200)))
    here.settle(LOCAL_CONTROLLER, starting_kubelet)
    before = copy.deepcopy(here.objects)
    assert here.reconcile(LOCAL_CONTROLLER) == 0
    assert here.objects == before
    for obj in here.list(WORKSPACES):
        observed = LOCAL_CONTROLLER.observe(here, Key("default", obj["metadata"]["name"]))
        assert observed is not None
        assert LOCAL_CONTROLLER.plan(observed, here.now).requeue_after_s is None


def test_nodes_come_and_go_and_the_conditions_follow() -> None:
    here = world(workspace())
    here.settle(LOCAL_CONTROLLER, starting_kubelet)
    assert verdicts(found(here))[names.NODES_READY] == ("False", names.REASON_NODE_NOT_READY)
    assert found(here)["status"]["state"] == "Pending"
    assert not here.list(STATEFUL_SETS)
    here.put(node())
    here.settle(LOCAL_CONTROLLER, starting_kubelet)
    assert found(here)["status"]["state"] == "Ready"
    here.put(node(ready=False))
    here.settle(LOCAL_CONTROLLER, starting_kubelet)
    assert verdicts(found(here))[names.RESOURCE_READY] == ("False", names.REASON_NODE_NOT_READY)
    assert "KubeletNotReady" in message(found(here), names.NODES_READY)
    assert found(here)["status"]["state"] == "NotReady"
    assert here.list(STATEFUL_SETS), "a lost node is no reason to take the workload down"


def test_own_nodes_are_counted_by_labels_and_expressions() -> None:
    terms = [{"key": "zone", "operator": "NotIn", "values": ["b"]}]
    selector = {"labelSelector": {"matchLabels": {"apps": "demo"}, "matchExpressions": terms}, "count": 2}
    here = world(
        workspace(resource=selector),
        node("a", metadata={"labels": {"apps": "demo"}}),
        node("b", metadata={"labels": {"apps": "demo", "zone": "b"}}),
    )
    here.settle(BYO_CONTROLLER, starting_kubelet)
    said = message(found(here), names.NODES_READY)
    assert said.startswith("1 more ready node with apps=demo, zone notin (b) needed (1 of 2 ready)")
    here.put(node("c", metadata={"labels": {"apps": "demo"}}))
    here.settle(BYO_CONTROLLER, starting_kubelet)
    assert found(here)["status"]["workerNodes"] == ["a", "c"]
    (stateful_set,) = here.list(STATEFUL_SETS)
    assert stateful_set["spec"]["replicas"] == 2
    affinity = stateful_set["spec"]["template"]["spec"]["affinity"]["nodeAffinity"]
    (term,) = affinity["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    assert term["matchExpressions"] == [
        {"key": "apps", "operator": "In", "values": ["demo"]},
        {"key": "zone", "operator": "NotIn", "values": ["b"]},
    ]


def change_lb(obj: Manifest) -> None:
    obj["metadata"].setdefault("annotations", {})[names.ENABLE_LB_ANNOTATION] = "True"


def change_engine(obj: Manifest) -> None:
    obj["metadata"].setdefault("annotations", {})[names.RUNTIME_ANNOTATION] = "transformers"


@pytest.mark.parametrize(("change", "rolls"), [(change_lb, False), (change_engine, True)])
def test_a_later_edit_rolls_out(change: Callable[[Manifest], None], rolls: bool) -> None:
    here = world(workspace(), node())
    here.settle(LOCAL_CONTROLLER, starting_kubelet)
    (before,) = (pod["metadata"]["labels"] for pod in here.list(PODS))
    here.change(WORKSPACES, "demo", change)
    here.settle(LOCAL_CONTROLLER, starting_kubelet)
    (after,) = (pod["metadata"]["labels"] for pod in here.list(PODS))
    assert (before != after) is rolls
    service = here.get(SERVICES, "demo", "default")
    assert service is not None
    assert (service["spec"]["type"] == "LoadBalancer") is (change is change_lb)
    assert found(here)["status"]["state"] == "Ready"


def test_a_config_map_is_waited_for_and_its_edits_roll_the_pods() -> None:
    here = world(workspace(inference={"config": "settings"}), node())
    here.settle(LOCAL_CONTROLLER, starting_kubelet)
    assert verdicts(found(here))[names.INFERENCE_READY] == ("False", names.REASON_CONFIG_INVALID)
    assert verdicts(found(here))[names.RESOURCE_READY] == ("True", names.REASON_RESOURCE_READY)
    assert not here.list(STATEFUL_SETS)
    here.put(config_map("settings", **{"inference_config.yaml": "vllm:\n  max-model-len: 1024\n"}))
    here.settle(LOCAL_CONTROLLER, starting_kubelet)
    assert found(here)["status"]["state"] == "Ready"
    (before,) = (pod["metadata"]["labels"] for pod in here.list(PODS))
    here.put(config_map("settings", **{"inference_config.yaml": "vllm:\n  max-model-len: 2048\n"}))
    here.settle(LOCAL_CONTROLLER, starting_kubelet)
    (after,) = (pod["metadata"]["labels"] for pod in here.list(PODS))
    assert before != after


def relabel(here: World, app: str) -> None:
    terms = {"matchLabels": {"apps": app}}
    here.change(WORKSPACES, "demo", lambda obj: obj["resource"].update(labelSelector=terms))
    here.settle(LOCAL_CONTROLLER, starting_kubelet)


def test_every_spec_gets_a_revision_and_an_old_one_is_used_again() -> None:
    here = world(workspace(), node())
    here.settle(LOCAL_CONTROLLER, starting_kubelet)
    first = dict(found(here)["metadata"]["annotations"])
    for index in range(12):
        relabel(here, f"demo-{index}")
    revisions = here.list(CONTROLLER_REVISIONS)
    assert sorted(revision["revision"] for revision in revisions) == list(range(4, 14))
    assert found(here)["metadata"]["annotations"][names.REVISION_ANNOTATION] == "13"
    relabel(here, "demo-5")
    assert found(here)["metadata"]["annotations"][names.REVISION_ANNOTATION] == "7"
    assert first[names.REVISION_ANNOTATION] == "1"


def failing_kubelet(pod: Manifest) -> Manifest:
    failure = '{"reason": "ModelWeightsNotFound", "message": "No weights", "next_step": "Give --weights DIR"}'
    terminated = {"terminated": {"exitCode": 3, "reason": "Error", "message": failure}}
    waiting = {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off"}}
    pod["status"] = {"phase": "Running", "containerStatuses": [container_status(state=waiting, lastState=terminated)]}
    return pod


def test_a_containers_last_words_reach_the_user_once() -> None:
    here = world(workspace(), node())
    here.settle(LOCAL_CONTROLLER, failing_kubelet)
    assert verdicts(found(here))[names.INFERENCE_READY] == ("False", names.REASON_WEIGHTS_NOT_FOUND)
    assert verdicts(found(here))[names.WORKSPACE_READY] == ("False", names.REASON_FAILED)
    assert message(found(here), names.WORKSPACE_READY) == "No weights. Give --weights DIR."
    here.settle(LOCAL_CONTROLLER, failing_kubelet)
    warnings = [event for event in here.events if event.type == "Warning"]
    assert [event.reason for event in warnings] == [names.REASON_WEIGHTS_NOT_FOUND]


def test_a_deleted_workspace_says_so_and_takes_everything_with_it() -> None:
    here = world(workspace(), node())
    here.settle(LOCAL_CONTROLLER, starting_kubelet)
    here.delete(WORKSPACES, DEMO)
    here.reconcile(LOCAL_CONTROLLER)
    assert verdicts(found(here))[names.WORKSPACE_DELETING] == ("True", names.REASON_DELETED)
    assert names.RESOURCE_READY in verdicts(found(here))
    here.settle(LOCAL_CONTROLLER, starting_kubelet)
    left = {resource.plural for resource, objects in here.objects.items() if objects}
    assert left == {"nodes"}


def test_a_stranger_under_our_name_is_left_alone() -> None:
    stranger = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "demo", "namespace": "default"}, "spec": {}}
    here = world(workspace(), node(), stranger)
    here.settle(LOCAL_CONTROLLER, starting_kubelet)
    assert verdicts(found(here))[names.INFERENCE_READY] == ("False", names.REASON_NAME_TAKEN)
    assert not here.list(STATEFUL_SETS)
    del here.objects[SERVICES][DEMO]
    here.settle(LOCAL_CONTROLLER, starting_kubelet)
    assert found(here)["status"]["state"] == "Ready"


def test_drift_made_by_somebody_else_is_repaired() -> None:
    here = world(workspace(), node())
    here.settle(LOCAL_CONTROLLER, starting_kubelet)
    here.change(STATEFUL_SETS, "demo", lambda obj: obj["spec"].update(replicas=0))
    here.settle(LOCAL_CONTROLLER, starting_kubelet)
    (stateful_set,) = here.list(STATEFUL_SETS)
    assert stateful_set["spec"]["replicas"] == 1


def test_conditions_keep_the_time_of_their_last_change() -> None:
    here = world(workspace(), node())
    here.settle(LOCAL_CONTROLLER, starting_kubelet)
    before = condition_of(found(here), names.NODES_READY)
    here.change(WORKSPACES, "demo", lambda obj: obj["inference"].update(config="missing"))
    here.settle(LOCAL_CONTROLLER, starting_kubelet)
    after = condition_of(found(here), names.NODES_READY)
    assert before is not None and after is not None
    assert after["lastTransitionTime"] == before["lastTransitionTime"]
    assert after["observedGeneration"] == before["observedGeneration"] + 1
    lost = condition_of(found(here), names.INFERENCE_READY)
    assert lost is not None and lost["lastTransitionTime"] > before["lastTransitionTime"]


def test_the_controller_wakes_for_what_its_workspaces_look_at() -> None:
    here = world(workspace(inference={"config": "settings"}), workspace("other"), node())
    controller = workspace_controller(Settings(), LOCAL, catalogue_lookup)
    here.settle(controller, starting_kubelet)
    watches = {watch.resource: watch for watch in controller.watches}
    woken = set(watches[CONFIG_MAPS].keys(config_map("settings")))
    assert DEMO in woken and Key("default", "other") not in woken
    assert set(watches[NODES].keys(node("new"))) == {DEMO, Key("default", "other")}
