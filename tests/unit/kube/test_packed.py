# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kaito.kube.packed import RECENT, Packed

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


def stateful_set(number: int) -> dict[str, Any]:
    container = {
        "name": f"bench-{number}",
        "image": "registry.example/runtime:1",
        "args": ["serve", "--config", "x" * 900],
    }
    meta = {"name": f"bench-{number}", "uid": f"{number:032x}", "labels": {"app": f"bench-{number}"}}
    return {"metadata": meta, "spec": {"template": {"spec": {"containers": [container]}}}}


def test_it_is_a_dict_of_more_than_it_keeps_as_it_is() -> None:
    packed, plain = Packed[int](), {}
    for number in range(3 * RECENT):
        packed[number] = plain[number] = stateful_set(number)
    del packed[1], plain[1]
    packed[2] = plain[2] = {"metadata": {}}
    assert dict(packed) == plain
    assert (len(packed), 1 in packed, 2 in packed) == (len(plain), False, True)
    with pytest.raises(KeyError):
        packed[1]
    with pytest.raises(KeyError):
        del packed[1]


def test_what_is_in_use_stays_one_object() -> None:
    packed = Packed[int]()
    for number in range(2 * RECENT):
        packed[number] = stateful_set(number)
    assert packed[0] is packed[0]


@given(st.lists(st.tuples(st.integers(0, 5), JSON | st.just(...)), max_size=30))
def test_any_values_come_back_whatever_was_there_first(steps: list[tuple[int, Any]]) -> None:
    packed, plain = Packed[int](), {}
    for key, value in steps:
        if value is ...:
            packed.pop(key, None)
            plain.pop(key, None)
        else:
            packed[key] = plain[key] = value
            packed._recent.clear()
        assert dict(packed) == plain
        packed._recent.clear()


def test_objects_that_are_alike_take_little() -> None:
    packed = Packed[int]()
    for number in range(1000):
        packed[number] = stateful_set(number)
    assert sum(sys.getsizeof(text) for text in packed._packed.values()) < 1000 * 200
