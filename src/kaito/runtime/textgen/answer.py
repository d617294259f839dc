# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""One choice of an answer, from its sequence's steps to text, log-probabilities and tool calls."""

from __future__ import annotations

import asyncio
import json
import re
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from kaito.runtime.textgen.batch import Sequence, Step
from kaito.runtime.textgen.bodies import Refusal, Told, Tools, Wanted
from kaito.runtime.textgen.text import TextStream

HERMES_CALL = re.compile(r"<tool_call>\s*(\{.*?\})\s*</tool_call>", re.DOTALL)


@dataclass(slots=True)
class Piece:
    """What one step adds."""

    text: str = ""
    told: list[Told] = field(default_factory=list)


class Choice:
    """One sequence and what has become of it."""

    def __init__(self, sequence: Sequence, request: Wanted, tokenizer: Any) -> None:
        self.sequence = sequence
        self.steps: asyncio.Queue[Step] = asyncio.Queue()
        self.text = ""
        self.told: list[Told] = []
        self.finish = ""
        self.stop: str | int | None = None
        """The stop word or token of the request that ended the answer."""
        self._request = request
        self._tokenizer = tokenizer
        self._stream = TextStream(self._decode, request.stops, keep_stop=request.keep_stop)

    def _decode(self, tokens: list[int]) -> str:
        text: str = self._tokenizer.decode(tokens, skip_special_tokens=self._request.skip_special)
        return text

    @property
    def tokens(self) -> int:
        """How many tokens were made."""
        return len(self.sequence.tokens)

    async def pieces(self) -> AsyncIterator[Piece]:
        """What comes, step by step, until the answer is complete; raises Refusal when it cannot be."""
        try:
            while not self.finish:
                step = await self.steps.get()
                piece = self._taken(step)
                if piece.text or piece.told:
                    self.text += piece.text
                    self.told += piece.told
                    yield piece
        finally:
            self.sequence.cancelled = True

    async def complete(self) -> Choice:
        """All of it."""
        async for _ in self.pieces():
            pass
        return self

    def _taken(self, step: Step) -> Piece:
        if step.finish == "error" or step.token is None:
            raise Refusal(f"The model could not answer: {step.error[:300]}", status=500)
        if step.finish == "stop":
            self.finish = "stop"
            if step.token in self._request.stop_ids:
                self.stop = step.token
            return Piece(self._stream.end(), self._told(step))
        piece = Piece(self._stream.push(step.token), self._told(step))
        if self._stream.stop is not None:
            self.finish, self.stop = "stop", self._stream.stop
        elif step.finish is not None:
            self.finish = step.finish
            piece.text += self._stream.end()
        return piece

    def _told(self, step: Step) -> list[Told]:
        if step.logprobs is None or step.token is None:
            return []
        one = self._tokenizer.decode([step.token])
        top = [(self._tokenizer.decode([token]), value) for token, value in step.logprobs.top]
        return [Told(one, step.logprobs, top)]


def tool_calls(text: str, tools: Tools | None, parser: str | None) -> tuple[str, list[dict[str, Any]]]:
    """The text without its tool calls, and the calls in OpenAI's shape."""
    if tools is None or tools.choice == "none":
        return text, []
    if tools.choice.startswith(":"):
        return "", [call(tools.choice[1:], text)]
    if tools.choice == "required":
        return "", [call(one["name"], json.dumps(one["parameters"])) for one in parsed_list(text)]
    if parser != "hermes":
        return text, []
    found = []
    for match in HERMES_CALL.finditer(text):
        try:
            value = json.loads(match[1])
            found.append(call(value["name"], json.dumps(value.get("arguments") or {})))
        except (ValueError, KeyError, TypeError):
            return text, []
    return (HERMES_CALL.sub("", text).strip() if found else text), found


def parsed_list(text: str) -> list[dict[str, Any]]:
    """The complete calls of a list that may have been cut off."""
    decoder = json.JSONDecoder()
    found: list[dict[str, Any]] = []
    at = text.find("{")
    while at >= 0:
        try:
            value, end = decoder.raw_decode(text, at)
        except ValueError:
            break
        found.append(value)
        at = text.find("{", end)
    return found


def call(name: str, arguments: str) -> dict[str, Any]:
    """One tool call in OpenAI's shape."""
    identity = f"chatcmpl-tool-{uuid.uuid4().hex}"
    return {"id": identity, "type": "function", "function": {"name": name, "arguments": arguments}}
