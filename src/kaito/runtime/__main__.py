# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""`kaito-runtime`: what runs in a pod. `serve` runs a model server, `tune` fine-tunes a model, `fetch` brings files
into folders, `push` takes a folder to a registry, `bench` measures a server, `demo-model` builds the demo model.

Imports no engine and no torch; what needs them runs in a child process.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from pathlib import Path
from types import FrameType

from kaito.runtime.artifacts import command
from kaito.runtime.artifacts.fetch import fetch
from kaito.runtime.bench import LIGHT, Load, bench
from kaito.runtime.demo import DEMO_ID, build
from kaito.runtime.serve.app import serve
from kaito.runtime.settings import from_environment
from kaito.runtime.tune.app import tune


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(prog="kaito-runtime", description="What runs in a kaito pod.")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    one = commands.add_parser("serve", help="serve the model that a config file describes")
    one.add_argument("--config", required=True, metavar="FILE", help="the ServeConfig (JSON) to run")
    bring = commands.add_parser("fetch", help="bring images' folders, artifacts and files that a config file names")
    bring.add_argument("--config", required=True, metavar="FILE", help="the FetchConfig (JSON) to carry out")
    train = commands.add_parser("tune", help="fine-tune the model that a config file describes, and push the result")
    train.add_argument("--config", required=True, metavar="FILE", help="the TuneConfig (JSON) to carry out")
    command.arguments(commands.add_parser("push", help="push a folder to a registry, as a model or as an image"))
    two = commands.add_parser("demo-model", help="build the small demo model (once; later calls find it)")
    two.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder for weights, laid out by model id")
    two.add_argument("--id", default=DEMO_ID, metavar="ORG/NAME", help=f"id to file it under (default {DEMO_ID})")
    three = commands.add_parser("bench", help="measure a model server that is Ready, under a stated load")
    three.add_argument("--url", default="http://127.0.0.1:5000", help="the server (default %(default)s)")
    three.add_argument("--streams", type=int, default=LIGHT.streams, help="requests at once (default %(default)s)")
    three.add_argument("--seconds", type=float, default=LIGHT.seconds, help="how long (default %(default)s)")
    three.add_argument("--input-tokens", type=int, default=LIGHT.input_tokens, help="words of a prompt")
    three.add_argument("--output-tokens", type=int, default=LIGHT.output_tokens, help="tokens of an answer")
    three.add_argument("--api-key", help="the key that the server asks for")
    return top


def main() -> None:
    """Run one command and exit with its code."""
    arguments = parser().parse_args()
    if arguments.command == "serve":
        sys.exit(serve(arguments.config, from_environment()))
    if arguments.command == "tune":
        sys.exit(tune(arguments.config, from_environment()))
    if arguments.command == "bench":
        load = Load(arguments.streams, arguments.seconds, arguments.input_tokens, arguments.output_tokens)
        sys.exit(asyncio.run(bench(arguments.url.rstrip("/"), load, api_key=arguments.api_key, say=tell)))
    signal.signal(signal.SIGTERM, interrupt)
    try:
        if arguments.command == "fetch":
            sys.exit(fetch(arguments.config, from_environment()))
        if arguments.command == "push":
            sys.exit(command.push(arguments))
        sys.exit(build(arguments.out, arguments.id, from_environment().environment))
    except KeyboardInterrupt:
        sys.exit(130)


def tell(line: str) -> None:
    """One line of a result."""
    sys.stdout.write(line + "\n")


def interrupt(number: int, frame: FrameType | None) -> None:
    """SIGTERM ends a build or a download as Ctrl-C does: in its place nothing half made is left."""
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
