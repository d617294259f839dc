# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""How the engine is started: its settings, frozen, from the command line."""

from __future__ import annotations

import argparse
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

ADMISSION_PLUGINS = ("ServiceAccount",)
"""Those that can be switched off, by kube-apiserver's names."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What the engine needs to know to start."""

    data_dir: Path
    """Where everything that outlives the process is kept."""
    port: int = 0
    """TCP port of the API; 0 takes a free one."""
    host: str = "127.0.0.1"
    """Address to listen on. Only loopback addresses are safe: whoever holds the token may run programs here."""
    kubeconfig: Path | None = None
    """Where the administrator's kubeconfig goes; in the data directory by default."""
    images: Path | None = None
    """A file that maps image names to local commands."""
    node: bool = True
    """Run a node agent, so that pods run here."""
    controllers: bool = True
    """Run the built-in controllers."""
    disabled_plugins: tuple[str, ...] = ()
    """Admission plugins that are not asked, of `ADMISSION_PLUGINS`."""
    service_network: str = ""
    """Addresses for Services; by default a share of 127.96.0.0/11 that follows from the data folder and the user."""
    durability: Literal["memory", "process", "power"] = "process"
    """What a stored object survives: nothing, the end of the process, or a power cut (an fsync for each write)."""
    simulated_nodes: int = 0
    """Nodes without processes behind them, for scale tests."""
    simulated_gpus: int = 0
    """GPUs (`nvidia.com/gpu`) that each simulated node claims to have."""
    simulated_machines: bool = False
    """Play the machines that ConfigMaps with the label engine.kaito.sh/machine describe, as nodes."""
    log_level: str = "WARNING"
    """Least severe level that is logged to standard error."""

    @property
    def kubeconfig_path(self) -> Path:
        return self.kubeconfig or self.data_dir / "kubeconfig"


def _network(text: str) -> str:
    return str(ipaddress.IPv4Network(text))


def _plugins(text: str) -> tuple[str, ...]:
    names = tuple(name for name in text.split(",") if name)
    unknown = sorted(set(names) - set(ADMISSION_PLUGINS))
    if unknown:
        raise argparse.ArgumentTypeError(f"no such plugin: {', '.join(unknown)}; there is {ADMISSION_PLUGINS[0]}")
    return names


def parse_settings(argv: Sequence[str]) -> Settings:
    """The settings that command line arguments mean. Exits with a usage message on bad ones."""
    parser = argparse.ArgumentParser(
        prog="python -m kaito.engine", description="A Kubernetes API and node for one machine."
    )
    parser.add_argument("--data-dir", type=Path, required=True, help="folder for all state")
    parser.add_argument("--port", type=int, default=0, help="port of the API (default: a free one)")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: loopback)")
    parser.add_argument("--kubeconfig", type=Path, help="where to write the kubeconfig (default: in the data folder)")
    parser.add_argument("--images", type=Path, help="file that maps image names to local commands")
    parser.add_argument("--no-node", action="store_true", help="do not run pods here")
    parser.add_argument("--no-controllers", action="store_true", help="do not run the built-in controllers")
    parser.add_argument(
        "--disable-admission-plugins",
        type=_plugins,
        default=(),
        metavar="NAMES",
        help="what is not asked about new objects; ServiceAccount: pods get no token unless they ask for it",
    )
    parser.add_argument(
        "--service-network", type=_network, help="addresses for Services (default: follow from the data folder)"
    )
    parser.add_argument(
        "--durability",
        choices=("memory", "process", "power"),
        default="process",
        help="what stored objects survive (default: the end of the process)",
    )
    parser.add_argument("--simulated-nodes", type=int, default=0, metavar="N", help="add N nodes that only pretend")
    parser.add_argument("--simulated-gpus", type=int, default=0, metavar="N", help="GPUs that each of them claims")
    parser.add_argument(
        "--simulated-machines", action="store_true", help="play the machines that a provisioner orders as ConfigMaps"
    )
    parser.add_argument("--log-level", default="WARNING", choices=("DEBUG", "INFO", "WARNING", "ERROR"))
    found = parser.parse_args(argv)
    return Settings(
        data_dir=found.data_dir.absolute(),
        port=found.port,
        host=found.host,
        kubeconfig=found.kubeconfig.absolute() if found.kubeconfig else None,
        images=found.images.absolute() if found.images else None,
        node=not found.no_node,
        controllers=not found.no_controllers,
        disabled_plugins=found.disable_admission_plugins,
        service_network=found.service_network or "",
        durability=found.durability,
        simulated_nodes=found.simulated_nodes,
        simulated_gpus=found.simulated_gpus,
        simulated_machines=found.simulated_machines,
        log_level=found.log_level,
    )
