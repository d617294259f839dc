# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""OpenAI's shapes for what the front says itself. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


def error(message: str, *, kind: str = "BadRequestError", code: int = 400, param: str | None = None) -> dict[str, Any]:
    """An error body in OpenAI's shape (and vLLM's words for its kinds)."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def unknown_model(name: str) -> dict[str, Any]:
    """The body of the 404 for a model that is not served."""
    return error(f"The model `{name}` does not exist.", kind="NotFoundError", code=404, param="model")


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


def event_of(value: Mapping[str, Any]) -> bytes:
    """One server-sent event, without its empty line."""
    return b"data: " + json.dumps(value, ensure_ascii=False).encode()


def encoded(value: Any) -> bytes:
    """A JSON body."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
