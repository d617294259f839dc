# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""What to ask an API server, as values: one function a verb, none of which sends anything.

`kaito.kube.client` sends them. Everything that can be said about a request without a connection is decided, and tested,
here: path, query, content type, body.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import msgspec

from kaito.kube.manifest import Manifest
from kaito.kube.resource import Resource

PatchKind = Literal["merge", "json", "strategic"]
Propagation = Literal["Background", "Foreground", "Orphan"]

_JSON = "application/json"
_METADATA = "application/json;as=PartialObjectMetadata{};g=meta.k8s.io;v=v1"
"""What to accept for an object's, or with `List` a list's, metadata alone."""
_APPLY = "application/apply-patch+yaml"
_PATCH_TYPES: Mapping[PatchKind, str] = {
    "merge": "application/merge-patch+json",
    "json": "application/json-patch+json",
    "strategic": "application/strategic-merge-patch+json",
}


@dataclass(frozen=True, slots=True)
class Request:
    """One HTTP request, relative to the server's address."""

    method: str
    path: str
    params: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None

    @property
    def is_read(self) -> bool:
        """Whether the server's state stays as it is."""
        return self.method in ("GET", "HEAD", "OPTIONS")

    @property
    def is_repeatable(self) -> bool:
        """Whether sending it twice does what sending it once does."""
        return self.is_read or self.headers.get("Content-Type") == _APPLY


def with_body(
    method: str, path: str, content: object, *, params: Mapping[str, str] | None = None, content_type: str = _JSON
) -> Request:
    """A request that carries `content` as JSON."""
    return Request(method, path, params or {}, {"Content-Type": content_type}, msgspec.json.encode(content))


def get(resource: Resource, name: str, namespace: str, *, subresource: str | None = None) -> Request:
    """Read one object."""
    return Request("GET", resource.path(namespace, name, subresource=subresource))


def list_page(
    resource: Resource,
    namespace: str | None,
    *,
    label_selector: str | None = None,
    field_selector: str | None = None,
    limit: int = 0,
    token: str = "",
    metadata_only: bool = False,
) -> Request:
    """Read a collection, or the page of it that follows `token`."""
    params = _selectors(label_selector, field_selector)
    if limit:
        params["limit"] = str(limit)
    if token:
        params["continue"] = token
    return Request("GET", resource.path(namespace), params, _accept("List") if metadata_only else {})


def watch(
    resource: Resource,
    namespace: str | None,
    *,
    resource_version: str,
    label_selector: str | None = None,
    field_selector: str | None = None,
    timeout_s: int | None = None,
    metadata_only: bool = False,
) -> Request:
    """Follow a collection from a resourceVersion on, with bookmarks."""
    params = _selectors(label_selector, field_selector)
    params |= {"watch": "true", "allowWatchBookmarks": "true", "resourceVersion": resource_version}
    if timeout_s is not None:
        params["timeoutSeconds"] = str(timeout_s)
    return Request("GET", resource.path(namespace), params, _accept("") if metadata_only else {})


def create(
    resource: Resource,
    manifest: Manifest,
    namespace: str,
    *,
    name: str | None = None,
    subresource: str | None = None,
    field_manager: str | None = None,
) -> Request:
    """POST to the collection, or to a subresource of the object `name`."""
    path = resource.path(namespace, name if subresource else None, subresource=subresource)
    return with_body("POST", path, manifest, params=_manager(field_manager))


def replace(resource: Resource, manifest: Manifest, namespace: str, *, subresource: str | None = None) -> Request:
    """PUT the whole object."""
    path = resource.path(namespace, manifest["metadata"]["name"], subresource=subresource)
    return with_body("PUT", path, manifest)


def patch(
    resource: Resource,
    name: str,
    namespace: str,
    body: Manifest | list[Manifest],
    *,
    kind: PatchKind = "merge",
    subresource: str | None = None,
    field_manager: str | None = None,
) -> Request:
    """Change parts of one object."""
    path = resource.path(namespace, name, subresource=subresource)
    return with_body("PATCH", path, body, params=_manager(field_manager), content_type=_PATCH_TYPES[kind])


def apply(
    resource: Resource,
    manifest: Manifest,
    namespace: str,
    *,
    field_manager: str,
    force: bool = True,
    subresource: str | None = None,
) -> Request:
    """Server-side apply. JSON is YAML, so the body is encoded as JSON under the type that every release knows."""
    path = resource.path(namespace, manifest["metadata"]["name"], subresource=subresource)
    params = {"fieldManager": field_manager, "force": "true" if force else "false"}
    return with_body("PATCH", path, manifest, params=params, content_type=_APPLY)


def delete(
    resource: Resource,
    name: str,
    namespace: str,
    *,
    uid: str | None = None,
    propagation: Propagation = "Background",
    grace_period_s: int | None = None,
) -> Request:
    """Delete one object, only that very one when a uid is given."""
    options: Manifest = {"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": propagation}
    if uid is not None:
        options["preconditions"] = {"uid": uid}
    if grace_period_s is not None:
        options["gracePeriodSeconds"] = grace_period_s
    return with_body("DELETE", resource.path(namespace, name), options)


def _accept(suffix: str) -> dict[str, str]:
    return {"Accept": _METADATA.format(suffix)}


def _selectors(label_selector: str | None, field_selector: str | None) -> dict[str, str]:
    params = {}
    if label_selector:
        params["labelSelector"] = label_selector
    if field_selector:
        params["fieldSelector"] = field_selector
    return params


def _manager(field_manager: str | None) -> dict[str, str]:
    return {"fieldManager": field_manager} if field_manager else {}


def retry_after_s(status: int, headers: Mapping[str, str], attempt: int, *, most_s: float = 30.0) -> float | None:
    """Seconds to wait before the same request is sent again; None when it should not be.

    429 may always be repeated (the server did nothing); of the 5xx only what says Retry-After, as a starting
    kube-apiserver does. `attempt` counts from 0. A date in Retry-After is not understood and counts as absent.
    """
    told = headers.get("Retry-After", "")
    if status == 429 or (status in (500, 503) and told.isdigit()):
        wanted = float(told) if told.isdigit() else 2.0**attempt
        return min(wanted, most_s)
    return None
