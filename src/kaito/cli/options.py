# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Options that several commands share, with their help texts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Kubeconfig = Annotated[
    Path | None, typer.Option("--kubeconfig", help="Which cluster: default KUBECONFIG, else the engine of kaito up.")
]
Namespace = Annotated[str, typer.Option("--namespace", "-n", help="Namespace of the Workspace.")]
ApiKey = Annotated[
    str, typer.Option(envvar="KAITO_API_KEY", help="The key that the model server asks for.", show_envvar=True)
]
DataDir = Annotated[Path | None, typer.Option("--data-dir", help="Where the local engine keeps everything.")]
