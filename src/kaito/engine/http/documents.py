# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Serving the OpenAPI documents, encoded once for each state of the served kinds.

What is in them is `kaito.engine.schema.openapi`'s business. They are made when somebody asks: kubectl does,
controllers do not.
"""

from __future__ import annotations

import msgspec

from kaito.engine.kinds import Kind, Kinds
from kaito.engine.schema import openapi
from kaito.engine.schema.builtin import RELEASE, knows
from kaito.engine.schema.openapi import ServedKind
from kaito.engine.wire.requests import Request, Response

PROTOBUF = "application/com.github.proto-openapi.spec.v2"
_EMPTY_SWAGGER = b"\x0a\x032.0\x12\x0c\x0a\x0aKubernetes"
"""An OpenAPI v2 document in protobuf: version 2.0, a title, and no kinds."""


def served_kind(kind: Kind) -> ServedKind:
    """A kind as the documents show it."""
    schema = None
    if kind.is_custom:
        schema = (kind.version_spec.get("schema") or {}).get("openAPIV3Schema") or {"type": "object"}
    return ServedKind(
        kind.group,
        kind.version,
        kind.kind,
        kind.plural,
        kind.namespaced,
        frozenset(kind.verbs),
        schema,
        kind.subresources,
    )


class Documents:
    """Answers `/openapi/...`."""

    def __init__(self, kinds: Kinds) -> None:
        self._kinds = kinds
        self._generation = -1
        self._made: dict[str, bytes] = {}

    def serve(self, request: Request, rest: list[str]) -> Response:
        """The document that the rest of the path names."""
        if self._generation != self._kinds.generation:
            self._generation, self._made = self._kinds.generation, {}
        match rest:
            case ["v3"]:
                documents = {path: self._document(path) for path in [*self._paths(), *self._bare_paths()]}
                index = msgspec.json.encode(openapi.index(documents))
                return Response(200, index, "text/plain; charset=utf-8")
            case ["v3", *parts]:
                path = "/".join(parts)
                if path in self._paths() or path in self._bare_paths():
                    return Response(200, self._document(path))
            case ["v2"]:
                return self._swagger(request)
        return Response(404, content_type="")

    def _paths(self) -> dict[str, list[Kind]]:
        paths: dict[str, list[Kind]] = {}
        for kind in self._kinds.all():
            if kind.is_custom or knows(kind.api_version, kind.kind):
                paths.setdefault(openapi.group_path(kind.group, kind.version), []).append(kind)
        return paths

    def _bare_paths(self) -> list[str]:
        """Documents that hold no kinds: the roots and the groups."""
        groups = {f"apis/{kind.group}" for kind in self._kinds.all() if kind.group}
        return ["api", "apis", "version", *sorted(groups)]

    def _document(self, path: str) -> bytes:
        made = self._made.get(path)
        if made is None:
            kinds = [served_kind(kind) for kind in self._paths().get(path, ())]
            made = msgspec.json.encode(openapi.document(kinds, release=RELEASE))
            self._made[path] = made
        return made

    def _swagger(self, request: Request) -> Response:
        if PROTOBUF in request.header("accept"):
            # Clients that still want it so have looked in v3 first: all that they learn here is that a kind is unknown.
            return Response(200, _EMPTY_SWAGGER, f"{PROTOBUF}.v1.0+protobuf")
        made = self._made.get("v2")
        if made is None:
            kinds = [served_kind(kind) for kinds in self._paths().values() for kind in kinds]
            made = msgspec.json.encode(openapi.swagger(kinds, release=RELEASE))
            self._made["v2"] = made
        return Response(200, made)
