# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""What an API server can answer instead of what was asked, named by what the caller should do about it.

ApiError                 anything else: report it
├── NotFound             404  the object (or the kind) is not there
├── AlreadyExists        409  somebody was faster: read what is there
├── Conflict             409  read again, decide again
├── Invalid              400, 422  the manifest is wrong: do not repeat it
├── Gone                 410  the resourceVersion is too old: list again
├── TooManyRequests      429  wait, then repeat
├── Forbidden            403  the login may not do this
├── Unauthorized         401  the login is not valid
└── Unavailable          0 (no connection), 5xx  the server is not able: repeat later
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from kaito.kube.manifest import Manifest


class ApiError(Exception):
    """A request that did not succeed. `str()` is one sentence for a person."""

    def __init__(self, status: int, reason: str, message: str, details: Manifest | None = None) -> None:
        super().__init__(message)
        self.status = status
        """The HTTP status; 0 when there was no answer."""
        self.reason = reason
        """Kubernetes' word for it, such as `AlreadyExists`."""
        self.message = message
        self.details: Manifest = details or {}
        """The `details` of the server's Status: name, kind, causes, retryAfterSeconds."""

    @property
    def causes(self) -> list[Manifest]:
        """The fields that are wrong, as Kubernetes lists them: reason, message, field."""
        causes: list[Manifest] = self.details.get("causes") or []
        return causes

    @property
    def is_of_dying_namespace(self) -> bool:
        """Whether the server refused to make something because the namespace is on its way out."""
        return any(cause.get("reason") == "NamespaceTerminating" for cause in self.causes)


class NotFound(ApiError):
    """The object, or the kind itself, is not there."""


class AlreadyExists(ApiError):
    """An object of that name is there already."""


class Conflict(ApiError):
    """The object changed since it was read, or another field manager owns a field."""


class Invalid(ApiError):
    """The server does not accept the manifest; `causes` says which fields."""


class Gone(ApiError):
    """The resourceVersion or the continue token is too old: list again."""


class TooManyRequests(ApiError):
    """The server asks to slow down, and kept asking."""


class Forbidden(ApiError):
    """The login is valid and may not do this."""


class Unauthorized(ApiError):
    """The login is not valid."""


class Unavailable(ApiError):
    """No connection, a broken one, a time-out, or an answer of 500 and above."""

    @property
    def is_connection_trouble(self) -> bool:
        """Whether no answer came at all, so that what was known before still holds."""
        return self.status == 0


_BY_STATUS: Mapping[int, type[ApiError]] = {
    400: Invalid,
    401: Unauthorized,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    410: Gone,
    422: Invalid,
    429: TooManyRequests,
}
_REASONS: Mapping[int, str] = {
    400: "BadRequest",
    401: "Unauthorized",
    403: "Forbidden",
    404: "NotFound",
    405: "MethodNotAllowed",
    409: "Conflict",
    410: "Expired",
    422: "Invalid",
    429: "TooManyRequests",
    500: "InternalError",
    503: "ServiceUnavailable",
    504: "Timeout",
}


def error_from_status(status: Manifest, code: int | None = None) -> ApiError:
    """The error that a `Status` object describes; `code` is the HTTP status where the object has none."""
    number = int(status.get("code") or code or 500)
    reason = str(status.get("reason") or _REASONS.get(number, "Unknown"))
    message = str(status.get("message") or f"the server answered {number} ({reason})")
    kind = _BY_STATUS.get(number, Unavailable if number >= 500 else ApiError)
    if kind is Conflict and reason == "AlreadyExists":
        kind = AlreadyExists
    return kind(number, reason, message, status.get("details"))


def error_from_response(code: int, body: bytes) -> ApiError:
    """The error that an HTTP answer describes, whether its body is a `Status` or some proxy's page."""
    try:
        decoded: Any = msgspec.json.decode(body)
    except msgspec.DecodeError:
        decoded = None
    if isinstance(decoded, dict) and decoded.get("kind") == "Status":
        return error_from_status({**decoded, "code": code})
    text = body[:200].decode("utf-8", "replace").strip()
    first_line = text.splitlines()[0] if text else ""
    return error_from_status({"message": f"the server answered {code}: {first_line}" if first_line else None}, code)
