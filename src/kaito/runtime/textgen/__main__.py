# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""The transformers engine: `python -m kaito.runtime.textgen --model FOLDER --uds SOCKET`, started by the front."""

from __future__ import annotations

import argparse
import json
import sys

from aiohttp import web

from kaito.runtime.textgen.model import Options, load
from kaito.runtime.textgen.server import Server


def parser() -> argparse.ArgumentParser:
    """The command line; `transformers` in inference_config.yaml may set all but the socket."""
    top = argparse.ArgumentParser(prog="textgen", description=__doc__, allow_abbrev=False)
    top.add_argument("--model", required=True, help="a folder, or a Hugging Face id")
    top.add_argument("--uds", required=True, help="the Unix socket to listen on")
    top.add_argument("--served-model-name", required=True, help="the name that requests ask for")
    top.add_argument("--revision", help="commit of the model")
    top.add_argument("--device", default="auto", help="auto, cpu, cuda")
    top.add_argument("--device-map", help="how layers are spread over devices; transformers' own words")
    top.add_argument("--dtype", default="auto", help="auto, bfloat16, float16, float32")
    top.add_argument("--trust-remote-code", action="store_true", help="run the repository's own code")
    top.add_argument("--chat-template", help="file of a chat template to use instead of the model's")
    top.add_argument("--tool-call-parser", help="how the model writes tool calls; hermes is known")
    top.add_argument("--max-model-len", type=int, help="tokens of a prompt and its answer together")
    top.add_argument("--max-num-seqs", type=int, default=64, help="answers that are made at once")
    top.add_argument("--attn-implementation", help="transformers' attention implementation")
    top.add_argument("--lora-modules", nargs="+", type=adapter, default=[], help='adapters, as {"name": …, "path": …}')
    return top


def adapter(text: str) -> tuple[str, str]:
    """Name and folder of an adapter."""
    value = json.loads(text)
    return value["name"], value["path"]


def main() -> None:
    """Load the model, then listen."""
    given = parser().parse_args()
    options = Options(
        model=given.model,
        revision=given.revision,
        device=given.device,
        dtype=given.dtype,
        trust_remote_code=given.trust_remote_code,
        chat_template=given.chat_template,
        max_model_len=given.max_model_len,
        max_num_seqs=given.max_num_seqs,
        attn_implementation=given.attn_implementation,
        device_map=given.device_map,
    )
    adapters = tuple(given.lora_modules)
    server = Server(load(options), given.served_model_name, tool_parser=given.tool_call_parser, adapters=adapters)
    print("Opening the API", file=sys.stderr, flush=True)  # noqa: T201 - a phase of the start, read by the front
    web.run_app(server.application(), path=given.uds, print=None, access_log=None, handler_cancellation=True)


if __name__ == "__main__":
    main()
