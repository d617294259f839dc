# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""`kaito get`: Workspaces as a table, and one Workspace with the reasons for its state."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime
from typing import Annotated

import typer
import yaml
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from kaito.api.meta import WORKSPACES
from kaito.cli import connect, phases
from kaito.cli.failure import UserError
from kaito.cli.options import Kubeconfig, Namespace
from kaito.kube.client import Client
from kaito.kube.errors import NotFound
from kaito.kube.manifest import Manifest, parse_time
from kaito.kube.resource import SERVICES

REACHABLE_AT = "engine.kaito.sh/reachable-at"
"""Where the embedded engine notes the address that answers when it could not bind the Service's own port."""

STYLES = {"Ready": "green", "Stuck": "red", "Pending": "yellow", "NotReady": "yellow", "Deleting": "dim"}


def get(
    name: Annotated[str | None, typer.Argument(help="A Workspace; all of them when left out.")] = None,
    *,
    namespace: Namespace = "default",
    all_namespaces: Annotated[bool, typer.Option("--all-namespaces", "-A", help="Of every namespace.")] = False,
    output: Annotated[str, typer.Option("--output", "-o", help="table, yaml or json.")] = "table",
    kubeconfig: Kubeconfig = None,
) -> None:
    """Show Workspaces and why they are in their state."""
    if output not in {"table", "yaml", "json"}:
        raise UserError(f"-o {output} is not known.", "Choose table, yaml or json.")
    asyncio.run(_get(name, None if all_namespaces else namespace, output, kubeconfig))


async def _get(name: str | None, namespace: str | None, output: str, kubeconfig: Kubeconfig) -> None:
    console, now = Console(), datetime.now(UTC)
    async with Client(connect.cluster(kubeconfig)) as client:
        if name is not None:
            workspace = await client.get(WORKSPACES, name, namespace or "default")
            found, services = [workspace], await _services(client, workspace)
        else:
            (found, _), services = await client.list_objects(WORKSPACES, namespace), []
    if output != "table":
        dump(found[0] if name is not None else {"apiVersion": "v1", "kind": "List", "items": found}, output)
    elif name is not None:
        console.print(detail(found[0], services, now))
    elif found:
        console.print(table(found, now, with_namespace=namespace is None))
    else:
        console.print("There are no Workspaces here. Create one with: kaito apply -f FILE")


async def _services(client: Client, workspace: Manifest) -> list[Manifest]:
    """The Workspace's own Service, if it is there yet."""
    meta = workspace["metadata"]
    try:
        return [await client.get(SERVICES, meta["name"], meta["namespace"])]
    except NotFound:
        return []


def dump(obj: Manifest, output: str) -> None:
    """Print the object for another program."""
    print(json.dumps(obj, indent=2) if output == "json" else yaml.safe_dump(obj, sort_keys=False).rstrip())


def age(obj: Manifest, now: datetime) -> str:
    """How old the object is, as kubectl says it: 12s, 3m, 5h, 2d."""
    seconds = int((now - parse_time(obj["metadata"]["creationTimestamp"])).total_seconds())
    for size, unit in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds >= 2 * size:
            return f"{seconds // size}{unit}"
    return f"{max(seconds, 0)}s"


def table(workspaces: list[Manifest], now: datetime, *, with_namespace: bool) -> Table:
    """One row a Workspace: what it runs, its state, and why it is not ready."""
    found = Table(box=None, pad_edge=False, header_style="bold")
    for column in (["NAMESPACE"] if with_namespace else []) + ["NAME", "MODEL", "STATE", "NODES", "AGE", "WHY"]:
        found.add_column(column, overflow="fold")
    for workspace in workspaces:
        state = phases.state_of(workspace)
        why = phases.trouble(workspace)
        nodes = ",".join((workspace.get("status") or {}).get("workerNodes") or []) or "-"
        row = [
            workspace["metadata"]["name"],
            phases.model_of(workspace),
            Text(state, STYLES.get(state, "")),
            nodes,
            age(workspace, now),
            why.message if why else "",
        ]
        found.add_row(*([workspace["metadata"]["namespace"]] if with_namespace else []), *row)
    return found


def detail(workspace: Manifest, services: list[Manifest], now: datetime) -> RenderableType:
    """One Workspace with its conditions and where it answers."""
    conditions = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("CONDITION", "STATUS", "REASON", "MESSAGE"):
        conditions.add_column(column, overflow="fold")
    for condition in (workspace.get("status") or {}).get("conditions") or []:
        style = {"True": "green", "False": "red"}.get(condition["status"], "yellow")
        conditions.add_row(
            condition["type"], Text(condition["status"], style), condition.get("reason"), condition.get("message")
        )
    lines: list[RenderableType] = [table([workspace], now, with_namespace=False), ""]
    lines += [f"Answers at {address}" for service in services for address in addresses(service)]
    return Group(*lines, "", conditions)


def addresses(service: Manifest) -> list[str]:
    """The URLs at which a Service answers from this machine's or the cluster's inside."""
    spec = service.get("spec") or {}
    if spec.get("clusterIP") in (None, "", "None"):
        return []
    annotation = (service["metadata"].get("annotations") or {}).get(REACHABLE_AT, "")
    moved = dict(pair.split("=", 1) for pair in annotation.split(",") if "=" in pair)
    found = []
    for port in spec.get("ports") or []:
        if port.get("name") == "http":
            direct = spec["clusterIP"] if port["port"] == 80 else f"{spec['clusterIP']}:{port['port']}"
            found.append(f"http://{moved.get(str(port['port']), direct)}")
    return found
