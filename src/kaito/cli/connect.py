# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Which cluster a command talks to, and objects named by users turned into requests.

In this order: --kubeconfig, KUBECONFIG, the engine that runs here (`kaito up`), kubectl's own ~/.kube/config.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from kaito.cli import local, settings
from kaito.cli.failure import UserError
from kaito.kube.client import Client
from kaito.kube.config import ClusterConfig, load_kubeconfig
from kaito.kube.errors import NotFound, error_from_response
from kaito.kube.manifest import Manifest
from kaito.kube.resource import WELL_KNOWN, Resource


def kubeconfig_path(chosen: Path | None, env: settings.Settings) -> Path:
    """The kubeconfig to use. Raises UserError when there is none."""
    if chosen is not None:
        if not chosen.exists():
            raise UserError(f"The kubeconfig {chosen} does not exist.", "Check --kubeconfig.")
        return chosen
    if env.kubeconfig is not None:
        if not env.kubeconfig.exists():
            raise UserError(f"KUBECONFIG names {env.kubeconfig}, which does not exist.", "Unset it, or run: kaito up")
        return env.kubeconfig
    state = local.running(env.data_dir)
    if state is not None:
        return Path(state.kubeconfig)
    if env.home_kubeconfig.exists():
        return env.home_kubeconfig
    raise UserError("There is no cluster to talk to.", "Start one on this machine with: kaito up --detach")


def cluster(chosen: Path | None, data_dir: Path | None = None) -> ClusterConfig:
    """The cluster that a command should talk to."""
    return load_kubeconfig(kubeconfig_path(chosen, settings.read(data_dir)))


async def resource_for(client: Client, manifest: Manifest) -> Resource:
    """The resource of a manifest: known ones at once, others through the server's discovery.

    Raises UserError when the server does not serve the kind.
    """
    api_version, kind = manifest["apiVersion"], manifest["kind"]
    for known in WELL_KNOWN:
        if known.kind == kind and known.api_version == api_version:
            return known
    group, _, version = api_version.rpartition("/")
    try:
        body = await request(client, "GET", f"/apis/{group}/{version}" if group else f"/api/{version}")
    except NotFound:
        body = b"{}"
    served = msgspec.json.decode(body).get("resources", [])
    for entry in served:
        if entry["kind"] == kind and "/" not in entry["name"]:
            return Resource(group, version, entry["name"], kind, entry["namespaced"])
    raise UserError(
        f"The cluster does not know {kind} in {api_version}.", "Is the kaito operator (kaito up) running there?"
    )


async def request(client: Client, method: str, path: str, **rest: Any) -> bytes:
    """The body of a successful answer. Raises ApiError for any other."""
    answer = await client.raw(method, path, **rest)
    if answer.status >= 400:
        raise error_from_response(answer.status, answer.body)
    return answer.body
