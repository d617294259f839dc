# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""What `kaito up` says is true the second time as well: on another port, with an operator that is really there."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.e2e.machine import Machine, eventually, processes_below

pytestmark = pytest.mark.slow

WORKSPACE = (
    "apiVersion: kaito.sh/v1beta1\nkind: Workspace\nmetadata: {name: again}\n"
    "resource: {labelSelector: {matchLabels: {apps: x}}}\ninference: {preset: {name: phi-4}}\n"
)


@pytest.fixture
def stopped(tmp_path: Path) -> Iterator[Machine]:
    """A machine that was up once; no weights are needed."""
    machine = Machine(tmp_path, cache=tmp_path / "cache")
    machine.up()
    machine.down()
    yield machine
    machine.down()
    assert processes_below(tmp_path) == []


def test_the_operator_works_at_once_when_the_port_of_last_time_is_taken(stopped: Machine) -> None:
    last = int((stopped.folder / "data" / "port").read_text())
    with closing(socket.create_server(("127.0.0.1", last))):
        printed = stopped.up()
        assert f":{last}\n" not in printed
        assert stopped.run("kubectl", "apply", "-f", "-", input=WORKSPACE).returncode == 0
        eventually(lambda: bool(stopped.condition("again", "ResourceReady")), within=3, what="taken up by the operator")
