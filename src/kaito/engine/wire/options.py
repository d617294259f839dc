# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""A write request's options, read from the query and (for deletions) the body, and refused when they make no sense.

Pure.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal, get_args

from kaito.engine.schema.field import FieldError, invalid, required, too_long, unsupported
from kaito.engine.wire.codec import Decoded, decode_body
from kaito.engine.wire.context import DeleteOptions, FieldValidation, WriteContext
from kaito.engine.wire.requests import Request, is_true
from kaito.engine.wire.status import StatusError, bad_request
from kaito.engine.wire.status import invalid as invalid_object
from kaito.kube.manifest import Manifest

MAX_MANAGER = 128

OptionsKind = Literal["CreateOptions", "UpdateOptions", "PatchOptions", "DeleteOptions"]
Propagation = Literal["Background", "Foreground", "Orphan"]


def write_context(request: Request, now: datetime, options: OptionsKind, *, apply: bool = False) -> WriteContext:
    """The context of a create, update or patch. Raises StatusError 422 for bad options."""
    if not request.query and not apply:
        return WriteContext(
            request.user, now, default_manager(request), warnings=request.warnings, options=_shown(options)
        )
    errors = [
        *_manager_errors(request, apply=apply),
        *_dry_run_errors(request.query.get("dryRun", [])),
        *_validation_errors(request),
    ]
    if "force" in request.query and not apply and options == "PatchOptions":
        errors.append(FieldError("force", "FieldValueForbidden", "Forbidden: may not be specified for non-apply patch"))
    if errors:
        raise invalid_object("meta.k8s.io", options, "", errors)
    manager = request.param("fieldManager") or default_manager(request)
    validation: FieldValidation = "Warn"
    for name in get_args(FieldValidation):
        if request.param("fieldValidation") == name:
            validation = name
    shown = _shown(options)
    for name in ("fieldManager", "fieldValidation"):
        if request.param(name):
            shown[name] = request.param(name)
    dry_run = bool(request.query.get("dryRun"))
    if dry_run:
        shown["dryRun"] = ["All"]
    return WriteContext(request.user, now, manager, validation, dry_run, request.warnings, shown)


def _shown(options: OptionsKind) -> Manifest:
    return {"kind": "UpdateOptions" if options == "PatchOptions" else options, "apiVersion": "meta.k8s.io/v1"}


def default_manager(request: Request) -> str:
    """The name of the program that asks, from its User-Agent."""
    return (request.header("user-agent") or "unknown").partition("/")[0][:MAX_MANAGER]


def _manager_errors(request: Request, *, apply: bool) -> list[FieldError]:
    manager = request.param("fieldManager")
    if not manager:
        return [required("fieldManager", "is required for apply patch")] if apply else []
    if len(manager) > MAX_MANAGER:
        return [too_long("fieldManager", MAX_MANAGER)]
    return [
        invalid("fieldManager", manager, f"invalid character U+{ord(letter):04X} (at position {at})")
        for at, letter in enumerate(manager)
        if not letter.isprintable()
    ]


def _dry_run_errors(values: list[str]) -> list[FieldError]:
    return [unsupported("dryRun", values, ["All"])] if values and set(values) != {"All"} else []


def _validation_errors(request: Request) -> list[FieldError]:
    value = request.param("fieldValidation")
    if value in ("", *get_args(FieldValidation)):
        return []
    message = f'Unsupported value: "{value}": supported values: "", "Ignore", "Strict", "Warn"'
    return [FieldError("fieldValidation", "FieldValueNotSupported", message)]


def delete_options(request: Request) -> tuple[DeleteOptions, bool, Manifest]:
    """How to delete, whether only to try, and the options as webhooks see them. Raises StatusError 400 or 422."""
    body = _delete_body(request) if request.body.strip() else _from_query(request)
    errors = _dry_run_errors(body.get("dryRun") or [])
    how, orphan = body.get("propagationPolicy"), body.get("orphanDependents")
    if how is not None and orphan is not None:
        text = "orphanDependents and deletionPropagation cannot be both set"
        errors.append(invalid("propagationPolicy", how, text))
    elif how is not None and how not in get_args(Propagation):
        message = f'Unsupported value: "{how}": supported values: "Foreground", "Background", "Orphan", "nil"'
        errors.append(FieldError("propagationPolicy", "FieldValueNotSupported", message))
    if errors:
        raise invalid_object("meta.k8s.io", "DeleteOptions", "", errors)
    if orphan is not None:
        how = "Orphan" if orphan else "Background"
    preconditions = body.get("preconditions") or {}
    options = DeleteOptions(
        how, body.get("gracePeriodSeconds"), preconditions.get("uid"), preconditions.get("resourceVersion")
    )
    return options, bool(body.get("dryRun")), {**body, "kind": "DeleteOptions", "apiVersion": "meta.k8s.io/v1"}


def _delete_body(request: Request) -> dict[str, Any]:
    try:
        decoded: Decoded = decode_body(request.body, request.header("content-type"))
    except ValueError as error:
        raise bad_request(f"couldn't get version/kind; json parse error: {error}") from None
    body = decoded.value
    if not isinstance(body, dict):
        raise bad_request("couldn't get version/kind; json parse error: the body must be an object")
    if body.get("kind") not in (None, "", "DeleteOptions"):
        raise _unregistered(body)
    return body


def _unregistered(body: Manifest) -> StatusError:
    scheme = 'scheme "k8s.io/apimachinery/pkg/apis/meta/internalversion/scheme/register.go:27"'
    return bad_request(f'no kind "{body["kind"]}" is registered for version "{body.get("apiVersion", "")}" in {scheme}')


def _from_query(request: Request) -> dict[str, Any]:
    body: dict[str, Any] = {}
    grace = request.param("gracePeriodSeconds")
    if grace:
        try:
            body["gracePeriodSeconds"] = int(grace)
        except ValueError:
            raise bad_request(f'strconv.ParseInt: parsing "{grace}": invalid syntax') from None
    if request.param("propagationPolicy"):
        body["propagationPolicy"] = request.param("propagationPolicy")
    if request.param("orphanDependents"):
        body["orphanDependents"] = is_true(request.param("orphanDependents"))
    if request.query.get("dryRun"):
        body["dryRun"] = request.query["dryRun"]
    return body
