# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""What came in and what goes out: an HTTP request as a value, what its path means, and the reply.

Pure parsing; who handles it is `kaito.engine.http.server`'s business.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import parse_qsl, unquote

import msgspec

from kaito.kube.manifest import Manifest


@dataclass(frozen=True, slots=True)
class User:
    """Who asks."""

    name: str
    groups: tuple[str, ...] = ()
    uid: str = ""
    extra: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def info(self) -> Manifest:
        """As `userInfo` in reviews."""
        info: Manifest = {"username": self.name}
        if self.uid:
            info["uid"] = self.uid
        if self.groups:
            info["groups"] = list(self.groups)
        if self.extra:
            info["extra"] = {key: list(values) for key, values in self.extra.items()}
        return info


ANONYMOUS = User("system:anonymous", ("system:unauthenticated",))


@dataclass(slots=True)
class Request:
    """One HTTP request with its whole body."""

    method: str
    path: str
    query: dict[str, list[str]]
    headers: list[tuple[str, str]]
    """Names in lower case."""
    body: bytes = b""
    user: User = ANONYMOUS
    warnings: list[str] = field(default_factory=list)
    """What the answer's Warning headers will say."""
    _last: dict[str, str] | None = field(default=None, init=False, repr=False, compare=False)
    """The last value of each header, once one was asked for."""

    def header(self, name: str, default: str = "") -> str:
        """The last value of a header."""
        if self._last is None:
            self._last = dict(self.headers)
        return self._last.get(name, default)

    def add_header(self, name: str, value: str) -> None:
        """One more header, as if it had come last."""
        self.headers.append((name, value))
        self._last = None

    def header_values(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key == name]

    def param(self, name: str, default: str = "") -> str:
        """The first value of a query parameter."""
        values = self.query.get(name)
        return values[0] if values else default


def parse_query(raw: bytes) -> dict[str, list[str]]:
    """A query string as lists of values, empty values kept."""
    query: dict[str, list[str]] = {}
    for key, value in parse_qsl(raw.decode("latin-1"), keep_blank_values=True):
        query.setdefault(key, []).append(value)
    return query


@dataclass(slots=True)
class Response:
    """A whole reply, or a stream of chunks when `chunks` is set."""

    status: int = 200
    body: bytes = b""
    content_type: str = "application/json"
    headers: list[tuple[str, str]] = field(default_factory=list)
    chunks: AsyncIterator[bytes] | None = None
    release: Callable[[], None] | None = None
    """To be called when the chunks are not wanted any more, also when none was ever asked for."""
    told: int | None = None
    """The revision of the one object that the answer shows; None when it may tell of everything that was written."""


def json_response(body: object, status: int = 200, content_type: str = "application/json") -> Response:
    """A document as JSON."""
    return Response(status, msgspec.json.encode(body) + b"\n", content_type)


def text_response(text: str, status: int = 200) -> Response:
    """Plain text."""
    return Response(status, text.encode(), "text/plain; charset=utf-8")


class Target(NamedTuple):
    """What a resource path names. `watch` is the old `/watch/` prefix."""

    group: str
    version: str
    namespace: str
    plural: str
    name: str = ""
    subresource: str = ""
    rest: str = ""
    """What follows the subresource (for `proxy`)."""
    watch: bool = False


@lru_cache(maxsize=4096)
def parse_target(path: str) -> Target | None:
    """The resource that a path names; None for any other path. Segments are still percent-encoded in `path`."""
    parts = path.split("/")[1:]
    if parts[0] == "api" and len(parts) > 2:
        group, version, parts = "", parts[1], parts[2:]
    elif parts[0] == "apis" and len(parts) > 3:
        group, version, parts = parts[1], parts[2], parts[3:]
    else:
        return None
    watch = parts[0] == "watch" and len(parts) > 1
    if watch:
        parts = parts[1:]
    namespace = ""
    if parts[0] == "namespaces" and len(parts) > 2 and parts[2] not in ("status", "finalize"):
        namespace, parts = unquote(parts[1]), parts[2:]
    if not parts[0]:
        return None
    name = unquote(parts[1]) if len(parts) > 1 else ""
    subresource = parts[2] if len(parts) > 2 else ""
    return Target(group, version, namespace, parts[0], name, subresource, "/".join(parts[3:]), watch)


class Attributes(NamedTuple):
    """What authorization is asked about: a resource request or a plain path."""

    verb: str
    group: str = ""
    version: str = ""
    resource: str = ""
    subresource: str = ""
    namespace: str = ""
    name: str = ""
    path: str = ""


_VERBS = {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete", "GET": "get", "HEAD": "get"}


def attributes(request: Request, target: Target | None) -> Attributes:
    """What the request does, in the words of authorization rules."""
    if target is None:
        return Attributes(request.method.lower(), path=request.path)
    verb = _VERBS.get(request.method, request.method.lower())
    if not target.name:
        if verb == "get":
            verb = "watch" if target.watch or is_true(request.param("watch")) else "list"
        elif verb == "delete":
            verb = "deletecollection"
    elif target.watch:
        verb = "watch"
    return Attributes(
        verb, target.group, target.version, target.plural, target.subresource, target.namespace, target.name
    )


def is_true(text: str) -> bool:
    """A boolean query parameter; a bare `?watch` does not count."""
    return text.lower() in ("1", "true", "t")
