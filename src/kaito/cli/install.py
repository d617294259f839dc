# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""`kaito install`: prints what the operator needs on a cluster, for `kubectl apply -f -`. Sends nothing."""

from __future__ import annotations

import sys
from typing import Annotated, get_args

import typer
import yaml

from kaito.api.crd import PlainDumper, custom_resource_definitions
from kaito.cli.failure import UserError
from kaito.operator.install.objects import PROVISIONERS, Installation, installed
from kaito.operator.settings import CloudName

_DEFAULT = Installation()


def install(
    crds_only: Annotated[bool, typer.Option("--crds-only", help="Only the CustomResourceDefinitions.")] = False,
    namespace: Annotated[str, typer.Option(help="Where the operator runs.")] = _DEFAULT.namespace,
    provisioner: Annotated[
        str, typer.Option(help="Where nodes come from: byo, nodeclaim or karpenter.")
    ] = _DEFAULT.provisioner,
    cloud: Annotated[str, typer.Option(help="The cloud that nodes are ordered in: azure, aws or arc.")] = (
        _DEFAULT.cloud
    ),
    node_class: Annotated[
        str, typer.Option(help="With karpenter, the node class of the NodePools: group/Kind/name.")
    ] = _DEFAULT.node_class,
    image: Annotated[str, typer.Option(help="The operator's image.")] = _DEFAULT.image,
    runtime_image: Annotated[str, typer.Option(help="The model servers' image.")] = _DEFAULT.runtime_image,
    replicas: Annotated[int, typer.Option(min=1, help="How many operators run; one of them leads.")] = (
        _DEFAULT.replicas
    ),
) -> None:
    """Print what the operator needs on a cluster: kaito install | kubectl apply --server-side -f -"""
    source = next((name for name in PROVISIONERS if name == provisioner), None)
    if source is None:
        raise UserError(f"--provisioner {provisioner} is not known.", f"Choose one of {', '.join(PROVISIONERS)}.")
    where = next((name for name in get_args(CloudName) if name == cloud), None)
    if where is None:
        raise UserError(f"--cloud {cloud} is not known.", f"Choose one of {', '.join(get_args(CloudName))}.")
    choice = Installation(
        namespace=namespace,
        image=image,
        runtime_image=runtime_image,
        provisioner=source,
        cloud=where,
        node_class=node_class,
        replicas=replicas,
    )
    manifests = list(custom_resource_definitions()) if crds_only else installed(choice)
    yaml.dump_all(manifests, sys.stdout, Dumper=PlainDumper, sort_keys=False, width=120, allow_unicode=True)
