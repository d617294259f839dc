# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""`kaito models push`: a folder with a model, or with an adapter, into a registry, so that Workspaces can name it.

The work is `kaito-runtime push`, in a process of its own: the command line loads nothing that it needs.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from kaito.cli import settings

Folder = Annotated[Path, typer.Argument(help="The folder with the model's or the adapter's files.", metavar="DIR")]
Reference = Annotated[str, typer.Argument(help="Where to, as registry/name:tag.", metavar="REFERENCE")]


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
    switches = [name for name, given in (("--image", image), ("--allow-pickle", allow_pickle)) if given]
    values = {"--license": license_, "--source": source, "--revision": revision, "--ca-file": ca_file}
    options = [f"{name}={value}" for name, value in values.items() if value]
    login = f"--docker-config={settings.read().docker_config}"
    argv = [sys.executable, "-m", "kaito.runtime", "push", *switches, *options, login, "--", str(folder), reference]
    raise typer.Exit(subprocess.run(argv, check=False).returncode)
