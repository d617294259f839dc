# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Old chat requests and their answers, and errors."""

from __future__ import annotations

from typing import Any

import pytest

from kaito.runtime.serve import legacy, openai

USER = [{"role": "user", "content": "Hi"}]


@pytest.mark.parametrize(
    ("body", "sent", "text", "answer"),
    [
        (
            {"prompt": "Hi"},
            {"messages": USER, "max_tokens": 200},
            "Yes",
            {"Result": "Hi\nYes"},
        ),
        (
            {"prompt": "Hi", "return_full_text": False, "generate_kwargs": {"max_length": 9, "temperature": 0.5}},
            {"messages": USER, "max_tokens": 9, "temperature": 0.5},
            "Yes",
            {"Result": "Yes"},
        ),
        (
            {"messages": USER, "generate_kwargs": {"do_sample": False, "top_k": 5, "max_new_tokens": 7}},
            {"messages": USER, "max_tokens": 7, "temperature": 0},
            "Yes",
            {"Result": "Yes"},
        ),
        (
            {"input_data": {"input_string": [USER]}, "parameters": {"max_gen_len": 5, "top_p": 0.9}},
            {"messages": USER, "max_tokens": 5, "top_p": 0.9},
            "Yes",
            {"results": [[{"role": "assistant", "content": "Yes"}]]},
        ),
        (
            {"input_data": {"input_string": USER}},
            {"messages": USER, "max_tokens": 200},
            "Yes",
            {"results": [[{"role": "assistant", "content": "Yes"}]]},
        ),
        (
            {"prompts": ["Hi"]},
            {"messages": USER, "max_tokens": 200},
            "Yes",
            {"results": [{"prompt": "Hi", "response": "Yes"}]},
        ),
    ],
)
def test_an_old_request_becomes_a_chat_and_back(
    body: dict[str, Any], sent: dict[str, Any], text: str, answer: dict[str, Any]
) -> None:
    [question] = legacy.questions(body)
    assert question.body == sent
    assert legacy.answer([question], [text]) == answer


@pytest.mark.parametrize(
    "body",
    [
        {},
        [],
        "Hi",
        None,
        {"prompt": ""},
        {"prompt": 3},
        {"messages": []},
        {"messages": ["Hi"]},
        {"messages": [{"role": "user"}]},
        {"prompt": "Hi", "generate_kwargs": []},
        {"prompt": "Hi", "generate_kwargs": {"temperature": "warm"}},
        {"prompt": "Hi", "generate_kwargs": {"max_length": True}},
        {"input_data": {}},
        {"input_data": {"input_string": "Hi"}},
        {"prompts": "Hi"},
        {"prompts": []},
    ],
)
def test_an_old_request_without_its_field_is_refused(body: Any) -> None:
    with pytest.raises(legacy.BadRequest):
        legacy.questions(body)


@pytest.mark.parametrize(
    ("body", "text"),
    [(b'{"detail": "Unexpected fields"}', "Unexpected fields"), (b"Internal Server Error", "Internal Server Error")],
)
def test_an_engines_error_takes_openais_shape(body: bytes, text: str) -> None:
    assert openai.adapt_error(400, body)["error"]["message"] == text
