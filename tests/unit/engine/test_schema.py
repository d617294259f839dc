# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Structural schemas: pruning, defaults, validation, and the rules for schemas themselves."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from kaito.engine.schema import crd
from kaito.engine.schema.cel import CelError, checker, evaluate
from kaito.engine.schema.schema_validation import validate
from kaito.engine.schema.structural import apply_defaults, prune
from kaito.kube.manifest import Manifest

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def spec_schema(**properties: Any) -> Manifest:
    return {"type": "object", "properties": {"spec": {"type": "object", "properties": properties}}}


def obj(**spec: Any) -> Manifest:
    return {"apiVersion": "x.y/v1", "kind": "K", "metadata": {"name": "a"}, "spec": spec}


def test_unknown_fields_are_dropped_and_named() -> None:
    schema = spec_schema(
        items={"type": "array", "items": {"type": "object", "properties": {"k": {"type": "string"}}}},
        raw={"type": "object", "x-kubernetes-preserve-unknown-fields": True},
        map={"type": "object", "additionalProperties": {"type": "object", "properties": {"v": {"type": "string"}}}},
    )
    value = obj(items=[{"k": "1", "x": 1}], raw={"any": 1}, map={"m": {"v": "1", "w": 2}}, nope=1)
    assert prune(value, schema) == ["spec.items[0].x", "spec.map.m.w", "spec.nope"]
    assert value["spec"] == {"items": [{"k": "1"}], "raw": {"any": 1}, "map": {"m": {"v": "1"}}}


def test_defaults_fill_in_only_where_the_parent_is() -> None:
    schema = spec_schema(
        size={"type": "integer", "default": 3},
        deep={"type": "object", "properties": {"on": {"type": "boolean", "default": True}}},
        made={"type": "object", "default": {}, "properties": {"on": {"type": "boolean", "default": True}}},
        null={"type": "string", "default": "d"},
        kept={"type": "string", "nullable": True, "default": "d"},
    )
    value = obj(null=None, kept=None)
    apply_defaults(value, schema)
    assert value["spec"] == {"null": "d", "kept": None, "size": 3, "made": {"on": True}}


@pytest.mark.parametrize(
    ("schema", "value", "message"),
    [
        ({"type": "integer"}, "x", 'spec.f: Invalid value: "string": spec.f in body must be of type integer: "string"'),
        (
            {"type": "integer"},
            True,
            'spec.f: Invalid value: "boolean": spec.f in body must be of type integer: "boolean"',
        ),
        ({"type": "string", "maxLength": 2}, "abc", "spec.f: Too long: may not be more than 2 bytes"),
        ({"type": "string", "enum": ["a", "b"]}, "c", 'spec.f: Unsupported value: "c": supported values: "a", "b"'),
        (
            {"type": "string", "pattern": "^a+$"},
            "b",
            "spec.f: Invalid value: \"b\": spec.f in body should match '^a+$'",
        ),
        (
            {"type": "number", "minimum": 0, "exclusiveMinimum": True},
            0,
            "spec.f: Invalid value: 0: spec.f in body should be greater than 0",
        ),
        (
            {"type": "number", "multipleOf": 0.1},
            0.25,
            "spec.f: Invalid value: 0.25: spec.f in body should be a multiple of 0.1",
        ),
        (
            {"type": "array", "maxItems": 1, "items": {"type": "string"}},
            ["a", "b"],
            "spec.f: Too many: 2: must have at most 1 items",
        ),
        (
            {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}},
            ["a", "a"],
            'spec.f[1]: Duplicate value: "a"',
        ),
        (
            {"x-kubernetes-int-or-string": True},
            1.5,
            'spec.f: Invalid value: "number": spec.f in body must be of type integer,string: "number"',
        ),
        (
            {"type": "object", "required": ["a"], "properties": {"a": {"type": "string"}}},
            {},
            "spec.f.a: Required value",
        ),
        (
            {"type": "string", "format": "ipv4"},
            "::1",
            'spec.f: Invalid value: "::1": spec.f in body must be of type ipv4: "::1"',
        ),
        (
            {"type": "integer", "format": "int32"},
            2**31,
            '<nil>: Invalid value: "": Checked value must be of type integer with format int32 in spec.f',
        ),
        (
            {"type": "integer", "not": {"enum": [5]}},
            5,
            '<nil>: Invalid value: "": "spec.f" must not validate the schema (not)',
        ),
    ],
)
def test_a_bad_value_is_refused_in_kubernetes_words(schema: Manifest, value: Any, message: str) -> None:
    assert [str(error) for error in validate(obj(f=value), spec_schema(f=schema))] == [message]


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({"type": "number"}, 3),
        ({"type": "number", "multipleOf": 0.1}, 0.3),
        ({"type": "string", "nullable": True}, None),
        ({"type": "string", "format": "date-time"}, "2026-01-01T00:00:00Z"),
        ({"type": "string", "format": "unheard-of"}, "x"),
        ({"x-kubernetes-int-or-string": True}, "80%"),
        ({"type": "object", "anyOf": [{"required": ["a"]}, {"required": ["b"]}]}, {"b": 1}),
        ({"x-kubernetes-preserve-unknown-fields": True}, [1, {"a": None}]),
    ],
)
def test_a_good_value_passes(schema: Manifest, value: Any) -> None:
    assert validate(obj(f=value), spec_schema(f=schema)) == []


def ruled(*rules: Manifest, **properties: Any) -> Manifest:
    schema = spec_schema(**properties)
    schema["properties"]["spec"]["x-kubernetes-validations"] = list(rules)
    return schema


def test_a_rule_is_evaluated_and_its_message_shown() -> None:
    number = {"type": "integer"}
    schema = ruled({"rule": "self.min <= self.max", "message": "min above max"}, min=number, max=number)
    assert validate(obj(min=1, max=2), schema) == []
    assert [str(error) for error in validate(obj(min=3, max=2), schema)] == [
        'spec: Invalid value: "object": min above max'
    ]


def test_exactly_one_of_two_fields_can_be_demanded() -> None:
    schema = ruled({"rule": "has(self.a) != has(self.b)"}, a={"type": "string"}, b={"type": "string"})
    assert validate(obj(a="1"), schema) == []
    assert [error.message for error in validate(obj(a="1", b="1"), schema)] == [
        'Invalid value: "object": failed rule: has(self.a) != has(self.b)'
    ]


def test_a_transition_rule_counts_only_for_updates() -> None:
    schema = spec_schema(
        model={"type": "string", "x-kubernetes-validations": [{"rule": "self == oldSelf", "message": "immutable"}]}
    )
    assert validate(obj(model="b"), schema) == []
    assert validate(obj(model="b"), schema, obj(model="b")) == []
    assert [error.field for error in validate(obj(model="b"), schema, obj(model="a"))] == ["spec.model"]


def test_expressions_see_plain_values_and_report_plain_errors() -> None:
    assert evaluate(
        "object.metadata.name.startsWith('a') && size(object.l) == 2",
        {"object": {"metadata": {"name": "ab"}, "l": [1, 2]}},
    )
    with pytest.raises(CelError):
        evaluate("object.missing == 1", {"object": {}})
    with pytest.raises(CelError, match="Syntax error"):
        checker()("1 +")
    with pytest.raises(CelError, match="undeclared reference to 'thing'"):
        checker(object=None)("thing.name == 'x'")


def definition(schema: Manifest, **spec: Any) -> Manifest:
    manifest: Manifest = {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": "things.x.example.com"},
        "spec": {
            "group": "x.example.com",
            "scope": "Namespaced",
            "names": {"plural": "things", "kind": "Thing"},
            "versions": [{"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}],
            **spec,
        },
    }
    crd.apply_defaults(manifest)
    manifest["status"] = crd.initial_status(manifest)
    return manifest


ROOT = "spec.validation.openAPIV3Schema"


@pytest.mark.parametrize(
    ("schema", "error"),
    [
        ({"properties": {}}, f"{ROOT}.type: Required value: must not be empty at the root"),
        (
            {"type": "object", "properties": {"a": {}}},
            f"{ROOT}.properties[a].type: Required value: must not be empty for specified object fields",
        ),
        (
            {"type": "object", "properties": {"a": {"$ref": "#/x"}}},
            f"{ROOT}.properties[a].$ref: Forbidden: $ref is not supported",
        ),
        (
            {"type": "object", "properties": {"a": {"type": "array"}}},
            f"{ROOT}.properties[a].items: Required value: must be specified",
        ),
        (
            {"type": "object", "properties": {"a": {"type": "text"}}},
            f'{ROOT}.properties[a].type: Unsupported value: "text": supported values: "array", "boolean", "integer", '
            '"number", "object", "string"',
        ),
        (
            {"type": "object", "properties": {"a": {"type": "integer", "default": "x"}}},
            f'{ROOT}.properties[a].default: Invalid value: "string":  in body must be of type integer: "string"',
        ),
        (
            {"type": "object", "properties": {"a": {"type": "string", "pattern": "("}}},
            f'{ROOT}.properties[a].pattern: Invalid value: "(": must be a valid regular expression, but '
            "isn't: error parsing regexp: missing closing ): `(`",
        ),
    ],
)
def test_a_schema_must_be_structural_and_sound(schema: Manifest, error: str) -> None:
    assert [str(found) for found in crd.validate(definition(schema))] == [error]


def test_a_rule_must_compile_against_its_schema() -> None:
    schema = ruled({"rule": "self.b > 1"}, a={"type": "integer"})
    assert [error.field for error in crd.validate(definition(schema))] == [
        f"{ROOT}.properties[spec].x-kubernetes-validations[0].rule"
    ]


def test_names_are_defaulted_and_checked() -> None:
    good = definition({"type": "object"})
    assert (good["spec"]["names"]["singular"], good["spec"]["names"]["listKind"]) == ("thing", "ThingList")
    assert crd.validate(good) == []
    bad = definition({"type": "object"}, group="nodots")
    assert {error.field for error in crd.validate(bad)} == {"metadata.name", "spec.group"}


def test_a_stored_version_must_stay() -> None:
    old = definition({"type": "object"})
    new = definition({"type": "object"})
    new["spec"]["versions"][0]["name"] = "v2"
    new["status"] = crd.updated_status(new, old)
    assert new["status"]["storedVersions"] == ["v1", "v2"]
    assert [error.field for error in crd.validate(new, old)] == ["status.storedVersions[0]"]


def test_names_are_accepted_unless_another_definition_has_them() -> None:
    first = definition({"type": "object"})
    first["status"] = crd.accepted_status(first, [], NOW)
    assert [(item["type"], item["status"]) for item in first["status"]["conditions"]] == [
        ("NamesAccepted", "True"),
        ("Established", "True"),
    ]
    second = crd.accepted_status(definition({"type": "object"}), [first], NOW)
    assert [(item["type"], item["status"], item["reason"]) for item in second["conditions"]] == [
        ("NamesAccepted", "False", "ListKindConflict"),
        ("Established", "False", "NotAccepted"),
    ]


def test_a_schema_may_restrict_the_name() -> None:
    name = {"type": "string", "maxLength": 3}
    schema = {"type": "object", "properties": {"metadata": {"type": "object", "properties": {"name": name}}}}
    assert validate(obj(), schema) == []
    long = {"apiVersion": "x.y/v1", "kind": "K", "metadata": {"name": "abcd"}}
    assert [error.field for error in validate(long, schema)] == ["metadata.name"]


@pytest.mark.parametrize(
    ("rule", "good", "bad"),
    [
        ("self.l.all(i, i.k > 0)", {"l": [{"k": 1}]}, {"l": [{"k": 0}]}),
        ("self.l.exists(i, i.k == 2)", {"l": [{"k": 2}]}, {"l": []}),
        ("!has(self.n) || self.n in ['a', 'b']", {"n": "a"}, {"n": "c"}),
        ("self.n.matches('^[a-z]+$')", {"n": "abc"}, {"n": "A1"}),
        ("size(self.n) <= 3", {"n": "abc"}, {"n": "abcd"}),
        ("self.x + self.y >= 1.5", {"x": 1, "y": 0.5}, {"x": 0.1, "y": 0.2}),
        ("self.on ? self.n != '' : true", {"on": True, "n": "a"}, {"on": True, "n": ""}),
        ("self.__namespace__ == 'a'", {"namespace": "a"}, {"namespace": "b"}),
        ("self.m.all(k, self.m[k] != '')", {"m": {"a": "1"}}, {"m": {"a": ""}}),
    ],
)
def test_a_rule_tells_good_from_bad(rule: str, good: Manifest, bad: Manifest) -> None:
    text, number = {"type": "string"}, {"type": "number"}
    entry = {"type": "object", "properties": {"k": {"type": "integer"}}}
    schema = ruled(
        {"rule": rule},
        l={"type": "array", "items": entry},
        n=text,
        x=number,
        y=number,
        on={"type": "boolean"},
        namespace=text,
        m={"type": "object", "additionalProperties": text},
    )
    assert validate(obj(**good), schema) == []
    assert len(validate(obj(**bad), schema)) == 1
    assert crd.validate(definition(schema)) == []
