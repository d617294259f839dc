# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""The quick look at an object takes nothing that validation refuses, and leaves little to it."""

from __future__ import annotations

from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kaito.engine.schema.schema_fit import Fit
from kaito.engine.schema.schema_validation import validate
from kaito.kube.manifest import Manifest

NAMES: Final = ("a", "b", "apiVersion")
LEAVES: Final = st.sampled_from((None, True, False, 0, 1, 7, 1.0, 1.5, "", "a", "bb", "10.0.0.1"))
VALUES: Final = st.recursive(
    LEAVES,
    lambda below: st.lists(below, max_size=3) | st.dictionaries(st.sampled_from((*NAMES, "c", "kind")), below),
    max_leaves=6,
)
LIMITS: Final[tuple[Manifest, ...]] = (
    {"type": "string", "minLength": 1, "maxLength": 2},
    {"type": "string", "pattern": "^a"},
    {"type": "string", "format": "ipv4"},
    {"type": "string", "enum": ["a", "bb"]},
    {"type": "integer", "minimum": 1, "exclusiveMaximum": True, "maximum": 7},
    {"type": "integer", "format": "int32"},
    {"type": "number", "multipleOf": 0.5},
    {"type": "boolean", "nullable": True},
    {"x-kubernetes-int-or-string": True},
    {"x-kubernetes-preserve-unknown-fields": True},
    {"type": "nonsense"},
    {},
)


def _around(below: st.SearchStrategy[Manifest]) -> st.SearchStrategy[Manifest]:
    """Schemas of objects, lists and combinations of other ones."""
    objects = st.fixed_dictionaries(
        {"type": st.just("object")},
        optional={
            "properties": st.dictionaries(st.sampled_from(NAMES), below),
            "additionalProperties": below | st.booleans(),
            "required": st.lists(st.sampled_from(NAMES), unique=True),
            "nullable": st.booleans(),
            "minProperties": st.integers(0, 2),
            "x-kubernetes-embedded-resource": st.booleans(),
        },
    )
    lists = st.fixed_dictionaries(
        {"type": st.just("array"), "items": below},
        optional={
            "maxItems": st.integers(0, 3),
            "x-kubernetes-list-type": st.sampled_from(("atomic", "set", "map")),
            "x-kubernetes-list-map-keys": st.just(["a"]),
        },
    )
    combined = st.fixed_dictionaries(
        {}, optional={"not": below, "anyOf": st.lists(below, max_size=2), "oneOf": st.lists(below, max_size=2)}
    )
    return objects | lists | combined


SCHEMAS: Final = st.recursive(st.sampled_from(LIMITS), _around, max_leaves=6)


@given(SCHEMAS, VALUES)
@settings(max_examples=300, deadline=None)
def test_what_is_taken_has_no_errors(schema: Manifest, value: Any) -> None:
    if Fit(schema).takes(value):
        assert validate(value, schema) == []


@pytest.mark.parametrize("schema", LIMITS[:-2], ids=str)
@given(value=LEAVES)
def test_what_has_no_errors_is_taken(schema: Manifest, value: Any) -> None:
    within = {"type": "object", "required": ["a"], "properties": {"a": schema}}
    is_odd = value is None or value == 1.0  # null without a type, a whole number that was written as a fraction
    if not validate({"a": value}, within) and not is_odd:
        assert Fit(within).takes({"a": value})


def test_a_field_that_is_named_like_no_other_costs_no_memory() -> None:
    fit = Fit({"type": "object", "additionalProperties": {"type": "string"}})
    assert all(fit.takes({f"name-{number}": "text"}) for number in range(100))
    assert not fit._below
