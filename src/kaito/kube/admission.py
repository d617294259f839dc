# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Admission reviews and conversion reviews (v1) as values: what is asked, what a pure function says, what is answered.

`kaito.kube.webhook` serves them. A `Validator` and a `Converter` see one value and return one; they never see HTTP.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from kaito.kube.manifest import Manifest

Operation = Literal["CREATE", "UPDATE", "DELETE", "CONNECT"]
FieldReason = Literal[
    "FieldValueRequired",
    "FieldValueInvalid",
    "FieldValueNotSupported",
    "FieldValueForbidden",
    "FieldValueDuplicate",
    "FieldValueTooLong",
    "FieldValueTypeInvalid",
]
_WORDS: Mapping[FieldReason, str] = {
    "FieldValueRequired": "Required value",
    "FieldValueInvalid": "Invalid value",
    "FieldValueNotSupported": "Unsupported value",
    "FieldValueForbidden": "Forbidden",
    "FieldValueDuplicate": "Duplicate value",
    "FieldValueTooLong": "Too long",
    "FieldValueTypeInvalid": "Invalid value",
}
_OPERATIONS: Mapping[str, Operation] = {
    "CREATE": "CREATE",
    "UPDATE": "UPDATE",
    "DELETE": "DELETE",
    "CONNECT": "CONNECT",
}


class BadReview(Exception):
    """The body is not a review of the kind that the path serves; the message is one sentence."""


@dataclass(frozen=True, slots=True)
class AdmissionRequest:
    """What somebody wants to do, before it is done."""

    uid: str
    operation: Operation
    group: str
    version: str
    kind: str
    plural: str
    subresource: str
    name: str
    namespace: str
    object: Manifest | None
    """The object as it would be; None on DELETE."""
    old_object: Manifest | None
    """The object as it is; None on CREATE."""
    username: str
    dry_run: bool


@dataclass(frozen=True, slots=True)
class FieldError:
    """One field that is wrong, in words that tell the user what to write instead."""

    path: str
    """As `spec.resource.instanceType`; empty for the object as a whole."""
    message: str
    reason: FieldReason = "FieldValueInvalid"

    def __str__(self) -> str:
        return f"{self.path}: {_WORDS[self.reason]}: {self.message}" if self.path else self.message


@dataclass(frozen=True, slots=True)
class Verdict:
    """Allowed unless there are errors."""

    errors: tuple[FieldError, ...] = ()
    warnings: tuple[str, ...] = ()
    """Shown by kubectl; the request goes through all the same."""
    patch: tuple[Manifest, ...] = ()
    """JSON patch operations, for a mutating webhook."""


Validator = Callable[[AdmissionRequest], Verdict]
Converter = Callable[[Manifest, str], Manifest]
"""The object in the given apiVersion. Raises ValueError, whose text is shown, when it cannot be converted."""


@dataclass(frozen=True, slots=True)
class _Resource:
    group: str = ""
    version: str = ""
    kind: str = ""
    resource: str = ""


@dataclass(frozen=True, slots=True)
class _User:
    username: str = ""


class _RawRequest(msgspec.Struct, rename="camel", frozen=True):
    uid: str
    operation: str
    kind: _Resource
    resource: _Resource
    sub_resource: str = ""
    name: str = ""
    namespace: str = ""
    object: dict[str, Any] | None = None
    old_object: dict[str, Any] | None = None
    user_info: _User = msgspec.field(default_factory=_User)
    dry_run: bool | None = None


class _RawReview(msgspec.Struct, rename="camel", frozen=True):
    api_version: str
    kind: str
    request: _RawRequest


class _RawConversion(msgspec.Struct, rename={"desired": "desiredAPIVersion"}, frozen=True):
    uid: str
    desired: str
    objects: list[dict[str, Any]]


class _RawConversionReview(msgspec.Struct, rename="camel", frozen=True):
    api_version: str
    kind: str
    request: _RawConversion


def parse_admission(body: bytes) -> AdmissionRequest:
    """The request in an AdmissionReview. Raises BadReview."""
    try:
        review = msgspec.json.decode(body, type=_RawReview)
    except msgspec.MsgspecError as error:
        raise BadReview(f"the body is not an AdmissionReview: {error}") from None
    if (review.api_version, review.kind) != ("admission.k8s.io/v1", "AdmissionReview"):
        raise BadReview(f"admission.k8s.io/v1 AdmissionReview is served here, not {review.api_version} {review.kind}")
    raw = review.request
    operation = _OPERATIONS.get(raw.operation)
    if operation is None:
        raise BadReview(f"request.operation {raw.operation!r} is none of {', '.join(_OPERATIONS)}")
    return AdmissionRequest(
        uid=raw.uid,
        operation=operation,
        group=raw.kind.group,
        version=raw.kind.version,
        kind=raw.kind.kind,
        plural=raw.resource.resource,
        subresource=raw.sub_resource,
        name=raw.name,
        namespace=raw.namespace,
        object=raw.object,
        old_object=raw.old_object,
        username=raw.user_info.username,
        dry_run=bool(raw.dry_run),
    )


def admission_answer(request: AdmissionRequest, verdict: Verdict) -> Manifest:
    """The AdmissionReview that says so; a denial is a 422 with one cause a field, as the API server's own."""
    response: Manifest = {"uid": request.uid, "allowed": not verdict.errors}
    if verdict.warnings:
        response["warnings"] = list(verdict.warnings)
    if verdict.errors:
        response["status"] = _denial(request, verdict.errors)
    elif verdict.patch:
        response["patchType"] = "JSONPatch"
        response["patch"] = base64.b64encode(msgspec.json.encode(verdict.patch)).decode()
    return {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response}


def _denial(request: AdmissionRequest, errors: tuple[FieldError, ...]) -> Manifest:
    told = ", ".join(str(error) for error in errors)
    causes = [
        {"reason": error.reason, "message": f"{_WORDS[error.reason]}: {error.message}", "field": error.path or "<nil>"}
        for error in errors
    ]
    kind = f"{request.kind}.{request.group}" if request.group else request.kind
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "status": "Failure",
        "code": 422,
        "reason": "Invalid",
        "message": f'{kind} "{request.name}" is invalid: {told if len(errors) == 1 else f"[{told}]"}',
        "details": {"name": request.name, "group": request.group, "kind": request.kind, "causes": causes},
    }


def convert(body: bytes, converter: Converter) -> Manifest:
    """The ConversionReview that answers another: all objects, or the reason why one cannot be converted.

    Raises BadReview.
    """
    try:
        review = msgspec.json.decode(body, type=_RawConversionReview)
    except msgspec.MsgspecError as error:
        raise BadReview(f"the body is not a ConversionReview: {error}") from None
    if (review.api_version, review.kind) != ("apiextensions.k8s.io/v1", "ConversionReview"):
        raise BadReview(f"apiextensions.k8s.io/v1 ConversionReview is served here, not {review.api_version}")
    request = review.request
    response: Manifest = {"uid": request.uid}
    try:
        response["convertedObjects"] = [converter(obj, request.desired) for obj in request.objects]
        response["result"] = {"status": "Success"}
    except ValueError as error:
        response["convertedObjects"] = []
        response["result"] = {"status": "Failure", "message": str(error)}
    return {"apiVersion": review.api_version, "kind": review.kind, "response": response}
