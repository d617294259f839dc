# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Which records a list or a watch is about: selectors, pages and resource versions.

`Selection` filters; `list_page` answers one page from one snapshot of the store. No HTTP here.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from kaito.engine.kinds import Kind
from kaito.engine.schema.field import FieldError
from kaito.engine.schema.select import (
    FieldSelector,
    LabelSelector,
    SelectorError,
    field_value,
    parse_fields,
    parse_labels,
)
from kaito.engine.storage.events import Record
from kaito.engine.storage.store import Compacted, Store
from kaito.engine.wire.codec import decode
from kaito.engine.wire.requests import Request
from kaito.engine.wire.status import StatusError, bad_request, expired, invalid
from kaito.kube.manifest import Manifest

View = Callable[[Record], bytes]

EXPIRED_PAGE = (
    "The provided continue parameter is too old to display a consistent list result. You can start a new list without "
    "the continue parameter."
)


class _Meta(msgspec.Struct):
    labels: dict[str, str] | None = None


class _Labelled(msgspec.Struct):
    metadata: _Meta


_LABELS = msgspec.json.Decoder(_Labelled)


def labels_of_record(record: Record) -> dict[str, str]:
    """The record's labels, decoded once."""
    labels: dict[str, str] | None = record.known("labels")
    if labels is None:
        labels = _LABELS.decode(record.value).metadata.labels or {}
        record.remember("labels", labels)
    return labels


@dataclass(frozen=True, slots=True)
class Selection:
    """Which objects of a collection."""

    namespace: str | None
    labels: LabelSelector
    fields: FieldSelector

    @property
    def is_everything(self) -> bool:
        return self.labels.empty and not self.fields.requirements

    def matches(self, record: Record, view: View) -> bool:
        """Whether the record belongs to the selection."""
        if self.namespace is not None and record.namespace != self.namespace:
            return False
        if not self.labels.empty and not self.labels.matches(labels_of_record(record)):
            return False
        return not self.fields.requirements or self.fields.matches(_lookup(record, view))


def _lookup(record: Record, view: View) -> Callable[[str], str | None]:
    """The values of a record's fields; the object is decoded only for fields other than its name."""
    decoded: list[Manifest] = []

    def value(field: str) -> str | None:
        if field == "metadata.name":
            return record.name
        if field == "metadata.namespace":
            return record.namespace
        if not decoded:
            decoded.append(decode(view(record)))
        return field_value(decoded[0], field)

    return value


SELECTABLE_FIELDS: dict[str, tuple[str, ...]] = {
    "pods": (
        "spec.nodeName",
        "spec.restartPolicy",
        "spec.schedulerName",
        "spec.serviceAccountName",
        "spec.hostNetwork",
        "status.phase",
        "status.podIP",
        "status.nominatedNodeName",
    ),
    "events": (
        "involvedObject.kind",
        "involvedObject.namespace",
        "involvedObject.name",
        "involvedObject.uid",
        "involvedObject.apiVersion",
        "involvedObject.resourceVersion",
        "involvedObject.fieldPath",
        "reason",
        "reportingComponent",
        "source",
        "type",
    ),
    "namespaces": ("status.phase",),
    "nodes": ("spec.unschedulable",),
    "secrets": ("type",),
    "services": ("spec.clusterIP", "spec.type"),
    "replicasets.apps": ("status.replicas",),
    "replicationcontrollers": ("status.replicas",),
    "jobs.batch": ("status.successful",),
}
"""Fields that a field selector may ask about besides metadata.name and metadata.namespace."""


def selectable_fields(kind: Kind) -> tuple[str, ...]:
    """The fields that selectors of the kind may use."""
    if kind.is_custom:
        own = tuple(
            str(entry["jsonPath"]).removeprefix(".") for entry in kind.version_spec.get("selectableFields") or []
        )
    else:
        own = SELECTABLE_FIELDS.get(kind.qualified, ())
    return ("metadata.name", "metadata.namespace", *own)


def parse_selection(request: Request, kind: Kind, namespace: str, *, name: str = "") -> Selection:
    """The selection that a request means. Raises StatusError 400 on selectors that cannot be read."""
    try:
        labels = parse_labels(request.param("labelSelector"))
    except SelectorError as error:
        raise bad_request(str(error)) from None
    text = request.param("fieldSelector")
    if name:
        text = f"{text},metadata.name={name}" if text else f"metadata.name={name}"
    try:
        fields = parse_fields(text)
    except SelectorError as error:
        raise bad_request(str(error)) from None
    for field in fields.fields:
        if field not in selectable_fields(kind):
            raise bad_request(_not_selectable(field, kind))
    return Selection(namespace if kind.namespaced and namespace else None, labels, fields)


def _not_selectable(field: str, kind: Kind) -> str:
    if kind.is_custom or kind.qualified in SELECTABLE_FIELDS:
        return f"field label not supported: {field}"
    known = '"metadata.name", "metadata.namespace"'
    return f'"{field}" is not a known field selector: only {known}'


@dataclass(frozen=True, slots=True)
class Page:
    """One answer of a list."""

    records: list[Record]
    revision: int
    continue_token: str = ""
    remaining: int | None = None

    def meta(self) -> Manifest:
        """The list's metadata."""
        meta: Manifest = {"resourceVersion": str(self.revision)}
        if self.continue_token:
            meta["continue"] = self.continue_token
        if self.remaining is not None:
            meta["remainingItemCount"] = self.remaining
        return meta


def list_page(store: Store, kind: Kind, selection: Selection, request: Request, view: View) -> Page:
    """The page that the request asks for. Raises StatusError."""
    limit = max(_integer(request, "limit"), 0)
    token = request.param("continue")
    revision, after = _snapshot(store, request, token)
    if revision is None or revision >= store.revision:
        revision = revision or store.revision
        records = list(store.scan(kind.collection, selection.namespace))
    else:
        records = _records_at(store, kind, selection, revision, is_page=bool(token))
    if after is not None:
        records = [record for record in records if (record.namespace, record.name) > after]
    matching = records if selection.is_everything else [r for r in records if selection.matches(r, view)]
    if not limit or len(matching) <= limit:
        return Page(matching, revision)
    last = matching[limit - 1]
    remaining = len(matching) - limit if selection.is_everything else None
    return Page(matching[:limit], revision, _token(revision, last), remaining)


def _records_at(store: Store, kind: Kind, selection: Selection, revision: int, *, is_page: bool) -> list[Record]:
    try:
        return store.scan_at(kind.collection, selection.namespace, revision)
    except Compacted:
        if is_page:
            raise expired(EXPIRED_PAGE) from None
        raise expired(f"too old resource version: {revision} ({store.compacted})") from None


def _integer(request: Request, name: str) -> int:
    text = request.param(name)
    try:
        return int(text) if text else 0
    except ValueError:
        raise bad_request(f'strconv.ParseInt: parsing "{text}": invalid syntax') from None


def _snapshot(store: Store, request: Request, token: str) -> tuple[int | None, tuple[str, str] | None]:
    """The revision to list at (None: now), and the key to go on after."""
    version, match = request.param("resourceVersion"), request.param("resourceVersionMatch")
    if token:
        if version and version != "0":
            raise bad_request("specifying resource version is not allowed when using continue")
        return _parse_token(token)
    check_match(version, match, bool(request.param("sendInitialEvents")), watching=False)
    wanted = revision_of(version)
    if wanted and wanted > store.revision:
        raise too_large(wanted, store.revision)
    return (wanted, None) if match == "Exact" else (None, None)


def check_match(version: str, match: str, initial_events: bool, *, watching: bool) -> None:
    """Raises StatusError 422 when resourceVersionMatch and its companions do not fit together."""
    errors: list[FieldError] = []
    if watching and initial_events and match != "NotOlderThan":
        text = "Forbidden: sendInitialEvents requires setting resourceVersionMatch to NotOlderThan"
        errors.append(FieldError("resourceVersionMatch", "FieldValueForbidden", text))
    elif watching and match and not initial_events:
        text = "Forbidden: resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided"
        errors.append(FieldError("resourceVersionMatch", "FieldValueForbidden", text))
    elif not watching and match and not version:
        text = "Forbidden: resourceVersionMatch is forbidden unless resourceVersion is provided"
        errors.append(FieldError("resourceVersionMatch", "FieldValueForbidden", text))
    elif match not in ("", "Exact", "NotOlderThan"):
        text = f'Unsupported value: "{match}": supported values: "Exact", "NotOlderThan", ""'
        errors.append(FieldError("resourceVersionMatch", "FieldValueNotSupported", text))
    elif match == "Exact" and version == "0":
        text = 'Forbidden: resourceVersionMatch "exact" is forbidden for resourceVersion "0"'
        errors.append(FieldError("resourceVersionMatch", "FieldValueForbidden", text))
    if not watching and initial_events:
        text = "Forbidden: sendInitialEvents is forbidden for list"
        errors.append(FieldError("sendInitialEvents", "FieldValueForbidden", text))
    if errors:
        raise invalid("meta.k8s.io", "ListOptions", "", errors)


def revision_of(version: str) -> int:
    """The number in a resourceVersion; 0 for none."""
    if not version:
        return 0
    if not version.isdigit():
        raise bad_request(
            f'invalid resource version: resourceVersion: Invalid value: "{version}": '
            f'strconv.ParseUint: parsing "{version}": invalid syntax'
        )
    return int(version)


def too_large(wanted: int, current: int) -> StatusError:
    """504 for a resource version that is not there yet; the client may try again."""
    details = {
        "causes": [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}],
        "retryAfterSeconds": 1,
    }
    message = f"Timeout: Too large resource version: {wanted}, current: {current}"
    return StatusError(504, "Timeout", message, details=details, retry_after_s=1)


def _token(revision: int, last: Record) -> str:
    token = {"v": "meta.k8s.io/v1", "rv": revision, "start": [last.namespace, last.name]}
    return base64.urlsafe_b64encode(msgspec.json.encode(token)).rstrip(b"=").decode()


def _parse_token(token: str) -> tuple[int, tuple[str, str]]:
    try:
        found = msgspec.json.decode(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
        namespace, name = found["start"]
        return int(found["rv"]), (str(namespace), str(name))
    except (ValueError, KeyError, TypeError):
        raise bad_request(f"invalid continue token: continue key is not valid{_token_defect(token)}") from None


def _token_defect(token: str) -> str:
    """What the reference says about a token that is not one: the first byte that no JSON document starts with."""
    try:
        start = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))[:1].decode("latin-1")
    except ValueError:
        return ""
    if not start:
        return ": unexpected end of JSON input"
    shown = start if " " <= start <= "~" else f"\\u{ord(start):04x}"
    return "" if start == "{" else f": invalid character '{shown}' looking for beginning of value"
