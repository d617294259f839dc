# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Bodies: JSON and YAML as Go reads them, keys that stand twice, and the stored form."""

from __future__ import annotations

import tracemalloc

import msgspec
import pytest

from kaito.engine.kinds import Kinds
from kaito.engine.wire.codec import decode_body, decode_json, decode_yaml, encode, headless
from kaito.engine.wire.status import StatusError


def test_the_stored_form_begins_with_what_lists_leave_out() -> None:
    kind = Kinds().find("", "v1", "configmaps")
    assert kind is not None
    obj = {"data": {"k": "v"}, "metadata": {"name": "a"}, "apiVersion": "v1", "kind": "ConfigMap"}
    stored = encode(obj, kind)
    assert list(msgspec.json.decode(stored)) == ["kind", "apiVersion", "metadata", "data"]
    assert msgspec.json.decode(headless(stored, kind)) == {"metadata": {"name": "a"}, "data": {"k": "v"}}


def test_the_stored_form_takes_no_more_memory_than_its_text() -> None:
    kind = Kinds().find("", "v1", "configmaps")
    assert kind is not None
    obj = {"apiVersion": "v1", "metadata": {"name": "a"}, "data": {f"k{number}": "v" * number for number in range(50)}}
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        stored = [encode(obj, kind) for _ in range(100)]
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before < 1.1 * sum(map(len, stored))


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "unexpected end of JSON input"),
        (b"{", "unexpected end of JSON input"),
        (b"{x}", "invalid character 'x' looking for beginning of object key string"),
        (b'{"a" 1}', "invalid character '1' after object key:value pair"),
        (b"{} {}", "invalid character '{' after top-level value"),
        (b"nope", "invalid character 'n' looking for beginning of value"),
        (b'{"a": NaN}', "invalid character 'N' looking for beginning of value"),
        (b'"\xff"', "invalid UTF-8 in JSON input"),
        (b"[" * 200_000, "exceeded max depth"),
    ],
)
def test_bad_json_is_told_in_the_words_of_go(body: bytes, message: str) -> None:
    with pytest.raises(ValueError, match="^" + message.replace("{", r"\{")):
        decode_json(body)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "unexpected end of JSON input"),
        (b"a: [\n", "yaml: line 1: did not find expected node content"),
        (b"a: b: c", "yaml: mapping values are not allowed in this context"),
        (b"a: 1\n\tb: 2", "yaml: line 2: found a tab character that violates indentation"),
    ],
)
def test_bad_yaml_says_where(body: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        decode_yaml(body)


def test_keys_that_stand_twice_are_named() -> None:
    assert decode_json(b'{"a": {"b": 1, "b": 2}, "c": [{"d": 1, "d": 1}]}').duplicates == ["a.b", "c[0].d"]
    [found] = decode_yaml(b"a: 1\na: 2\n").duplicates
    assert 'line 2: key "a" already set in map' in found


def test_yaml_has_no_dates_and_only_texts_as_keys() -> None:
    assert decode_yaml(b"when: 2026-01-01").value == {"when": "2026-01-01"}
    assert decode_yaml(b"{7: a, true: b, 1.5: c, x: {2: d}}").value == {
        "7": "a",
        "true": "b",
        "1.5": "c",
        "x": {"2": "d"},
    }


def test_an_unknown_form_is_refused() -> None:
    with pytest.raises(StatusError, match="accepted media types include") as raised:
        decode_body(b"<a/>", "application/xml")
    assert raised.value.code == 415
