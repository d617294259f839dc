# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Real Workspaces with the cluster that each meets: the examples, and the cases in the folder of this name."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import yaml

from kaito.api.meta import WORKSPACES
from kaito.kube.manifest import Manifest
from kaito.kube.resource import Resource
from kaito.operator.provisioners.byo import BYO
from kaito.operator.provisioners.local import LOCAL
from kaito.operator.provisioners.nodeclaim import MACHINES, NODE_CLAIMS, node_claim_provisioner
from kaito.operator.provisioners.nodepool import NODE_POOLS, NodeClass, node_pool_provisioner
from kaito.operator.provisioners.survey import Provisioner
from kaito.operator.settings import Settings
from tests.builders import merged, node
from tests.scenario.cloud import Cloud, Karpenter
from tests.scenario.world import World

SEEDED = Settings(local_weights=("/srv/weights",))
HERE = Path(__file__).parent
ORDER_KINDS = (NODE_CLAIMS, MACHINES, NODE_POOLS)
AZURE = node_claim_provisioner("azure")
AWS = node_claim_provisioner("aws")
POOLS = node_pool_provisioner(NodeClass())
ARC = node_claim_provisioner("arc")
EXAMPLES = HERE.parents[1] / "examples"
INFERENCE = EXAMPLES / "inference"


@dataclass(frozen=True)
class Case:
    path: Path
    nodes: tuple[Manifest, ...] = (node(),)
    provisioner: Provisioner = LOCAL
    settings: Settings = SEEDED
    kind: Resource = NODE_CLAIMS
    """Of those that nodes can be ordered with, the one that the cluster has."""

    @property
    def name(self) -> str:
        return self.path.stem

    def world(self) -> tuple[World, str]:
        """The cluster with the Workspace just created in it, and the Workspace's name."""
        *others, read = yaml.safe_load_all(self.path.read_text())
        meta = {"namespace": "default", "uid": "uid-workspace", "generation": 1}
        manifest = merged(read, {"metadata": meta, "apiVersion": WORKSPACES.api_version})
        beside = [merged(other, {"metadata": {"namespace": "default"}}) for other in others]
        here = World(manifest, *beside, *self.nodes, known=(WORKSPACES, *ORDER_KINDS))
        here.absent = {MACHINES} if self.kind != MACHINES else {NODE_CLAIMS, NODE_POOLS}
        here.others += [Karpenter(here).step, Cloud(here).step]
        return here, manifest["metadata"]["name"]


def gpu_node(app: str, name: str = "gpu-a", gpus: int = 1) -> Manifest:
    return node(name, gpus=gpus, metadata={"labels": {"apps": app}})


CASES = (
    Case(INFERENCE / "kaito_workspace_phi_3.yaml"),
    Case(INFERENCE / "kaito_workspace_phi_3_with_adapters.yaml"),
    Case(EXAMPLES / "fine-tuning" / "kaito_workspace_tuning_phi_3.yaml"),
    Case(EXAMPLES / "fine-tuning" / "kaito_workspace_tuning_hub_data.yaml", (), AZURE, Settings()),
    Case(EXAMPLES / "quickstart.yaml", settings=Settings(default_runtime="transformers", offline=True)),
    Case(HERE / "cases" / "adapters_on_volumes.yaml", nodes=(node(gpus=8),)),
    Case(HERE / "cases" / "adapters_from_images.yaml"),
    Case(INFERENCE / "kaito_workspace_byo.yaml", (gpu_node("phi-4", gpus=2),), BYO, Settings()),
    Case(INFERENCE / "kaito_workspace_custom_config.yaml", (), AZURE, Settings()),
    Case(INFERENCE / "kaito_workspace_template.yaml", (gpu_node("template"),), BYO, Settings()),
    Case(INFERENCE / "kaito_workspace_mig.yaml", (gpu_node("mig", gpus=0),), BYO, Settings()),
    Case(INFERENCE / "kaito_workspace_some_gpus.yaml", (gpu_node("some-gpus", gpus=8),), BYO, Settings()),
    Case(INFERENCE / "kaito_workspace_deepseek_r1.yaml", (), AZURE, Settings()),
    Case(INFERENCE / "kaito_workspace_tuned_adapter.yaml", (), AZURE, Settings()),
    Case(HERE / "cases" / "weights_from_a_registry.yaml", settings=Settings(weights_cache="/var/cache/kaito")),
    Case(HERE / "cases" / "weights_from_a_bucket.yaml", settings=Settings()),
    Case(HERE / "cases" / "weights_on_the_node.yaml", (gpu_node("weights"),), BYO, Settings()),
    Case(
        HERE / "cases" / "tuning_on_hub_data.yaml",
        (gpu_node("tuning"),),
        BYO,
        Settings(hub_endpoint="https://hub.example.com"),
    ),
    Case(HERE / "cases" / "hub_id.yaml", settings=Settings(weights_cache="/var/cache/kaito")),
    Case(HERE / "cases" / "load_balancer.yaml"),
    Case(HERE / "cases" / "api_keys.yaml"),
    Case(HERE / "cases" / "set_member.yaml", (gpu_node("chat", gpus=4),), BYO, Settings()),
    Case(
        HERE / "cases" / "tuning_on_two_nodes.yaml",
        (gpu_node("two-nodes", gpus=2), gpu_node("two-nodes", "gpu-b", gpus=2)),
        BYO,
        Settings(),
    ),
    Case(EXAMPLES / "fine-tuning" / "kaito_workspace_tuning_two_nodes.yaml", (), AZURE, Settings()),
    Case(HERE / "cases" / "ordered_azure.yaml", (), AZURE, Settings()),
    Case(HERE / "cases" / "ordered_aws_spot.yaml", (), AWS, Settings()),
    Case(HERE / "cases" / "ordered_arc.yaml", (), ARC, Settings()),
    Case(HERE / "cases" / "ordered_machine.yaml", (), AZURE, Settings(), MACHINES),
    Case(HERE / "cases" / "ordered_pool.yaml", (), POOLS, Settings()),
)
