# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""The chat API of old KAITO releases, translated to and from OpenAI's. Pure.

Three shapes, all `POST /chat`: `prompt` (text generation) and `messages` (a conversation), answered by `{"Result": …}`,
and `input_data` of the oldest releases, answered by `{"results": [[…]]}`; and `POST /generate` with `prompts`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

DEFAULT_NEW_TOKENS = 200
"""`max_length` of the old API when a request does not say."""

MISSING = (
    "The body needs a `prompt` (a text), or `messages` (a list of objects with `role` and `content`)."
    ' Example: {"prompt": "What is kaito?"}'
)


class BadRequest(ValueError):
    """The request cannot be understood; the text says what is missing, for a 400."""


@dataclass(frozen=True, slots=True)
class Question:
    """One chat completion to ask for, and how its answer is wrapped."""

    body: dict[str, Any]
    shape: str
    """`prompt`, `messages`, `input_data` or `prompts`."""
    prompt: str = ""
    full_text: bool = False


def questions(body: Any) -> list[Question]:
    """What to ask the model for an old request; raises BadRequest."""
    if not isinstance(body, dict):
        raise BadRequest(MISSING)
    if "input_data" in body:
        return from_input_data(body)
    if "prompts" in body:
        return from_prompts(body)
    settings = sampling(checked_map(body, "generate_kwargs"))
    if body.get("messages") is not None:
        return [Question({"messages": checked_messages(body["messages"], "messages"), **settings}, "messages")]
    prompt = body.get("prompt")
    if not isinstance(prompt, str) or not prompt.strip():
        raise BadRequest(MISSING)
    full = body.get("return_full_text", True)
    messages = [{"role": "user", "content": prompt}]
    return [Question({"messages": messages, **settings}, "prompt", prompt, full_text=full is not False)]


def from_input_data(body: Mapping[str, Any]) -> list[Question]:
    """The chat shape of the oldest releases: `input_data.input_string` holds one conversation, or several."""
    data = body["input_data"]
    conversations = data.get("input_string") if isinstance(data, dict) else None
    if not isinstance(conversations, list) or not conversations:
        raise BadRequest("`input_data` needs `input_string`: a list of conversations, each a list of messages.")
    if isinstance(conversations[0], dict):
        conversations = [conversations]
    settings = sampling(checked_map(body, "parameters"))
    return [
        Question({"messages": checked_messages(one, "input_data.input_string"), **settings}, "input_data")
        for one in conversations
    ]


def from_prompts(body: Mapping[str, Any]) -> list[Question]:
    """The completion shape of the oldest releases: a list of texts."""
    prompts = body["prompts"]
    if not isinstance(prompts, list) or not prompts or not all(isinstance(one, str) for one in prompts):
        raise BadRequest("`prompts` must be a list of texts.")
    settings = sampling(checked_map(body, "parameters"))
    return [Question({"messages": [{"role": "user", "content": one}], **settings}, "prompts", one) for one in prompts]


def checked_map(body: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """The map under this key, empty when absent; raises BadRequest."""
    value = body.get(key)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise BadRequest(f"`{key}` must be an object.")
    return value


def checked_messages(value: Any, where: str) -> list[dict[str, str]]:
    """Messages with role and content; raises BadRequest naming the place."""
    if not isinstance(value, list) or not value:
        raise BadRequest(f"`{where}` must be a list of messages that is not empty.")
    for message in value:
        if not isinstance(message, dict) or not isinstance(message.get("role"), str) or "content" not in message:
            raise BadRequest(f"Every message in `{where}` needs `role` and `content`.")
    return value


def sampling(options: Mapping[str, Any]) -> dict[str, Any]:
    """OpenAI's sampling fields for `generate_kwargs` (or `parameters`); those that have no counterpart are left out.

    `max_length` counted the prompt too; here it bounds the answer alone, so that no answer comes out shorter.
    """
    tokens = options.get("max_new_tokens") or options.get("max_gen_len") or options.get("max_length")
    fields: dict[str, Any] = {"max_tokens": tokens or DEFAULT_NEW_TOKENS}
    if options.get("do_sample") is False:
        fields["temperature"] = 0
    else:
        for key in ("temperature", "top_p", "top_k"):
            if options.get(key) is not None:
                fields[key] = options[key]
    if options.get("repetition_penalty") is not None:
        fields["repetition_penalty"] = options["repetition_penalty"]
    for key, value in fields.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 2**31:
            raise BadRequest(f"`{key}` must be a number that is not negative.")
    return fields


def answer(asked: list[Question], texts: list[str]) -> dict[str, Any]:
    """The old answer for the model's texts, one for each question."""
    shape = asked[0].shape
    if shape == "input_data":
        return {"results": [[{"role": "assistant", "content": text}] for text in texts]}
    if shape == "prompts":
        pairs = zip(asked, texts, strict=True)
        return {"results": [{"prompt": question.prompt, "response": text} for question, text in pairs]}
    question, text = asked[0], texts[0]
    return {"Result": f"{question.prompt}\n{text}" if question.full_text else text}
