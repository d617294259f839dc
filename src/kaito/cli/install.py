# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""`kaito install`: prints what the operator needs on a cluster, for `kubectl apply -f -`. Sends nothing.

The operator itself says what that is (`kaito.operator.install`), in a process of its own: the command line loads no
operator to print its help.
"""

from __future__ import annotations

import subprocess
import sys
from typing import Annotated

import typer

from kaito.cli.failure import UserError

PROVISIONERS = ("byo", "nodeclaim", "karpenter")
CLOUDS = ("azure", "aws", "arc")


def install(
    crds_only: Annotated[bool, typer.Option("--crds-only", help="Only the CustomResourceDefinitions.")] = False,
    namespace: Annotated[str, typer.Option(help="Where the operator runs.")] = "kaito-system",
    provisioner: Annotated[str, typer.Option(help=f"Where nodes come from: {', '.join(PROVISIONERS)}.")] = "byo",
    cloud: Annotated[str, typer.Option(help=f"The cloud that nodes are ordered in: {', '.join(CLOUDS)}.")] = "azure",
    node_class: Annotated[
        str, typer.Option(help="With karpenter, the node class of the NodePools: group/Kind/name.")
    ] = "",
    image: Annotated[str, typer.Option(help="The operator's image, if it is not the published one.")] = "",
    runtime_image: Annotated[str, typer.Option(help="The model servers' image, if it is another one.")] = "",
    replicas: Annotated[int, typer.Option(min=1, help="How many operators run; one of them leads.")] = 2,
    machines_config_map: Annotated[
        str, typer.Option(help="A ConfigMap beside the operator whose key machines.yaml has machine types of your own.")
    ] = "",
) -> None:
    """Print what the operator needs on a cluster: kaito install | kubectl apply --server-side -f -"""
    _chosen("--provisioner", provisioner, PROVISIONERS)
    _chosen("--cloud", cloud, CLOUDS)
    given = {
        "--namespace": namespace,
        "--provisioner": provisioner,
        "--cloud": cloud,
        "--node-class": node_class,
        "--image": image,
        "--runtime-image": runtime_image,
        "--replicas": str(replicas),
        "--machines-config-map": machines_config_map,
    }
    options = [f"{name}={value}" for name, value in given.items() if value]
    flags = ["--crds-only"] if crds_only else []
    done = subprocess.run([sys.executable, "-m", "kaito.operator.install", *options, *flags], check=False)
    if done.returncode:
        raise typer.Exit(done.returncode)


def _chosen(option: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise UserError(f"{option} {value} is not known.", f"Choose one of {', '.join(known)}.")
