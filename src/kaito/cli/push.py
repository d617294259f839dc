# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""`kaito models push`: a folder with a model, or with an adapter, into a registry, so that Workspaces can name it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from kaito.cli import settings
from kaito.cli.failure import UserError
from kaito.runtime.artifacts.pack import files_of, only_safe
from kaito.runtime.artifacts.push import LICENSES, REVISION, SOURCE, Pushed, Target, push_image, push_model
from kaito.runtime.failure import Failed

Folder = Annotated[Path, typer.Argument(help="The folder with the model's or the adapter's files.", metavar="DIR")]
Reference = Annotated[str, typer.Argument(help="Where to, as registry/name:tag.", metavar="REFERENCE")]


def group() -> typer.Typer:
    """The commands below `kaito models`."""
    app = typer.Typer(name="models", no_args_is_help=True, help="Models in registries.")
    app.callback()(_models)
    app.command("push")(push)
    return app


def _models() -> None:
    """Models in registries."""


def push(
    folder: Folder,
    reference: Reference,
    *,
    image: Annotated[
        bool, typer.Option("--image", help="Push a container image with the files below /data, as adapters need it.")
    ] = False,
    license_: Annotated[str, typer.Option("--license", help="The licence, as an SPDX expression.")] = "",
    source: Annotated[str, typer.Option("--source", help="Where the files come from, as a URL.")] = "",
    revision: Annotated[str, typer.Option("--revision", help="The commit of the source.")] = "",
    allow_pickle: Annotated[
        bool, typer.Option("--allow-pickle", help="Push weights in formats that can run code, too.")
    ] = False,
    ca_file: Annotated[
        Path | None, typer.Option("--ca-file", help="Certificate authorities (PEM) of the registry.")
    ] = None,
) -> None:
    """Push a model as an OCI artifact (a file a layer), or as an image; log in with `docker login` first."""
    given = {LICENSES: license_, SOURCE: source, REVISION: revision}
    annotations = {key: value for key, value in given.items() if value}
    target = Target(reference, (settings.read().docker_config,), ca_file=ca_file, ask_helpers=True)
    try:
        files = files_of(folder)
        total = sum(path.stat().st_size for path in files.values())
        if not allow_pickle:
            only_safe(files)
        with progress() as bar:
            task = bar.add_task("Pushing", total=total)
            told = _Told(bar, task)
            if image:
                pushed = push_image(files, target, annotations=annotations, watch=told)
            else:
                pushed = push_model(folder, target, annotations=annotations, allow_pickle=allow_pickle, watch=told)
            bar.update(task, completed=total)
    except Failed as error:
        raise UserError(error.failure.message, error.failure.next_step) from None
    say(pushed, image=image)


class _Told:
    """Moves the bar; called from several threads, which rich allows."""

    def __init__(self, bar: Progress, task: object) -> None:
        self._bar, self._task = bar, task

    def __call__(self, count: int) -> None:
        self._bar.advance(self._task, count)  # type: ignore[arg-type]


def progress() -> Progress:
    """A bar on standard error; it hides where that is no terminal."""
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    console = Console(stderr=True)
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


def say(pushed: Pushed, *, image: bool) -> None:
    """What lies where, and how a Workspace names it."""
    mib = pushed.bytes / (1 << 20)
    sent = "" if pushed.sent == pushed.bytes else f", {pushed.sent / (1 << 20):.1f} MiB of them sent now"
    print(f"Pushed {pushed.reference}: {mib:.1f} MiB{sent}.")
    print(f"Digest: {pushed.digest}")
    if image:
        print(f"A Workspace takes it as an adapter with source.image: {pushed.reference}")
