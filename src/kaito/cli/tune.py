# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""`kaito tune`: look at a data set before anything is spent on it, and watch a fine-tuning at work.

`run` is in `tunerun.py`, `compare` in `compare.py`; `main.py` puts them together.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.text import Text

from kaito.api import datasets
from kaito.api.kinds import WORKSPACES
from kaito.api.names import COMPLETION_INDEX_LABEL, PROGRESS_MARK, WORKSPACE_LABEL
from kaito.cli import connect, settings
from kaito.cli.failure import UserError
from kaito.cli.options import Kubeconfig, Namespace
from kaito.cli.plot import MARK, Point, plot
from kaito.kube.client import Client
from kaito.kube.manifest import Manifest, labels_of
from kaito.kube.resource import PODS

LOOK_AGAIN_S = 1.0
CURVE_WIDTH = 60
MISSING = "ModuleNotFoundError"
OVER = ("Succeeded", "Failed")
Told = dict[str, Any]
"""A line of progress, as the tuner writes it."""


def check(
    data: Annotated[
        str, typer.Argument(help="The data set: a file, a folder of files, or one of a Hugging Face hub as org/name.")
    ],
    *,
    config: Annotated[Path | None, typer.Option(help="A training_config.yaml.")] = None,
    method: Annotated[str, typer.Option(help="The method that the configuration is for: lora, qlora, full.")] = "lora",
    model: Annotated[
        Path | None, typer.Option(help="A model's folder, to count tokens and to estimate memory and time.")
    ] = None,
) -> None:
    """Say what a fine-tuning would find in a data set: schema, rows, rows that cannot be used; with a model also
    tokens, and about what memory and time it would take."""
    place = of_hub(data) or data
    if not datasets.is_dataset(place) and not Path(place).exists():
        raise UserError(f"{data} does not exist.", "Name a file or a folder, or a data set of a hub as org/name.")
    wrong = datasets.problem(place) if datasets.is_dataset(place) else None
    if wrong is not None:
        raise UserError(f"{place} {wrong}.", "Write hf://datasets/org/name, or org/name.")
    given = {"--config": config, "--method": method, "--model": model}
    options = [word for name, value in given.items() if value is not None for word in (name, str(value))]
    kept = ["--keep", str(settings.read().cache_dir / "datasets")]
    module = f"kaito.runtime.tune.{'preview' if model is None else 'costs'}"
    argv = [sys.executable, "-m", module, place, *kept, *options]
    done = subprocess.run(argv, check=False, stderr=subprocess.PIPE, text=True)
    if MISSING in done.stderr:
        raise UserError(f"Packages are missing: {done.stderr.strip().splitlines()[-1]}", "pip install 'kaito[tune]'")
    if done.returncode not in (0, 1):
        raise UserError(f"The check ended with code {done.returncode}: {done.stderr.strip()[-300:]}", "")
    raise typer.Exit(done.returncode)


def of_hub(data: str) -> str | None:
    """The address of a data set of a hub that is meant by this; None where it is a file or something of the web. Says
    so where it might have been meant as a folder."""
    if datasets.is_dataset(data):
        return data
    name, mark, rest = data.partition("@")
    if Path(data).exists() or not datasets.is_id(name):
        return None
    address = f"{datasets.PREFIX}{name}{mark}{rest}"
    sys.stderr.write(f"There is no folder {data} here, so the data set {address} is taken.\n")
    return address


def watch(
    name: Annotated[str, typer.Argument(help="The Workspace.")],
    *,
    namespace: Namespace = "default",
    kubeconfig: Kubeconfig = None,
) -> None:
    """Show how far a fine-tuning is, with its loss, until it is done."""
    state = asyncio.run(followed(name, namespace, kubeconfig))
    raise typer.Exit(0 if state == "Succeeded" else 1)


async def followed(name: str, namespace: str, kubeconfig: Kubeconfig) -> str:
    """Show a fine-tuning until it is over; its last state."""
    console = Console()
    async with Client(connect.cluster(kubeconfig)) as client:
        with Live(console=console, auto_refresh=False) as view:
            while True:
                workspace = await client.get(WORKSPACES, name, namespace)
                if "tuning" not in workspace:
                    raise UserError(f"{name} is no fine-tuning.", f"See what it is: kaito get {name}")
                view.update(shown(workspace, await told(client, name, namespace)), refresh=True)
                state = str((workspace.get("status") or {}).get("state") or "Pending")
                if state in OVER:
                    return state
                await asyncio.sleep(LOOK_AGAIN_S)


async def told(client: Client, name: str, namespace: str) -> list[Told]:
    """What the tuning's latest pod, of several that of the first rank, has told of its progress."""
    found, _ = await client.list_objects(PODS, namespace, label_selector=f"{WORKSPACE_LABEL}={name}")
    pods = [pod for pod in found if labels_of(pod).get(COMPLETION_INDEX_LABEL, "0") == "0"]
    if not pods:
        return []
    latest = max(pods, key=lambda pod: str(pod["metadata"].get("creationTimestamp") or ""))
    path = PODS.path(namespace, latest["metadata"]["name"], subresource="log")
    answer = await client.raw("GET", path, params={"tailLines": "5000"})
    return list(progress_lines(answer.body.decode(errors="replace").splitlines())) if answer.status == 200 else []


def progress_lines(lines: Iterable[str]) -> Iterable[Told]:
    """The lines of a log that tell of progress."""
    for line in lines:
        _, mark, text = line.partition(PROGRESS_MARK)
        if mark:
            try:
                found = json.loads(text)
            except ValueError:
                continue
            yield found


def shown(workspace: Manifest, lines: Sequence[Told]) -> RenderableType:
    """State, bar, figures and curve."""
    status = workspace.get("status") or {}
    figures, state = status.get("tuning") or {}, status.get("state") or "Pending"
    latest = lines[-1] if lines and state not in OVER else {}
    newer = ((name, form, latest.get(key)) for name, (key, form) in TICKING.items())
    figures = {**figures, **{name: form.format(value) for name, form, value in newer if value is not None}}
    step = latest.get("step", figures.get("step")) or 0
    steps = latest.get("steps", figures.get("totalSteps")) or 0
    name = workspace["metadata"]["name"]
    parts: list[RenderableType] = [Text(f"{name}: {state}, {latest.get('phase') or figures.get('phase') or 'waiting'}")]
    if steps:
        # A bar does not end its line by itself; padding does.
        parts.append(Padding(ProgressBar(total=steps, completed=step, width=CURVE_WIDTH), 0))
    named = {"step": f"{step}/{steps}" if steps else None, **{key: figures.get(key) for key in FIGURES}}
    parts.append(Text("  ".join(f"{key} {value}" for key, value in named.items() if value)))
    trained, evaluated = (points(lines, key) for key in ("loss", "eval_loss"))
    drawn = plot(trained, evaluated, width=CURVE_WIDTH)
    if drawn:
        marked = f"; {MARK}: on rows that are held back" if evaluated else ""
        parts += [Text(f"loss{marked}", style="dim"), Text("\n".join(drawn))]
    failure = status.get("failure") or {}
    if state == "Failed" and failure:
        parts.append(Text(f"{failure.get('evidence', '')} {failure.get('nextStep', '')}", style="red"))
    return Group(*parts)


TICKING = {"loss": ("loss", "{:.4f}"), "evalLoss": ("eval_loss", "{:.4f}"),
           "tokensPerSecond": ("tokens_per_second", "{:.0f}")}  # fmt: skip
"""Figures of the status that the log has newer: what they are called there, and how they are written."""
FIGURES = ("loss", "evalLoss", "tokensPerSecond", "eta", "gpuMemory", "rows", "note", "image", "digest")


def points(lines: Sequence[Told], key: str) -> list[Point]:
    """A figure by its step, each value that was told once; that of the evaluation where it changed."""
    found: dict[int, float] = {}
    for line in lines:
        if line.get(key) is not None and line.get("step") is not None:
            value = float(line[key])
            if key == "loss" or value not in found.values():
                found[int(line["step"])] = value
    return sorted(found.items())
