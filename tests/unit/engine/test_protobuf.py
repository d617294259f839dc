# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Protobuf bodies, put together here byte by byte as Kubernetes' Go clients write them."""

from __future__ import annotations

import pytest

from kaito.engine.schema import builtin
from kaito.engine.schema.gotypes import structs
from kaito.engine.wire.codec import decode_body
from kaito.engine.wire.protobuf import MAGIC, MEDIA_TYPE, UnknownMessage, decode
from kaito.engine.wire.status import StatusError


def varint(value: int) -> bytes:
    out = bytearray()
    value &= (1 << 64) - 1
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def field(number: int, value: bytes | str | int | dict[int, object]) -> bytes:
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    if isinstance(value, dict):
        value = message(value)
    raw = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(raw)) + raw


def message(fields: dict[int, object]) -> bytes:
    """Fields in the order given; a list is a repeated field."""
    out = b""
    for number, value in fields.items():
        for item in value if isinstance(value, list) else [value]:
            out += field(number, item)  # type: ignore[arg-type]
    return out


def body(api_version: str, kind: str, fields: dict[int, object]) -> bytes:
    return MAGIC + message({1: {1: api_version, 2: kind}, 2: message(fields), 3: "", 4: ""})


META = {1: "web", 2: "", 3: "", 7: 0, 8: b""}
"""A name, and the empty fields that Go always writes."""


def test_what_was_never_set_is_left_out() -> None:
    found = decode(body("v1", "ConfigMap", {1: META, 2: {1: "k", 2: "v"}}))
    assert found == {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "web"}, "data": {"k": "v"}}


def test_a_deployment_with_everything_inlined_and_nested() -> None:
    port: dict[int, object] = {1: "http", 3: 80, 4: "TCP"}
    container: dict[int, object] = {
        1: "main", 2: "app:1", 6: port, 7: [{1: "A", 2: "b"}, {1: "EMPTY", 2: ""}], 8: {1: {1: "cpu", 2: {1: "500m"}}},
        10: {1: {2: {1: "/healthz", 2: {1: 1, 2: 0, 3: "http"}}}}, 16: 0,
    }  # fmt: skip
    volume: dict[int, object] = {1: "v", 2: {2: {1: ""}}}
    template: dict[int, object] = {1: {11: {1: "app", 2: "web"}}, 2: {1: volume, 2: container, 4: 0, 11: 0}}
    spec: dict[int, object] = {1: 0, 2: {1: {1: "app", 2: "web"}}, 3: template, 4: {1: ""}, 7: 0}
    found = decode(body("apps/v1", "Deployment", {1: META, 2: spec, 3: {1: 0}}))
    assert found["spec"]["replicas"] == 0, "a pointer's zero was set on purpose"
    assert "paused" not in found["spec"]
    pod = found["spec"]["template"]["spec"]
    assert pod == {
        "volumes": [{"name": "v", "emptyDir": {}}],
        "containers": [
            {
                "name": "main",
                "image": "app:1",
                "ports": [{"name": "http", "containerPort": 80, "protocol": "TCP"}],
                "env": [{"name": "A", "value": "b"}, {"name": "EMPTY"}],
                "resources": {"limits": {"cpu": "500m"}},
                "livenessProbe": {"httpGet": {"path": "/healthz", "port": "http"}},
            }
        ],
        "terminationGracePeriodSeconds": 0,
    }


@pytest.mark.parametrize(
    ("api_version", "kind", "fields", "part", "expected"),
    [
        ("v1", "ResourceQuota", {2: {1: {1: "cpu", 2: {1: "1"}}}}, "spec", {"hard": {"cpu": "1"}}),
        ("v1", "Secret", {2: {1: "k", 2: b"\x00\xff"}}, "data", {"k": "AP8="}),
        ("policy/v1", "PodDisruptionBudget", {2: {3: {1: 1, 2: 0, 3: "50%"}}}, "spec", {"maxUnavailable": "50%"}),
        (
            "autoscaling/v1",
            "HorizontalPodAutoscaler",
            {2: {1: {1: "Deployment", 2: "web", 3: "apps/v1"}, 2: 1, 3: 3}},
            "spec",
            {
                "scaleTargetRef": {"kind": "Deployment", "name": "web", "apiVersion": "apps/v1"},
                "minReplicas": 1,
                "maxReplicas": 3,
            },
        ),
        ("scheduling.k8s.io/v1", "PriorityClass", {2: -5}, "value", -5),
        ("meta.k8s.io/v1", "DeleteOptions", {1: 0, 4: "Foreground"}, "propagationPolicy", "Foreground"),
        ("policy/v1", "Eviction", {2: {1: 30}}, "deleteOptions", {"gracePeriodSeconds": 30}),
        (
            "coordination.k8s.io/v1",
            "Lease",
            {2: {1: "me", 4: {1: 1767225600, 2: 5000}}},
            "spec",
            {"holderIdentity": "me", "renewTime": "2026-01-01T00:00:00.000005Z"},
        ),
        (
            "authorization.k8s.io/v1",
            "SubjectAccessReview",
            {2: {3: "joe", 5: {1: "scopes", 2: {1: ["a", "b"]}}}},
            "spec",
            {"user": "joe", "extra": {"scopes": ["a", "b"]}},
        ),
    ],
)
def test_every_sort_of_field(
    api_version: str, kind: str, fields: dict[int, object], part: str, expected: object
) -> None:
    assert decode(body(api_version, kind, fields))[part] == expected


@pytest.mark.parametrize(
    ("raw", "error", "text"),
    [
        (b"{}", ValueError, "not in Kubernetes' protobuf envelope"),
        (MAGIC + b"\x0a\x7f", ValueError, "cut off"),
        (MAGIC + b"\x0a\xff", ValueError, "in the middle of a number"),
        (body("example.com/v1", "Widget", {}), UnknownMessage, 'kind "Widget" in version "example.com/v1"'),
        (body("v1", "ConfigMap", {99: "x"}), UnknownMessage, "field 99 of v1.ConfigMap"),
    ],
)
def test_what_cannot_be_read_is_refused(raw: bytes, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        decode(raw)


def test_a_client_is_told_what_to_send_instead() -> None:
    with pytest.raises(StatusError, match="send it as JSON, for example with kubectl create -f") as raised:
        decode_body(body("example.com/v1", "Widget", {}), MEDIA_TYPE)
    assert raised.value.code == 415


def test_the_table_names_fields_that_the_schemas_have() -> None:
    unknown = []
    for name, struct in structs().items():
        properties = builtin.definitions().get(name, {}).get("properties")
        if properties:
            unknown += [f"{name}.{field}" for field in struct.names.values() if field not in properties]
    assert unknown == []
