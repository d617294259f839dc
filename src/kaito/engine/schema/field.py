# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""What is wrong with which field: the errors that make up a 422 answer, in Kubernetes' words.

Validation returns lists of `FieldError`; the server turns them into `Status.details.causes` and a message. The words
and reasons are those of k8s.io/apimachinery's field package.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

Reason = Literal[
    "FieldValueRequired",
    "FieldValueInvalid",
    "FieldValueNotSupported",
    "FieldValueForbidden",
    "FieldValueDuplicate",
    "FieldValueNotFound",
    "FieldValueTooLong",
    "FieldValueTooMany",
    "FieldValueTypeInvalid",
    "InternalError",
]
NO_FIELD: Final = "<nil>"
"""The field of an error that Kubernetes reports without a path."""


@dataclass(frozen=True, slots=True)
class FieldError:
    """One cause: the field's path, the typed reason, and the message without the path."""

    field: str
    reason: Reason
    message: str

    def __str__(self) -> str:
        return f"{self.field}: {self.message}"

    def cause(self) -> dict[str, str]:
        """The entry in `Status.details.causes`."""
        return {"reason": self.reason, "message": self.message, "field": self.field}


def aggregate(errors: Sequence[FieldError]) -> str:
    """The errors as one message: alone as it is, several in brackets, the same one only once."""
    texts = list(dict.fromkeys(str(error) for error in errors))
    return texts[0] if len(texts) == 1 else f"[{', '.join(texts)}]"


def quoted(value: Any) -> str:
    """A bad value as an error message shows it: compact JSON, keys sorted."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False, sort_keys=True)


def required(path: str, detail: str = "") -> FieldError:
    """The field must be there."""
    return FieldError(path, "FieldValueRequired", f"Required value: {detail}" if detail else "Required value")


def invalid(path: str, value: Any, detail: str) -> FieldError:
    """The value breaks a rule that `detail` names."""
    return FieldError(path, "FieldValueInvalid", f"Invalid value: {quoted(value)}: {detail}")


def type_invalid(path: str, value: Any, detail: str) -> FieldError:
    """The value has the wrong type."""
    return FieldError(path, "FieldValueTypeInvalid", f"Invalid value: {quoted(value)}: {detail}")


def unsupported(path: str, value: Any, supported: Iterable[str]) -> FieldError:
    """The value is not one of those supported, which are shown in the order given."""
    values = ", ".join(quoted(item) for item in supported)
    detail = f": supported values: {values}" if values else ""
    return FieldError(path, "FieldValueNotSupported", f"Unsupported value: {quoted(value)}{detail}")


def forbidden(path: str, detail: str) -> FieldError:
    """The field must not be set, or not be changed."""
    return FieldError(path, "FieldValueForbidden", f"Forbidden: {detail}")


def duplicate(path: str, value: Any) -> FieldError:
    """The value stands in the list already."""
    return FieldError(path, "FieldValueDuplicate", f"Duplicate value: {quoted(value)}")


def not_found(path: str, value: Any) -> FieldError:
    """The value names something that is not there."""
    return FieldError(path, "FieldValueNotFound", f"Not found: {quoted(value)}")


def too_long(path: str, limit: int) -> FieldError:
    """The text has more than `limit` bytes."""
    return FieldError(path, "FieldValueTooLong", f"Too long: may not be more than {limit} bytes")


def too_many(path: str, count: int, limit: int) -> FieldError:
    """The list or map has more than `limit` entries."""
    return FieldError(path, "FieldValueTooMany", f"Too many: {count}: must have at most {limit} items")
