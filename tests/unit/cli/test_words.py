# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Small pieces of text that commands take apart or put together."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from kaito.cli.chat import chosen, content_of
from kaito.cli.failure import UserError
from kaito.cli.get import addresses, age
from kaito.cli.logs import message_in
from kaito.kube.manifest import Key


@pytest.mark.parametrize(
    ("line", "text"),
    [
        (b'data: {"choices":[{"delta":{"content":"Hi"}}]}', "Hi"),
        (b'data: {"choices":[{"delta":{"role":"assistant"}}]}', ""),
        (b'data: {"choices":[],"usage":{}}', ""),
        (b"data: [DONE]", ""),
        (b": keep-alive", ""),
        (b"data: half a js", ""),
        (b"", ""),
    ],
)
def test_the_text_of_a_stream_line(line: bytes, text: str) -> None:
    assert content_of(line) == text


@pytest.mark.parametrize(
    ("created", "shown"),
    [
        ("2026-01-02T00:00:00Z", "0s"),
        ("2026-01-01T23:59:01Z", "59s"),
        ("2026-01-01T23:50:00Z", "10m"),
        ("2026-01-01T20:00:00Z", "4h"),
        ("2025-12-30T00:00:00Z", "3d"),
        ("2026-01-02T00:00:09Z", "0s"),
    ],
)
def test_ages_read_like_those_of_kubectl(created: str, shown: str) -> None:
    now = datetime(2026, 1, 2, tzinfo=UTC)
    assert age(created, now) == shown


def service(cluster_ip: str, annotations: dict[str, str] | None = None) -> dict[str, Any]:
    ports = [{"name": "http", "port": 80}, {"name": "rendezvous", "port": 29500}]
    return {"metadata": {"annotations": annotations or {}}, "spec": {"clusterIP": cluster_ip, "ports": ports}}


def test_a_service_answers_at_its_cluster_ip() -> None:
    assert addresses(service("127.96.0.9")) == ["http://127.96.0.9"]


def test_a_moved_port_is_shown_where_it_went() -> None:
    moved = service("127.96.0.9", {"engine.kaito.sh/reachable-at": "80=127.96.0.9:30080,29500=127.96.0.9:29500"})
    assert addresses(moved) == ["http://127.96.0.9:30080"]


def test_a_headless_service_has_no_address() -> None:
    assert addresses(service("None")) == []


def test_the_message_of_a_status_is_taken_out() -> None:
    assert message_in('{"kind":"Status","message":"no such pod"}') == "no such pod"
    assert message_in("plain words") == "plain words"


def test_a_conversation_is_with_the_model_or_with_the_adapter_that_is_named() -> None:
    key = Key("default", "demo")
    assert [chosen(["base", "taught"], wanted, key) for wanted in ("", "taught")] == ["base", "taught"]
    with pytest.raises(UserError, match="demo serves no other") as refused:
        chosen(["base", "taught"], "other", key)
    assert "base, taught" in str(refused.value.next_step)
