# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Whose log is shown, and what is said when there is none."""

from __future__ import annotations

from kaito.cli.logs import message_in, newest
from kaito.kube.manifest import Manifest


def pod(name: str, made: str) -> Manifest:
    return {"metadata": {"name": name, "creationTimestamp": made}}


def test_of_several_attempts_the_latest_is_shown() -> None:
    pods = [pod("t-x", "2026-01-01T00:00:02Z"), pod("t-a", "2026-01-01T00:00:09Z"), pod("t-z", "2026-01-01T00:00:01Z")]
    assert newest(pods) == "t-a"
    assert newest([]) is None


def test_a_status_is_shown_by_its_message() -> None:
    assert message_in('{"kind": "Status", "message": "it waits"}') == "it waits"
    assert message_in("plain words") == "plain words"
