# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Every call that a backend makes, as the right that the cloud asks for it. Policies are made of these tables.

Tests record what the backends really call and compare. Nothing here loads an SDK.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

Calls = Mapping[str, tuple[str, ...]]
"""By method of a backend."""

AWS: Final[Calls] = {
    "create": ("eks:DescribeCluster", "ssm:GetParameter", "ec2:DescribeSubnets", "ec2:RunInstances"),
    "get": ("ec2:DescribeInstances",),
    "list": ("ec2:DescribeInstances",),
    "delete": ("ec2:TerminateInstances",),
    "instance_types": ("ec2:DescribeSubnets", "ec2:DescribeInstanceTypeOfferings"),
}
"""Cluster, image and subnets are asked for once."""
AWS_BESIDE: Final[Calls] = {"ec2:RunInstances": ("ec2:CreateTags", "iam:PassRole")}
"""Rights that an operation needs beside its own: RunInstances tags, and hands on the nodes' role."""

_POOLS: Final = "Microsoft.ContainerService/managedClusters/agentPools"
AKS_OPERATION: Final = "Microsoft.ContainerService/locations/operations/read"
AKS: Final[Calls] = {
    "create": (f"{_POOLS}/write", f"{_POOLS}/read"),
    "get": (f"{_POOLS}/read",),
    "list": (f"{_POOLS}/read", AKS_OPERATION),
    "delete": (f"{_POOLS}/delete",),
    "instance_types": (),
}
"""The operation is read for pools that fail."""

GCP: Final[Calls] = {
    "create": ("container.clusters.update", "container.clusters.get"),
    "get": ("container.clusters.get",),
    "list": ("container.clusters.get", "container.operations.get"),
    "delete": ("container.clusters.update",),
    "instance_types": (),
}
"""The operation is read for pools that fail. A pool is part of its cluster, hence the names."""


def rights(calls: Calls, beside: Calls | None = None) -> list[str]:
    """All of a table, each once, sorted."""
    direct = {right for needed in calls.values() for right in needed}
    return sorted(direct | {right for one in direct for right in (beside or {}).get(one, ())})
