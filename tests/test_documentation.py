# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""The documentation is true: its links lead somewhere, its commands and options exist, what is generated is current."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest
import typer.main
import yaml
from typer.core import TyperGroup

from kaito.api.reference import page
from kaito.catalog.page import page as models_page
from kaito.cli.demo import WORKSPACE
from kaito.cli.main import application
from kaito.kube.client import Client
from kaito.kube.config import ClusterConfig
from kaito.kube.controller import Manager
from kaito.operator.metrics import Metrics
from kaito.operator.settings_page import page as settings_page

ROOT = Path(__file__).parents[1]
PAGES = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
    ROOT / "benchmarks" / "README.md",
]


def blocks(file: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", file.read_text(), re.DOTALL)


def commands() -> list[str]:
    """Every `kaito ...` line in a shell block of any page, and every one in a table of README.md."""
    lines = [line for file in PAGES for block in blocks(file, "sh") for line in block.splitlines()]
    found = [re.split(r"#| \| ", line)[0].strip() for line in lines if line.strip().startswith("kaito ")]
    table = [line.split(" | ")[0] for line in re.findall(r"`(kaito [a-z][^`]*)`", (ROOT / "README.md").read_text())]
    return sorted({*found, *(re.sub(r"[\[\]]", "", line) for line in table)})


@pytest.mark.parametrize("file", PAGES, ids=lambda file: str(file.relative_to(ROOT)))
def test_every_link_leads_somewhere(file: Path) -> None:
    links = [link.split("#")[0] for link in re.findall(r"\]\(([^)]+)\)", file.read_text())]
    assert [link for link in links if link and "://" not in link and not (file.parent / link).exists()] == []


@pytest.mark.parametrize("line", commands())
def test_every_command_and_option_that_is_written_down_exists(line: str) -> None:
    group = typer.main.get_command(application())
    assert isinstance(group, click.Group) or hasattr(group, "commands")
    _, name, *rest = shlex.split(line)
    command = group.commands[name]
    while rest and isinstance(command, TyperGroup) and command.get_command(click.Context(command), rest[0]):
        command = command.get_command(click.Context(command), rest.pop(0))
    known = {option for parameter in command.params for option in parameter.opts}
    assert {word for word in rest if word.startswith("-")} - known - {"--help"} == set()


@pytest.mark.parametrize(
    "name", ["up", "down", "apply", "get", "logs", "chat", "delete", "demo", "install", "models", "tune"]
)
def test_every_command_and_its_options_say_what_they_are_for(name: str) -> None:
    command = typer.main.get_command(application()).commands[name]  # type: ignore[attr-defined]
    assert command.help
    assert [parameter.name for parameter in command.params if not getattr(parameter, "help", "there")] == []
    assert f"kaito {name}" in (ROOT / "README.md").read_text()


def test_the_reference_of_a_workspace_is_what_make_generate_writes() -> None:
    assert (ROOT / "docs" / "reference" / "workspace.md").read_text() == page()


def test_the_settings_of_the_operator_are_what_make_generate_writes() -> None:
    assert (ROOT / "docs" / "settings.md").read_text() == settings_page()


def test_every_metric_of_the_operator_is_documented_and_no_other() -> None:
    manager = Manager(Client(ClusterConfig("http://127.0.0.1:1")), [])
    told = set(re.findall(r"^# TYPE (\w+)", Metrics(manager, None, "lease").exposition(), re.MULTILINE))
    documented = set(re.findall(r"^\| `(\w+)` \|", (ROOT / "docs" / "metrics.md").read_text(), re.MULTILINE))
    assert documented == told


def test_the_quick_start_is_the_same_everywhere() -> None:
    quick = yaml.safe_load((ROOT / "examples" / "quickstart.yaml").read_text())
    assert yaml.safe_load(blocks(ROOT / "README.md", "yaml")[0]) == quick == WORKSPACE


def test_every_file_that_the_readme_names_is_there() -> None:
    named = set(re.findall(r"examples/[\w./-]+\.yaml", (ROOT / "README.md").read_text()))
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []


def test_the_page_of_models_is_what_make_generate_writes() -> None:
    assert (ROOT / "docs" / "models.md").read_text() == models_page()


def test_every_command_about_models_and_its_options_say_what_they_are_for() -> None:
    models = typer.main.get_command(application()).commands["models"]  # type: ignore[attr-defined]
    for name, command in models.commands.items():
        assert command.help
        assert [parameter.name for parameter in command.params if not getattr(parameter, "help", "there")] == []
        pages = (ROOT / "docs" / page for page in ("sizing.md", "artifacts.md"))
        assert f"kaito models {name}" in "".join(page.read_text() for page in pages)
