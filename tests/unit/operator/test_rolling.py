# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Which pods of a spread model go when it changes."""

from __future__ import annotations

from typing import Any

import pytest

from kaito.kube.manifest import Manifest
from kaito.operator.workspace.rolling import POD_REVISION_LABEL, outdated_ranks
from tests.builders import pod


def stateful_set(generation: int = 2, **status: Any) -> Manifest:
    rolling = {"observedGeneration": 2, "currentRevision": "demo-a", "updateRevision": "demo-b"}
    return {"metadata": {"name": "demo", "generation": generation}, "status": {**rolling, **status}}


def rank(index: int, revision: str, **metadata: Any) -> Manifest:
    return pod(f"demo-{index}", metadata={"labels": {POD_REVISION_LABEL: revision}, **metadata})


def test_outdated_ranks_go_together_and_new_ones_stay() -> None:
    ranks = [rank(0, "demo-a"), rank(1, "demo-b"), rank(2, "demo-a", deletionTimestamp="2026-01-01T00:00:00Z")]
    assert [(one.key.name, one.uid) for one in outdated_ranks(stateful_set(), ranks)] == [("demo-0", "uid-demo-0")]


@pytest.mark.parametrize(
    "before_or_after",
    [
        None,
        {"metadata": {"name": "demo", "generation": 1}},
        stateful_set(generation=3),
        stateful_set(updateRevision="demo-a"),
        stateful_set(currentRevision="demo-b"),
    ],
    ids=["no set", "no status yet", "a status older than the spec", "stale on all counts", "done"],
)
def test_nothing_goes_unless_a_roll_is_under_way(before_or_after: Manifest | None) -> None:
    assert outdated_ranks(before_or_after, [rank(0, "demo-b"), rank(1, "demo-b")]) == ()
