# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""`kaito logs`: what the model server or the fine-tuning of a Workspace says."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Annotated

import typer

from kaito.api import names
from kaito.api.kinds import WORKSPACES
from kaito.cli import connect
from kaito.cli.failure import UserError
from kaito.cli.options import Kubeconfig, Namespace
from kaito.kube.client import Client
from kaito.kube.manifest import Manifest
from kaito.kube.resource import PODS


def logs(
    name: Annotated[str, typer.Argument(help="The Workspace.")],
    *,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as new lines come.")] = False,
    previous: Annotated[bool, typer.Option("--previous", "-p", help="Of the run before the last restart.")] = False,
    tail: Annotated[int | None, typer.Option(help="Only the last lines.")] = None,
    index: Annotated[int, typer.Option(help="Which pod of several.")] = 0,
    namespace: Namespace = "default",
    kubeconfig: Kubeconfig = None,
) -> None:
    """Print what the model server, or the fine-tuning, of a Workspace says."""
    query = {"follow": follow, "previous": previous, "tailLines": tail}
    params = {key: str(value).lower() for key, value in query.items() if value}
    asyncio.run(_print(name, index, namespace, params, kubeconfig))


async def _print(name: str, index: int, namespace: str, params: dict[str, str], kubeconfig: Kubeconfig) -> None:
    async with Client(connect.cluster(kubeconfig)) as client:
        workspace = await client.get(WORKSPACES, name, namespace)
        pod = await _job_pod(client, name, namespace) if workspace.get("tuning") else f"{name}-{index}"
        path = PODS.path(namespace, pod, subresource="log")
        async with client.stream("GET", path, params=params) as response:
            if response.status != 200:
                text = b"".join([chunk async for chunk in response]).decode(errors="replace")
                raise UserError(f"{name} has no logs yet: {message_in(text)}", f"See why: kaito get {name}")
            async for chunk in response:
                sys.stdout.buffer.write(chunk)
                sys.stdout.buffer.flush()


async def _job_pod(client: Client, name: str, namespace: str) -> str:
    """The pod of the latest attempt of a fine-tuning; a Job chooses its pods' names. Raises UserError."""
    selector = f"{names.WORKSPACE_LABEL}={name}"
    pods, _ = await client.list_objects(PODS, namespace=namespace, label_selector=selector)
    latest = newest(pods)
    if latest is None:
        raise UserError(f"{name} has no pod yet.", f"See why: kaito get {name}")
    return latest


def newest(pods: list[Manifest]) -> str | None:
    """The name of the pod that was made last; None where there is none."""
    return max(((pod["metadata"]["creationTimestamp"], pod["metadata"]["name"]) for pod in pods), default=(None, None))[
        1
    ]


def message_in(text: str) -> str:
    """The message of a Status in JSON, or the text itself."""
    try:
        return str(json.loads(text)["message"])
    except (ValueError, LookupError, TypeError):
        return text[:200]
