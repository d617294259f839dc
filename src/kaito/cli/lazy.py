# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""A group of commands whose module is loaded when one of them is asked for: the catalogue takes longer to load than all
other commands together, and `kaito get` has no use for it."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import typer
from typer.core import TyperGroup


class ModelsGroup(TyperGroup):
    """The commands of `kaito models`."""

    def list_commands(self, ctx: Any) -> list[str]:
        return _models().list_commands(ctx)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        return _models().get_command(ctx, cmd_name)


def _models() -> TyperGroup:
    group = typer.main.get_command(import_module("kaito.cli.models").group())
    assert isinstance(group, TyperGroup)
    return group


def models() -> typer.Typer:
    """The group, without its commands."""
    return typer.Typer(
        name="models", cls=ModelsGroup, no_args_is_help=True, help="Which models there are, and what they take."
    )
