# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Every fault of the table, injected: one look at the cluster tells its own reason, the evidence and the next step."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from kaito.api import names
from kaito.api.contracts import Failure
from kaito.api.meta import WORKSPACES
from kaito.kube.manifest import Key, Manifest, condition_of, key_of
from kaito.kube.resource import NODES, PODS, SERVICES, STATEFUL_SETS
from kaito.operator.facts import catalogue_lookup
from kaito.operator.faults.fault import Fault
from kaito.operator.faults.table import FAULTS
from kaito.operator.faults.tuning import TUNING
from kaito.operator.provisioners.byo import BYO
from kaito.operator.provisioners.nodeclaim import NODE_CLAIMS
from kaito.operator.settings import Settings
from kaito.operator.workspace import failures
from kaito.operator.workspace.controller import workspace_controller
from kaito.runtime.failure import termination_message
from tests.builders import config_map, container_status, merged, node, workspace
from tests.scenario import test_node_orders as ordered
from tests.scenario.faults import API_FAULTS, NODE_FAULTS, ORDER_FAULTS, POD_FAULTS, PodFault
from tests.scenario.world import World, starting_kubelet, subject_of

DEMO = Key("default", "demo")
CONTROLLER = workspace_controller(Settings(), BYO, catalogue_lookup)
PVC = {"name": "data", "persistentVolumeClaim": {"claimName": "weights"}}


def here_with(manifest: Manifest, *others: Manifest) -> World:
    return World(manifest, *others, known=(WORKSPACES,))


def mine(**changes: Any) -> Manifest:
    return node("mine", **merged({"metadata": {"labels": {"apps": "demo"}}}, changes))


def running() -> World:
    here = here_with(workspace(), mine())
    here.settle(CONTROLLER, starting_kubelet)
    return here


def event(here: World, kind: str, reason: str, message: str) -> Manifest:
    name = {"Pod": "demo-0", "StatefulSet": "demo", "PersistentVolumeClaim": "weights"}[kind]
    about = {"kind": kind, "namespace": "default", "name": name}
    uids = {"Pod": here.get(PODS, "demo-0", "default"), "StatefulSet": here.get(STATEFUL_SETS, "demo", "default")}
    found = uids.get(kind)
    if found is not None:
        about["uid"] = found["metadata"]["uid"]
    meta = {"name": f"demo.{reason.lower()}", "namespace": "default"}
    return {"apiVersion": "v1", "kind": "Event", "metadata": meta, "involvedObject": about, "type": "Warning",
            "reason": reason, "message": message, "lastTimestamp": "2026-01-01T00:00:00Z"}  # fmt: skip


def told(here: World, controller: Any = CONTROLLER) -> Manifest:
    """What one look says."""
    here.reconcile(controller)
    obj = here.get(WORKSPACES, "demo", "default")
    assert obj is not None
    return obj


def check(obj: Manifest, reason: str) -> Manifest:
    failure: Manifest = obj["status"].get("failure") or {}
    assert failure.get("reason") == reason, obj["status"]
    assert failure["evidence"] and failure["nextStep"]
    assert len(failure["evidence"].encode()) <= 1024 + 3
    return failure


def inject(here: World, fault: PodFault) -> None:
    pod = here.get(PODS, "demo-0", "default")
    assert pod is not None
    spec = {**pod["spec"], "volumes": [*pod["spec"]["volumes"], PVC]}
    stateful_set = here.get(STATEFUL_SETS, "demo", "default")
    assert stateful_set is not None
    here.put({**stateful_set, "status": {**stateful_set["status"], "readyReplicas": 0}})
    here.put({**pod, "spec": spec, "status": fault.status})
    for kind, reason, message in fault.events:
        here.put(event(here, kind, reason, message))
    if not fault.status:
        del here.objects[PODS][key_of(pod)]


@pytest.mark.parametrize("fault", POD_FAULTS, ids=[fault.reason for fault in POD_FAULTS])
def test_a_fault_of_the_pod_is_told_at_the_first_look(fault: PodFault) -> None:
    here = running()
    inject(here, fault)
    obj = told(here)
    check(obj, fault.reason)
    condition = condition_of(obj, names.INFERENCE_READY)
    assert condition is not None and condition["status"] == "False"
    assert condition["reason"] == (fault.condition or fault.reason)
    assert len(condition["message"].encode()) <= 256 + 3
    assert [event.reason for event in here.events if event.type == "Warning"] == [fault.reason]
    assert here.reconcile(CONTROLLER) == 0, "it is told once"


@pytest.mark.parametrize(("reason", "ready"), NODE_FAULTS, ids=[reason for reason, _ in NODE_FAULTS])
def test_a_fault_of_a_node_is_told(reason: str, ready: Manifest) -> None:
    here = running()
    here.put(mine(status={"conditions": [{"type": "Ready", "status": "False", **ready}]}))
    failure = check(told(here), reason)
    assert ready["message"] in failure["evidence"]


def test_a_node_that_is_missing_leaving_or_taken_back_is_told() -> None:
    here = running()
    taken = mine(ready=False, spec={"taints": [{"key": "aws-node-termination-handler/spot-itn"}]})
    here.put(taken)
    check(told(here), names.REASON_NODE_RECLAIMED)
    here.put(mine(metadata={"deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": ["x"]}))
    check(told(here), names.REASON_NODE_LEAVING)
    del here.objects[NODES][Key("", "mine")]
    check(told(here), names.REASON_NODES_MISSING)


@pytest.mark.parametrize("type_", ["DiskPressure", "MemoryPressure", "PIDPressure", "XidError", "GPUMissing"])
def test_what_ails_a_node_that_is_ready_stands_in_its_condition_and_changes_nothing_else(type_: str) -> None:
    here = running()
    ready = {"type": "Ready", "status": "True"}
    here.put(mine(status={"conditions": [ready, {"type": type_, "status": "True"}]}))
    obj = told(here)
    condition = condition_of(obj, names.NODES_READY)
    assert condition is not None and condition["status"] == "True"
    assert condition["message"].endswith(f"Under strain: mine ({type_}).")
    assert obj["status"]["state"] == "Ready" and "failure" not in obj["status"]
    here.put(mine(status={"conditions": [ready, {"type": type_, "status": "False"}]}))
    assert "strain" not in (condition_of(told(here), names.NODES_READY) or {})["message"]


def test_a_gpu_that_is_too_small_is_told() -> None:
    labels = {"apps": "demo", "nvidia.com/gpu.product": "Tesla-T4", "nvidia.com/gpu.memory": "2048"}
    here = here_with(workspace(), node("small", gpus=1, metadata={"labels": labels}))
    check(told(here), names.REASON_GPU_TOO_SMALL)


@pytest.mark.parametrize(
    ("manifest", "others", "reason"),
    [
        (workspace(inference={"preset": {"name": "no-such-model"}}), (), names.REASON_UNKNOWN_PRESET),
        (workspace(inference=None), (), names.REASON_INVALID_SPEC),
        (workspace(inference={"config": "gone"}), (), names.REASON_CONFIG_MISSING),
        (workspace(inference={"config": "c"}), (config_map("c", other="x"),), names.REASON_CONFIG_KEY_MISSING),
        (workspace(inference={"config": "c"}), (config_map("c", **{"inference_config.yaml": "- a: ["}),),
         names.REASON_CONFIG_INVALID),
        (workspace(), ({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "demo", "namespace": "default"},
                        "spec": {}},), names.REASON_NAME_TAKEN),
    ],
)  # fmt: skip
def test_a_fault_of_the_workspace_itself_is_told(manifest: Manifest, others: Any, reason: str) -> None:
    check(told(here_with(manifest, mine(), *others)), reason)


def test_what_an_engine_cannot_do_is_told() -> None:
    labels = {"apps": "demo", "nvidia.com/gpu.product": "NVIDIA-A10", "nvidia.com/gpu.memory": "24576"}
    several = [node(name, gpus=1, metadata={"labels": labels}) for name in ("a", "b")]
    asked = workspace(
        inference={"preset": {"name": "phi-4"}}, metadata={"annotations": {names.RUNTIME_ANNOTATION: "transformers"}}
    )
    check(told(here_with(asked, *several)), names.REASON_NOT_SUPPORTED_HERE)


@pytest.mark.parametrize(("reason", "said"), API_FAULTS)
def test_a_refusal_of_the_api_server_is_told(reason: str, said: str) -> None:
    here = here_with(workspace(), mine())
    observed = CONTROLLER.observe(here, DEMO)
    assert observed is not None
    plan = CONTROLLER.plan(observed, here.now)
    assert plan.refused is not None
    instead = plan.refused(next(m for m in plan.apply if m["kind"] == "StatefulSet"), said)
    check({"status": instead.status}, reason)


@pytest.mark.parametrize(("reason", "said"), ORDER_FAULTS)
def test_a_fault_of_an_order_is_told(reason: str, said: str) -> None:
    here, cloud = ordered.begun(ordered.ordering())
    cloud.failure = said
    ordered.settle(here)
    check(told(here, ordered.CONTROLLER), reason)


def test_an_order_that_never_comes_is_lost_or_taken_back_is_told() -> None:
    here, cloud = ordered.begun(ordered.ordering())
    told(here, ordered.CONTROLLER)
    here.now += timedelta(minutes=25)
    check(told(here, ordered.CONTROLLER), names.REASON_NODE_NEVER_CAME)
    here, cloud = ordered.begun(ordered.ordering())
    for _ in range(2):
        here.reconcile(ordered.CONTROLLER)
        here.reconcile(ordered.CONTROLLER)
        for claim in cloud.live():
            here.delete(NODE_CLAIMS, key_of(claim))
    check(told(here, ordered.CONTROLLER), names.REASON_ORDER_PACED)
    here.absent.add(NODE_CLAIMS)
    check(told(here, ordered.CONTROLLER), names.REASON_NO_NODE_PROVISIONER)
    here, cloud = ordered.begun(ordered.ordering())
    cloud.gpus = 0
    ordered.settle(here)
    check(told(here, ordered.CONTROLLER), names.REASON_NO_GPU_PLUGIN)


def test_a_service_that_selects_no_pod_is_not_called_ready() -> None:
    here = running()
    pod = here.get(PODS, "demo-0", "default")
    assert pod is not None
    labels = {names.WORKSPACE_LABEL: "demo"}
    here.put({**pod, "metadata": {**pod["metadata"], "labels": labels}})
    assert here.get(SERVICES, "demo", "default") is not None
    obj = told(here)
    check(obj, names.REASON_ENDPOINTS)
    assert obj["status"]["state"] == "NotReady"


def test_a_fault_that_is_over_is_no_longer_told() -> None:
    here = running()
    pod, stateful_set = here.get(PODS, "demo-0", "default"), here.get(STATEFUL_SETS, "demo", "default")
    assert pod is not None and stateful_set is not None
    inject(here, POD_FAULTS[0])
    check(told(here), POD_FAULTS[0].reason)
    here.put(pod)
    here.put(stateful_set)
    obj = told(here)
    assert "failure" not in obj["status"] and obj["status"]["state"] == "Ready"


def test_an_event_wakes_the_workspace_that_looks_at_what_it_is_about() -> None:
    here = running()
    (watch,) = (watch for watch in CONTROLLER.watches if watch.resource.kind == "Event")
    assert watch.field_selector is not None and "type=Warning" in watch.field_selector
    for kind in ("Pod", "StatefulSet"):
        made = event(here, kind, "FailedMount", "x")
        assert subject_of(made)[0] == kind
        assert list(watch.keys(made)) == [DEMO]
    made["involvedObject"]["name"] = "stranger"
    assert list(watch.keys(made)) == []


@pytest.mark.parametrize("fault", TUNING, ids=lambda fault: fault.reason)
def test_what_a_tuning_pod_ended_with_is_told_in_its_words(fault: Fault) -> None:
    said = Failure(reason=fault.reason, message=fault.what, next_step="Do that.")
    ended = {"exitCode": 1, "reason": "Error", "message": termination_message(said)}
    status = {"phase": "Failed", "containerStatuses": [container_status(state={"terminated": ended})]}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "tuned-x", "namespace": "default"}, "status": status}
    cause = failures.cause_of([pod])
    assert cause is not None
    assert (cause.reason, cause.condition) == (fault.reason, fault.reason)
    assert (cause.evidence.rstrip("."), cause.step) == (fault.what, "Do that.")


def test_every_row_of_the_table_is_injected() -> None:
    injected = {fault.reason for fault in POD_FAULTS}
    injected |= {reason for rows in (NODE_FAULTS, API_FAULTS, ORDER_FAULTS) for reason, _ in rows}
    injected |= {fault.reason for fault in TUNING}
    elsewhere = {
        names.REASON_NODE_RECLAIMED, names.REASON_NODE_LEAVING, names.REASON_NODES_MISSING, names.REASON_GPU_TOO_SMALL,
        names.REASON_UNKNOWN_PRESET, names.REASON_INVALID_SPEC, names.REASON_CONFIG_MISSING,
        names.REASON_CONFIG_KEY_MISSING, names.REASON_NOT_SUPPORTED_HERE, names.REASON_NAME_TAKEN,
        names.REASON_NODE_NEVER_CAME, names.REASON_ORDER_PACED, names.REASON_NO_NODE_PROVISIONER,
        names.REASON_NO_GPU_PLUGIN, names.REASON_ENDPOINTS, names.REASON_NODES_HELD,
    }  # fmt: skip
    assert {fault.reason for fault in FAULTS} == injected | elsewhere
    assert len(injected | elsewhere) >= 120
