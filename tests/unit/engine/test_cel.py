# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Expressions: checked against the types of a schema as kube-apiserver checks them, and evaluated on plain values."""

from __future__ import annotations

import sys
from typing import Any, Final

import pytest

from kaito.engine.schema import cel
from kaito.engine.schema.celtypes import Types
from kaito.engine.schema.schema_rulecheck import rule_errors
from kaito.engine.schema.schema_rules import Rules
from kaito.kube.manifest import Manifest

TEXT: Final[Manifest] = {"type": "string"}
TEXTS: Final[Manifest] = {"type": "array", "items": TEXT}
SPEC: Final[Manifest] = {
    "type": "object",
    "properties": {
        "n": {"type": "integer"},
        "f": {"type": "number"},
        "s": TEXT,
        "texts": TEXTS,
        "lists": {"type": "array", "items": TEXTS},
        "map": {"type": "object", "additionalProperties": TEXTS},
        "my-name": TEXT,
        "a/b.c__d": TEXT,
        "namespace": TEXT,
        "when": {"type": "string", "format": "date-time"},
        "wait": {"type": "string", "format": "duration"},
        "blob": {"type": "string", "format": "byte"},
        "either": {"x-kubernetes-int-or-string": True},
        "part": {"type": "object", "properties": {"x": TEXT}},
        "raw": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
        "any": {"x-kubernetes-preserve-unknown-fields": True},
    },
}
VALUE: Final[Manifest] = {
    "n": 3,
    "f": 2,
    "s": "text",
    "texts": ["b", "a"],
    "lists": [["a"]],
    "map": {"k": ["v"]},
    "my-name": "me",
    "a/b.c__d": "odd",
    "namespace": "ns",
    "when": "2026-01-01T00:00:00Z",
    "wait": "1h30m",
    "blob": "aGk=",
    "either": "50%",
    "part": {"x": "y"},
}


@pytest.fixture(scope="module")
def check() -> cel.Checker:
    types = Types(SPEC, is_resource=True)
    return cel.checker(self=types, oldSelf=types)


@pytest.mark.parametrize(
    "expression",
    [
        "self.n > 1 && self.n > 1.5",
        "self.f == 2.0 && type(self.f) == double",
        "self.texts.exists(t, t == 'a') && 'b' in self.texts",
        "self.lists[0][0] == 'a' && self.map['k'][0] == 'v'",
        "self.my__dash__name == 'me' && self.__namespace__ == 'ns'",
        "self.a__slash__b__dot__c__underscores__d == 'odd'",
        "self.when > timestamp('2025-12-31T00:00:00Z') && self.when.getFullYear() == 2026",
        "self.wait == duration('90m') && size(self.blob) == 2",
        "self.either == '50%' || self.either == 1",
        "has(self.part.x) && self.?part.?x.orValue('') == 'y' && !self.part.?x.optMap(x, x == 'z').value()",
        "quantity('1Gi').isGreaterThan(quantity('1G')) && quantity('1').add(1).compareTo(quantity('2')) == 0",
        "ip('10.1.2.3').family() == 4 && cidr('10.0.0.0/8').containsIP('10.1.2.3') && !isIP('10.1.2')",
        "url('https://a.b:80/c?d=e').getPort() == '80' && url('https://a.b/c?d=e').getQuery()['d'] == ['e']",
        "format.dns1123Label().validate('Up').hasValue() && !format.uuid().validate('x').value()[0].contains('y')",
        "semver('1.2.3').isLessThan(semver('1.10.0')) && isSemver('v1.0', true)",
        "'baac'.find('a+') == 'aa' && 'abab'.findAll('ab') == ['ab', 'ab']",
        "[1, 2].sum() == 3 && [2, 1].max() == 2 && !self.texts.isSorted() && self.texts.indexOf('a') == 1",
        "[1, 1].distinct() == [1] && [[1], [2]].flatten() == [1, 2] && [2, 1].sort() == [1, 2]",
        "[duration('1s'), duration('2s')].sum() == duration('3s')",
        "sets.contains(self.texts, ['a']) && !sets.intersects(self.texts, ['c'])",
        "self.s.upperAscii() == 'TEXT' && '%s-%d'.format(['a', 1]) == 'a-1' && ['a', 'b'].join('-') == 'a-b'",
    ],
)
def test_a_good_expression_has_a_type_and_holds(check: cel.Checker, expression: str) -> None:
    assert check(expression) == "BOOL"
    schema = {"type": "object", "properties": {"spec": SPEC | {"x-kubernetes-validations": [{"rule": expression}]}}}
    assert Rules(schema).errors({"spec": VALUE}, None) == []


@pytest.mark.parametrize(
    ("expression", "report"),
    [
        ("self.b > 1", "<input>:1:5: undefined field 'b'\n | self.b > 1\n | ....^"),
        ("self.n == 'a'", "<input>:1:8: found no matching overload for '_==_' applied to '(int, string)'"),
        ("self.part + 1", "<input>:1:11: found no matching overload for '_+_' applied to '(object, int)'"),
        ("self.texts.sum() > 1", "<input>:1:15: found no matching overload for 'sum' applied to '(list(string))'"),
        (
            "quantity(self.s).add('a')",
            "found no matching overload for 'add' applied to '(kubernetes.Quantity, string)'",
        ),
        ("self.any == 1", "undefined field 'any'"),
        ("self.raw.x == 1", "undefined field 'x'"),
        ("self.metadata.labels == {}", "undefined field 'labels'"),
        ("spec.n.m > 1", "<input>:1:1: undeclared reference to 'spec' (in container '')\n | spec.n.m > 1\n | ^"),
        ("self.n ==", "<input>:1:10: Syntax error: mismatched input '<EOF>' expecting"),
    ],
)
def test_a_bad_expression_is_reported_in_the_words_of_kubernetes(
    check: cel.Checker, expression: str, report: str
) -> None:
    with pytest.raises(cel.CelError) as found:
        check(expression)
    assert str(found.value).startswith("ERROR: <input>:")
    assert report in str(found.value)


def problems(schema: Manifest) -> list[str]:
    return [str(error).replace("root.", "", 1) for error in rule_errors(schema, "root")]


def ruled(rule: str, schema: Manifest | None = None, **more: Any) -> Manifest:
    return {**(schema or SPEC), "x-kubernetes-validations": [{"rule": rule, **more}]}


SHOWN = (
    'Invalid value: {"Rule":"self.n","Message":"","MessageExpression":"","Reason":null,"FieldPath":"",'
    '"OptionalOldSelf":null}'
)


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        (ruled("self.n > 1"), []),
        (ruled("self.n"), [f"x-kubernetes-validations[0].rule: {SHOWN}: cel expression must evaluate to a bool"]),
        (ruled(" "), ["x-kubernetes-validations[0].rule: Required value: rule is not specified"]),
        (ruled("self.n > oldSelf.value().n", optionalOldSelf=True), []),
        (
            ruled("self.n >\n1"),
            [
                "x-kubernetes-validations[0].message: Required value: "
                "message must be specified if rule contains line breaks"
            ],
        ),
        (
            ruled("true", reason="Odd"),
            [
                'x-kubernetes-validations[0].reason: Unsupported value: "Odd": supported values: "FieldValueRequired", '
                '"FieldValueForbidden", "FieldValueInvalid", "FieldValueDuplicate"'
            ],
        ),
        (ruled("true", fieldPath=".part.x"), []),
        (ruled("true", messageExpression="'n is ' + string(self.n)"), []),
    ],
)
def test_the_rules_of_a_schema_are_judged(schema: Manifest, expected: list[str]) -> None:
    assert problems(schema) == expected


@pytest.mark.parametrize(
    ("more", "ending"),
    [
        ({"messageExpression": "self.n"}, "messageExpression must evaluate to a string"),
        (
            {"messageExpression": "self.x"},
            "messageExpression compilation failed: ERROR: <input>:1:5: undefined field 'x'\n | self.x\n | ....^",
        ),
        ({"fieldPath": ".nowhere"}, "does not refer to a valid field: .nowhere"),
    ],
)
def test_what_a_rule_says_beside_its_expression_is_judged(more: Manifest, ending: str) -> None:
    (problem,) = problems(ruled("true", **more))
    assert problem.endswith(ending)


def test_an_old_value_can_be_named_only_where_there_is_one() -> None:
    items = ruled("self == oldSelf", TEXT)
    lost = {"type": "object", "properties": {"l": {"type": "array", "items": items}}}
    assert problems(lost) == [
        'properties[l].items.x-kubernetes-validations[0].rule: Invalid value: "self == oldSelf": oldSelf cannot '
        "be used on the uncorrelatable portion of the schema within root.properties[l].items"
    ]
    entry = {"type": "object", "properties": {"k": TEXT, "v": ruled("self == oldSelf", TEXT)}}
    keyed = {"type": "array", "items": entry, "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"]}
    assert problems({"type": "object", "properties": {"l": keyed}}) == []


def test_a_rule_with_an_optional_old_value_counts_for_a_new_object_too() -> None:
    rule = "!oldSelf.hasValue() || oldSelf.value() == self // never changed"
    schema = {"type": "object", "properties": {"s": ruled(rule, TEXT, optionalOldSelf=True, message="fixed")}}
    assert problems(schema) == []
    rules = Rules(schema)
    assert rules.errors({"s": "a"}, None) == []
    assert rules.errors({"s": "a"}, {"s": "a"}) == []
    assert [str(error) for error in rules.errors({"s": "b"}, {"s": "a"})] == ['s: Invalid value: "string": fixed']


@pytest.mark.parametrize(
    ("expression", "report"),
    [
        ("object.missing.x == 1", "no such key: missing"),
        ("object.l[4] == 1", "index out of bounds: 4"),
        ("object.s + 1 == 2", "no such overload"),
        ("1 / object.n == 1", "division by zero"),
        ("object.s.matches('[')", "error parsing regexp: missing ]: ["),
        ("quantity('x').sign() == 1", "quantities must match the regular expression"),
    ],
)
def test_an_expression_that_fails_says_why(expression: str, report: str) -> None:
    with pytest.raises(cel.CelError, match="^" + report.replace("[", "\\[")):
        cel.evaluate(expression, {"object": {"l": [1], "s": "a", "n": 0}})


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="None is never freed there")
def test_null_values_do_not_wear_out() -> None:
    assert cel.evaluate("object", {"object": None}) is None
    assert sys.getrefcount(None) > 1 << 50
