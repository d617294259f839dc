# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""The plan of one Workspace: total for whatever users write, and what each kind of input comes to."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kaito.api import names
from kaito.api.contracts import TUNE_CONFIG_KEY, Failure, TuneConfig
from kaito.api.meta import WORKSPACES
from kaito.catalog.models import ModelFacts, catalogue
from kaito.kube.manifest import Key, Manifest, condition_of
from kaito.kube.plan import Plan
from kaito.operator.facts import catalogue_lookup
from kaito.operator.provisioners.byo import BYO
from kaito.operator.provisioners.local import LOCAL
from kaito.operator.provisioners.survey import Provisioner
from kaito.operator.settings import Settings
from kaito.operator.workspace.controller import workspace_controller
from tests.builders import config_map, container_status, merged, node, pod, workspace
from tests.scenario.world import World

NOW = datetime(2026, 1, 1, tzinfo=UTC)
DEMO = Key("default", "demo")


def planned(*objects: Manifest, provisioner: Provisioner = LOCAL, chosen: Settings | None = None) -> Plan:
    controller = workspace_controller(chosen or Settings(), provisioner, catalogue_lookup)
    here = World(*objects, known=(WORKSPACES,))
    (found,) = here.list(WORKSPACES)
    observed = controller.observe(here, Key("default", found["metadata"]["name"]))
    assert observed is not None
    return controller.plan(observed, NOW)


def condition(plan: Plan, type_: str) -> Manifest:
    assert plan.status is not None
    found = condition_of({"status": plan.status}, type_)
    assert found is not None
    return found


def applied(plan: Plan, kind: str, name: str = "demo") -> Manifest:
    (found,) = (m for m in plan.apply if m["kind"] == kind and m["metadata"]["name"] == name)
    return found


def adapter(**source: Any) -> Manifest:
    return {"adapters": [{"source": {"name": "polite", **source}}]}


VOLUME: dict[str, Any] = {"volumeSource": {"emptyDir": {}}}
UNSERVABLE = [
    (workspace(inference={"preset": {"name": "phi-3-mini-4k-instrukt"}}), names.REASON_UNKNOWN_PRESET, "phi-3-mini"),
    (
        workspace(metadata={"annotations": {"kaito.sh/use-local-weights": "true", "kaito.sh/weights-image": "b:1"}}),
        names.REASON_INVALID_SPEC,
        "both say where the weights are",
    ),
    (workspace(inference=None), names.REASON_INVALID_SPEC, "neither inference nor tuning"),
    (workspace(tuning={"input": {}, "output": {}}), names.REASON_INVALID_SPEC, "both inference and tuning"),
    (workspace(inference={"preset": None}), names.REASON_INVALID_SPEC, "give a preset or a template"),
    (workspace(inference={"template": {"spec": {}}}), names.REASON_INVALID_SPEC, "both inference.preset"),
    (workspace(inference={"preset": None, "template": {"spec": {}}}), names.REASON_INVALID_SPEC, "no containers"),
    (workspace(inference={"preset": {"name": 7}}), names.REASON_INVALID_SPEC, "inference.preset.name"),
    (workspace("x" * 53), names.REASON_INVALID_SPEC, "at most 52"),
    (workspace("1st"), names.REASON_INVALID_SPEC, "beginning with a letter"),
    (workspace(inference=adapter(image="example.com/A:1")), names.REASON_INVALID_SPEC, "has capitals"),
    (workspace(inference=adapter()), names.REASON_INVALID_SPEC, "no image, volumeSource, urls or workspace"),
    (workspace(inference=adapter(image="example.com/a:1", **VOLUME)), names.REASON_INVALID_SPEC, "give one of them"),
    (workspace(inference=adapter(image="example.com/a:1", workspace="b")), names.REASON_INVALID_SPEC,
     "both image and workspace"),
    (workspace(inference={"adapters": [{}]}), names.REASON_INVALID_SPEC, "needs a name"),
    (workspace(inference=adapter(**{**VOLUME, "name": "../up"})), names.REASON_INVALID_SPEC, "cannot name a folder"),
    (workspace(inference={"adapters": [{"source": {"name": "a", **VOLUME}, "strength": "2"}]}),
     names.REASON_INVALID_SPEC, "from 0 to 1"),
    (workspace(inference={"adapters": [{"source": {"name": "a", **VOLUME}}] * 2}),
     names.REASON_INVALID_SPEC, "occurs twice"),
    (workspace(metadata={"annotations": {names.WEIGHTS_IMAGE_ANNOTATION: "x/Y"}}),
     names.REASON_INVALID_SPEC, "kaito.sh/weights-image"),
    (workspace(metadata={"annotations": {"kaito.sh/weights-image": "x/y", names.WEIGHTS_SECRETS_ANNOTATION: "A"}}),
     names.REASON_INVALID_SPEC, "write names of Secrets"),
    (workspace(metadata={"annotations": {names.TOLERATIONS_ANNOTATION: "team=x:Sometimes"}}),
     names.REASON_INVALID_SPEC, "team=x:Sometimes"),
    (workspace(metadata={"annotations": {names.RUNTIME_ANNOTATION: "transformers"}},
               inference={"preset": {"name": "phi-4-mini-instruct"}}),
     names.REASON_INVALID_SPEC, "cannot be served by transformers"),
]  # fmt: skip


@pytest.mark.parametrize(("manifest", "reason", "says"), UNSERVABLE, ids=[says for _, _, says in UNSERVABLE])
def test_what_cannot_be_served_becomes_a_condition_and_nothing_is_created(
    manifest: Manifest, reason: str, says: str
) -> None:
    plan = planned(manifest, node())
    found = condition(plan, names.INFERENCE_READY)
    assert (found["status"], found["reason"]) == ("False", reason)
    assert says in found["message"]
    assert condition(plan, names.RESOURCE_READY)["message"].startswith("Nothing was created.")
    assert condition(plan, names.WORKSPACE_READY)["reason"] == names.REASON_FAILED
    assert plan.apply == ()
    assert [event.reason for event in plan.events] == [reason]


PUSHED = {"image": "x/y:1", "imagePushSecret": "s"}


def tuned(
    preset: str, url: str = "https://example.com/a.jsonl", annotations: dict[str, str] | None = None,
    method: str = "lora", output: dict[str, Any] = PUSHED, **facts: Any,
) -> Plan:  # fmt: skip
    tuning = {"preset": {"name": preset}, "method": method, "input": {"urls": [url]}, "output": output}
    found = catalogue_lookup(preset)
    assert isinstance(found, ModelFacts)
    controller = workspace_controller(Settings(), LOCAL, lambda name: found.model_copy(update=facts))
    made = workspace(inference=None, tuning=tuning, metadata={"annotations": annotations or {}})
    observed = controller.observe(World(made, node(), known=(WORKSPACES,)), DEMO)
    assert observed is not None
    return controller.plan(observed, NOW)


@pytest.mark.parametrize(
    ("changes", "reference"),
    [
        ({}, "docker.io/x/y:demo-checkpoint-"),
        ({"method": "full"}, None),
        ({"method": "full", "annotations": {names.CHECKPOINTS_ANNOTATION: "true"}}, "docker.io/x/y:demo-checkpoint-"),
        ({"annotations": {names.CHECKPOINTS_ANNOTATION: "false"}}, None),
        ({"output": {"volumeSource": {"emptyDir": {}}}}, None),
    ],
)
def test_checkpoints_go_beside_the_result_where_it_goes_into_a_registry(
    changes: dict[str, Any], reference: str | None
) -> None:
    (rendered,) = (one for one in tuned("phi-4-mini-instruct", **changes).apply if one["kind"] == "ConfigMap")
    config = TuneConfig.model_validate_json(rendered["data"][TUNE_CONFIG_KEY])
    assert (config.checkpoints.image[: len(reference or "")] if config.checkpoints else None) == reference


@pytest.mark.parametrize("annotation", [names.CHECKPOINTS_ANNOTATION, names.OUTPUT_FORMAT_ANNOTATION])
def test_words_of_annotations_are_judged_without_admission_too(annotation: str) -> None:
    found = condition(tuned("phi-4-mini-instruct", annotations={annotation: "perhaps"}), names.JOB_STARTED)
    assert found["reason"] == names.REASON_INVALID_SPEC
    assert annotation in found["message"]


def test_an_address_of_a_hub_that_makes_no_sense_is_refused_without_admission_too() -> None:
    plan = tuned("phi-4-mini-instruct", "hf://models/org/name")
    found = condition(plan, names.JOB_STARTED)
    assert found["reason"] == names.REASON_INVALID_SPEC
    assert "tuning.input.urls[0] must begin with hf://datasets/" in found["message"]
    assert plan.apply == ()


@pytest.mark.parametrize(
    ("preset", "facts", "says"),
    [
        ("gpt-oss-20b", {}, "its weights are compressed (mxfp4)"),
        ("mistral-7b", {"transformers": None}, "its files are not laid out as transformers reads them"),
    ],
)
def test_a_model_that_cannot_be_tuned_is_refused_before_a_node_is_asked_for(
    preset: str, facts: dict[str, Any], says: str
) -> None:
    plan = tuned(preset, **facts)
    found = condition(plan, names.JOB_STARTED)
    assert (found["status"], found["reason"]) == ("False", names.REASON_TUNING_MODEL)
    assert says in found["message"]
    assert plan.apply == ()


TWO_NODES = {"count": 2, "labelSelector": {"matchLabels": {"apps": "two"}}}
LORA = {
    "preset": {"name": "phi-4-mini-instruct"},
    "method": "lora",
    "input": {"urls": ["https://example.com/a.jsonl"]},
    "output": {"image": "x/y:1", "imagePushSecret": "s"},
}
BROKEN = Failure(reason=names.REASON_TUNING_FILE, message="a.jsonl cannot be read.", next_step="Replace it.")


def two(name: str) -> Manifest:
    """A node of those that the tuning takes."""
    return node(name, gpus=1, metadata={"labels": {"apps": "two"}})


def on_two_nodes(*ranks: Manifest, **job_status: Any) -> Plan:
    """The plan for a tuning on two nodes, with its Job and what there is of its pods."""
    given = [workspace(inference=None, tuning=LORA, resource=TWO_NODES), two("a"), two("b")]
    made = applied(planned(*given, provisioner=BYO), "Job")
    made = merged(made, {"metadata": {"uid": "uid-job", "resourceVersion": "1"}, "status": job_status})
    return planned(*given, made, *ranks, provisioner=BYO)


def rank(index: int, phase: str, **state: Any) -> Manifest:
    """The pod of a rank."""
    labels = {names.COMPLETION_INDEX_LABEL: str(index)}
    status = {"phase": phase, "containerStatuses": [container_status(state=state, restartCount=0)]}
    made = pod(f"demo-{index}-x", owner_uid="uid-job", metadata={"labels": labels}, status=status)
    return merged(made, {"spec": {"nodeName": "ab"[index]}})


def test_a_tuning_on_two_nodes_waits_for_both() -> None:
    plan = planned(workspace(inference=None, tuning=LORA, resource=TWO_NODES), two("a"), provisioner=BYO)
    assert plan.apply == ()
    assert "1 of 2" in condition(plan, names.NODES_READY)["message"]


def test_the_rank_that_fails_is_named_with_its_reason() -> None:
    ended = {"exitCode": 64, "message": BROKEN.model_dump_json()}
    failed = [{"type": "Failed", "status": "True", "reason": "PodFailurePolicy", "message": "exit code 64"}]
    ranks = (rank(0, "Failed", terminated={"exitCode": 143}), rank(1, "Failed", terminated=ended))
    plan = on_two_nodes(*ranks, conditions=failed)
    found = condition(plan, names.JOB_STARTED)
    assert (found["status"], found["reason"]) == ("False", names.REASON_TUNING_FILE)
    assert found["message"].startswith("Rank 1 (pod demo-1-x on node b): a.jsonl cannot be read.")
    assert plan.status is not None
    assert plan.status["state"] == "Failed"


def test_a_rank_that_is_not_there_is_waited_for_by_name() -> None:
    plan = on_two_nodes(
        rank(0, "Running", running={"startedAt": "2026-01-01T00:00:00Z"}),
        rank(1, "Failed", terminated={"exitCode": 137}),
    )
    found = condition(plan, names.JOB_STARTED)
    assert (found["status"], found["reason"]) == ("True", names.REASON_TUNING_STARTED)
    assert "Rank 1 (pod demo-1-x on node b) is waited for: all go on from the last checkpoint then." in found["message"]


@pytest.mark.parametrize("model", [model for model in catalogue().models if model.tuning], ids=lambda model: model.name)
def test_every_model_that_was_tuned_with_success_may_be(model: ModelFacts) -> None:
    assert {made["kind"] for made in tuned(model.id).apply} == {"ConfigMap", "Job"}


@pytest.mark.parametrize(
    ("found", "says"),
    [
        (None, "ConfigMap mine does not exist in namespace default: create it with the key"),
        (config_map("mine", other="x"), "has no key inference_config.yaml"),
        (config_map("mine", **{"inference_config.yaml": "vllm: {"}), "is not YAML"),
        (config_map("mine", **{"inference_config.yaml": "- a"}), "is not a map"),
        (config_map("mine", **{"inference_config.yaml": "vllm: [a]"}), "vllm is not a map"),
        (
            config_map("mine", **{"inference_config.yaml": "vllm: {max-model-lem: 4}"}),
            "ConfigMap mine: vllm has no option max-model-lem; did you mean max-model-len?",
        ),
    ],
)
def test_an_unusable_configuration_names_the_config_map_and_the_next_step(found: Manifest | None, says: str) -> None:
    objects = [workspace(inference={"config": "mine"}), node(), *([found] if found else [])]
    plan = planned(*objects)
    assert condition(plan, names.INFERENCE_READY)["reason"] == names.REASON_CONFIG_INVALID
    assert says in condition(plan, names.INFERENCE_READY)["message"]
    assert condition(plan, names.RESOURCE_READY)["status"] == "True"
    assert plan.apply == ()


@pytest.mark.parametrize(
    ("preset", "annotation", "default", "engine"),
    [
        ("phi-3-mini-4k-instruct", None, "vllm", "vllm"),
        ("phi-3-mini-4k-instruct", "transformers", "vllm", "transformers"),
        ("phi-3-mini-4k-instruct", "nonsense", "transformers", "vllm"),
        ("phi-3-mini-4k-instruct", None, "transformers", "transformers"),
        ("phi-4-mini-instruct", None, "transformers", "vllm"),
        ("example-org/unheard-of", None, "transformers", "transformers"),
    ],
)
def test_the_engine_is_the_one_asked_for_or_the_default_where_it_can_serve_the_model(
    preset: str, annotation: str | None, default: Any, engine: str
) -> None:
    annotations = {names.RUNTIME_ANNOTATION: annotation} if annotation else {}
    manifest = workspace(metadata={"annotations": annotations}, inference={"preset": {"name": preset}})
    plan = planned(manifest, node(), chosen=Settings(default_runtime=default))
    config = applied(plan, "ConfigMap", "demo-serve")["data"]["serve.json"]
    assert f'"engine": "{engine}"' in config


@pytest.mark.parametrize(
    ("preset", "provisioner", "gpus", "asked", "parallelism"),
    [
        ("phi-4-mini-instruct", LOCAL, 0, None, (1, 1)),
        ("phi-4-mini-instruct", LOCAL, 8, "1", (1, 1)),
        ("llama-3.3-70b-instruct", LOCAL, 8, "2", (2, 1)),
        ("phi-4-mini-instruct", BYO, 4, "4", (1, 4)),
        ("llama-3.3-70b-instruct", BYO, 4, "4", (4, 1)),
    ],
)
def test_one_machine_gives_the_fewest_gpus_and_a_cluster_all_of_a_node(
    preset: str, provisioner: Provisioner, gpus: int, asked: str | None, parallelism: tuple[int, int]
) -> None:
    machine = node(gpus=gpus, metadata={"labels": {"apps": "demo"}})
    plan = planned(workspace(inference={"preset": {"name": preset}}), machine, provisioner=provisioner)
    (container,) = applied(plan, "StatefulSet")["spec"]["template"]["spec"]["containers"]
    assert container.get("resources", {}).get("limits", {}).get("nvidia.com/gpu") == asked
    config = applied(plan, "ConfigMap", "demo-serve")["data"]["serve.json"]
    assert (f'"tensor": {parallelism[0]}' in config, f'"data": {parallelism[1]}' in config) == (True, True)


def test_what_kubernetes_does_not_let_change_is_taken_over_from_the_stateful_set_there_is() -> None:
    reference = {"apiVersion": "kaito.sh/v1beta1", "kind": "Workspace", "name": "demo", "uid": "uid-demo"}
    meta = {"name": "demo", "namespace": "default", "ownerReferences": [{**reference, "controller": True}]}
    old: dict[str, Any] = {
        "serviceName": "",
        "podManagementPolicy": "OrderedReady",
        "replicas": 1,
        "selector": {"matchLabels": {names.WORKSPACE_LABEL: "demo", "old": "label"}},
    }
    existing = {"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": meta, "spec": old}
    labels = {names.INFERENCESET_CREATED_BY_LABEL: "later"}
    spec = applied(planned(workspace(metadata={"labels": labels}), node(), existing), "StatefulSet")["spec"]
    assert (spec["serviceName"], spec["podManagementPolicy"]) == ("", "OrderedReady")
    assert spec["selector"] == old["selector"]
    assert spec["template"]["metadata"]["labels"] == {**old["selector"]["matchLabels"], **labels}


def test_a_deployment_of_an_early_release_is_replaced() -> None:
    reference = {"apiVersion": "kaito.sh/v1beta1", "kind": "Workspace", "name": "demo", "uid": "uid-demo"}
    meta = {
        "name": "demo",
        "namespace": "default",
        "uid": "uid-d",
        "ownerReferences": [{**reference, "controller": True}],
    }
    deployment = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": meta, "spec": {}}
    plan = planned(workspace(), node(), deployment)
    assert [delete.uid for delete in plan.delete] == ["uid-d"]
    assert names.EVENT_WORKLOAD_MIGRATION in [event.reason for event in plan.events]


def test_a_users_own_affinity_and_tolerations_are_kept_and_narrowed() -> None:
    own = {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
        {"matchExpressions": [{"key": "disk", "operator": "Exists"}]},
        {"matchExpressions": [{"key": "zone", "operator": "In", "values": ["a"]}]},
    ]}}}  # fmt: skip
    toleration = {"key": "mine", "operator": "Exists"}
    template = {"spec": {"containers": [{"name": "c", "image": "i"}], "affinity": own, "tolerations": [toleration]}}
    machine = node(metadata={"labels": {"apps": "demo"}})
    manifest = workspace(inference={"preset": None, "template": template})
    spec = applied(planned(manifest, machine, provisioner=BYO), "StatefulSet")["spec"]["template"]["spec"]
    required = spec["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    keys = [[term["key"] for term in terms["matchExpressions"]] for terms in required["nodeSelectorTerms"]]
    assert keys == [["disk", "apps"], ["zone", "apps"]]
    assert spec["tolerations"][0] == toleration and len(spec["tolerations"]) == 3


@pytest.mark.parametrize(
    ("text", "tolerations"),
    [
        ("team", [{"key": "team", "operator": "Exists"}]),
        ("team:NoExecute", [{"key": "team", "operator": "Exists", "effect": "NoExecute"}]),
        ("a.io/team=x", [{"key": "a.io/team", "operator": "Equal", "value": "x"}]),
        (
            "team=x:NoSchedule, b=:NoExecute,",
            [
                {"key": "team", "operator": "Equal", "value": "x", "effect": "NoSchedule"},
                {"key": "b", "operator": "Equal", "value": "", "effect": "NoExecute"},
            ],
        ),
    ],
)
def test_taints_that_the_user_names_are_accepted(text: str, tolerations: list[Manifest]) -> None:
    manifest = workspace(metadata={"annotations": {names.TOLERATIONS_ANNOTATION: text}})
    spec = applied(planned(manifest, node()), "StatefulSet")["spec"]["template"]["spec"]
    assert spec["tolerations"][2:] == tolerations


def test_a_long_message_is_cut_between_characters_and_keeps_its_next_step() -> None:
    terms = {"matchLabels": {f"label-{index}": "ü" * 60 for index in range(9)}}
    plan = planned(workspace(resource={"labelSelector": terms}), provisioner=BYO)
    message = condition(plan, names.NODES_READY)["message"]
    assert len(message.encode()) <= 256 + len("…".encode())
    assert "ü… Add nodes" in message


junk = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
part = st.sampled_from(["resource", "inference", "tuning"])
inner_part = st.sampled_from(["preset", "template", "config", "adapters", "labelSelector", "count", "conditions"])


@settings(max_examples=150)
@given(part, inner_part, junk)
def test_the_plan_is_total(outer: str, inner: str, value: Any) -> None:
    plan = planned(merged(workspace(), {outer: {inner: value}}), node())
    assert plan.status is not None and plan.status["conditions"]
