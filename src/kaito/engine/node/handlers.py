# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Carries out what probes and life cycle hooks ask of a running container.

A command, an HTTP request, a connection, or a pause.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from kaito.engine.node import execution, probes, process
from kaito.engine.node.probes import ProbeFailure
from kaito.engine.node.rootfs import Rewriter
from kaito.kube.manifest import Manifest


class HandlerFailure(Exception):
    """A hook did not succeed."""


class Handlers:
    """The handlers of one attempt of one container."""

    def __init__(self, container: Manifest, address: str, folder: Path) -> None:
        self._container = container
        self._address = address
        self._folder = folder

    async def probe(self, probe: Manifest, timeout_s: float) -> None:
        """Raises ProbeFailure unless the container answers as it should."""
        if "exec" in probe:
            await self._exec(probe["exec"].get("command") or [], timeout_s)
        elif "httpGet" in probe:
            action = probe["httpGet"]
            await probes.http_get(self._address, probes.port_of(self._container, action["port"]), action)
        elif "tcpSocket" in probe:
            action = probe["tcpSocket"]
            host = action.get("host") or self._address
            await probes.tcp_connect(host, probes.port_of(self._container, action["port"]))
        elif "grpc" in probe:
            await probes.tcp_connect(self._address, int(probe["grpc"]["port"]))

    async def act(self, action: Manifest, timeout_s: float | None) -> None:
        """Carry out a hook. Raises HandlerFailure; running out of time is one."""
        try:
            if "sleep" in action:
                await asyncio.wait_for(asyncio.sleep(action["sleep"]["seconds"]), timeout_s)
            elif "exec" in action:
                await self._exec(action["exec"].get("command") or [], timeout_s)
            else:
                await asyncio.wait_for(self.probe(action, timeout_s or 0), timeout_s)
        except ProbeFailure as error:
            raise HandlerFailure(str(error)) from error
        except TimeoutError as error:
            raise HandlerFailure(f"no end within {timeout_s:g} s") from error

    async def _exec(self, command: list[str], timeout_s: float | None) -> None:
        launch = process.launch_of(self._folder)
        if launch is None or not command:
            raise ProbeFailure("the container is not running")
        rewriter = Rewriter(launch.places)
        code, output = await execution.run(self._folder, launch, [rewriter.text(word) for word in command], timeout_s)
        if code != 0:
            raise ProbeFailure(output or f"command ended with exit code {code}")
