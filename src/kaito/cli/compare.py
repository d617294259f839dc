# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""`kaito tune compare`: what a model and its adapters answer to the same questions, side by side."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from importlib import import_module
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any, Literal

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from kaito.cli import chat, connect
from kaito.cli.failure import UserError
from kaito.cli.options import ApiKey, Kubeconfig, Namespace
from kaito.kube.client import Client
from kaito.kube.manifest import Key

ROWS = 8
Message = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked, and what the data say to it."""

    messages: tuple[Message, ...]
    expected: str | None = None

    @property
    def text(self) -> str:
        """The last thing that is said before an answer."""
        return str(self.messages[-1]["content"])


@dataclass(slots=True)
class Asked:
    """A question with the answers by model."""

    question: Question
    answers: dict[str, str] = field(default_factory=dict)


def compare(
    name: Annotated[str, typer.Argument(help="A Workspace that serves a model with adapters.")],
    *,
    prompt: Annotated[list[str] | None, typer.Option(help="A question; repeatable.")] = None,
    data: Annotated[
        Path | None, typer.Option(help="Rows that were held back: a file or a folder, as for kaito tune check.")
    ] = None,
    rows: Annotated[int, typer.Option(min=1, max=1000, help="How many rows of --data to ask, picked evenly.")] = ROWS,
    adapter: Annotated[list[str] | None, typer.Option(help="One of the adapters; all when left out.")] = None,
    max_tokens: Annotated[int, typer.Option(help="Longest answer, in tokens.")] = 256,
    output: Annotated[Literal["table", "json"], typer.Option("--output", "-o", help="table or json.")] = "table",
    api_key: ApiKey = "",
    namespace: Namespace = "default",
    kubeconfig: Kubeconfig = None,
) -> None:
    """Show what a model and its adapters answer, side by side, and how near each comes to what was expected."""
    questions = [Question(({"role": "user", "content": one},)) for one in prompt or ()]
    if data is not None:
        questions += questions_of(data, rows)
    if not questions:
        raise UserError("There is nothing to ask.", "Give --prompt TEXT, or --data FILE with rows that were held back.")
    headers = {"X-Api-Key": api_key} if api_key else {}
    asked = asyncio.run(_ask(Key(namespace, name), questions, adapter, max_tokens, kubeconfig, headers=headers))
    if output == "json":
        json.dump([as_json(one) for one in asked], sys.stdout, indent=2, ensure_ascii=False)
        print()
        return
    Console().print(as_table(asked))
    for line in summary(asked):
        print(line)


def questions_of(data: Path, rows: int) -> list[Question]:
    """Questions with their expected answers from a data set. Raises UserError."""
    if not data.exists():
        raise UserError(f"{data} does not exist.", "Name a file or a folder with rows that were held back.")
    try:  # What reads data sets takes longer to load than all other commands together, and may not be installed.
        read = import_module("kaito.cli.questions").read
    except ModuleNotFoundError as error:
        raise UserError(f"Packages are missing: {error}.", "pip install 'kaito[tune]'") from None
    return [Question(tuple(messages), expected) for messages, expected in read(data, rows)]


async def _ask(
    key: Key, questions: Sequence[Question], wanted: Sequence[str] | None, max_tokens: int, kubeconfig: Path | None, *,
    headers: dict[str, str],
) -> list[Asked]:  # fmt: skip
    console = Console(stderr=True)
    async with Client(connect.cluster(kubeconfig)) as client:
        names = await chat.served_names(client, key, headers)
        models = [names[0], *(chat.chosen(names, one, key) for one in wanted or names[1:])]
        if len(models) == 1:
            raise UserError(f"{key.name} serves no adapter.", "Name one in inference.adapters (docs/tuning.md).")
        asked = [Asked(question) for question in questions]
        with console.status("Asking ...") as status:
            for number, one in enumerate(asked, 1):
                status.update(f"Asking {number} of {len(asked)} ...")
                for model in models:
                    given = {"model": model, "messages": list(one.question.messages), "max_tokens": max_tokens}
                    pieces = [piece async for piece in chat.answer(client, key, given, headers=headers)]
                    one.answers[model] = "".join(pieces)
    return asked


def as_json(asked: Asked) -> dict[str, Any]:
    """One question for a program to read."""
    found: dict[str, Any] = {"prompt": asked.question.text, "answers": asked.answers}
    return found if asked.question.expected is None else {**found, "expected": asked.question.expected}


def as_table(asked: Sequence[Asked]) -> Table:
    """Questions as rows, models as columns."""
    table = Table(show_lines=True, expand=True)
    has_expected = any(one.question.expected is not None for one in asked)
    for head in ("question", *(("expected",) if has_expected else ()), *asked[0].answers):
        table.add_column(head, overflow="fold")
    for one in asked:
        expected = (one.question.expected or "",) if has_expected else ()
        table.add_row(*(Text(text.strip()) for text in (one.question.text, *expected, *one.answers.values())))
    return table


def summary(asked: Iterable[Asked]) -> list[str]:
    """How near each model comes to what was expected; nothing where nothing was."""
    known = [one for one in asked if one.question.expected is not None]
    if not known:
        return []
    lines = [f"Of {len(known)} expected answers:"]
    for model in known[0].answers:
        pairs = [((one.question.expected or "").strip(), one.answers[model].strip()) for one in known]
        same = sum(expected == said for expected, said in pairs)
        like = fmean(SequenceMatcher(None, expected, said, autojunk=False).ratio() for expected, said in pairs)
        lines.append(f"  {model}: {same} to the letter, likeness {like:.2f} (1: the same text)")
    return lines
