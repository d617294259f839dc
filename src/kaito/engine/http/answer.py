# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Answers as bytes: the status line and headers of a `Response`, and refusals as responses. Pure."""

from __future__ import annotations

import http
from collections.abc import Sequence

from kaito.engine.wire.requests import Request, Response, json_response
from kaito.engine.wire.status import StatusError

MAX_HEADER_WARNINGS = 100
STATUS_LINES = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in http.HTTPStatus}

_CACHE = b"cache-control: no-cache, private\r\n"
_JSON = _CACHE + b"content-type: application/json\r\n"


def error_response(error: StatusError) -> Response:
    """A refusal as an answer."""
    response = json_response(error.body(), error.code)
    if error.retry_after_s is not None:
        response.headers.append(("retry-after", str(error.retry_after_s)))
    return response


def status_line(status: int) -> bytes:
    """The first line of an answer."""
    return STATUS_LINES.get(status) or f"HTTP/1.1 {status} \r\n".encode()


def header_lines(request: Request, response: Response) -> bytes:
    """The headers of an answer, but for those about the connection and the length."""
    if response.content_type == "application/json" and not response.headers and not request.warnings:
        return _JSON  # nearly every answer
    lines = [b"%s: %s\r\n" % pair for pair in headers(request, response)]
    return b"".join(lines)


def headers(request: Request, response: Response) -> list[tuple[bytes, bytes]]:
    """The same as pairs."""
    found = [(b"cache-control", b"no-cache, private")]
    if response.content_type:
        found.append((b"content-type", response.content_type.encode()))
    found += [(_name(name), _value(value)) for name, value in response.headers]
    return found + [(b"warning", _value(f'299 - "{_quoted(text)}"')) for text in _once(request.warnings)]


def _once(warnings: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(warnings))[:MAX_HEADER_WARNINGS]


def _quoted(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')


def _name(name: str) -> bytes:
    return name.encode("latin-1", "replace")


def _value(value: str) -> bytes:
    """Without line ends, which would begin another header."""
    return value.replace("\r", " ").replace("\n", " ").encode("latin-1", "replace")
