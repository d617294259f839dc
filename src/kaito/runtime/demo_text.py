# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""The demo model's text: reads the corpus, words its questions in other ways, and renders Phi-3 chats.

Pure: randomness comes in as a generator that is handed in. Knows nothing of tensors; `demo_train.py` does.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

USER = "<|user|>"
ASSISTANT = "<|assistant|>"
END = "<|end|>"
SYSTEM = "<|system|>"
END_OF_TEXT = "<|endoftext|>"
SPECIAL_TOKENS = ("<unk>", "<s>", "</s>", END_OF_TEXT, ASSISTANT, SYSTEM, END, USER)
"""Phi-3's tokens (those that its chat template and generation use), in the order of their ids here."""

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] in ['system', 'user', 'assistant'] %}"
    "{{ '<|' + message['role'] + '|>\\n' + message['content'] + '<|end|>\\n' }}"
    "{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% else %}{{ eos_token }}{% endif %}"
)
"""Phi-3's chat format: each turn is its role's token, a line break, the text and the end token."""

OPENERS = (
    "",
    "",
    "",
    "",
    "",
    "",
    "Please tell me: ",
    "Hi, ",
    "Hello, ",
    "Can you tell me ",
    "Question: ",
    "So, ",
    "And ",
)
CLOSERS = ("", "", "", "", " Please.", " Thanks.", " I want to know.")


class Random(Protocol):
    """The part of `random.Random` that rewording needs."""

    def random(self) -> float:
        """A number in [0, 1)."""

    def randrange(self, start: int, /) -> int:
        """An integer in [0, start)."""


@dataclass(frozen=True, slots=True)
class Block:
    """Several wordings of one question, and its answer."""

    questions: tuple[str, ...]
    answer: str


def parse_corpus(text: str) -> tuple[Block, ...]:
    """The blocks of the corpus file; raises ValueError for a line or a block that is not well formed."""
    blocks: list[Block] = []
    for number, chunk in enumerate(text.split("\n\n"), start=1):
        lines = [line.strip() for line in chunk.splitlines() if line.strip() and not line.startswith("#")]
        if not lines:
            continue
        questions = tuple(line[3:] for line in lines if line.startswith("Q: "))
        answers = [line[3:] for line in lines if line.startswith("A: ")]
        if not questions or len(answers) != 1 or len(questions) + 1 != len(lines):
            raise ValueError(f"block {number} of the corpus needs lines 'Q: ' and exactly one line 'A: '")
        blocks.append(Block(questions, answers[0]))
    return tuple(blocks)


def reword(question: str, random: Random) -> str:
    """The question as somebody else might type it: other case, no mark at the end, a greeting, a word left out."""
    words = question.split(" ")
    if len(words) > 4 and random.random() < 0.25:
        del words[random.randrange(len(words))]
    text = " ".join(words)
    if random.random() < 0.3:
        text = text.lower()
    if random.random() < 0.4:
        text = text.rstrip("?.!")
    if random.random() < 0.4:
        opener = OPENERS[random.randrange(len(OPENERS))]
        text = opener + (text[:1].lower() + text[1:] if opener.endswith(", ") else text)
        text += CLOSERS[random.randrange(len(CLOSERS))]
    return text


def exercises(blocks: Sequence[Block], random: Random) -> Iterator[tuple[str, str]]:
    """Questions in other words and their answers, without end: each question once, in a new order, then all again."""
    known = [(question, block.answer) for block in blocks for question in block.questions]
    while True:
        for question, answer in sorted(known, key=lambda _: random.random()):
            yield reword(question, random), answer


def pack(lengths: Sequence[int], width: int) -> list[list[int]]:
    """Which items share a row of this width, so that little of it stays empty: the longest first, each where it fits.

    An item longer than the width has a row of its own.
    """
    rows: list[list[int]] = []
    room: list[int] = []
    for item in sorted(range(len(lengths)), key=lambda item: -lengths[item]):
        row = next((row for row, left in enumerate(room) if left >= lengths[item]), len(rows))
        if row == len(rows):
            rows.append([])
            room.append(width)
        rows[row].append(item)
        room[row] -= lengths[item]
    return rows


def prompt(question: str) -> str:
    """A chat of one question, as the chat template renders it with the generation prompt."""
    return f"{USER}\n{question}{END}\n{ASSISTANT}\n"


def tokenizer_text(blocks: Iterable[Block]) -> list[str]:
    """What the tokenizer learns its pieces from: everything once, in other cases too."""
    lines = [line for block in blocks for line in (*block.questions, block.answer)]
    return lines + [line.lower() for line in lines] + [text for text in (*OPENERS, *CLOSERS) if text]
