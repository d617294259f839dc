# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""`kaito up` and `kaito down`: everything on this machine, with a live view while in the foreground."""

from __future__ import annotations

import asyncio
import shlex
import signal
import socket
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.live import Live

from kaito.cli import cluster, layout, live, local, machine, settings, terminal
from kaito.cli.failure import UserError
from kaito.cli.options import DataDir
from kaito.cli.progress import Progress
from kaito.kube.config import load_kubeconfig

LOOK_AGAIN_S = 0.5
PROVISIONERS = ("byo", "nodeclaim", "karpenter")
KEPT = "Stopped. Your objects are kept; kaito up brings them back."
LEFT = "Stopped. The cluster and what runs in it go on."


def up(
    *,
    data_dir: DataDir = None,
    kubeconfig: Annotated[
        Path | None,
        typer.Option(
            help="Of a cluster that exists: run the operator alone here and work on that cluster. "
            "A new file: where the engine's own kubeconfig goes."
        ),
    ] = None,
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
    provisioner: Annotated[
        str | None,
        typer.Option(
            help="Where nodes come from. On a cluster that exists: byo (default), nodeclaim, karpenter. On the engine: "
            "nodeclaim, to watch machines being ordered (simulated ones, or this one as the instanceType local); "
            "without it this machine is the node."
        ),
    ] = None,
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="Do not ask before working on a cluster that exists.")
    ] = False,
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Return when ready, go on in the background.")] = False,
) -> None:
    """Start the engine, the operator and a node on this machine; or the operator alone, for a cluster that exists."""
    env = settings.read(data_dir)
    if runtime not in {"auto", "vllm", "transformers"}:
        raise UserError(f"--runtime {runtime} is not known.", "Choose auto, vllm or transformers.")
    console = Console()
    login = cluster.existing_cluster(kubeconfig.expanduser().absolute(), env.data_dir) if kubeconfig else None
    if kubeconfig is not None and login is not None:
        refuse_machine_options(kubeconfig, weights=weights, port=port, images=images)
        found = asyncio.run(cluster.look_at(kubeconfig.expanduser().absolute(), login))
        options = machine.options_for_cluster(env, found, runtime=runtime, provisioner=provisioner_of(provisioner))
        agree(console, found, yes=yes)
        asyncio.run(cluster.prepare(login))
    else:
        options = machine.options_from(
            env, kubeconfig=kubeconfig, weights=weights or [], runtime=runtime, port=port, images=images,
            provisioner=provisioner_of_engine(provisioner),
        )  # fmt: skip
    parts = "operator" if options.existing else "engine and the operator"
    with console.status(f"Starting the {parts} ..."):
        running = machine.start(options, detach=detach)
    changed = bool(weights or images or port or runtime != "auto")
    tell(console, options, running, changed=changed)
    if not detach:
        stay(console, options, running)


def provisioner_of(name: str | None) -> str | None:
    """The provisioner, if it can serve a cluster that exists. Raises UserError."""
    if name not in (None, *PROVISIONERS):
        raise UserError(f"--provisioner {name} is not known.", f"Choose {', '.join(PROVISIONERS)}.")
    return name


def provisioner_of_engine(name: str | None) -> str | None:
    """The provisioner, if the engine can play its machines. Raises UserError."""
    if name in (None, "nodeclaim"):
        return name
    if name in PROVISIONERS:
        raise UserError(
            f"--provisioner {name} is for a cluster that exists.", "Give its --kubeconfig, or leave it out."
        )
    raise UserError(f"--provisioner {name} is not known.", "Choose nodeclaim, or leave it out.")


def refuse_machine_options(
    kubeconfig: Path, *, weights: list[Path] | None, port: int | None, images: Path | None
) -> None:
    """Raises UserError for options that speak of the engine, which does not run here then."""
    given = [name for name, value in (("--weights", weights), ("--port", port), ("--images", images)) if value]
    if given:
        raise UserError(
            f"{' and '.join(given)} is for the engine on this machine, but {kubeconfig} names a cluster that exists.",
            f"Leave {' and '.join(given)} out, or choose a new file for --kubeconfig.",
        )


def agree(console: Console, found: cluster.Cluster, *, yes: bool) -> None:
    """Say what will happen to the cluster and have it confirmed. Raises UserError when it is not."""
    lines = [f"{found.kubeconfig} names a cluster that exists: {found.server} ({found.version})."]
    lines.append("The operator will run on this machine and work on that cluster.")
    if found.missing:
        lines.append(f"It installs there: {', '.join(found.missing)}.")
    for line in lines:
        console.print(line, highlight=False, soft_wrap=True)
    if yes:
        return
    if not console.is_terminal:
        raise UserError("Nothing was done: nobody was here to agree.", "Add --yes to go on without being asked.")
    typer.confirm("Go on?", abort=True)


def tell(console: Console, options: machine.Options, running: machine.Up, *, changed: bool) -> None:
    """Say that it is up, where, and what to do next."""
    what = "operator" if options.existing else "engine"
    verb = f"is up after {running.seconds:.1f} s" if running.started_here else "was up already"
    preposition = "for " if options.existing else ""
    console.print(f"The {what} {verb}: {preposition}{running.server}", highlight=False)
    leader = asyncio.run(cluster.leader(load_kubeconfig(running.kubeconfig))) if options.existing else ""
    if leader not in ("", socket.gethostname()):
        console.print(f"The operator of {leader} works there; this one stands by, and takes over when that one ends.")
    if not running.started_here and changed:
        console.print("It keeps the options that it was started with; to change them: kaito down, then kaito up.")
    console.print(f"\n  export KUBECONFIG={shlex.quote(str(running.kubeconfig))}", soft_wrap=True, highlight=False)
    console.print("  kaito apply -f examples/quickstart.yaml     # or: kubectl apply -f ...\n", highlight=False)


def stay(console: Console, options: machine.Options, running: machine.Up) -> None:
    """Show the Workspaces until interrupted; what this command started ends with it."""
    try:
        console.print(f"Ctrl-C {'stops everything' if running.started_here else 'ends this view'}.\n", style="dim")
        asyncio.run(watch_until_interrupted(console, options.data_dir, running.kubeconfig))
    finally:
        if running.started_here:
            with console.status("Stopping ..."):
                machine.stop(options.data_dir)
            console.print(LEFT if options.existing else KEPT)


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
    chosen = settings.read(data_dir).data_dir
    state = local.load(chosen)
    with console.status("Stopping ..."):
        stopped = machine.stop(chosen)
    said = LEFT if state is not None and state.engine is None else KEPT
    console.print(said if stopped else "Nothing was running.")
