# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Lists: pages, snapshots, selectors, and what is refused."""

from __future__ import annotations

from urllib.parse import quote

import pytest

from kaito.kube.manifest import Manifest
from tests.unit.engine.api import CONFIG_MAPS, Api, api, config_map


async def filled(count: int = 5, *, ring_size: int = 1000) -> Api:
    made = await api(ring_size=ring_size)
    for number in range(count):
        labels = {"number": str(number), "odd": str(number % 2 == 1).lower()}
        await made.do("POST", CONFIG_MAPS, {"metadata": {"name": f"c{number}", "labels": labels}})
    return made


def names(listed: Manifest) -> list[str]:
    return [item["metadata"]["name"] for item in listed["items"]]


async def test_pages_follow_each_other_and_keep_to_one_snapshot() -> None:
    server = await filled()
    first = await server.do("GET", f"{CONFIG_MAPS}?limit=2")
    assert names(first) == ["c0", "c1"]
    assert first["metadata"]["remainingItemCount"] == 3
    await server.do("DELETE", f"{CONFIG_MAPS}/c2")
    await server.do("POST", CONFIG_MAPS, config_map("c9"))
    second = await server.do("GET", f"{CONFIG_MAPS}?limit=2&continue={quote(first['metadata']['continue'])}")
    third = await server.do("GET", f"{CONFIG_MAPS}?limit=2&continue={quote(second['metadata']['continue'])}")
    assert names(second) + names(third) == ["c2", "c3", "c4"]
    assert second["metadata"]["resourceVersion"] == first["metadata"]["resourceVersion"]
    assert "continue" not in third["metadata"]


async def test_a_page_of_a_forgotten_snapshot_is_gone() -> None:
    server = await filled(ring_size=3)
    first = await server.do("GET", f"{CONFIG_MAPS}?limit=2")
    for number in range(9):
        await server.do("POST", CONFIG_MAPS, config_map(f"x{number}"))
    error = await server.refused("GET", f"{CONFIG_MAPS}?limit=2&continue={quote(first['metadata']['continue'])}")
    assert (error.code, error.reason) == (410, "Expired")
    assert "continue parameter is too old" in error.message


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("labelSelector=odd=true", ["c1", "c3"]),
        ("labelSelector=odd!=true", ["c0", "c2", "c4"]),
        ("labelSelector=number%20in%20(1,2)", ["c1", "c2"]),
        ("labelSelector=number%3E2", ["c3", "c4"]),
        ("labelSelector=nothing", []),
        ("fieldSelector=metadata.name=c3", ["c3"]),
        ("fieldSelector=metadata.name!=c3", ["c0", "c1", "c2", "c4"]),
        ("labelSelector=odd=true&fieldSelector=metadata.name!=c3", ["c1"]),
    ],
)
async def test_selectors_choose(query: str, found: list[str]) -> None:
    assert names(await (await filled()).do("GET", f"{CONFIG_MAPS}?{query}")) == found


@pytest.mark.parametrize(
    ("query", "code", "message"),
    [
        ("labelSelector==x", 400, "found '=', expected: !, identifier, or 'end of string'"),
        ("labelSelector=a%20in%20b", 400, "unable to parse requirement: found 'b' expected: '('"),
        ("fieldSelector=data.a=b", 400, '"data.a" is not a known field selector: only "metadata.name"'),
        ("fieldSelector=metadata.name", 400, "invalid selector: 'metadata.name'"),
        ("limit=two", 400, 'strconv.ParseInt: parsing "two": invalid syntax'),
        ("continue=gQ", 400, "continue key is not valid: invalid character '\\u0081' looking for beginning of value"),
        ("continue=e30", 400, "continue key is not valid"),
        ("resourceVersion=abc", 400, "invalid resource version"),
        ("resourceVersion=9999999", 504, "Too large resource version: 9999999"),
        ("resourceVersionMatch=Exact", 422, "resourceVersionMatch is forbidden unless resourceVersion is provided"),
        ("resourceVersionMatch=Exact&resourceVersion=0", 422, 'resourceVersionMatch "exact" is forbidden'),
        ("sendInitialEvents=true", 422, "sendInitialEvents is forbidden for list"),
    ],
)
async def test_lists_that_make_no_sense_are_refused(query: str, code: int, message: str) -> None:
    error = await (await filled(0)).refused("GET", f"{CONFIG_MAPS}?{query}")
    assert error.code == code
    assert message in error.message


async def test_an_exact_version_shows_the_past() -> None:
    server = await filled(2)
    then = (await server.do("GET", CONFIG_MAPS))["metadata"]["resourceVersion"]
    await server.do("DELETE", f"{CONFIG_MAPS}/c0")
    query = f"resourceVersion={then}&resourceVersionMatch=Exact"
    assert names(await server.do("GET", f"{CONFIG_MAPS}?{query}")) == ["c0", "c1"]
    assert names(await server.do("GET", CONFIG_MAPS)) == ["c1"]


async def test_a_collection_of_all_namespaces_cannot_be_deleted_at_once() -> None:
    server = await filled(2)
    assert (await server.refused("DELETE", "/api/v1/configmaps")).code == 405
    deleted = await server.do("DELETE", f"{CONFIG_MAPS}?labelSelector=odd=true")
    assert names(deleted) == ["c1"]
    assert names(await server.do("GET", CONFIG_MAPS)) == ["c0"]
