# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""The `kaito` command: which commands there are, and how errors look. Each command is in the file of its name."""

from __future__ import annotations

import sys
from typing import Annotated

import typer
from rich.console import Console

from kaito.api.release import VERSION
from kaito.cli import apply, chat, compare, demo, get, install, lazy, logs, terminal, tune, tunerun, up
from kaito.cli.explain import explain
from kaito.cli.failure import UserError
from kaito.kube.errors import ApiError


def print_version(asked: bool) -> None:
    """Print the installed version and end."""
    if asked:
        print(f"kaito {VERSION}")
        raise typer.Exit


def application() -> typer.Typer:
    """The command group."""
    app = typer.Typer(
        name="kaito",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        add_completion=False,
    )
    for command in (
        up.up,
        up.down,
        apply.apply,
        get.get,
        logs.logs,
        chat.chat,
        apply.delete,
        demo.demo,
        install.install,
    ):
        app.command(command.__name__)(command)
    app.add_typer(tuning(), name="tune")
    app.add_typer(lazy.models())
    app.callback()(top)
    return app


def tuning() -> typer.Typer:
    """The commands of `kaito tune`."""
    app = typer.Typer(no_args_is_help=True, help="Check data, run and watch fine-tunings, compare what they came to.")
    for command in (tune.check, tunerun.run, tune.watch, compare.compare):
        app.command(command.__name__)(command)
    return app


def top(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", is_eager=True, callback=print_version)
    ] = False,
) -> None:
    """Run AI models from one manifest: on this machine, or on any Kubernetes."""


def main() -> None:
    """Run the command line; errors become one sentence and a next step on standard error."""
    terminal.end_in_order()
    try:
        application()()
    except BrokenPipeError:  # the reader, head for instance, has seen enough
        terminal.let_go()
        sys.exit(141)
    except (UserError, ApiError, ValueError, OSError) as error:
        shown = explain(error)
        console = Console(stderr=True)
        console.print(f"Error: {shown}", style="red", soft_wrap=True, highlight=False, markup=False)
        if shown.next_step:
            console.print(shown.next_step, soft_wrap=True, highlight=False, markup=False)
        sys.exit(1)
    except KeyboardInterrupt:
        print("\nInterrupted.", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
