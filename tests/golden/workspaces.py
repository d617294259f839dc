# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Real Workspaces with the cluster that each meets: the examples, and the cases in the folder of this name."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import yaml

from kaito.api.meta import WORKSPACES
from kaito.kube.manifest import Manifest
from kaito.operator.provisioners.byo import BYO
from kaito.operator.provisioners.local import LOCAL
from kaito.operator.provisioners.survey import Provisioner
from kaito.operator.settings import Settings
from tests.builders import config_map, merged, node
from tests.scenario.world import World

SEEDED = Settings(local_weights=("/srv/weights",))
HERE = Path(__file__).parent
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

    @property
    def name(self) -> str:
        return self.path.stem

    def world(self) -> tuple[World, str]:
        """The cluster with the Workspace just created in it, and the Workspace's name."""
        read = yaml.safe_load(self.path.read_text())
        meta = {"namespace": "default", "uid": "uid-workspace", "generation": 1}
        manifest = merged(read, {"metadata": meta, "apiVersion": WORKSPACES.api_version})
        return World(manifest, USER_CONFIG, *self.nodes, known=(WORKSPACES,)), manifest["metadata"]["name"]


def gpu_node(app: str, name: str = "gpu-a", gpus: int = 1) -> Manifest:
    return node(name, gpus=gpus, metadata={"labels": {"apps": app}})


CASES = (
    Case(EXAMPLES / "inference" / "kaito_workspace_phi_3.yaml"),
    Case(EXAMPLES / "inference" / "kaito_workspace_phi_3_with_adapters.yaml"),
    Case(EXAMPLES / "fine-tuning" / "kaito_workspace_tuning_phi_3.yaml"),
    Case(EXAMPLES / "quickstart.yaml", settings=Settings(default_runtime="transformers", offline=True)),
    Case(HERE / "cases" / "adapters_on_volumes.yaml", nodes=(node(gpus=8),)),
    Case(HERE / "cases" / "config.yaml", nodes=(gpu_node("config", gpus=2),), provisioner=BYO, settings=Settings()),
    Case(HERE / "cases" / "template.yaml", nodes=(gpu_node("own"),), provisioner=BYO, settings=Settings()),
    Case(HERE / "cases" / "hub_id.yaml", settings=Settings(weights_cache="/var/cache/kaito")),
    Case(HERE / "cases" / "load_balancer.yaml"),
    Case(HERE / "cases" / "set_member.yaml", (gpu_node("chat", gpus=4),), BYO, Settings()),
    Case(HERE / "cases" / "two_nodes.yaml", (gpu_node("huge", gpus=4), gpu_node("huge", "gpu-b", 4)), BYO, Settings()),
)
