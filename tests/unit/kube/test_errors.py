# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json

import pytest

from kaito.kube import errors
from kaito.kube.errors import ApiError, error_from_response


@pytest.mark.parametrize(
    ("code", "reason", "kind"),
    [
        (400, "BadRequest", errors.Invalid),
        (401, "Unauthorized", errors.Unauthorized),
        (403, "Forbidden", errors.Forbidden),
        (404, "NotFound", errors.NotFound),
        (405, "MethodNotAllowed", ApiError),
        (409, "AlreadyExists", errors.AlreadyExists),
        (409, "Conflict", errors.Conflict),
        (410, "Expired", errors.Gone),
        (422, "Invalid", errors.Invalid),
        (429, "TooManyRequests", errors.TooManyRequests),
        (500, "InternalError", errors.Unavailable),
        (504, "Timeout", errors.Unavailable),
    ],
)
def test_a_status_becomes_the_error_that_says_what_to_do(code: int, reason: str, kind: type[ApiError]) -> None:
    details = {"causes": [{"field": "spec.x", "message": "is wrong"}]}
    body = {"kind": "Status", "reason": reason, "message": "no", "code": code, "details": details}
    error = error_from_response(code, json.dumps(body).encode())
    assert type(error) is kind
    assert (error.status, error.reason, str(error), error.causes) == (code, reason, "no", details["causes"])


@pytest.mark.parametrize("body", [b"", b"<html>\nnginx", b"[1]", b'{"kind": "Other"}', b"\xff\xfe"])
def test_an_answer_that_is_no_status_is_an_error_all_the_same(body: bytes) -> None:
    error = error_from_response(502, body)
    assert isinstance(error, errors.Unavailable)
    assert not error.is_connection_trouble
    assert "502" in str(error)
