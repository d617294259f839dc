# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Tokens to text as they come: no half characters, nothing of a stop word. Pure, but for the tokenizer handed in."""

from __future__ import annotations

from collections.abc import Callable, Sequence

HALF = "\ufffd"
Decode = Callable[[list[int]], str]


class TextStream:
    """The text of one answer."""

    def __init__(self, decode: Decode, stops: Sequence[str] = (), *, keep_stop: bool = False) -> None:
        self._decode = decode
        self._stops = tuple(stops)
        self._keep_stop = keep_stop
        self._tokens: list[int] = []
        self._from = 0
        self._told = 0
        self._held = ""
        self._longest = max((len(stop) for stop in self._stops), default=0)
        self.stop: str | None = None
        """The stop word that ended the answer."""

    def push(self, token: int) -> str:
        """What this token adds to the text that can be shown; sets `stop` when a stop word is complete."""
        self._tokens.append(token)
        before = self._decode(self._tokens[self._from : self._told])
        whole = self._decode(self._tokens[self._from :])
        if whole.endswith(HALF) or len(whole) <= len(before):
            return ""
        self._from, self._told = self._told, len(self._tokens)
        return self._shown(whole[len(before) :])

    def end(self) -> str:
        """What was still held back."""
        before = self._decode(self._tokens[self._from : self._told])
        rest = self._held + self._decode(self._tokens[self._from :])[len(before) :]
        self._held = ""
        return "" if self.stop is not None else rest

    def _shown(self, text: str) -> str:
        if not self._stops:
            return text
        text = self._held + text
        found = [(text.find(stop), stop) for stop in self._stops if stop in text]
        if found:
            at, self.stop = min(found)
            self._held = ""
            return text[: at + len(self.stop)] if self._keep_stop else text[:at]
        held = next(
            (size for size in range(min(self._longest - 1, len(text)), 0, -1) if self._may_begin(text[-size:])), 0
        )
        self._held = text[len(text) - held :] if held else ""
        return text[: len(text) - held]

    def _may_begin(self, end: str) -> bool:
        return any(stop.startswith(end) for stop in self._stops)
