# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Watch streams: what comes first, what a selector makes of changes, and where a watch cannot begin."""

from __future__ import annotations

import msgspec
import pytest

from kaito.kube.manifest import Manifest
from tests.unit.engine.api import CONFIG_MAPS, Api, api, config_map

Told = list[tuple[str, str]]


async def told(server: Api, query: str, count: int, accept: str = "application/json") -> list[Manifest]:
    """The first events of a watch; each must come without waiting."""
    response = await server.ask("GET", f"{CONFIG_MAPS}?watch=true&timeoutSeconds=5&{query}", accept=accept)
    assert response.chunks is not None
    found: list[Manifest] = []
    async for chunk in response.chunks:
        found += [msgspec.json.decode(line) for line in chunk.splitlines()]
        if len(found) >= count:
            break
    await response.chunks.aclose()  # type: ignore[attr-defined]
    return found[:count]


def brief(events: list[Manifest]) -> Told:
    return [(event["type"], event["object"]["metadata"].get("name", "")) for event in events]


async def test_a_watch_from_a_version_sees_what_happened_since() -> None:
    server = await api()
    start = (await server.do("POST", CONFIG_MAPS, config_map("a")))["metadata"]["resourceVersion"]
    await server.patch(f"{CONFIG_MAPS}/a", {"data": {"k": "v"}})
    await server.do("POST", CONFIG_MAPS, config_map("b"))
    await server.do("DELETE", f"{CONFIG_MAPS}/a")
    events = await told(server, f"resourceVersion={start}", 3)
    assert brief(events) == [("MODIFIED", "a"), ("ADDED", "b"), ("DELETED", "a")]


async def test_a_watch_without_a_version_begins_with_what_is_there() -> None:
    server = await api()
    for name in ("b", "a"):
        await server.do("POST", CONFIG_MAPS, config_map(name))
    assert brief(await told(server, "", 2)) == [("ADDED", "a"), ("ADDED", "b")]


async def test_initial_events_end_with_a_marked_bookmark() -> None:
    server = await api()
    await server.do("POST", CONFIG_MAPS, config_map("a"))
    query = "sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true"
    first, end = await told(server, query, 2)
    assert brief([first]) == [("ADDED", "a")]
    assert end["type"] == "BOOKMARK"
    meta = end["object"]["metadata"]
    assert meta == {
        "resourceVersion": str(server.store.revision),
        "annotations": {"k8s.io/initial-events-end": "true"},
    }


async def test_an_object_that_leaves_a_selection_is_deleted_for_its_watcher() -> None:
    server = await api()
    start = server.store.revision
    await server.do("POST", CONFIG_MAPS, {"metadata": {"name": "a", "labels": {"in": "yes"}}})
    await server.do("POST", CONFIG_MAPS, config_map("other"))
    await server.patch(f"{CONFIG_MAPS}/a", {"metadata": {"labels": {"in": "no"}}})
    await server.patch(f"{CONFIG_MAPS}/a", {"metadata": {"labels": {"in": "yes"}}})
    events = await told(server, f"resourceVersion={start}&labelSelector=in=yes", 3)
    assert brief(events) == [("ADDED", "a"), ("DELETED", "a"), ("ADDED", "a")]
    left = events[1]["object"]
    assert left["metadata"]["labels"] == {"in": "yes"}


async def test_a_table_watch_tells_its_columns_once() -> None:
    server = await api()
    for name in ("a", "b"):
        await server.do("POST", CONFIG_MAPS, config_map(name, k="v"))
    tables = [event["object"] for event in await told(server, "", 2, "application/json;as=Table;g=meta.k8s.io;v=v1")]
    assert [column["name"] for column in tables[0]["columnDefinitions"]] == ["Name", "Data", "Age"]
    assert tables[1]["columnDefinitions"] is None
    assert tables[1]["rows"][0]["cells"][:2] == ["b", 1]


@pytest.mark.parametrize(
    ("query", "code", "message"),
    [
        ("resourceVersion=1", 410, "too old resource version: 1"),
        ("resourceVersion=99999", 504, "Too large resource version"),
        ("resourceVersion=x", 400, "invalid resource version"),
        ("sendInitialEvents=true", 422, "requires setting resourceVersionMatch to NotOlderThan"),
        ("resourceVersionMatch=Exact&resourceVersion=5", 422, "forbidden for watch unless sendInitialEvents"),
        ("timeoutSeconds=soon", 400, "timeoutSeconds must be a number"),
    ],
)
async def test_a_watch_that_cannot_begin_is_refused(query: str, code: int, message: str) -> None:
    server = await api(ring_size=3)
    for name in "abcdefgh":
        await server.do("POST", CONFIG_MAPS, config_map(name))
    error = await server.refused("GET", f"{CONFIG_MAPS}?watch=true&{query}")
    assert error.code == code
    assert message in error.message
