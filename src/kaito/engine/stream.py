# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""What the API server asks of the machine that runs the pods: logs, exec, attach, and connections to a port.

On a cluster the API server dials the kubelet for these. Here the node agent hands an object with these methods to the
server (`kaito.engine.http.server`), so neither imports the other. The WebSocket framing that kubectl speaks
(`v5.channel.k8s.io`) is on the server's side of this seam.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, Protocol

from kaito.kube.manifest import Manifest

Channel = Literal["stdout", "stderr"]


@dataclass(frozen=True, slots=True)
class LogOptions:
    """The query of `GET pods/{name}/log`."""

    container: str
    follow: bool = False
    previous: bool = False
    timestamps: bool = False
    tail_lines: int | None = None
    limit_bytes: int | None = None
    since: datetime | None = None


@dataclass(frozen=True, slots=True)
class Streams:
    """Which of a process's streams a client wants, and whether they are a terminal."""

    stdin: bool = False
    stdout: bool = True
    stderr: bool = True
    tty: bool = False


class Session(Protocol):
    """A process that a client is connected to."""

    async def read(self) -> tuple[Channel, bytes] | None:
        """The next output, or None when there will be no more."""

    async def write(self, data: bytes) -> None:
        """Feed the process's standard input."""

    async def close_stdin(self) -> None:
        """Tell the process that its input has ended."""

    async def resize(self, columns: int, rows: int) -> None:
        """The client's terminal has this size now; nothing where there is no terminal."""

    async def exit_code(self) -> int:
        """Wait for the end of the process; 0 is success. An attached client that outlives nothing gets 0."""

    async def close(self) -> None:
        """The client went away. An exec'ed process is killed; an attached container goes on."""


class NodeError(Exception):
    """The node cannot do it; `status` is the HTTP status for the client (400, 404, 409, 500)."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True)
class Usage:
    """What processes use."""

    cpu: float
    """Cores."""
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class NodeUsage:
    """What a node and the containers on it use."""

    node: Usage
    containers: Mapping[tuple[str, str], Usage]
    """By the pod's uid and the container's name: those that run."""
    window_s: float
    """Over how many seconds the processor time was counted."""


class NodeBackend(Protocol):
    """What a node can do for a client. Methods raise NodeError."""

    @property
    def name(self) -> str:
        """The name of its Node."""

    async def usage(self) -> NodeUsage:
        """What is used now."""

    def logs(self, pod: Manifest, options: LogOptions) -> AsyncIterator[bytes]:
        """The container's output in pieces; ends at the end of the log, or of the container when following."""

    async def exec(self, pod: Manifest, container: str, command: list[str], streams: Streams) -> Session:
        """Start a process beside the container's, with its environment and folders."""

    async def attach(self, pod: Manifest, container: str, streams: Streams) -> Session:
        """Connect to the container's own process. The first client of a container with stdin sees all its output."""

    async def connect(self, pod: Manifest, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A TCP connection to a port of the pod (port-forward, the proxy subresource)."""
