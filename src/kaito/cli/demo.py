# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""`kaito demo`: the main job on one machine in one command, cleaned up afterwards.

Does nothing that a user could not type: builds the demo model, `kaito up`, apply, wait, chat, `kaito down`.
"""

from __future__ import annotations

import asyncio
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from kaito.api import names
from kaito.cli import apply, chat, machine, settings, wait
from kaito.cli.failure import UserError
from kaito.cli.supervisor import follow_parent
from kaito.kube.client import Client
from kaito.kube.config import load_kubeconfig
from kaito.kube.manifest import Key, Manifest

READY_WITHIN_S = 300.0
TO_LOOK_AROUND = "All is stopped again. To look around: kaito up --detach, apply the Workspace, kaito logs demo"
WORKSPACE: Manifest = {
    "apiVersion": "kaito.sh/v1beta1",
    "kind": "Workspace",
    "metadata": {"name": "demo"},
    "resource": {"labelSelector": {"matchLabels": {"apps": "demo"}}},
    "inference": {"preset": {"name": "kaito-demo"}},
}
"""The same as examples/quickstart.yaml (a test compares), so that an installed kaito needs no checkout."""


def demo(
    runtime: Annotated[str, typer.Option(help="Model server: transformers or vllm.")] = "transformers",
    question: Annotated[str, typer.Option(help="What to ask the model.")] = "What is kaito?",
) -> None:
    """From nothing to a chat answer: build the small demo model, serve it, ask it, clean up."""
    console = Console()
    env = settings.read()
    build_model(console, env.cache_dir / "models")
    with tempfile.TemporaryDirectory(prefix="kaito-demo-") as folder:
        env = settings.read(Path(folder))
        options = machine.options_from(env, runtime=runtime)
        try:
            with console.status("Starting the engine and the operator ..."):
                running = machine.start(options, detach=False)
            console.print(f"Engine and operator up     {running.seconds:6.1f} s", highlight=False)
            asyncio.run(serve_and_ask(console, running.kubeconfig, runtime, question))
        finally:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # the folder goes only when everything in it has ended
            with console.status("Cleaning up ..."):
                machine.stop(env.data_dir)
            signal.signal(signal.SIGINT, signal.default_int_handler)
    console.print("\nEverything is stopped again. To keep it running:\n", highlight=False)
    if shutil.which("kaito") is None:
        activate = Path(sys.executable).parent / "activate"
        console.print(f"  source {shlex.quote(str(activate))}", soft_wrap=True, highlight=False)
    console.print("  kaito up --detach", highlight=False)
    console.print("  kaito apply -f examples/quickstart.yaml --wait", highlight=False)
    console.print("  kaito chat demo", highlight=False)
    console.print("  kaito down", highlight=False)


def build_model(console: Console, folder: Path) -> None:
    """Make the demo model below the folder unless it is there. Raises UserError when that fails."""
    began = time.monotonic()
    argv = [sys.executable, "-m", "kaito.runtime", "demo-model", "--out", str(folder)]
    with subprocess.Popen(argv, start_new_session=True, preexec_fn=partial(follow_parent, signal.SIGTERM)) as build:
        try:
            code = build.wait()
        except BaseException:
            build.terminate()  # it removes what is half made
            raise
    if code != 0:
        raise UserError("The demo model could not be built.", "Its training needs: pip install 'kaito[transformers]'")
    console.print(f"Demo model ready           {time.monotonic() - began:6.1f} s", highlight=False)


async def serve_and_ask(console: Console, kubeconfig: Path, runtime: str, question: str) -> None:
    """Apply the quick-start Workspace, show its way to Ready, ask, print the answer."""
    workspace = {**WORKSPACE, "metadata": {"name": "demo", "annotations": {names.RUNTIME_ANNOTATION: runtime}}}
    async with Client(load_kubeconfig(kubeconfig)) as client:
        [(key, _)] = await apply.send(client, [workspace], "default")
        console.print(f"Workspace {key.name} applied; its phases:", highlight=False)
        began = time.monotonic()
        try:
            await wait.show_phases(console, client, key, timeout_s=READY_WITHIN_S)
        except UserError as error:
            raise UserError(str(error), TO_LOOK_AROUND) from error
        model, *_ = await chat.served_names(client, key, {})
        console.print(f"\n> {question}", style="bold", highlight=False)
        await print_answer(client, key, model, question)
        console.print(f"\nFrom apply to the answer   {time.monotonic() - began:6.1f} s", highlight=False)


async def print_answer(client: Client, key: Key, model: str, question: str) -> None:
    """Stream one answer to standard output."""
    given = {"model": model, "messages": [{"role": "user", "content": question}], "max_tokens": 200}
    async for piece in chat.answer(client, key, given, headers={}):
        print(piece, end="", flush=True)
    print()
