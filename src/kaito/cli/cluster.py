# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""`kaito up` on a cluster that exists: whose kubeconfig a file is, and whether our operator can work over there.

On such a cluster the operator alone runs on this machine; its nodes, its server and everything in it are left as they
are, but for our CustomResourceDefinitions. `machine.py` starts the process.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from kaito.api.kinds import DEFINED, definition_name
from kaito.cli.connect import request
from kaito.cli.failure import UserError
from kaito.cli.probe import listens
from kaito.kube.client import Client
from kaito.kube.config import ClusterConfig, ConfigError, load_kubeconfig
from kaito.kube.errors import ApiError, NotFound
from kaito.kube.manifest import Manifest
from kaito.kube.resource import CUSTOM_RESOURCE_DEFINITIONS, LEASES, NAMESPACES, Resource

OPERATOR_LEASE = "kaito-operator"
OPERATOR_NAMESPACE = "kaito-system"
"""Where the operator's Lease is, so that two operators never work on one cluster."""
REVIEWS = Resource("authorization.k8s.io", "v1", "selfsubjectaccessreviews", "SelfSubjectAccessReview", False)


@dataclass(frozen=True, slots=True)
class Cluster:
    """A cluster that somebody else runs, as it was found."""

    kubeconfig: Path
    server: str
    version: str
    missing: tuple[str, ...]
    """Our CustomResourceDefinitions that are not there yet."""
    may_install: bool
    """Whether this login may write CustomResourceDefinitions."""


def existing_cluster(kubeconfig: Path, data_dir: Path) -> ClusterConfig | None:
    """The cluster of somebody else that the file names; None when it is for our engine to write.

    A file is our engine's when its login trusts the certificate authority of our data folder. Where that folder is
    gone, a file in the form of an engine's is a left-over of it, once nobody answers at its server. Raises UserError
    for any other file that names no cluster: the engine would write over it.
    """
    if not kubeconfig.exists() or not kubeconfig.read_bytes().strip():
        return None
    try:
        config = load_kubeconfig(kubeconfig)
    except ConfigError as error:
        raise UserError(
            f"{kubeconfig} is not a file of kaito's own, and names no cluster: {error}.", "Choose another --kubeconfig."
        ) from error
    return None if _is_our_engines(kubeconfig, config, data_dir) else config


def _is_our_engines(kubeconfig: Path, config: ClusterConfig, data_dir: Path) -> bool:
    authority = data_dir / "pki" / "ca.crt"
    if authority.exists():
        return config.ca_pem == authority.read_text()
    parts = urlsplit(config.server)
    is_local = parts.hostname == "127.0.0.1" and "name: kaito\n" in kubeconfig.read_text()
    return is_local and not listens(config.server)


async def look_at(kubeconfig: Path, config: ClusterConfig) -> Cluster:
    """What the cluster is and lacks. Raises UserError when it cannot be used, ApiError as the server says."""
    async with Client(config) as client:
        try:
            version = msgspec.json.decode(await request(client, "GET", "/version"))
        except ApiError as error:
            if error.status:
                raise
            raise UserError(
                f"The cluster of {kubeconfig} does not answer at {config.server}: {error}.",
                "Start it, or choose another --kubeconfig.",
            ) from error
        missing = [name for name in map(definition_name, DEFINED) if not await _is_there(client, name)]
        may_install = await _may(client, "patch", CUSTOM_RESOURCE_DEFINITIONS)
        cluster = Cluster(kubeconfig, config.server, str(version.get("gitVersion", "")), tuple(missing), may_install)
        if missing and not may_install:
            raise UserError(
                f"{', '.join(missing)} is not installed in the cluster, and this login may not install it.",
                "Ask an administrator to run: kubectl apply -f charts/kaito/crds",
            )
        return cluster


async def _is_there(client: Client, name: str) -> bool:
    try:
        await client.get(CUSTOM_RESOURCE_DEFINITIONS, name)
    except NotFound:
        return False
    return True


async def _may(client: Client, verb: str, resource: Resource) -> bool:
    asked = {"group": resource.group, "resource": resource.plural, "verb": verb}
    review = {"apiVersion": REVIEWS.api_version, "kind": REVIEWS.kind, "spec": {"resourceAttributes": asked}}
    answer = await client.create(REVIEWS, review)
    return bool((answer.get("status") or {}).get("allowed"))


async def prepare(config: ClusterConfig) -> None:
    """Make the namespace of the operator's Lease, where it is missing. Raises ApiError."""
    async with Client(config) as client:
        try:
            await client.get(NAMESPACES, OPERATOR_NAMESPACE)
        except NotFound:
            namespace: Manifest = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": OPERATOR_NAMESPACE}}
            await client.create(NAMESPACES, namespace)


async def leader(config: ClusterConfig) -> str:
    """The machine or pod whose operator works on the cluster now; empty when nobody's does."""
    async with Client(config) as client:
        try:
            lease = await client.get(LEASES, OPERATOR_LEASE, OPERATOR_NAMESPACE)
        except ApiError:
            return ""
        return str((lease.get("spec") or {}).get("holderIdentity") or "")
