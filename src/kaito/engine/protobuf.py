# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Protobuf request bodies of the kinds that `kubectl create` sends so; everything else comes as JSON or YAML.

The envelope is `k8s\\0` and a runtime.Unknown message. The tables give field numbers from Kubernetes' generated.proto
files; a field that is not in a table is refused, never dropped. Pure.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from kaito.kube.manifest import Manifest

MAGIC = b"k8s\x00"
MEDIA_TYPE = "application/vnd.kubernetes.protobuf"

Scalar = Literal["string", "bytes", "bool", "int", "int-or-string", "ignored"]


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a message: its JSON name and what is in it."""

    name: str
    type: Scalar | dict[int, Field] = "string"
    repeated: bool = False
    is_map: bool = False


_META: dict[int, Field] = {
    1: Field("name"),
    2: Field("generateName"),
    3: Field("namespace"),
    4: Field("selfLink"),
    5: Field("uid"),
    6: Field("resourceVersion"),
    7: Field("generation", "int"),
    8: Field("creationTimestamp", "ignored"),
    11: Field("labels", is_map=True),
    12: Field("annotations", is_map=True),
    14: Field("finalizers", repeated=True),
}
_RULE = {
    1: Field("verbs", repeated=True),
    2: Field("apiGroups", repeated=True),
    3: Field("resources", repeated=True),
    4: Field("resourceNames", repeated=True),
    5: Field("nonResourceURLs", repeated=True),
}
_SUBJECT = {1: Field("kind"), 2: Field("apiGroup"), 3: Field("name"), 4: Field("namespace")}
_ROLE_REF = {1: Field("apiGroup"), 2: Field("kind"), 3: Field("name")}
_HEAD = {1: Field("metadata", _META)}
_BINDING = {**_HEAD, 2: Field("subjects", _SUBJECT, repeated=True), 3: Field("roleRef", _ROLE_REF)}

_SELECTOR = {1: Field("matchLabels", is_map=True)}
_CONTAINER = {
    1: Field("name"),
    2: Field("image"),
    3: Field("command", repeated=True),
    4: Field("args", repeated=True),
    5: Field("workingDir"),
    6: Field(
        "ports",
        {
            1: Field("name"),
            2: Field("hostPort", "int"),
            3: Field("containerPort", "int"),
            4: Field("protocol"),
            5: Field("hostIP"),
        },
        repeated=True,
    ),
    8: Field("resources", {}),
    13: Field("terminationMessagePath"),
    14: Field("imagePullPolicy"),
    16: Field("stdin", "bool"),
    17: Field("stdinOnce", "bool"),
    18: Field("tty", "bool"),
    20: Field("terminationMessagePolicy"),
}
_POD_SPEC = {
    2: Field("containers", _CONTAINER, repeated=True),
    3: Field("restartPolicy"),
    6: Field("dnsPolicy"),
    8: Field("serviceAccountName"),
    9: Field("serviceAccount"),
    10: Field("nodeName"),
    11: Field("hostNetwork", "bool"),
    12: Field("hostPID", "bool"),
    13: Field("hostIPC", "bool"),
    16: Field("hostname"),
    17: Field("subdomain"),
    19: Field("schedulerName"),
    24: Field("priorityClassName"),
}
_TEMPLATE = {**_HEAD, 2: Field("spec", _POD_SPEC)}
_JOB_SPEC = {
    1: Field("parallelism", "int"),
    2: Field("completions", "int"),
    4: Field("selector", _SELECTOR),
    6: Field("template", _TEMPLATE),
}
_SERVICE_PORT = {
    1: Field("name"),
    2: Field("protocol"),
    3: Field("port", "int"),
    4: Field("targetPort", "int-or-string"),
    5: Field("nodePort", "int"),
}
_ASKED = {
    number: Field(name)
    for number, name in enumerate(("namespace", "verb", "group", "version", "resource", "subresource", "name"), 1)
}
_ASKED_PATH = {1: Field("path"), 2: Field("verb")}
_KEEPS_ZERO = ("replicas", "parallelism", "completions", "targetPort")
"""Numbers whose zero says something; all others are zero because Go writes every number."""

MESSAGES: dict[str, dict[int, Field]] = {
    "Namespace": {
        **_HEAD,
        2: Field("spec", {1: Field("finalizers", repeated=True)}),
        3: Field("status", "ignored"),
    },
    "ConfigMap": {
        **_HEAD,
        2: Field("data", is_map=True),
        3: Field("binaryData", "bytes", is_map=True),
        4: Field("immutable", "bool"),
    },
    "Secret": {
        **_HEAD,
        2: Field("data", "bytes", is_map=True),
        3: Field("type"),
        4: Field("stringData", is_map=True),
        5: Field("immutable", "bool"),
    },
    "ServiceAccount": {
        **_HEAD,
        3: Field("imagePullSecrets", {1: Field("name")}, repeated=True),
        4: Field("automountServiceAccountToken", "bool"),
    },
    "Role": {**_HEAD, 2: Field("rules", _RULE, repeated=True)},
    "ClusterRole": {**_HEAD, 2: Field("rules", _RULE, repeated=True)},
    "RoleBinding": _BINDING,
    "ClusterRoleBinding": _BINDING,
    "Deployment": {
        **_HEAD,
        2: Field(
            "spec",
            {
                1: Field("replicas", "int"),
                2: Field("selector", _SELECTOR),
                3: Field("template", _TEMPLATE),
                4: Field("strategy", {1: Field("type")}),
                5: Field("minReadySeconds", "int"),
                7: Field("paused", "bool"),
            },
        ),
        3: Field("status", "ignored"),
    },
    "Job": {**_HEAD, 2: Field("spec", _JOB_SPEC), 3: Field("status", "ignored")},
    "CronJob": {
        **_HEAD,
        2: Field(
            "spec",
            {
                1: Field("schedule"),
                3: Field("concurrencyPolicy"),
                5: Field("jobTemplate", {**_HEAD, 2: Field("spec", _JOB_SPEC)}),
            },
        ),
        3: Field("status", "ignored"),
    },
    "Service": {
        **_HEAD,
        2: Field(
            "spec",
            {
                1: Field("ports", _SERVICE_PORT, repeated=True),
                2: Field("selector", is_map=True),
                3: Field("clusterIP"),
                4: Field("type"),
                7: Field("sessionAffinity"),
                8: Field("loadBalancerIP"),
                10: Field("externalName"),
                11: Field("externalTrafficPolicy"),
                12: Field("healthCheckNodePort", "int"),
                13: Field("publishNotReadyAddresses", "bool"),
            },
        ),
        3: Field("status", "ignored"),
    },
    "SelfSubjectReview": {**_HEAD, 2: Field("status", "ignored")},
    "SelfSubjectAccessReview": {
        **_HEAD,
        2: Field("spec", {1: Field("resourceAttributes", _ASKED), 2: Field("nonResourceAttributes", _ASKED_PATH)}),
        3: Field("status", "ignored"),
    },
    "SelfSubjectRulesReview": {**_HEAD, 2: Field("spec", {1: Field("namespace")}), 3: Field("status", "ignored")},
    "TokenRequest": {
        **_HEAD,
        2: Field("spec", {1: Field("audiences", repeated=True), 4: Field("expirationSeconds", "int")}),
        3: Field("status", "ignored"),
    },
}


def decode(body: bytes) -> Manifest:
    """The object in an enveloped body. Raises ValueError for what cannot be read, LookupError for other kinds."""
    if not body.startswith(MAGIC):
        raise ValueError("the body is not in Kubernetes' protobuf envelope")
    envelope = dict(_fields(body[len(MAGIC) :]))
    about = {number: value.decode() for number, value in _fields(envelope.get(1, b"")) if isinstance(value, bytes)}
    api_version, kind = about.get(1, ""), about.get(2, "")
    message = MESSAGES[kind]
    raw = envelope.get(2, b"")
    obj: Manifest = {
        "apiVersion": api_version,
        "kind": kind,
        **_message(raw if isinstance(raw, bytes) else b"", message),
    }
    return obj


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= len(data) or shift > 63:
            raise ValueError("the protobuf body ends in the middle of a number")
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return value, at
        shift += 7


def _fields(data: bytes | int) -> Iterator[tuple[int, bytes | int]]:
    """Field numbers and raw values of a message."""
    if isinstance(data, int):
        raise ValueError("a protobuf message was expected, a number found")
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        wire = key & 7
        if wire == 0:
            value, at = _varint(data, at)
            yield key >> 3, value
        elif wire == 2:
            length, at = _varint(data, at)
            if at + length > len(data):
                raise ValueError("the protobuf body is cut off")
            yield key >> 3, data[at : at + length]
            at += length
        else:
            raise ValueError(f"protobuf wire type {wire} is not understood")


def _message(data: bytes | int, table: dict[int, Field]) -> Manifest:
    result: Manifest = {}
    for number, raw in _fields(data):
        field = table.get(number)
        if field is None:
            raise LookupError(f"field {number}")
        if field.type == "ignored":
            continue
        if field.is_map:
            key, value = _entry(raw, field)
            result.setdefault(field.name, {})[key] = value
        elif field.repeated:
            result.setdefault(field.name, []).append(_value(raw, field))
        else:
            value = _value(raw, field)
            if value or value == {} or field.name in _KEEPS_ZERO:
                result[field.name] = value
    return result


def _entry(raw: bytes | int, field: Field) -> tuple[str, Any]:
    parts = dict(_fields(raw))
    key = parts.get(1, b"")
    return (key.decode() if isinstance(key, bytes) else str(key)), _value(parts.get(2, b""), field)


def _value(raw: bytes | int, field: Field) -> Any:
    if isinstance(field.type, dict):
        return _message(raw, field.type)
    if field.type == "int-or-string":
        parts = dict(_fields(raw))
        text = parts.get(3, b"")
        return text.decode() if parts.get(1) and isinstance(text, bytes) else parts.get(2, 0)
    if field.type == "bool":
        return bool(raw)
    if isinstance(raw, int):
        return raw
    if field.type == "bytes":
        return base64.b64encode(raw).decode()
    return raw.decode()
