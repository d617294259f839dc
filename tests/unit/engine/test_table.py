# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""kubectl's columns."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from kaito.engine.kinds import Kind
from kaito.engine.tables.columns import duration
from kaito.engine.tables.jsonpath import JsonPathError, compile_path
from kaito.engine.tables.podcolumns import pod_status
from kaito.engine.tables.table import table, view_of
from kaito.kube.manifest import rfc3339

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (119, "119s"), (120, "2m"), (200, "3m20s"), (3599, "59m"), (11100, "3h5m"), (86400 * 3, "3d")],
)
def test_ages_read_as_kubectl_writes_them(seconds: int, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("path", "values"),
    [
        (".spec.a", [1]),
        (".spec.list[*].name", ["x", "y"]),
        (".spec.list[1].name", ["y"]),
        ('.spec.list[?(@.name=="x")].on', [True]),
        (".metadata.labels['a.b/c']", ["v"]),
        (r".metadata.labels.a\.b/c", ["v"]),
        (".nothing.here", []),
    ],
)
def test_json_paths_find_values(path: str, values: list[Any]) -> None:
    obj = {
        "metadata": {"labels": {"a.b/c": "v"}},
        "spec": {"a": 1, "list": [{"name": "x", "on": True}, {"name": "y"}]},
    }
    assert compile_path(path)(obj) == values


def test_an_unreadable_json_path_is_refused() -> None:
    with pytest.raises(JsonPathError):
        compile_path(".a[")


@pytest.mark.parametrize(
    ("status", "shown"),
    [
        ({"phase": "Pending"}, "Pending"),
        ({"phase": "Running", "containerStatuses": [{"name": "m", "state": {"waiting": {"reason": "Bad"}}}]}, "Bad"),
        (
            {"phase": "Failed", "containerStatuses": [{"name": "m", "state": {"terminated": {"exitCode": 3}}}]},
            "ExitCode:3",
        ),
        ({"phase": "Pending", "initContainerStatuses": [{"name": "i", "state": {"running": {}}}]}, "Init:0/1"),
    ],
)
def test_the_status_of_a_pod_is_what_hurts_most(status: dict[str, Any], shown: str) -> None:
    pod = {"metadata": {"name": "p"}, "spec": {"containers": [{"name": "m"}], "initContainers": [{"name": "i"}]}}
    assert pod_status({**pod, "status": status}, NOW) == shown


def test_a_custom_kind_shows_its_printer_columns() -> None:
    column = {"name": "Ready", "type": "string", "jsonPath": ".status.ready"}
    version = {"name": "v1", "served": True, "storage": True, "additionalPrinterColumns": [column]}
    kind = Kind("g.io", "v1", "things", "Thing", definition={"spec": {"versions": [version]}})
    created = rfc3339(NOW - timedelta(seconds=5))
    obj = {"metadata": {"name": "a", "creationTimestamp": created}, "status": {"ready": "yes"}}
    body = table(view_of(kind), [obj], {}, now=NOW)
    assert [entry["name"] for entry in body["columnDefinitions"]] == ["Name", "Ready"]
    assert body["rows"][0]["cells"] == ["a", "yes"]
