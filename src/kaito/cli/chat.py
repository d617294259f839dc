# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""`kaito chat`: a conversation with a Workspace's model, token by token.

Goes through the API server's service proxy, so it needs no route to the pods and works on any cluster.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from typing import Annotated, Any

import msgspec
import typer

from kaito.api.kinds import WORKSPACES
from kaito.cli import connect, phases
from kaito.cli.failure import UserError
from kaito.cli.options import ApiKey, Kubeconfig, Namespace
from kaito.kube.client import Client
from kaito.kube.manifest import Key

Message = dict[str, str]


def chat(
    name: Annotated[str, typer.Argument(help="The Workspace.")],
    question: Annotated[str | None, typer.Argument(help="One question; a conversation when left out.")] = None,
    *,
    model: Annotated[str, typer.Option(help="One of its adapters by name, in place of the model itself.")] = "",
    max_tokens: Annotated[int, typer.Option(help="Longest answer, in tokens.")] = 512,
    api_key: ApiKey = "",
    namespace: Namespace = "default",
    kubeconfig: Kubeconfig = None,
) -> None:
    """Talk to the model of a Workspace, or to one of its adapters."""
    headers = {"X-Api-Key": api_key} if api_key else {}
    asyncio.run(_chat(Key(namespace, name), question, max_tokens, kubeconfig, wanted=model, headers=headers))


async def _chat(
    key: Key, question: str | None, max_tokens: int, kubeconfig: Kubeconfig, *, wanted: str, headers: dict[str, str]
) -> None:
    async with Client(connect.cluster(kubeconfig)) as client:
        model = chosen(await served_names(client, key, headers), wanted, key)
        messages: list[Message] = []
        if question is None and sys.stdin.isatty():
            print(f"{model} answers. An empty line ends the conversation.")
        while (asked := question or read_question()) is not None:
            messages.append({"role": "user", "content": asked})
            said = ""
            given = {"model": model, "messages": messages, "max_tokens": max_tokens}
            async for piece in answer(client, key, given, headers=headers):
                print(piece, end="", flush=True)
                said += piece
            print()
            if question:
                return
            messages.append({"role": "assistant", "content": said})


def read_question() -> str | None:
    """The next line that the user types, or None at the end (Ctrl-D, Ctrl-C, an empty line).

    Blocks the event loop, which has nothing else to do; a thread that waits for input cannot be interrupted.
    """
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return input("> ").strip() or None
    except (EOFError, KeyboardInterrupt):
        print()
        return None
    finally:
        signal.signal(signal.SIGINT, before)


def service_path(key: Key, path: str) -> str:
    """The URL path at the API server that reaches the Workspace's HTTP service."""
    return f"/api/v1/namespaces/{key.namespace}/services/{key.name}:80/proxy{path}"


async def served_names(client: Client, key: Key, headers: dict[str, str]) -> list[str]:
    """The names that the Workspace serves, the model's own first. Raises UserError when it is not Ready or has none."""
    why = phases.trouble(await client.get(WORKSPACES, key.name, key.namespace))
    if why is not None:
        raise UserError(f"{key.name} is not Ready: {why.message}", f"Watch it: kaito get {key.name} --watch")
    body = await connect.request(client, "GET", service_path(key, "/v1/models"), headers=headers)
    try:
        found = [str(model["id"]) for model in msgspec.json.decode(body)["data"]]
    except (ValueError, LookupError, TypeError):
        found = []
    if not found:
        raise UserError(f"{key.name} does not say which model it serves.", f"Look: kaito logs {key.name}")
    return found


def chosen(names: Sequence[str], wanted: str, key: Key) -> str:
    """The name to ask for; raises UserError for one that is not served."""
    if wanted and wanted not in names:
        raise UserError(f"{key.name} serves no {wanted}.", f"It serves {', '.join(names)}.")
    return wanted or names[0]


async def answer(client: Client, key: Key, given: dict[str, Any], *, headers: dict[str, str]) -> AsyncIterator[str]:
    """The model's answer in pieces as they come. Raises UserError with the server's words when it refuses."""
    body = {**given, "stream": True, "temperature": 0}
    async with client.stream(
        "POST",
        service_path(key, "/v1/chat/completions"),
        body=msgspec.json.encode(body),
        headers={"Content-Type": "application/json", "Accept": "text/event-stream", **headers},
    ) as response:
        if response.status != 200:
            text = b"".join([chunk async for chunk in response]).decode(errors="replace")
            raise UserError(f"The model server answered {response.status}: {text[:200]}", f"kaito logs {key.name}")
        rest = b""
        async for chunk in response:
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                piece = content_of(line)
                if piece:
                    yield piece


def content_of(line: bytes) -> str:
    """The text in one line of a server-sent event stream of chat completion chunks; "" where there is none."""
    if not line.startswith(b"data:"):
        return ""
    data = line[5:].strip()
    if data == b"[DONE]":
        return ""
    try:
        choices = json.loads(data).get("choices") or [{}]
    except ValueError:
        return ""
    return str((choices[0].get("delta") or {}).get("content") or "")
