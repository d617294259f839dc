# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""The demo model's text, and what its builder does without training."""

from __future__ import annotations

import random
from itertools import islice
from pathlib import Path

import jinja2
import pytest

from kaito.runtime import demo
from kaito.runtime.demo_text import (
    CHAT_TEMPLATE,
    Block,
    exercises,
    pack,
    parse_corpus,
    prompt,
    reword,
    tokenizer_text,
)

CORPUS = Path(demo.__file__).with_name("demo_corpus.txt").read_text("utf-8")


def test_the_corpus_is_well_formed() -> None:
    blocks = parse_corpus(CORPUS)
    assert 30 <= len(blocks) <= 60
    questions = [question.casefold() for block in blocks for question in block.questions]
    assert len(questions) == len(set(questions))
    assert all(len(block.answer) < 200 for block in blocks)


@pytest.mark.parametrize("text", ["Q: a", "A: b", "Q: a\nA: b\nA: c", "Q: a\nA: b\nstray"])
def test_a_block_that_is_not_well_formed_is_named(text: str) -> None:
    with pytest.raises(ValueError, match="block 1"):
        parse_corpus(text)


def test_rewording_is_the_same_for_the_same_seed() -> None:
    first, second = random.Random(1), random.Random(1)
    texts = [reword("What is a Workspace in kaito?", first) for _ in range(50)]
    assert texts == [reword("What is a Workspace in kaito?", second) for _ in range(50)]
    assert len(set(texts)) > 20


def test_every_question_comes_once_before_any_comes_again() -> None:
    blocks = (Block(("What is a?", "Tell me a."), "A."), Block(("What is b?",), "B."))
    found = [answer for _, answer in islice(exercises(blocks, random.Random(3)), 30)]
    assert all(sorted(found[start : start + 3]) == ["A.", "A.", "B."] for start in range(0, 30, 3))
    assert len({tuple(found[start : start + 3]) for start in range(0, 30, 3)}) > 1


@pytest.mark.parametrize(
    ("lengths", "rows"),
    [
        ([], []),
        ([4], [[0]]),
        ([3, 7, 5, 2], [[1, 0], [2, 3]]),
        ([12, 1], [[0], [1]]),
        ([10, 10], [[0], [1]]),
    ],
)
def test_chats_are_packed_into_as_few_rows_as_they_fit(lengths: list[int], rows: list[list[int]]) -> None:
    assert pack(lengths, 10) == rows


def test_the_trained_prompt_is_what_the_chat_template_renders() -> None:
    template = jinja2.Template(CHAT_TEMPLATE)
    messages = [{"role": "user", "content": "Hi"}]
    assert template.render(messages=messages, add_generation_prompt=True) == prompt("Hi")


def test_the_tokenizer_sees_every_answer() -> None:
    blocks = parse_corpus(CORPUS)
    assert all(block.answer in tokenizer_text(blocks) for block in blocks)


def test_a_model_that_is_there_is_not_built_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = tmp_path / demo.DEMO_ID
    place.mkdir(parents=True)
    (place / demo.MARKER).write_text(demo.fingerprint())
    assert demo.build(tmp_path, demo.DEMO_ID, {}) == 0
    assert "there already" in capsys.readouterr().out


def test_other_weights_are_never_replaced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = tmp_path / "microsoft" / "Phi-3-mini-4k-instruct"
    place.mkdir(parents=True)
    assert demo.build(tmp_path, "microsoft/Phi-3-mini-4k-instruct", {}) == 1
    assert "other weights" in capsys.readouterr().err


@pytest.mark.parametrize("wrong", ["", "../x", "a/b/c", "/etc"])
def test_an_id_that_is_none_is_refused(tmp_path: Path, wrong: str) -> None:
    assert demo.build(tmp_path, wrong, {}) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("where", ["cache/kaito/models/kaito/demo-phi-3", "out/microsoft/Phi-3-mini-4k-instruct"])
def test_a_model_that_was_made_before_is_copied_and_not_trained_again(tmp_path: Path, where: str) -> None:
    made = tmp_path / where
    made.mkdir(parents=True)
    (made / demo.MARKER).write_text(demo.fingerprint())
    (made / "config.json").write_text("{}")
    model_id = "microsoft/Phi-3-mini-128k-instruct"
    assert demo.build(tmp_path / "out", model_id, {"XDG_CACHE_HOME": str(tmp_path / "cache")}) == 0
    assert (tmp_path / "out" / model_id / "config.json").read_text() == "{}"
