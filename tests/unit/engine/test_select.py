# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Label and field selectors."""

from __future__ import annotations

import pytest

from kaito.engine.schema.select import SelectorError, field_value, from_label_selector, parse_fields, parse_labels

LABELS = {"app": "web", "tier": "front", "n": "5"}


@pytest.mark.parametrize(
    ("text", "matches"),
    [
        ("", True),
        ("app=web", True),
        ("app==web,tier=front", True),
        ("app=db", False),
        ("app!=db", True),
        ("missing!=x", True),
        ("app in (db, web)", True),
        ("app notin (db)", True),
        ("missing notin (db)", True),
        ("app", True),
        ("missing", False),
        ("!missing", True),
        ("!app", False),
        ("n>4", True),
        ("n<5", False),
        ("app=", False),
    ],
)
def test_a_label_selector_matches_as_kubectl_users_expect(text: str, matches: bool) -> None:
    assert parse_labels(text).matches(LABELS) is matches


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("app in web", "unable to parse requirement: found 'web' expected: '('"),
        ("a in (b", "unable to parse requirement: found '', expected: ',' or ')'"),
        ("a b", "unable to parse requirement: found 'b', expected: in, notin, =, ==, !=, gt, lt"),
        ("=x", "found '=', expected: !, identifier, or 'end of string'"),
        ("app=we b", "found 'b', expected: ',' or 'end of string'"),
        (
            "app>x",
            "unable to parse requirement: values[0]: Invalid value: \"x\": for 'Gt', 'Lt' operators, the value must be "
            "an integer",
        ),
    ],
)
def test_an_error_is_worded_as_kubernetes_words_it(text: str, message: str) -> None:
    with pytest.raises(SelectorError) as raised:
        parse_labels(text)
    assert str(raised.value) == message


def test_a_key_that_is_no_label_key_is_refused() -> None:
    with pytest.raises(SelectorError, match='Invalid value: "-bad": name part must consist of'):
        parse_labels("-bad=1")


def test_a_manifest_selector_joins_labels_and_expressions() -> None:
    selector = from_label_selector(
        {
            "matchLabels": {"app": "web"},
            "matchExpressions": [
                {"key": "tier", "operator": "In", "values": ["front"]},
                {"key": "gone", "operator": "DoesNotExist"},
            ],
        }
    )
    assert selector.matches(LABELS)
    assert not selector.matches({"app": "web"})


def test_no_selector_matches_nothing_and_an_empty_one_everything() -> None:
    assert not from_label_selector(None).matches(LABELS)
    assert from_label_selector({}).matches(LABELS)


def test_an_unknown_operator_is_refused() -> None:
    with pytest.raises(SelectorError, match='"Like" is not a valid label selector operator'):
        from_label_selector({"matchExpressions": [{"key": "a", "operator": "Like"}]})


def test_a_field_selector_compares_texts() -> None:
    obj = {"metadata": {"name": "a"}, "spec": {"nodeName": "n", "hostNetwork": True}}
    selector = parse_fields("metadata.name=a,spec.nodeName!=m,spec.hostNetwork=true,status.phase=")
    assert selector.matches(lambda field: field_value(obj, field))
    assert selector.exact("metadata.name") == "a"
    assert selector.fields == ("metadata.name", "spec.nodeName", "spec.hostNetwork", "status.phase")
    assert not parse_fields("metadata.name=b").matches(lambda field: field_value(obj, field))


def test_escaped_commas_belong_to_the_value() -> None:
    assert parse_fields(r"a=b\,c").exact("a") == "b,c"


def test_a_field_selector_without_an_operator_is_refused() -> None:
    with pytest.raises(SelectorError, match="invalid selector: 'nope'; can't understand 'nope'"):
        parse_fields("nope")
