# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Refusals: the `Status` objects that Kubernetes answers when it does not do what was asked.

One exception, and a function for each reason. The wording is Kubernetes' own, because clients and people match on it.
Pure; it does not know HTTP beyond the status number.
"""

from __future__ import annotations

from collections.abc import Sequence

from kaito.engine.kinds import Kind
from kaito.engine.schema.field import FieldError, aggregate
from kaito.kube.manifest import Manifest


class StatusError(Exception):
    """A request that is refused."""

    def __init__(
        self, code: int, reason: str, message: str, *, details: Manifest | None = None, retry_after_s: int | None = None
    ) -> None:
        super().__init__(message)
        self.code, self.reason, self.message, self.details = code, reason, message, details
        self.retry_after_s = retry_after_s

    def body(self) -> Manifest:
        """The `Status` object."""
        body: Manifest = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure"}
        body["message"] = self.message
        if self.reason:
            body["reason"] = self.reason
        if self.details is not None:
            body["details"] = self.details
        body["code"] = self.code
        return body


def success(kind: Kind, name: str, uid: str) -> Manifest:
    """What a finished deletion answers."""
    details: Manifest = {"name": name}
    if kind.group:
        details["group"] = kind.group
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Success",
        "details": {**details, "kind": kind.plural, "uid": uid},
    }


def _details(group: str, kind: str, name: str, **more: object) -> Manifest:
    details: Manifest = {}
    if name:
        details["name"] = name
    if group:
        details["group"] = group
    return {**details, "kind": kind, **more}


def not_found(kind: Kind, name: str) -> StatusError:
    """404 for an object that is not there."""
    return StatusError(
        404, "NotFound", f'{kind.qualified} "{name}" not found', details=_details(kind.group, kind.plural, name)
    )


def unknown_path() -> StatusError:
    """404 for a path that nothing is served at."""
    return StatusError(404, "NotFound", "the server could not find the requested resource", details={})


def already_exists(kind: Kind, name: str) -> StatusError:
    """409 for a name that is taken."""
    message = f'{kind.qualified} "{name}" already exists'
    return StatusError(409, "AlreadyExists", message, details=_details(kind.group, kind.plural, name))


def conflict(kind: Kind, name: str, why: str) -> StatusError:
    """409 for a change that was made from another state than the live one."""
    message = f'Operation cannot be fulfilled on {kind.qualified} "{name}": {why}'
    return StatusError(409, "Conflict", message, details=_details(kind.group, kind.plural, name))


MODIFIED = "the object has been modified; please apply your changes to the latest version and try again"


def forbidden(kind: Kind, name: str, why: str, *, causes: list[Manifest] | None = None) -> StatusError:
    """403 with the reason why."""
    what = f'{kind.qualified} "{name}" is forbidden: {why}' if name else f"{kind.qualified} is forbidden: {why}"
    more: dict[str, object] = {"causes": causes} if causes else {}
    return StatusError(403, "Forbidden", what, details=_details(kind.group, kind.plural, name, **more))


def bad_request(message: str) -> StatusError:
    """400 with what is wrong."""
    return StatusError(400, "BadRequest", message)


def invalid(
    group: str, kind: str, name: str, errors: Sequence[FieldError], *, kind_in_details: bool = True
) -> StatusError:
    """422 for an object whose fields are wrong: one cause a field."""
    qualified = f"{kind}.{group}" if group else kind
    details = _details(group, kind, name, causes=[error.cause() for error in errors])
    if not kind_in_details:
        details.pop("kind")
    return StatusError(422, "Invalid", f'{qualified} "{name}" is invalid: {aggregate(errors)}', details=details)


def expired(message: str) -> StatusError:
    """410 for a state that is forgotten."""
    return StatusError(410, "Expired", message)


def method_not_allowed(verb: str, kind: Kind | None) -> StatusError:
    """405; with a kind, in the words that name it."""
    if kind is None:
        message = "the server does not allow this method on the requested resource"
        return StatusError(405, "MethodNotAllowed", message, details={})
    message = f'{verb} is not supported on resources of kind "{kind.qualified}"'
    return StatusError(405, "MethodNotAllowed", message, details=_details(kind.group, kind.plural, ""))


def unauthorized() -> StatusError:
    """401: nobody knows who asks."""
    return StatusError(401, "Unauthorized", "Unauthorized")


def unsupported_media_type(message: str) -> StatusError:
    """415 for a body in a form that is not read."""
    return StatusError(415, "UnsupportedMediaType", message)


def not_acceptable(accepted: str) -> StatusError:
    """406 for an answer in a form that is not written."""
    message = f"only the following media types are accepted: {accepted}"
    return StatusError(406, "NotAcceptable", message)


def internal(message: str) -> StatusError:
    """500 for what went wrong on the way."""
    details = {"causes": [{"message": message}]}
    return StatusError(500, "InternalError", f"Internal error occurred: {message}", details=details)
