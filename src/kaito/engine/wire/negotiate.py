# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Which form of the answer the client accepts: JSON or YAML, the object itself, its metadata, or a table.

Pure.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from kaito.engine.wire.codec import ACCEPTED
from kaito.engine.wire.status import StatusError, not_acceptable

As = Literal["", "Table", "PartialObjectMetadata", "PartialObjectMetadataList"]


@dataclass(frozen=True, slots=True)
class Form:
    """What to send."""

    media_type: Literal["application/json", "application/yaml"] = "application/json"
    as_: As = ""
    version: str = "v1"

    @property
    def name(self) -> str:
        return f"{self.as_}/{self.version}"


@lru_cache(maxsize=64)
def negotiate(accept: str, *, for_object: bool = True) -> Form:
    """The first form in the Accept header that this server has. Raises StatusError 406.

    Protobuf is never chosen: every client that asks for it names JSON too.
    """
    if not accept.strip():
        return Form()
    asked_for_transform = False
    for part in accept.split(","):
        media, *params = (piece.strip() for piece in part.split(";"))
        wanted = dict(param.split("=", 1) for param in params if "=" in param)
        kind = _media(media)
        if kind is None:
            continue
        transform = wanted.get("as", "")
        if not transform:
            return Form(kind)
        asked_for_transform = True
        if not for_object or wanted.get("g") != "meta.k8s.io" or wanted.get("v") not in ("v1", "v1beta1"):
            continue
        if transform in ("Table", "PartialObjectMetadata", "PartialObjectMetadataList"):
            return Form(kind, transform, wanted["v"])  # type: ignore[arg-type]
    if asked_for_transform:
        raise not_acceptable(ACCEPTED)
    raise StatusError(406, "NotAcceptable", f"406: Not Acceptable\n\nAvailable representations: {ACCEPTED}", details={})


def _media(media: str) -> Literal["application/json", "application/yaml"] | None:
    if media in ("application/json", "*/*", "application/*"):
        return "application/json"
    return "application/yaml" if media == "application/yaml" else None


def accepts_aggregated(accept: str) -> str | None:
    """The version of aggregated discovery that the client prefers over the plain form, if any."""
    for part in accept.split(","):
        media, *params = (piece.strip() for piece in part.split(";"))
        wanted = dict(param.split("=", 1) for param in params if "=" in param)
        if media == "application/json":
            if wanted.get("as") == "APIGroupDiscoveryList" and wanted.get("g") == "apidiscovery.k8s.io":
                return wanted.get("v") if wanted.get("v") in ("v2", "v2beta1") else None
            if "as" not in wanted:
                return None
    return None
