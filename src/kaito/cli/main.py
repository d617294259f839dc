# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""The `kaito` command: which commands there are, and how errors look. Each command is in the file of its name."""

from __future__ import annotations

import sys

import typer
from rich.console import Console

from kaito.cli import apply, chat, connect, demo, get, logs, up
from kaito.cli.failure import UserError
from kaito.kube.errors import ApiError


def application() -> typer.Typer:
    """The command group."""
    app = typer.Typer(
        name="kaito",
        help="Run AI models from one manifest: on this machine, or on any Kubernetes.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        add_completion=False,
    )
    for command in (up.up, up.down, apply.apply, get.get, logs.logs, chat.chat, apply.delete, demo.demo):
        app.command(command.__name__)(command)
    return app


def main() -> None:
    """Run the command line; errors become one sentence and a next step on standard error."""
    try:
        application()()
    except (UserError, ApiError, ValueError, OSError) as error:
        shown = connect.explain(error) if isinstance(error, ApiError) else error
        console = Console(stderr=True)
        console.print(f"Error: {shown}", style="red", soft_wrap=True, highlight=False, markup=False)
        if isinstance(shown, UserError) and shown.next_step:
            console.print(shown.next_step, soft_wrap=True, highlight=False, markup=False)
        sys.exit(1)
    except KeyboardInterrupt:
        print("\nInterrupted.", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
