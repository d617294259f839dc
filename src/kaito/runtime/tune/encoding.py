# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Examples as token ids and labels: what counts for the loss, and what is only context.

Texts are tokenized as a whole and labelled by the characters that they stand for, so that training sees the tokens that
a server will see. Works with any chat template whose text only grows as messages are added.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from posixpath import commonprefix
from typing import Any, Protocol

from kaito.runtime.tune.examples import Example, Message
from kaito.runtime.tune.options import bad

IGNORED = -100
"""The label of a token that does not count for the loss."""


class Tokenizer(Protocol):
    """What is used of a tokenizer of the transformers library."""

    chat_template: Any
    eos_token: str | None
    eos_token_id: int | None
    is_fast: bool

    def __call__(self, text: list[str], **options: Any) -> Any:
        """Tokenize."""

    def apply_chat_template(self, conversation: list[Message], **options: Any) -> Any:
        """Render."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """Token ids, and the label of each."""

    input_ids: list[int]
    labels: list[int]

    @property
    def is_learnable(self) -> bool:
        """Whether any token counts."""
        return any(label != IGNORED for label in self.labels)


@dataclass(frozen=True, slots=True)
class _Rendered:
    """A text, and which of its characters count; None for all."""

    text: str
    spans: tuple[tuple[int, int], ...] | None
    special: bool
    """Whether the tokenizer adds its own marks, such as a beginning; a chat template has written them already."""


@dataclass(frozen=True, slots=True)
class Encoder:
    """Turns examples into tokens for one model."""

    tokenizer: Tokenizer
    assistant_only: bool
    """Of a conversation only what the assistant says counts."""
    completion_only: bool = True
    """Of a prompt with a completion only the completion counts."""

    def encode(self, examples: Sequence[Example]) -> Iterator[Encoded]:
        """The examples as tokens, in their order."""
        rendered = [self._render(example) for example in examples]
        for special in (False, True):
            if all(one.special == special for one in rendered):
                yield from self._tokens(rendered, special=special)
                return
        for one in rendered:
            yield from self._tokens([one], special=one.special)

    def _tokens(self, rendered: Sequence[_Rendered], *, special: bool) -> Iterator[Encoded]:
        if not rendered:
            return
        asked = self.tokenizer(
            [one.text for one in rendered],
            add_special_tokens=special,
            return_attention_mask=False,
            return_token_type_ids=False,
            return_offsets_mapping=True,
        )
        for one, ids, offsets in zip(rendered, asked["input_ids"], asked["offset_mapping"], strict=True):
            yield Encoded(list(ids), labels_of(ids, offsets, one.spans))

    def _render(self, example: Example) -> _Rendered:
        if example.messages:
            return self._conversation(example)
        end = self.tokenizer.eos_token or ""
        if example.text:
            return _Rendered(example.text + end, None, special=True)
        whole = example.prompt + example.completion + end
        start = len(example.prompt)
        return _Rendered(whole, ((start, len(whole)),) if self.completion_only else None, special=True)

    def _conversation(self, example: Example) -> _Rendered:
        if not self.tokenizer.chat_template:
            raise bad(
                "The data are conversations, and the model has no chat template.",
                "Give one in ModelConfig.chat_template, or use prompt and completion columns.",
            )
        messages, tools = list(example.messages), example.tools
        tools = json.loads(tools) if isinstance(tools, str) else tools
        whole = self._text(messages, tools)
        if not (self.assistant_only or example.learn_from):
            return _Rendered(whole, None, special=False)
        return _Rendered(whole, tuple(self._spans(messages, tools, whole, example.learn_from)), special=False)

    def _spans(self, messages: list[Message], tools: Any, whole: str, first: int) -> Iterable[tuple[int, int]]:
        """The characters of what the assistant says; a turn that the template renders otherwise later is left out."""
        for index, message in enumerate(messages):
            if message["role"] != "assistant" or index < first:
                continue
            head = self._text(messages[:index], tools, prompt=True) if index else ""
            tail = self._text(messages[: index + 1], tools)
            # Some templates end with a mark that is not there when the conversation goes on.
            end = len(commonprefix((whole, tail)))
            if whole.startswith(head) and len(head) + len(message["content"]) <= end:
                yield len(head), end

    def _text(self, messages: list[Message], tools: Any, *, prompt: bool = False) -> str:
        try:
            return str(
                self.tokenizer.apply_chat_template(messages, tools=tools, tokenize=False, add_generation_prompt=prompt)
            )
        except (ValueError, TypeError, KeyError) as error:
            raise bad(f"The model's chat template cannot render a conversation of the data: {error}.") from None


def labels_of(
    ids: Sequence[int], offsets: Sequence[tuple[int, int]], spans: Sequence[tuple[int, int]] | None
) -> list[int]:
    """The ids where the token ends in a span, else IGNORED. Offsets and spans are in order of position."""
    if spans is None:
        return list(ids)
    labels = [IGNORED] * len(ids)
    left = list(spans)
    for index, (start, end) in enumerate(offsets):
        while left and start >= left[0][1]:
            left.pop(0)
        if left and start < end and left[0][0] < end <= left[0][1]:
            labels[index] = ids[index]
    return labels
