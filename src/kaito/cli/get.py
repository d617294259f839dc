# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""`kaito get`: Workspaces as a table, and one Workspace with its address and the reasons for its state."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated

import typer
import yaml
from rich.console import Console
from rich.text import Text

from kaito.api.kinds import WORKSPACES
from kaito.cli import connect, layout, phases
from kaito.cli.failure import UserError
from kaito.cli.options import Kubeconfig, Namespace
from kaito.kube.client import Client
from kaito.kube.errors import NotFound
from kaito.kube.manifest import Key, Manifest, key_of, parse_time
from kaito.kube.resource import SERVICES

REACHABLE_AT = "engine.kaito.sh/reachable-at"
"""Where the embedded engine notes the address that answers when it could not bind the Service's own port."""

LOOK_AGAIN_S = 0.5
STYLES = {
    "Ready": "green",
    "Succeeded": "green",
    "Stuck": "red",
    "Pending": "yellow",
    "NotReady": "yellow",
    "Deleting": "dim",
}


def get(
    name: Annotated[str | None, typer.Argument(help="A Workspace; all of them when left out.")] = None,
    *,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Go on: print what changes, until Ctrl-C.")] = False,
    namespace: Namespace = "default",
    all_namespaces: Annotated[bool, typer.Option("--all-namespaces", "-A", help="Of every namespace.")] = False,
    output: Annotated[str, typer.Option("--output", "-o", help="table, yaml or json.")] = "table",
    kubeconfig: Kubeconfig = None,
) -> None:
    """Show Workspaces and why they are in their state."""
    if output not in {"table", "yaml", "json"}:
        raise UserError(f"-o {output} is not known.", "Choose table, yaml or json.")
    if name is not None and all_namespaces:
        raise UserError("A name and --all-namespaces do not go together.", "Say where it is with --namespace.")
    if watch and output != "table":
        raise UserError(f"--watch prints a table, not {output}.", "Leave one of the two out.")
    where = None if all_namespaces else namespace
    asyncio.run(_watch(name, where, kubeconfig) if watch else _get(name, where, output, kubeconfig))


async def _get(name: str | None, namespace: str | None, output: str, kubeconfig: Kubeconfig) -> None:
    console, now = Console(), datetime.now(UTC)
    width = layout.width_of(console)
    async with Client(connect.cluster(kubeconfig)) as client:
        found = await _workspaces(client, name, namespace)
        services = await _services(client, found[0]) if name is not None else []
    if output != "table":
        dump(found[0] if name is not None else {"apiVersion": "v1", "kind": "List", "items": found}, output)
    elif name is not None:
        layout.show(console, detail(found[0], services, now, width))
    elif found:
        layout.show(console, overview(found, now, with_namespace=namespace is None, width=width))
    else:
        where = "any namespace" if namespace is None else f"namespace {namespace}"
        console.print(f"There are no Workspaces in {where}. Create one with: kaito apply -f FILE", soft_wrap=True)


async def _watch(name: str | None, namespace: str | None, kubeconfig: Kubeconfig) -> None:
    """Print every Workspace, then each again when its row or reason changes, and a last time when it is gone."""
    console = Console()
    shown: dict[Key, tuple[str, ...]] = {}
    async with Client(connect.cluster(kubeconfig)) as client:
        while True:
            every = await _workspaces(client, None if shown else name, namespace)
            found = {key_of(one): one for one in every if name in (None, one["metadata"]["name"])}
            facts = {key: _facts(one) for key, one in found.items()}
            changed = [key for key in found if shown.get(key) != facts[key]]
            header, *rows = overview(
                [*found.values()], datetime.now(UTC), with_namespace=namespace is None, one_line=True
            )
            if changed and not shown:
                layout.show(console, [header])
            layout.show(console, [row for key, row in zip(found, rows, strict=True) if key in changed])
            shown |= facts
            for key in set(shown) - set(found):
                layout.show(console, [Text(f"{key} is gone")])
                del shown[key]
                if name is not None:
                    return
            await asyncio.sleep(LOOK_AGAIN_S)


def _facts(workspace: Manifest) -> tuple[str, ...]:
    """What a watcher wants to hear of when it changes."""
    why = phases.trouble(workspace)
    return phases.state_of(workspace), phases.model_of(workspace), why.message if why else ""


async def _workspaces(client: Client, name: str | None, namespace: str | None) -> list[Manifest]:
    if name is not None:
        return [await client.get(WORKSPACES, name, namespace or "default")]
    found, _ = await client.list_objects(WORKSPACES, namespace)
    return found


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


def age(moment: str, now: datetime) -> str:
    """How long ago that was, as kubectl says it: 12s, 3m, 5h, 2d."""
    seconds = int((now - parse_time(moment)).total_seconds())
    for size, unit in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds >= 2 * size:
            return f"{seconds // size}{unit}"
    return f"{max(seconds, 0)}s"


def styled(state: str) -> Text:
    """The state in its colour."""
    return Text(state, STYLES.get(state, ""))


def overview(
    workspaces: Sequence[Manifest],
    now: datetime,
    *,
    with_namespace: bool,
    width: int | None = None,
    one_line: bool = False,
) -> list[Text]:
    """One row a Workspace, then why each one that is not ready is not; in its row when `one_line`."""
    header = ["NAME", "MODEL", "STATE", "AGE"] + (["WHY"] if one_line else [])
    rows: list[list[layout.Cell]] = []
    for one in workspaces:
        why = phases.trouble(one)
        row = [
            one["metadata"]["name"],
            phases.model_of(one),
            styled(phases.state_of(one)),
            age(one["metadata"]["creationTimestamp"], now),
            *([why.message if why else ""] if one_line else []),
        ]
        rows.append([one["metadata"]["namespace"], *row] if with_namespace else row)
    lines = layout.table(["NAMESPACE", *header] if with_namespace else header, rows)
    return lines if one_line else lines + reasons(workspaces, width)


def reasons(workspaces: Sequence[Manifest], width: int | None) -> list[Text]:
    """A paragraph for each Workspace that is not ready; nothing when all are."""
    lines: list[Text] = []
    for workspace in workspaces:
        why = phases.trouble(workspace)
        if why is not None:
            lines += layout.paragraph(f"{workspace['metadata']['name']}: {why.message}", width=width)
    return [Text(""), *lines] if lines else []


def detail(workspace: Manifest, services: list[Manifest], now: datetime, width: int | None = None) -> list[Text]:
    """One Workspace: what it runs, where it answers, and its conditions with their messages below them."""
    meta, status = workspace["metadata"], workspace.get("status") or {}
    state = phases.state_of(workspace)
    facts: list[list[layout.Cell]] = [
        ["Name", str(key_of(workspace))],
        ["Model", phases.model_of(workspace)],
        ["State", styled(state)],
        ["Age", age(meta["creationTimestamp"], now)],
    ]
    if status.get("workerNodes"):
        facts.append(["Nodes", ", ".join(status["workerNodes"])])
    for address in [address for service in services for address in addresses(service)]:
        facts.append(["Answers at", address])
    lines = layout.table(("", ""), facts)[1:]
    found = status.get("conditions") or []
    if not found:
        return [*lines, Text(""), Text("No conditions yet: the operator has not taken it up.")]
    rows = [
        [
            one["type"],
            Text(one["status"], {"True": "green", "False": "red"}.get(one["status"], "yellow")),
            age(one["lastTransitionTime"], now) if one.get("lastTransitionTime") else "",
            one.get("reason", ""),
        ]
        for one in found
    ]
    header, *conditions = layout.table(("CONDITION", "STATUS", "SINCE", "REASON"), rows)
    lines += [Text(""), header]
    for row, condition in zip(conditions, found, strict=True):
        lines += [row, *layout.paragraph(condition.get("message", ""), indent=4, width=width)]
    return lines


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
