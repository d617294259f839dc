# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""What the node provisioner does with many claims at once on the engine's simulated machines, and what that costs."""

from __future__ import annotations

import asyncio
import re
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import aiohttp
import psutil
from tests.engine_process import EngineProcess, free_port
from tests.unit.provisioner.simulation import claim_of

from kaito.api.nodeclaims import NODE_CLAIMS, READY
from kaito.kube.client import Client, Timeouts
from kaito.kube.config import load_kubeconfig
from kaito.kube.errors import ApiError
from kaito.kube.manifest import Manifest, is_true

WITHIN_S = 600.0
INSTANCE_TYPE = "Standard_NC24ads_A100_v4"
BOOT_S = 2.0
AT_ONCE = 25
PATIENT = Timeouts(connect_s=60.0, request_s=120.0)


@dataclass(frozen=True, slots=True)
class Provisioned:
    """What was seen."""

    seconds_to_ready: float
    """From the first claim sent to the last one Ready, without the machines' boot time."""
    seconds_to_gone: float
    """From the first deletion to the last claim gone."""
    cpu_s: float
    """CPU time of the provisioner until all were Ready."""
    rss_mib: float
    """Its resident memory then."""
    calls_per_claim: float
    """Calls to the cloud for each claim from its order to its end, lists included."""


async def measure(folder: Path, *, claims: int = 500) -> Provisioned:
    """Order `claims` machines at once, wait for all, give all back."""
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    with EngineProcess(folder, "--no-node", "--simulated-machines") as engine:
        log = (folder / "provisioner.log").open("wb")
        argv = [
            sys.executable, "-m", "kaito.provisioner", "--cloud", "engine", "--kubeconfig", str(engine.kubeconfig),
            "--install-crds", "--settle", "1", "--boot", f"{BOOT_S:g}", "--metrics-port", str(port),
            "--log-level", "warning",
        ]  # fmt: skip
        provisioner = await asyncio.create_subprocess_exec(*argv, stdout=log, stderr=log)
        try:
            async with Client(load_kubeconfig(engine.kubeconfig), timeouts=PATIENT) as client:
                await _served(client)
                return await _run(client, psutil.Process(provisioner.pid), port, claims)
        finally:
            provisioner.terminate()
            await provisioner.wait()
            log.close()


async def _run(client: Client, process: psutil.Process, port: int, claims: int) -> Provisioned:
    began = time.monotonic()
    await _all(client, "create", claims)
    await _until(client, lambda found: len(found) == claims and all(is_true(one, READY) for one in found))
    ready_s = time.monotonic() - began - BOOT_S
    used = process.cpu_times()
    rss = process.memory_info().rss / 2**20
    began = time.monotonic()
    await _all(client, "delete", claims)
    await _until(client, lambda found: not found)
    gone_s = time.monotonic() - began
    return Provisioned(ready_s, gone_s, used.user + used.system, rss, await _calls(port) / claims)


async def _all(client: Client, verb: Literal["create", "delete"], claims: int) -> None:
    async def one(number: int) -> None:
        if verb == "create":
            await client.create(NODE_CLAIMS, claim_of(f"bench{number}", [INSTANCE_TYPE]))
        else:
            await client.delete(NODE_CLAIMS, f"bench{number}")

    for start in range(0, claims, AT_ONCE):
        await asyncio.gather(*(one(number) for number in range(start, min(start + AT_ONCE, claims))))


async def _until(client: Client, holds: Callable[[list[Manifest]], bool]) -> None:
    deadline = time.monotonic() + WITHIN_S
    while time.monotonic() < deadline:
        found, _ = await client.list_objects(NODE_CLAIMS)
        if holds(found):
            return
        await asyncio.sleep(0.25)
    raise TimeoutError(f"not within {WITHIN_S:g} s")


async def _served(client: Client) -> None:
    while True:
        try:
            await client.list_objects(NODE_CLAIMS)
            return
        except ApiError:
            await asyncio.sleep(0.1)


async def _calls(port: int) -> float:
    """Calls to the cloud so far."""
    async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}/metrics") as answer:
        text = await answer.text()
    return sum(float(count) for count in re.findall(r'cloud_calls_total\{call="\w+",error=""\} (\d+)', text))
