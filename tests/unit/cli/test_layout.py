# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""What `kaito get` and the live view of `kaito up` look like on 80 columns and in a pipe."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from kaito.cli import layout
from kaito.cli.get import detail, overview
from kaito.cli.live import view
from kaito.cli.progress import Progress

NOW = datetime(2026, 1, 1, 0, 5, tzinfo=UTC)
LONG = "Fine-tuning is not supported by this operator yet. Delete the Workspace, or use inference in its place."


def condition(type_: str, status: str, reason: str, message: str) -> dict[str, str]:
    return {
        "type": type_,
        "status": status,
        "reason": reason,
        "message": message,
        "lastTransitionTime": "2026-01-01T00:04:00Z",
    }


def workspace(name: str, preset: str, *conditions: dict[str, str], namespace: str = "default") -> dict[str, Any]:
    return {
        "metadata": {"name": name, "namespace": namespace, "creationTimestamp": "2026-01-01T00:00:00Z"},
        "inference": {"preset": {"name": preset}},
        "status": {"conditions": list(conditions), "state": "Pending"},
    }


READY = workspace("demo", "kaito-demo", condition("WorkspaceReady", "True", "workspaceSucceeded", "Served."))
STUCK = workspace(
    "workspace-phi-3-mini-adapter",
    "phi-3-mini-128k-instruct",
    condition("ResourceReady", "False", "NotSupportedHere", LONG),
)
LOADING = workspace("slow", "kaito-demo", condition("ResourceReady", "True", "Success", "There."))


def plain(lines: list[Any]) -> list[str]:
    return [line.plain for line in lines]


def test_every_workspace_is_one_row_and_reasons_follow_in_whole_words() -> None:
    assert plain(overview([READY, STUCK], NOW, with_namespace=False, width=60)) == [
        "NAME                          MODEL                     STATE  AGE",
        "demo                          kaito-demo                Ready  5m",
        "workspace-phi-3-mini-adapter  phi-3-mini-128k-instruct  Stuck  5m",
        "",
        "workspace-phi-3-mini-adapter: Fine-tuning is not supported",
        "by this operator yet. Delete the Workspace, or use inference",
        "in its place.",
    ]


def test_into_a_pipe_a_reason_is_one_line() -> None:
    assert plain(overview([STUCK], NOW, with_namespace=False))[-1] == f"workspace-phi-3-mini-adapter: {LONG}"


def test_the_names_of_kaitos_own_examples_fit_into_eighty_columns() -> None:
    assert max(len(line) for line in plain(overview([READY, STUCK], NOW, with_namespace=True, width=80))) <= 80


def test_the_detail_shows_the_address_and_each_condition_with_its_message() -> None:
    service = {"metadata": {}, "spec": {"clusterIP": "127.96.0.9", "ports": [{"name": "http", "port": 80}]}}
    assert plain(detail(READY, [service], NOW, 80)) == [
        "Name        default/demo",
        "Model       kaito-demo",
        "State       Ready",
        "Age         5m",
        "Answers at  http://127.96.0.9",
        "",
        "CONDITION       STATUS  SINCE  REASON",
        "WorkspaceReady  True    60s    workspaceSucceeded",
        "    Served.",
    ]


def test_markup_in_a_message_is_text() -> None:
    assert plain(layout.paragraph("set [red]x[/red] in a[0]", indent=2)) == ["  set [red]x[/red] in a[0]"]


@pytest.mark.parametrize(("namespace", "first"), [("default", "NAME"), ("team", "NAMESPACE")])
def test_the_live_view_names_namespaces_only_when_there_are_others(namespace: str, first: str) -> None:
    shown = plain(view([workspace("a", "kaito-demo", namespace=namespace)], [], Progress(), at=0.0, width=80))
    assert shown[0].split()[0] == first


def test_the_live_view_counts_the_seconds_of_a_phase_and_says_how_long_all_took() -> None:
    seen = Progress()
    rows = [seen.look(LOADING, None, 10.0), seen.look(LOADING, None, 13.2)]
    ready = workspace("slow", "kaito-demo", condition("WorkspaceReady", "True", "workspaceSucceeded", "Served."))
    rows += [seen.look(ready, None, 18.5), seen.look(ready, None, 99.0)]
    assert rows == [("Node ready", "0 s"), ("Node ready", "3 s"), ("Ready", "after 8.5 s"), ("Ready", "after 8.5 s")]


def test_a_workspace_that_was_ready_before_anybody_looked_has_no_time() -> None:
    assert Progress().look(READY, None, 5.0) == ("Ready", "")


def test_the_live_view_says_where_each_workspace_is_within_eighty_columns() -> None:
    shown = plain(view([LOADING, STUCK], [], Progress(), at=0.0, width=80))
    assert shown[:3] == [
        "NAME                          PHASE       TIME  MODEL",
        "slow                          Node ready  0 s   kaito-demo",
        "workspace-phi-3-mini-adapter  Stuck       0 s   phi-3-mini-128k-instruct",
    ]
