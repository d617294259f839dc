# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""What a Workspace says of its model's size: why it does not fit, what would serve it, and what a hub says of it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import replace

from kaito.api import names
from kaito.api.meta import WORKSPACES
from kaito.catalog.gpus import machines
from kaito.catalog.hub import Answer, Hub
from kaito.kube.manifest import Manifest, condition_of
from kaito.kube.resource import CONFIG_MAPS, STATEFUL_SETS
from kaito.operator.facts import HubFacts, catalogue_lookup
from kaito.operator.provisioners.byo import BYO
from kaito.operator.provisioners.nodeclaim import NODE_CLAIMS, node_claim_provisioner
from kaito.operator.settings import Settings
from kaito.operator.workspace.controller import workspace_controller
from kaito.operator.workspace.observe import FactsPending, Lookup, UnknownPreset
from tests.builders import config_map, node, workspace
from tests.scenario.world import World, starting_kubelet

ORDERING = (WORKSPACES, NODE_CLAIMS)
SELECTOR = {"matchLabels": {"apps": "demo"}}
A10 = {
    "apps": "demo",
    "nvidia.com/gpu.product": "NVIDIA-A10",
    "nvidia.com/gpu.memory": "24576",
    "nvidia.com/gpu.count": "1",
}
COMMIT = "0123456789abcdef0123456789abcdef01234567"
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 131072,
}


def asking(preset: str, *, type_: str = "", config: str = "", secret: str = "") -> Manifest:
    resource = {"labelSelector": SELECTOR} | ({"instanceType": type_} if type_ else {})
    options = {"presetOptions": {"modelAccessSecret": secret}} if secret else {}
    inference: Manifest = {"preset": {"name": preset, **options}} | ({"config": config} if config else {})
    return workspace(resource=resource, inference=inference)


def message(here: World, type_: str = names.INFERENCE_READY) -> str:
    obj = here.get(WORKSPACES, "demo", "default")
    assert obj is not None
    condition = condition_of(obj, type_)
    assert condition is not None
    return f"{condition['reason']}: {condition['message']}"


def settled(here: World, lookup: Lookup = catalogue_lookup, *, ordered: bool = False) -> World:
    provisioner = node_claim_provisioner() if ordered else BYO
    here.settle(workspace_controller(Settings(), provisioner, lookup), starting_kubelet)
    return here


def a100_world(asked: Manifest) -> World:
    labels = A10 | {"nvidia.com/gpu.product": "NVIDIA-A100-80GB-PCIe", "nvidia.com/gpu.memory": "81920"}
    return World(asked, node("gpu-0", gpus=1, metadata={"labels": labels}), known=(WORKSPACES,))


def test_a_model_that_needs_several_nodes_is_told_which_one_machine_would_serve_it() -> None:
    here = settled(World(asking("phi-4", type_="Standard_NV36ads_A10_v5"), known=ORDERING), ordered=True)
    said = message(here, names.NODES_READY)
    assert "0 of 2 ready" in said
    assert "What serves it: Standard_NC24ads_A100_v4 (1 x A100 80 GiB, 3.67 USD/h), " in said


def test_nodes_of_ones_own_are_told_which_gpus_one_of_them_would_need() -> None:
    here = settled(World(asking("phi-4"), node("gpu-0", gpus=1, metadata={"labels": A10}), known=(WORKSPACES,)))
    assert "One node with 1 x A100 40 GiB or 1 x L40S 48 GiB serves it." in message(here, names.NODES_READY)


def test_a_context_that_cannot_fit_is_refused_with_the_figures_and_the_way_out() -> None:
    settings = config_map("long", **{"inference_config.yaml": "vllm:\n  max-model-len: 65536\n"})
    asked = asking("llama-3.1-8b-instruct", type_="Standard_NV36ads_A10_v5", config="long")
    said = message(settled(World(asked, settings, known=ORDERING), ordered=True), names.NODES_READY)
    assert "What serves it: Standard_NC24ads_A100_v4" in said


def test_who_knows_better_than_our_sums_may_say_so() -> None:
    labels = A10 | {"nvidia.com/gpu.memory": "2048", "nvidia.com/gpu.product": "Tesla-T4"}
    small = node("gpu-0", gpus=1, metadata={"labels": labels})
    refused = settled(World(asking("phi-3-mini-4k-instruct"), small, known=(WORKSPACES,)))
    assert refused.get(STATEFUL_SETS, "demo", "default") is None
    insistent = asking("phi-3-mini-4k-instruct")
    insistent["metadata"]["annotations"] = {names.BYPASS_RESOURCE_CHECKS_ANNOTATION: ""}
    here = settled(World(insistent, small, known=(WORKSPACES,)))
    assert here.get(STATEFUL_SETS, "demo", "default") is not None
    assert "It is tried although by our sums microsoft/Phi-3-mini-4k-instruct" in message(here, names.NODES_READY)


def part(preset: str, mode: str, *, type_: str = "", **partition: object) -> Manifest:
    asked = asking(preset, type_=type_)
    asked["resource"]["partition"] = {"mode": mode, **partition}
    return asked


def resources(here: World) -> Manifest:
    made = here.get(STATEFUL_SETS, "demo", "default")
    assert made is not None
    return dict(made["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"])


def test_a_part_of_a_node_is_what_its_pod_asks_for() -> None:
    eight = node("gpu-0", gpus=8, metadata={"labels": {"apps": "demo"}})
    some = settled(World(part("phi-4", "accelerator", count=2), eight, known=(WORKSPACES,)))
    assert resources(some) == {"nvidia.com/gpu": "2"}
    sliced = node("gpu-0", metadata={"labels": {"apps": "demo", "nvidia.com/gpu.product": "NVIDIA-A100-80GB-PCIe"}})
    mig = settled(World(part("phi-3-mini-4k-instruct", "mig", profile="3g.40gb"), sliced, known=(WORKSPACES,)))
    assert resources(mig) == {"nvidia.com/mig-3g.40gb": "1"}


def test_a_part_that_cannot_be_had_or_holds_no_model_is_told() -> None:
    eight = node("gpu-0", gpus=8, metadata={"labels": {"apps": "demo"}})
    for asked, ordered, says in (
        (part("phi-4", "accelerator", count=9), False, "resource.partition.count is 9, and a node has 8 GPUs"),
        (part("phi-4", "mig", profile="1g.5gb"), False, "does not fit a slice 1g.5gb"),
        (part("phi-4", "accelerator", type_="Standard_NC24ads_A100_v4", count=1), True, "leave instanceType out"),
    ):
        here = settled(World(asked, eight, known=ORDERING), ordered=ordered)
        assert says in message(here, names.NODES_READY)
        assert here.get(STATEFUL_SETS, "demo", "default") is None


def test_what_kaito_counts_twice_takes_one_node_here() -> None:
    """The repository of gpt-oss-120b holds the weights twice: KAITO asks for three of these nodes."""
    labels = A10 | {"nvidia.com/gpu.product": "NVIDIA-A100-80GB-PCIe", "nvidia.com/gpu.memory": "81920"}
    here = settled(
        World(asking("gpt-oss-120b"), node("gpu-0", gpus=1, metadata={"labels": labels}), known=(WORKSPACES,))
    )
    made = here.get(STATEFUL_SETS, "demo", "default")
    assert made is not None
    assert made["spec"]["replicas"] == 1


class SlowHub:
    """A hub that answers when it is let to."""

    def __init__(self, sha: str = COMMIT) -> None:
        self.sha = sha
        self.away = False
        self.missing = False

    async def fetch(self, url: str, headers: Mapping[str, str]) -> Answer:
        if self.away:
            raise OSError("no route to host")
        if self.missing:
            return Answer(401, {"x-error-code": "RepoNotFound"}, b"")
        files = [{"rfilename": "model.safetensors", "size": 16 * 1024**3}]
        about = {"id": "org/model", "sha": self.sha, "siblings": files}
        return Answer(200, {}, json.dumps(about if "/api/models/" in url else CONFIG).encode())


def answered(facts: HubFacts) -> None:
    """Let the hub answer what it has been asked."""

    async def until_idle() -> None:
        task = asyncio.create_task(facts.run())
        for _ in range(20):
            await asyncio.sleep(0)
        task.cancel()

    asyncio.run(until_idle())


def serve_config(here: World) -> Manifest:
    made = here.get(CONFIG_MAPS, "demo-serve", "default")
    assert made is not None
    config: Manifest = json.loads(made["data"]["serve.json"])
    return config


def test_a_model_of_a_hub_waits_for_its_facts_and_is_pinned_to_a_commit() -> None:
    hub = SlowHub()
    facts = HubFacts(Hub(hub.fetch, "http://hub"))
    here = settled(a100_world(asking("org/model")), facts.lookup)
    assert message(here) == f"{names.REASON_INFERENCE_PENDING}: Asking http://hub what org/model is."
    assert here.get(STATEFUL_SETS, "demo", "default") is None
    answered(facts)
    settled(here, facts.lookup)
    config = serve_config(here)
    assert config["model"]["revision"] == COMMIT
    assert config["trust_remote_code"] is False


def test_a_newer_commit_on_the_hub_does_not_roll_what_runs() -> None:
    hub = SlowHub()
    facts = HubFacts(Hub(hub.fetch, "http://hub"))
    here = a100_world(asking("org/model"))
    for _ in range(2):
        settled(here, facts.lookup)
        answered(facts)
    settled(here, facts.lookup)
    hub.sha = "f" * 40
    after_a_restart = HubFacts(Hub(hub.fetch, "http://hub"))
    after_a_restart.lookup("org/model")
    answered(after_a_restart)
    settled(here, after_a_restart.lookup)
    assert serve_config(here)["model"]["revision"] == COMMIT


def test_a_hub_that_is_away_stops_nothing() -> None:
    hub = SlowHub()
    hub.away = True
    facts = HubFacts(Hub(hub.fetch, "http://hub"))
    here = settled(a100_world(asking("org/model")), facts.lookup)
    answered(facts)
    settled(here, facts.lookup)
    assert serve_config(here)["model"] == serve_config(here)["model"] | {"id": "org/model", "revision": None}


def test_a_model_that_the_hub_does_not_show_is_no_model_unless_a_token_is_named() -> None:
    hub = SlowHub()
    hub.missing = True
    facts = HubFacts(Hub(hub.fetch, "http://hub"))
    assert isinstance(facts.lookup("org/model"), FactsPending)
    answered(facts)
    unknown = facts.lookup("org/model")
    assert isinstance(unknown, UnknownPreset)
    here = settled(a100_world(asking("org/model")), facts.lookup)
    assert message(here).startswith(
        f"{names.REASON_UNKNOWN_PRESET}: The hub http://hub shows no model org/model: correct the"
    )
    private = settled(a100_world(asking("org/model", secret="token")), facts.lookup)
    assert serve_config(private)["model"]["id"] == "org/model"


def test_machines_of_ones_own_are_sized_and_offered() -> None:
    table = """
cloud: ours
instance_types:
  - {names: [small], gpus: 1, memory_gib: 24, product: NVIDIA A10, compute_capability: 8.6}
  - {names: [large], gpus: 1, memory_gib: 80, product: NVIDIA A100, compute_capability: 8.0, usd_per_hour: [1.5]}
"""
    provisioner = replace(node_claim_provisioner(), machines=machines().extended(table))
    here = World(asking("phi-4", type_="small"), known=ORDERING)
    here.settle(workspace_controller(Settings(), provisioner, catalogue_lookup), starting_kubelet)
    assert "What serves it: large (1 x A100 80 GiB, 1.50 USD/h)." in message(here, names.NODES_READY)
