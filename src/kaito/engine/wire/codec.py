# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Bytes to objects and back: JSON and YAML bodies, duplicate keys, and the stored form.

The stored form starts with kind and apiVersion, so that list items of the built-in kinds, which go without, are a
slice.
Pure.
"""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass, field
from typing import Any

import msgspec
import yaml
from yaml.scanner import ScannerError

from kaito.engine.kinds import Kind
from kaito.engine.wire import protobuf
from kaito.engine.wire.status import StatusError, bad_request, unsupported_media_type
from kaito.kube.manifest import Manifest

_ENCODER = msgspec.json.Encoder()
_ANY = msgspec.json.Decoder()
_DECODER: msgspec.json.Decoder[Manifest] = msgspec.json.Decoder(dict[str, Any])

JSON_TYPES = ("application/json", "")
YAML_TYPES = ("application/yaml", "application/apply-patch+yaml", "text/yaml", "text/x-yaml")
ACCEPTED = "application/json, application/yaml, application/vnd.kubernetes.protobuf"

MAX_OBJECT_BYTES = 1536 * 1024
"""As much as etcd takes by default, so that what is stored here can be stored on a cluster."""
MAX_DEPTH = 250
"""How deep lists and maps may lie in each other; Kubernetes takes 10,000, no manifest comes near either."""
MAX_YAML_NODES = 2_000_000
"""More than a body of the largest size can write out without aliases."""


@dataclass(slots=True)
class Decoded:
    """A body as sent, and the keys that stood in it twice."""

    value: Any
    duplicates: list[str] = field(default_factory=list)


def encode(obj: Manifest, kind: Kind) -> bytes:
    """The stored form of an object of the kind. Raises StatusError 413 when it is larger than a cluster's may be."""
    head = {"kind": kind.kind, "apiVersion": obj["apiVersion"], "metadata": obj["metadata"]}
    value = _ENCODER.encode({**head, **{key: value for key, value in obj.items() if key not in head}})
    if len(value) > MAX_OBJECT_BYTES:
        raise StatusError(413, "RequestEntityTooLarge", "etcdserver: request is too large")
    # The encoder's own result keeps the room that it was written in for as long as the object is stored: 2,478 bytes
    # for a text of 1,627, measured with msgspec 0.22.
    return bytes(memoryview(value))


def decode(value: bytes) -> Manifest:
    """The object that a stored form means: a new one at each call."""
    return _DECODER.decode(value)


def headless(value: bytes, kind: Kind) -> bytes:
    """A stored built-in object as a list shows it: without kind and apiVersion."""
    prefix = len(f'{{"kind":"{kind.kind}","apiVersion":"{kind.api_version}",')
    return b"{" + value[prefix:]


def media_type(header: str) -> str:
    """The bare media type of a Content-Type header."""
    return header.partition(";")[0].strip().lower()


def decode_body(body: bytes, content_type: str) -> Decoded:
    """A request body of any type that objects come in. Raises StatusError 415, or ValueError with what is wrong."""
    kind = media_type(content_type)
    if kind in YAML_TYPES:
        return decode_yaml(body)
    if kind == protobuf.MEDIA_TYPE:
        try:
            return Decoded(protobuf.decode(body))
        except protobuf.UnknownMessage as error:
            raise unsupported_media_type(
                f"this server cannot read {error} in protobuf: send it as JSON, for example with kubectl create -f"
            ) from None
    if kind not in JSON_TYPES:
        raise unsupported_media_type(
            f"the body of the request was in an unknown format - accepted media types include: {ACCEPTED}"
        )
    return decode_json(body)


def decode_json(body: bytes) -> Decoded:
    """JSON, with the keys that appear twice in one object. Raises ValueError in Go's words."""
    decoded = _decode_json(body)
    if body.count(b"{") + body.count(b"[") > MAX_DEPTH and is_too_deep(decoded.value):
        raise ValueError("exceeded max depth")
    return decoded


def is_too_deep(value: Any) -> bool:
    """Whether lists and maps lie deeper in each other than anything here can follow."""
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(MAX_DEPTH):
        level = [
            child
            for item in level
            for child in (item.values() if isinstance(item, dict) else item)
            if isinstance(child, dict | list)
        ]
        if not level:
            return False
    return True


def _decode_json(body: bytes) -> Decoded:
    with contextlib.suppress(ValueError, RecursionError):
        value = _ANY.decode(body)
        # What comes out again byte by byte had no key twice. Most clients write JSON just so, and for them this takes a
        # sixth of the time of the way below.
        if _ENCODER.encode(value) == body.rstrip(b"\n"):
            return Decoded(value)
    duplicates: list[str] = []
    if not body.strip():
        raise ValueError("unexpected end of JSON input")

    def pairs(found: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(found)
        if len(result) != len(found):
            names = [name for name, _ in found]
            duplicates.extend(sorted({name for name in names if names.count(name) > 1}))
        return result

    try:
        value = json.loads(body, object_pairs_hook=pairs, parse_constant=_no_constant)
    except RecursionError:
        raise ValueError("exceeded max depth") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(_go_words(error)) from None
    paths = _duplicate_paths(body, value) if duplicates else []
    return Decoded(_whole(value) if b"\\ud" in body or b"\\uD" in body else value, paths)


def _whole(value: Any) -> Any:
    """The value with U+FFFD for halves of characters, as Go reads them; no text with one can be written anywhere."""
    if isinstance(value, str):
        return value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    if isinstance(value, list):
        return [_whole(item) for item in value]
    return {_whole(key): _whole(item) for key, item in value.items()} if isinstance(value, dict) else value


def _no_constant(name: str) -> Any:
    raise ValueError(f"invalid character '{name[0]}' looking for beginning of value")


def _go_words(error: json.JSONDecodeError | UnicodeDecodeError) -> str:
    if isinstance(error, UnicodeDecodeError):
        return "invalid UTF-8 in JSON input"
    if error.pos >= len(error.doc):
        return "unexpected end of JSON input"
    character = error.doc[error.pos]
    if "property name" in error.msg:
        return f"invalid character '{character}' looking for beginning of object key string"
    if "delimiter" in error.msg:
        return f"invalid character '{character}' after object key:value pair"
    if "Extra data" in error.msg:
        return f"invalid character '{character}' after top-level value"
    return f"invalid character '{character}' looking for beginning of value"


class _Pairs(list[tuple[str, Any]]):
    """A JSON object with its keys in order, twice where they stand twice."""


def _duplicate_paths(body: bytes, value: Any) -> list[str]:
    """Where keys stand twice, as `data.a`; the rare case, so the body is read once more."""
    found: list[str] = []

    def visit(node: Any, path: str) -> None:
        if isinstance(node, _Pairs):
            seen = set()
            for name, child in node:
                here = f"{path}.{name}" if path else name
                if name in seen and here not in found:
                    found.append(here)
                seen.add(name)
                visit(child, here)
        elif isinstance(node, list):
            for index, child in enumerate(node):
                visit(child, f"{path}[{index}]")

    visit(json.loads(body, object_pairs_hook=_Pairs), "")
    return found


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """YAML as JSON has it: no dates, keys are texts, and keys that stand twice are noted."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[str, Any]:
        """The map, with numbers and truth values as keys written out as Go does."""
        found: dict[Any, Any] = super().construct_mapping(node, deep=deep)
        return {key if isinstance(key, str) else _key_text(key): value for key, value in found.items()}


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def _key_text(key: Any) -> str:
    if key is None:
        return "null"
    return str(key).lower() if isinstance(key, bool) else str(key)


def decode_yaml(body: bytes) -> Decoded:
    """The first YAML document. Raises ValueError."""
    if body.startswith(b"{"):
        # Most programs send JSON, which is YAML too and read ten times faster as what it is.
        with contextlib.suppress(ValueError):
            decoded = decode_json(body)
            if not decoded.duplicates:
                return decoded
    duplicates: list[str] = []
    loader = _Loader(body)
    try:
        _check_depth(body)
        node = loader.get_single_node()
        if node is None:
            raise ValueError("unexpected end of JSON input")
        _check_aliases(node)
        _yaml_duplicates(node, duplicates)
        value = loader.construct_document(node)
    except yaml.YAMLError as error:
        raise ValueError(f"error converting YAML to JSON: yaml: {_yaml_problem(error)}") from None
    finally:
        loader.dispose()
    return Decoded(value, duplicates)


def _yaml_problem(error: yaml.YAMLError) -> str:
    """Where and what, in the words of Go's parser, which counts lines differently while it still reads characters."""
    if not isinstance(error, yaml.MarkedYAMLError):
        return " ".join(str(error).split())
    late = isinstance(error, ScannerError)
    marks = [mark.line + late for mark in (error.context_mark, error.problem_mark) if mark is not None and mark.line]
    where = f"line {marks[0]}: " if marks else ""
    return f"{where}{error.problem or error.context}"


def _check_depth(body: bytes) -> None:
    """Refuse what lies too deep before the C library follows it: its stack is not watched. Raises YAMLError."""
    if sum(map(body.count, (b"[", b"{", b"-", b"?", b":"))) <= MAX_DEPTH:
        return
    loader = _Loader(body)
    depth = 0
    try:
        while loader.check_event():
            event = loader.get_event()
            if isinstance(event, yaml.CollectionStartEvent):
                depth += 1
            elif isinstance(event, yaml.CollectionEndEvent):
                depth -= 1
            if depth > MAX_DEPTH:
                raise yaml.YAMLError(f"exceeded max depth of {MAX_DEPTH}")
    finally:
        loader.dispose()


def _check_aliases(root: Any) -> None:
    """Refuse a document that holds itself, or becomes far larger than it is written. Raises YAMLError."""
    sizes: dict[int, int] = {}
    open_nodes: set[int] = set()

    def size(node: Any) -> int:
        if isinstance(node, yaml.ScalarNode):
            return 1
        known = sizes.get(id(node))
        if known is not None:
            return known
        if id(node) in open_nodes:
            raise yaml.YAMLError("anchor value contains itself")
        open_nodes.add(id(node))
        below = (child for pair in node.value for child in (pair if isinstance(pair, tuple) else (pair,)))
        sizes[id(node)] = found = 1 + sum(map(size, below))
        open_nodes.discard(id(node))
        return found

    if size(root) > MAX_YAML_NODES:
        raise yaml.YAMLError("document contains excessive aliasing")


def _yaml_duplicates(node: Any, found: list[str]) -> None:
    if isinstance(node, yaml.MappingNode):
        seen: dict[str, int] = {}
        for key, child in node.value:
            name = str(getattr(key, "value", ""))
            if name in seen:
                found.append(
                    f'yaml: unmarshal errors:\n  line {key.start_mark.line + 1}: key "{name}" already set in map'
                )
            seen[name] = 1
            _yaml_duplicates(child, found)
    elif isinstance(node, yaml.SequenceNode):
        for child in node.value:
            _yaml_duplicates(child, found)


def to_yaml(value: Any) -> bytes:
    """YAML as kubectl and people like it: keys sorted, block style."""
    text: str = yaml.safe_dump(value, sort_keys=True, default_flow_style=False, allow_unicode=True)
    return text.encode()


def unreadable(kind: Kind, error: ValueError, body: bytes) -> StatusError:
    """400 for a body that is not an object at all."""
    shown = body[:200].decode("utf-8", "replace") if body.strip() else "<empty>"
    return bad_request(
        f"the object provided is unrecognized (must be of type {kind.kind}): couldn't get version/kind; "
        f"json parse error: {error} ({shown})"
    )
