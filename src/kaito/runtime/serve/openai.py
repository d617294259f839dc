# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""OpenAI's shapes where `transformers serve` differs from them. Pure: bodies in, bodies out.

Requests: it rejects fields that it does not list, answers only to its own model name, takes sampling beyond the basics
as a JSON text. Answers: it echoes that inner name, and its streams lack `[DONE]`. Errors take OpenAI's shape.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

PASSED = {
    "/v1/chat/completions": frozenset(
        {"messages", "tools", "max_tokens", "stop", "seed", "frequency_penalty", "top_p"}
        | {"logit_bias", "chat_template_kwargs"}
    ),
    "/v1/completions": frozenset({"prompt", "suffix", "max_tokens", "stop", "seed", "frequency_penalty", "top_p"}),
}
"""Fields that the server takes as they are."""

GENERATION = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "no_repeat_ngram_size")
DEFAULT_COMPLETION_TOKENS = 16
"""OpenAI's default for `/v1/completions`."""


class Unsupported(ValueError):
    """The request asks for something that the engine would silently ignore; the text is for a 400."""

    def __init__(self, field: str, text: str) -> None:
        super().__init__(text)
        self.field = field


@dataclass(frozen=True, slots=True)
class Adapted:
    """A request for the engine, and what its answer must look like."""

    body: dict[str, Any]
    stream: bool
    usage_chunk: bool
    """The client asked for a last chunk with the usage."""


def error(message: str, *, kind: str = "BadRequestError", code: int = 400, param: str | None = None) -> dict[str, Any]:
    """An error body in OpenAI's shape (and vLLM's words for its kinds)."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def unknown_model(name: str) -> dict[str, Any]:
    """The body of the 404 for a model that is not served."""
    return error(f"The model `{name}` does not exist.", kind="NotFoundError", code=404, param="model")


def model_list(names: Iterable[str], *, created: int, root: str, max_model_len: int | None) -> dict[str, Any]:
    """The answer of `GET /v1/models`."""
    entries = [
        {
            "id": name,
            "object": "model",
            "created": created,
            "owned_by": "kaito",
            "root": root,
            "parent": None,
            "max_model_len": max_model_len,
        }
        for name in names
    ]
    return {"object": "list", "data": entries}


def refuse_unsupported(body: Mapping[str, Any]) -> None:
    """Raise Unsupported for fields that would change the answer's shape and that the engine ignores."""
    response_format = body.get("response_format")
    kind = response_format.get("type") if isinstance(response_format, dict) else None
    wrong = {
        "n": body.get("n") not in (None, 1),
        "best_of": body.get("best_of") not in (None, 1),
        "logprobs": bool(body.get("logprobs")),
        "echo": bool(body.get("echo")),
        "response_format": kind not in (None, "text"),
    }
    for field, asked in wrong.items():
        if asked:
            raise Unsupported(field, f"The transformers engine does not support `{field}`; use the vllm engine for it.")


def checked_prompt(path: str, body: Mapping[str, Any]) -> None:
    """Raise Unsupported when the field that holds the input is missing or has a shape that the engine cannot take."""
    if path == "/v1/completions":
        if not isinstance(body.get("prompt"), str):
            raise Unsupported("prompt", "`prompt` must be a text.")
        return
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise Unsupported("messages", "`messages` must be a list of objects with `role` and `content`.")
    for message in messages:
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise Unsupported("messages", "Every message needs a `role` and a `content`.")


def adapt_request(path: str, body: Mapping[str, Any], *, model: str, defaults: Mapping[str, Any]) -> Adapted:
    """The engine's request for an OpenAI request; `defaults` is the model's generation_config.json.

    Raises Unsupported.
    """
    refuse_unsupported(body)
    checked_prompt(path, body)
    sent = {key: body[key] for key in sorted(PASSED[path]) if body.get(key) is not None}
    limit = body.get("max_completion_tokens") or body.get("max_tokens")
    if limit is None and path == "/v1/completions":
        limit = DEFAULT_COMPLETION_TOKENS
    if limit is not None:
        sent["max_tokens"] = limit
    stop = body.get("stop")
    if isinstance(stop, list) and not stop:
        sent.pop("stop", None)
    generation = generation_config(body, defaults)
    if generation is not None:
        sent.pop("top_p", None)
        generation["max_new_tokens"] = limit or max(1024, int(defaults.get("max_new_tokens") or 0))
        sent["generation_config"] = json.dumps(generation)
    options = body.get("stream_options")
    usage = isinstance(options, dict) and bool(options.get("include_usage"))
    stream = bool(body.get("stream"))
    return Adapted({"model": model, **sent, "stream": stream}, stream=stream, usage_chunk=usage)


def generation_config(body: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any] | None:
    """The whole generation config of a request that sets sampling fields; None when the model's own will do."""
    asked = {key: body[key] for key in GENERATION if body.get(key) is not None}
    if not asked:
        return None
    config = {**defaults, **asked}
    if asked.get("top_k", 1) <= 0:
        config["top_k"] = 0
    if "temperature" in asked or not defaults.get("do_sample"):
        config["do_sample"] = asked.get("temperature", 1.0) > 0
    if not config["do_sample"]:
        for key in ("temperature", "top_p", "top_k", "min_p"):
            config.pop(key, None)
    return config


def renamed(answer: Mapping[str, Any], name: str) -> dict[str, Any]:
    """An answer under the served name."""
    return {**answer, "model": name}


def adapt_error(status: int, body: bytes) -> dict[str, Any]:
    """An error of the engine's web framework in OpenAI's shape."""
    try:
        detail = json.loads(body)
    except ValueError:
        detail = body.decode("utf-8", "replace").strip() or "The engine failed."
    if isinstance(detail, dict):
        detail = detail.get("detail") or detail.get("error") or detail
    text = detail if isinstance(detail, str) else json.dumps(detail)
    kind = "BadRequestError" if status < 500 else "InternalServerError"
    return error(text, kind=kind, code=status)


def adapt_event(event: bytes, *, name: str, usage_chunk: bool) -> list[bytes]:
    """The events to send for one `data:` line of the engine's stream."""
    if not event.startswith(b"data: "):
        return [event]
    try:
        chunk = json.loads(event[6:])
    except ValueError:
        return [event]
    if not isinstance(chunk, dict):
        return [event]
    if "error" in chunk and "choices" not in chunk:
        text = chunk["error"] if isinstance(chunk["error"], str) else json.dumps(chunk["error"])
        return [event_of(error(text, kind="InternalServerError", code=500))]
    usage = chunk.pop("usage", None)
    chunk = renamed(chunk, name)
    events = [event_of(chunk)]
    if usage is not None and usage_chunk:
        events.append(event_of({**chunk, "choices": [], "usage": usage}))
    return events


def event_of(value: Mapping[str, Any]) -> bytes:
    """One server-sent event, without its empty line."""
    return b"data: " + json.dumps(value, ensure_ascii=False).encode()
