# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""`kaito apply` and `kaito delete`: manifests from files to the server, and away from it."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
import yaml
from rich.console import Console

from kaito.api.kinds import WORKSPACES
from kaito.cli import connect, wait
from kaito.cli.failure import UserError
from kaito.cli.options import Kubeconfig, Namespace
from kaito.kube.client import Client
from kaito.kube.errors import NotFound
from kaito.kube.manifest import Key, Manifest

FIELD_MANAGER = "kaito-cli"


def manifests(source: str) -> list[Manifest]:
    """The objects in a file, a folder (its .yaml, .yml and .json files in order of name) or, for "-", standard input.

    Raises UserError that names the file and what is wrong in it.
    """
    if source == "-":
        found = list(_parse(sys.stdin.read(), "standard input"))
    else:
        path = Path(source)
        if not path.exists():
            raise UserError(f"{source} does not exist.", "Check the path given with -f.")
        files = sorted(f for f in path.iterdir() if f.suffix in {".yaml", ".yml", ".json"}) if path.is_dir() else [path]
        found = [manifest for file in files for manifest in _parse(_read(file), str(file))]
    if not found:
        raise UserError(
            f"There is no object in {source}.", "A manifest has at least apiVersion, kind and metadata.name."
        )
    return found


def _read(file: Path) -> str:
    try:
        return file.read_text()
    except UnicodeDecodeError as error:
        raise UserError(f"{file} is not text in UTF-8.", "Check the path given with -f.") from error
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror}.", "Check the path given with -f.") from error


def _parse(text: str, where: str) -> Iterator[Manifest]:
    try:
        documents = list(yaml.safe_load_all(text))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" in line {mark.line + 1}" if mark else ""
        raise UserError(
            f"{where} is no valid YAML{line}: {getattr(error, 'problem', error)}.", "Correct it."
        ) from error
    for document in documents:
        if document is not None:
            yield from _objects(document, where)


def _objects(document: Any, where: str) -> Iterator[Manifest]:
    """The object, or those of a List. Raises UserError for what is no object."""
    for needed in ("apiVersion", "kind"):
        if not isinstance(document, dict) or not isinstance(document.get(needed), str):
            raise UserError(f"{where} holds something without {needed}.", "Every object needs apiVersion and kind.")
    if document["kind"] == "List":
        items = document.get("items") or []
        if not isinstance(items, list):
            raise UserError(f"{where} holds a List whose items are no list.", "Write items as a YAML list.")
        for item in items:
            yield from _objects(item, where)
        return
    meta = document.get("metadata")
    if not isinstance(meta, dict) or not isinstance(meta.get("name"), str) or not meta["name"]:
        raise UserError(
            f"{where} holds a {document['kind']} without metadata.name.", "Give it a name, in quotes if it is a number."
        )
    yield document


def apply(
    filename: Annotated[list[str], typer.Option("--filename", "-f", help="A manifest file, a folder, or - for stdin.")],
    *,
    namespace: Namespace = "default",
    kubeconfig: Kubeconfig = None,
    wait_ready: Annotated[bool, typer.Option("--wait", help="Wait until the Workspaces are Ready.")] = False,
    timeout: Annotated[float, typer.Option(help="Seconds to wait at most.")] = 1800.0,
) -> None:
    """Create or change the objects in manifests."""
    found = [manifest for source in filename for manifest in manifests(source)]

    async def work() -> None:
        console = Console()
        async with Client(connect.cluster(kubeconfig)) as client:
            for key, kind in await send(client, found, namespace):
                console.print(f"{kind} {key} applied", highlight=False)
                if wait_ready and kind == "Workspace":
                    await wait.show_phases(console, client, key, timeout_s=timeout)

    asyncio.run(work())


def delete(
    name: Annotated[str | None, typer.Argument(help="A Workspace.")] = None,
    *,
    filename: Annotated[
        list[str] | None, typer.Option("--filename", "-f", help="Delete what these manifests name.")
    ] = None,
    namespace: Namespace = "default",
    kubeconfig: Kubeconfig = None,
) -> None:
    """Delete a Workspace, or the objects in manifests; waits until Workspaces are gone."""
    if (name is None) == (not filename):
        raise UserError("Say what to delete.", "Either a name, as in kaito delete demo, or -f FILE.")
    named = {"apiVersion": WORKSPACES.api_version, "kind": "Workspace", "metadata": {"name": name}}
    found = [manifest for source in filename or [] for manifest in manifests(source)] or [named]

    async def work() -> None:
        console = Console()
        async with Client(connect.cluster(kubeconfig)) as client:
            for key, kind, was_there in await remove(client, found, namespace):
                if name is not None and not was_there:
                    raise UserError(f"There is no Workspace {key}.", "List what is there with: kaito get -A")
                if kind == "Workspace" and was_there:
                    await wait.until_gone(client, key)
                console.print(f"{kind} {key} {'deleted' if was_there else 'was not there'}", highlight=False)

    asyncio.run(work())


async def send(client: Client, found: list[Manifest], namespace: str) -> list[tuple[Key, str]]:
    """Server-side apply each object. Returns its key and kind.

    Unknown fields are refused by the server (strict field validation). Raises ApiError or UserError.
    """
    done = []
    for manifest in found:
        resource = await connect.resource_for(client, manifest)
        where = manifest["metadata"].get("namespace") or namespace if resource.namespaced else ""
        name = manifest["metadata"]["name"]
        await connect.request(
            client,
            "PATCH",
            resource.path(where, name),
            params={"fieldManager": FIELD_MANAGER, "force": "true", "fieldValidation": "Strict"},
            body=msgspec.json.encode(manifest),
            headers={"Content-Type": "application/apply-patch+yaml"},
        )
        done.append((Key(where, name), resource.kind))
    return done


async def remove(client: Client, found: list[Manifest], namespace: str) -> list[tuple[Key, str, bool]]:
    """Delete each object, last one first. Returns its key, kind and whether it was there."""
    done = []
    for manifest in reversed(found):
        resource = await connect.resource_for(client, manifest)
        where = manifest["metadata"].get("namespace") or namespace if resource.namespaced else ""
        name = manifest["metadata"]["name"]
        try:
            await client.delete(resource, name, where)
            done.append((Key(where, name), resource.kind, True))
        except NotFound:
            done.append((Key(where, name), resource.kind, False))
    return done
