# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""What an API server sends back, made into values: lists, and the lines of a watch.

Anything that is not what Kubernetes sends is an `ApiError` here, so that no caller meets a KeyError because a proxy in
between answered with a page of its own.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Mapping
from typing import Any, Literal

import msgspec

from kaito.kube.errors import ApiError, Unavailable, error_from_status
from kaito.kube.manifest import Manifest
from kaito.kube.resource import Resource

EventType = Literal["ADDED", "MODIFIED", "DELETED", "BOOKMARK"]


class WatchEvent(msgspec.Struct, frozen=True):
    """One change of a collection."""

    type: EventType
    object: dict[str, Any]


def items_of(resource: Resource, page: Manifest) -> list[Manifest]:
    """The objects of a list, which leaves out what is the same for all of them."""
    items: list[Manifest] = page.get("items") or []
    for item in items:
        if not item.get("metadata", {}).get("name"):
            raise ApiError(200, "MalformedAnswer", f"the list of {resource.plural} holds an object without a name")
        item["apiVersion"], item["kind"] = resource.api_version, resource.kind
    return items


_EVENT = msgspec.json.Decoder(dict[str, Any])
_TYPES: Mapping[str, EventType] = {
    "ADDED": "ADDED",
    "MODIFIED": "MODIFIED",
    "DELETED": "DELETED",
    "BOOKMARK": "BOOKMARK",
}


def decode_event(line: bytes) -> WatchEvent:
    """The event on one line of a watch. Raises what an ERROR event says, and ApiError for anything unreadable."""
    try:
        raw = _EVENT.decode(line)
    except msgspec.MsgspecError:
        raise ApiError(200, "MalformedEvent", "a watch sent a line that is no JSON object") from None
    obj = raw.get("object")
    if not isinstance(obj, dict):
        raise ApiError(200, "MalformedEvent", "a watch sent an event without an object")
    if raw.get("type") == "ERROR":
        raise error_from_status(obj)
    type_ = _TYPES.get(str(raw.get("type")))
    meta = obj.get("metadata")
    if type_ is None or not isinstance(meta, dict) or not meta.get("resourceVersion"):
        raise ApiError(200, "MalformedEvent", "a watch sent an event of unknown type or without a resourceVersion")
    if type_ != "BOOKMARK" and not meta.get("name"):
        raise ApiError(200, "MalformedEvent", "a watch sent an object without a name")
    return WatchEvent(type_, obj)


async def lines_of(chunks: AsyncIterable[bytes]) -> AsyncIterator[bytes]:
    """The complete lines of a stream. Raises Unavailable when the stream ends within one."""
    rest = b""
    async for chunk in chunks:
        *complete, rest = (rest + chunk).split(b"\n")
        for line in complete:
            if line.strip():
                yield line
    if rest.strip():
        raise Unavailable(0, "TruncatedLine", "a watch ended in the middle of a line")
