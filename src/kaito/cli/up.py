# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""`kaito up` and `kaito down`: everything on this machine, with a live view while in the foreground."""

from __future__ import annotations

import asyncio
import shlex
import signal
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.live import Live

from kaito.cli import layout, live, local, machine, settings, terminal
from kaito.cli.failure import UserError
from kaito.cli.options import DataDir
from kaito.cli.progress import Progress

LOOK_AGAIN_S = 0.5
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
    port: Annotated[
        int | None,
        typer.Option(min=1, max=65535, help="Port of the API server on 127.0.0.1; default 6443, or the next free one."),
    ] = None,
    images: Annotated[Path | None, typer.Option(help="YAML or JSON list that maps images to local commands.")] = None,
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
    if not running.started_here and (weights or images or port or runtime != "auto"):
        console.print("It keeps the options that it was started with; to change them: kaito down, then kaito up.")
    console.print(f"\n  export KUBECONFIG={shlex.quote(str(running.kubeconfig))}", soft_wrap=True, highlight=False)
    console.print("  kaito apply -f examples/quickstart.yaml     # or: kubectl apply -f ...\n", highlight=False)
    if detach:
        return
    try:
        console.print(f"Ctrl-C {'stops everything' if running.started_here else 'ends this view'}.\n", style="dim")
        asyncio.run(watch_until_interrupted(console, env.data_dir, running.kubeconfig))
    finally:
        if running.started_here:
            with console.status("Stopping ..."):
                machine.stop(env.data_dir)
            console.print(KEPT)


async def watch_until_interrupted(console: Console, data_dir: Path, kubeconfig: Path) -> None:
    """Show the Workspaces until Ctrl-C, SIGTERM, the end of the terminal, or of what is shown (`kaito down`)."""
    stop = asyncio.Event()

    def hang_up() -> None:
        terminal.let_go()
        stop.set()

    for number, handler in ((signal.SIGINT, stop.set), (signal.SIGTERM, stop.set), (signal.SIGHUP, hang_up)):
        asyncio.get_running_loop().add_signal_handler(number, handler)
    seen = Progress()
    with Live(console=console, auto_refresh=False) as view:
        while not stop.is_set() and local.running(data_dir) is not None:
            view.update(await live.look(kubeconfig, seen, layout.width_of(console)), refresh=True)
            try:
                await asyncio.wait_for(stop.wait(), LOOK_AGAIN_S)
            except TimeoutError:
                continue


def down(data_dir: DataDir = None) -> None:
    """Stop what kaito up started; objects are kept for the next time."""
    console = Console()
    with console.status("Stopping ..."):
        stopped = machine.stop(settings.read(data_dir).data_dir)
    console.print(KEPT if stopped else "Nothing was running.")
