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
from tests.builders import config_map, merged, node
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
USER_CONFIG = config_map(
    "engine-settings", **{"inference_config.yaml": "vllm:\n  max-model-len: 8192\n  enable-prefix-caching: true\n"}
)


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
        read = yaml.safe_load(self.path.read_text())
        meta = {"namespace": "default", "uid": "uid-workspace", "generation": 1}
        manifest = merged(read, {"metadata": meta, "apiVersion": WORKSPACES.api_version})
        here = World(manifest, USER_CONFIG, *self.nodes, known=(WORKSPACES, *ORDER_KINDS))
        here.absent = {MACHINES} if self.kind != MACHINES else {NODE_CLAIMS, NODE_POOLS}
        here.others += [Karpenter(here).step, Cloud(here).step]
        return here, manifest["metadata"]["name"]


def gpu_node(app: str, name: str = "gpu-a", gpus: int = 1) -> Manifest:
    return node(name, gpus=gpus, metadata={"labels": {"apps": app}})


CASES = (
    Case(EXAMPLES / "inference" / "kaito_workspace_phi_3.yaml"),
    Case(EXAMPLES / "inference" / "kaito_workspace_phi_3_with_adapters.yaml"),
    Case(EXAMPLES / "fine-tuning" / "kaito_workspace_tuning_phi_3.yaml"),
    Case(EXAMPLES / "quickstart.yaml", settings=Settings(default_runtime="transformers", offline=True)),
    Case(HERE / "cases" / "adapters_on_volumes.yaml", nodes=(node(gpus=8),)),
    Case(HERE / "cases" / "adapters_from_images.yaml"),
    Case(HERE / "cases" / "config.yaml", nodes=(gpu_node("config", gpus=2),), provisioner=BYO, settings=Settings()),
    Case(HERE / "cases" / "template.yaml", nodes=(gpu_node("own"),), provisioner=BYO, settings=Settings()),
    Case(HERE / "cases" / "weights_from_a_registry.yaml", settings=Settings(weights_cache="/var/cache/kaito")),
    Case(HERE / "cases" / "hub_id.yaml", settings=Settings(weights_cache="/var/cache/kaito")),
    Case(HERE / "cases" / "load_balancer.yaml"),
    Case(HERE / "cases" / "api_keys.yaml"),
    Case(HERE / "cases" / "set_member.yaml", (gpu_node("chat", gpus=4),), BYO, Settings()),
    Case(HERE / "cases" / "two_nodes.yaml", (gpu_node("huge", gpus=4), gpu_node("huge", "gpu-b", 4)), BYO, Settings()),
    Case(HERE / "cases" / "ordered_azure.yaml", (), AZURE, Settings()),
    Case(HERE / "cases" / "ordered_aws_spot.yaml", (), AWS, Settings()),
    Case(HERE / "cases" / "ordered_arc.yaml", (), ARC, Settings()),
    Case(HERE / "cases" / "ordered_machine.yaml", (), AZURE, Settings(), MACHINES),
    Case(HERE / "cases" / "ordered_pool.yaml", (), POOLS, Settings()),
)
