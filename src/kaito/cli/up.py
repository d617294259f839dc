# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""`kaito up` and `kaito down`: everything on this machine, with a live view while in the foreground."""

from __future__ import annotations

import asyncio
import signal
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console, RenderableType
from rich.live import Live
from rich.text import Text

from kaito.api.meta import WORKSPACES
from kaito.cli import get, machine, settings
from kaito.cli.failure import UserError
from kaito.cli.options import DataDir
from kaito.kube.client import Client
from kaito.kube.config import load_kubeconfig
from kaito.kube.errors import ApiError

KEPT = "Stopped. Your objects are kept; kaito up brings them back."


def up(
    *,
    data_dir: DataDir = None,
    kubeconfig: Annotated[Path | None, typer.Option(help="Write the engine's kubeconfig here.")] = None,
    weights: Annotated[
        list[Path] | None, typer.Option(help="Folder with weights as DIR/<model id>/; repeatable.")
    ] = None,
    runtime: Annotated[
        str, typer.Option(help="Model server when a Workspace names none: auto, vllm, transformers.")
    ] = "auto",
    port: Annotated[int | None, typer.Option(help="Port of the API server on 127.0.0.1.")] = None,
    images: Annotated[Path | None, typer.Option(help="JSON list that maps image names to local commands.")] = None,
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Return when ready, go on in the background.")] = False,
) -> None:
    """Start the engine, the operator and a node on this machine."""
    env = settings.read(data_dir)
    if runtime not in {"auto", "vllm", "transformers"}:
        raise UserError(f"--runtime {runtime} is not known.", "Choose auto, vllm or transformers.")
    options = machine.options_from(
        env, kubeconfig=kubeconfig, weights=weights or [], runtime=runtime, port=port, images=images
    )
    console = Console()
    with console.status("Starting the engine and the operator ..."):
        running = machine.start(options, detach=detach)
    verb = f"is up after {running.seconds:.1f} s" if running.started_here else "was up already"
    console.print(f"The engine {verb}: {running.server}", highlight=False)
    console.print(f"\n  export KUBECONFIG={running.kubeconfig}", soft_wrap=True, highlight=False)
    console.print("  kaito apply -f examples/quickstart.yaml     # or: kubectl apply -f ...\n", highlight=False)
    if detach:
        return
    asyncio.run(watch_until_interrupted(console, running.kubeconfig))
    if running.started_here:
        with console.status("Stopping ..."):
            machine.stop(env.data_dir)
        console.print(KEPT)


async def watch_until_interrupted(console: Console, kubeconfig: Path) -> None:
    """Show the Workspaces until Ctrl-C, SIGTERM or the end of the terminal."""
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    console.print("Ctrl-C stops everything.", style="dim")
    with Live(console=console, auto_refresh=False) as live:
        while not stop.is_set():
            live.update(await look(kubeconfig), refresh=True)
            try:
                await asyncio.wait_for(stop.wait(), 1.0)
            except TimeoutError:
                continue


async def look(kubeconfig: Path) -> RenderableType:
    """What is shown once a second."""
    try:
        async with Client(load_kubeconfig(kubeconfig)) as client:
            found, _ = await client.list_objects(WORKSPACES)
    except (ApiError, ValueError, OSError):
        return Text("The engine is being restarted ...", "yellow")
    if not found:
        return Text("No Workspaces yet.", "dim")
    return get.table(found, datetime.now(UTC), with_namespace=True)


def down(data_dir: DataDir = None) -> None:
    """Stop what kaito up started; objects are kept for the next time."""
    console = Console()
    with console.status("Stopping ..."):
        stopped = machine.stop(settings.read(data_dir).data_dir)
    console.print(KEPT if stopped else "Nothing was running.")
