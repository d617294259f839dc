# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Environment variables as Kubernetes computes them."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from kaito.engine.node.environment import ConfigError, Placement, declared, expand
from tests.unit.engine_node.pods import FakeSources, config_map, container, pod, secret

PLACE = Placement("127.64.0.9", "127.0.0.1", "here", cpu=Decimal(4), memory=Decimal(2**33))
SOURCES = FakeSources(
    config_maps={"settings": config_map("settings", COLOR="blue", size="3")},
    secrets={"keys": secret("keys", token="c2VzYW1l")},
)


def values(*env: dict[str, Any], **fields: Any) -> dict[str, str]:
    made = container(env=list(env), **fields)
    return declared(pod(made), made, SOURCES, PLACE)


@pytest.mark.parametrize(
    ("text", "expanded"),
    [
        ("$(A)/x", "1/x"),
        ("$(NONE)", "$(NONE)"),
        ("$$(A)", "$(A)"),
        ("$A ${A}", "$A ${A}"),
        ("$$$(A)", "$1"),
        ("$(A", "$(A"),
    ],
)
def test_references_are_expanded(text: str, expanded: str) -> None:
    assert expand(text, {"A": "1"}) == expanded


def test_a_variable_may_refer_to_earlier_ones_only() -> None:
    made = values({"name": "A", "value": "$(B)1"}, {"name": "B", "value": "$(A)2"})
    assert made == {"A": "$(B)1", "B": "$(B)12"}


def test_all_keys_of_an_object_come_in_with_a_prefix() -> None:
    made = values(envFrom=[{"prefix": "S_", "configMapRef": {"name": "settings"}}, {"secretRef": {"name": "keys"}}])
    assert made == {"S_COLOR": "blue", "S_size": "3", "token": "sesame"}


@pytest.mark.parametrize(
    ("origin", "value"),
    [
        ({"configMapKeyRef": {"name": "settings", "key": "COLOR"}}, "blue"),
        ({"secretKeyRef": {"name": "keys", "key": "token"}}, "sesame"),
        ({"fieldRef": {"fieldPath": "status.podIP"}}, "127.64.0.9"),
        ({"fieldRef": {"fieldPath": "spec.nodeName"}}, "here"),
        ({"fieldRef": {"fieldPath": "metadata.labels['app']"}}, "web"),
        ({"fieldRef": {"fieldPath": "metadata.annotations['none']"}}, ""),
        ({"resourceFieldRef": {"resource": "limits.memory", "divisor": "1Mi"}}, "512"),
        ({"resourceFieldRef": {"resource": "requests.cpu", "divisor": "1m"}}, "250"),
        ({"resourceFieldRef": {"resource": "requests.cpu"}}, "1"),
        ({"resourceFieldRef": {"resource": "limits.cpu"}}, "4"),
    ],
)
def test_values_come_from_other_objects_and_fields(origin: dict[str, Any], value: str) -> None:
    resources = {"requests": {"cpu": "250m"}, "limits": {"memory": "512Mi"}}
    assert values({"name": "V", "valueFrom": origin}, resources=resources) == {"V": value}


@pytest.mark.parametrize(
    ("origin", "message"),
    [
        ({"configMapKeyRef": {"name": "none", "key": "a"}}, 'configmap "none" not found'),
        ({"secretKeyRef": {"name": "none", "key": "a"}}, 'secret "none" not found'),
        ({"configMapKeyRef": {"name": "settings", "key": "a"}}, "couldn't find key a in ConfigMap default/settings"),
    ],
)
def test_what_is_missing_is_named_unless_it_is_optional(origin: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        values({"name": "V", "valueFrom": origin})
    assert str(error.value) == message
    (kind,) = origin
    assert values({"name": "V", "valueFrom": {kind: origin[kind] | {"optional": True}}}) == {}
