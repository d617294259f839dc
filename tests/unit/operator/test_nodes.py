# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""What is kept of a node."""

from __future__ import annotations

from kaito.kube.manifest import Manifest
from kaito.operator.workspace.nodes import without_heartbeat


def node(heard: str, ready: str = "True", **status: object) -> Manifest:
    condition = {
        "type": "Ready",
        "status": ready,
        "lastHeartbeatTime": heard,
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    }
    return {"metadata": {"name": "n"}, "status": {"conditions": [condition], "capacity": {"cpu": "4"}, **status}}


def test_a_heartbeat_and_the_images_are_not_kept() -> None:
    before = without_heartbeat(node("2026-01-01T00:00:00Z", images=[{"names": ["a"]}]))
    after = without_heartbeat(node("2026-01-01T00:05:00Z", images=[{"names": ["a"]}, {"names": ["b"]}]))
    assert before == after
    assert after["status"]["capacity"] == {"cpu": "4"}


def test_a_node_that_is_lost_is_another_one() -> None:
    moment = "2026-01-01T00:00:00Z"
    assert without_heartbeat(node(moment)) != without_heartbeat(node(moment, ready="Unknown"))


def test_a_node_without_status_is_taken() -> None:
    assert without_heartbeat({"metadata": {"name": "n"}}) == {"metadata": {"name": "n"}, "status": {}}
