# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Old chat requests and their answers, and OpenAI requests as `transformers serve` takes them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from kaito.runtime.serve import legacy, openai

USER = [{"role": "user", "content": "Hi"}]
CHAT = "/v1/chat/completions"


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
    ("path", "body", "expected"),
    [
        (CHAT, {"model": "m", "messages": USER, "user": "me", "n": 1}, {"messages": USER}),
        (CHAT, {"messages": USER, "max_completion_tokens": 4}, {"messages": USER, "max_tokens": 4}),
        (CHAT, {"messages": USER, "stop": [], "seed": None}, {"messages": USER}),
        ("/v1/completions", {"prompt": "a"}, {"prompt": "a", "max_tokens": 16}),
    ],
)
def test_fields_that_the_engine_rejects_stay_out(path: str, body: dict[str, Any], expected: dict[str, Any]) -> None:
    adapted = openai.adapt_request(path, body, model="/weights", defaults={})
    assert adapted.body == {"model": "/weights", "stream": False, **expected}


@pytest.mark.parametrize(
    ("asked", "defaults", "expected"),
    [
        ({"temperature": 0}, {"do_sample": True, "top_k": 1, "eos_token_id": [3, 6]}, {"do_sample": False}),
        ({"temperature": 0.5}, {}, {"do_sample": True, "temperature": 0.5}),
        ({"temperature": 0.5}, {"do_sample": True, "top_k": 1}, {"do_sample": True, "temperature": 0.5, "top_k": 1}),
        ({"top_p": 0.9}, {}, {"do_sample": True, "top_p": 0.9}),
        ({"top_k": -1}, {"do_sample": True}, {"do_sample": True, "top_k": 0}),
        ({"repetition_penalty": 1.1}, {"do_sample": True}, {"do_sample": True, "repetition_penalty": 1.1}),
    ],
)
def test_sampling_travels_as_a_whole_generation_config(
    asked: dict[str, Any], defaults: dict[str, Any], expected: dict[str, Any]
) -> None:
    body = openai.adapt_request(CHAT, {"messages": USER, **asked}, model="m", defaults=defaults).body
    config = json.loads(body["generation_config"])
    kept = {"eos_token_id": defaults["eos_token_id"]} if "eos_token_id" in defaults else {}
    assert config == {**kept, **expected, "max_new_tokens": 1024}


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        (CHAT, {"messages": USER, "n": 2}, "n"),
        (CHAT, {"messages": USER, "logprobs": True}, "logprobs"),
        (CHAT, {"messages": USER, "response_format": {"type": "json_object"}}, "response_format"),
        (CHAT, {"messages": "Hi"}, "messages"),
        (CHAT, {}, "messages"),
        ("/v1/completions", {"prompt": ["a", "b"]}, "prompt"),
        ("/v1/completions", {"prompt": "a", "echo": True}, "echo"),
    ],
)
def test_what_would_be_ignored_in_silence_is_refused(path: str, body: dict[str, Any], field: str) -> None:
    with pytest.raises(openai.Unsupported) as error:
        openai.adapt_request(path, body, model="m", defaults={})
    assert error.value.field == field


def test_a_streams_events_get_the_name_and_the_usage_its_own_chunk() -> None:
    event = b'data: {"model":"/w@main","choices":[{"delta":{}}],"usage":{"total_tokens":3}}'
    plain = openai.adapt_event(event, name="m", usage_chunk=False)
    assert [json.loads(one[6:]) for one in plain] == [{"model": "m", "choices": [{"delta": {}}]}]
    asked = openai.adapt_event(event, name="m", usage_chunk=True)
    assert json.loads(asked[1][6:]) == {"model": "m", "choices": [], "usage": {"total_tokens": 3}}
    failed = openai.adapt_event(b'data: {"error": "no memory"}', name="m", usage_chunk=False)
    assert json.loads(failed[0][6:])["error"]["message"] == "no memory"
    assert openai.adapt_event(b": ping", name="m", usage_chunk=False) == [b": ping"]


@pytest.mark.parametrize(
    ("body", "text"),
    [(b'{"detail": "Unexpected fields"}', "Unexpected fields"), (b"Internal Server Error", "Internal Server Error")],
)
def test_an_engines_error_takes_openais_shape(body: bytes, text: str) -> None:
    assert openai.adapt_error(400, body)["error"]["message"] == text
