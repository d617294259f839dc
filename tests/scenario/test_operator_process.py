# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""The operator as a process beside a real engine: what is created, what is denied, what survives, how it ends.

No pod runs here: the Workspaces name an image that the engine does not know, which is a condition to look at too.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import aiohttp
import pytest
import yaml

from kaito.api import names
from kaito.api.meta import WORKSPACES, WORKSPACES_V1ALPHA1
from kaito.kube.client import Client
from kaito.kube.config import load_kubeconfig
from kaito.kube.errors import ApiError, Invalid, NotFound
from kaito.kube.manifest import Manifest, condition_of
from kaito.kube.resource import CONFIG_MAPS, CONTROLLER_REVISIONS, PODS, SERVICES, STATEFUL_SETS
from tests.builders import workspace
from tests.engine_process import EngineProcess

pytestmark = pytest.mark.slow
WITHIN_S = 60.0
SEED = Path(__file__).parents[2] / "examples" / "inference" / "kaito_workspace_phi_3.yaml"


class Operator:
    """`python -m kaito.operator` against an engine."""

    def __init__(self, engine: EngineProcess) -> None:
        self.log = engine.folder / "operator.log"
        self.argv = [
            sys.executable, "-m", "kaito.operator", "--kubeconfig", str(engine.kubeconfig), "--provisioner", "local",
            "--install-crds", "--webhook-port", "0", "--webhook-url-host", "127.0.0.1", "--metrics-port", "0",
            "--runtime-image", "example.com/no-such-image:1",
            "--namespace", "default",  # Where its Lease is: an engine alone has not the namespace of an installation.
        ]  # fmt: skip
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(self.argv, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        started = time.monotonic()
        marks = self.log.read_text().count("operator runs against")
        while self.log.read_text().count("operator runs against") == marks:
            if self.process.poll() is not None or time.monotonic() - started > WITHIN_S:
                raise AssertionError(f"the operator did not start:\n{self.log.read_text()[-3000:]}")
            time.sleep(0.05)

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        assert self.process is not None
        self.process.terminate()
        return self.process.wait(10)

    def metrics_port(self) -> int:
        return int(re.findall(r"metrics on http://127\.0\.0\.1:(\d+)/", self.log.read_text())[-1])


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineProcess]:
    with EngineProcess(tmp_path_factory.mktemp("engine")) as running:
        yield running


@pytest.fixture(scope="module")
def operator(engine: EngineProcess) -> Iterator[Operator]:
    running = Operator(engine)
    running.start()
    yield running
    assert running.stop() == 0, "SIGTERM ends it in order"


@pytest.fixture
async def client(engine: EngineProcess, operator: Operator) -> AsyncIterator[Client]:
    async with Client(load_kubeconfig(engine.kubeconfig)) as opened:
        yield opened


async def eventually(check: Callable[[], Awaitable[bool]], what: str) -> None:
    deadline = time.monotonic() + WITHIN_S
    while time.monotonic() < deadline:
        with contextlib.suppress(NotFound):
            if await check():
                return
        await asyncio.sleep(0.05)
    raise AssertionError(f"not within {WITHIN_S:g} s: {what}")


def fresh(name: str, **changes: object) -> Manifest:
    """A Workspace as a user writes it."""
    manifest = workspace(name, **changes)
    manifest["metadata"] = {"name": name, "namespace": "default"}
    return manifest


async def failed_for(client: Client, name: str, reason: str) -> bool:
    found = condition_of(await client.get(WORKSPACES, name, "default"), names.INFERENCE_READY)
    return found is not None and found["reason"] == reason


async def test_a_workspace_gets_its_objects_and_an_unknown_image_is_explained(client: Client) -> None:
    manifest = yaml.safe_load(SEED.read_text())
    await client.create(WORKSPACES_V1ALPHA1, manifest, namespace="default")
    name = manifest["metadata"]["name"]
    await eventually(lambda: failed_for(client, name, names.REASON_IMAGE_PULL), "the image's failure")
    for resource, expected in ((STATEFUL_SETS, name), (SERVICES, f"{name}-headless"), (CONFIG_MAPS, f"{name}-serve")):
        assert (await client.get(resource, expected, "default"))["metadata"]["ownerReferences"]
    service = await client.get(SERVICES, name, "default")
    assert [port["port"] for port in service["spec"]["ports"]] == [80, 29500]
    revisions, _ = await client.list_objects(CONTROLLER_REVISIONS, "default")
    assert any(revision["metadata"]["name"].startswith(name) for revision in revisions)
    await client.delete(WORKSPACES, name, "default")

    async def gone() -> bool:
        left = [await client.list_objects(resource, "default") for resource in (STATEFUL_SETS, PODS)]
        return not any(item["metadata"]["name"].startswith(name) for items, _ in left for item in items)

    await eventually(gone, "everything of the deleted Workspace is gone")


@pytest.mark.parametrize(
    ("changes", "path"),
    [
        ({"inference": {"preset": {"name": "phi-3-mini-4k-instrukt"}}}, "inference.preset.name"),
        ({"tuning": {"preset": {"name": "phi-4"}, "method": "lora", "input": {"urls": ["https://example.com/d"]},
                     "output": {"volumeSource": {"emptyDir": {}}}}}, "tuning"),
        ({"inference": {"preset": {"name": 7}}}, "inference.preset.name"),
    ],
)  # fmt: skip
async def test_bad_input_is_refused_with_its_field(client: Client, changes: dict[str, object], path: str) -> None:
    with pytest.raises(Invalid) as refusal:
        await client.create(WORKSPACES, fresh("bad", **changes))
    assert any(path in cause.get("field", "") for cause in refusal.value.causes)


async def test_an_idle_operator_writes_nothing(client: Client, operator: Operator) -> None:
    for index in range(20):
        await client.create(WORKSPACES, fresh(f"many-{index}"))
    for index in range(20):
        name = f"many-{index}"
        await eventually(lambda name=name: failed_for(client, name, names.REASON_IMAGE_PULL), "settled")  # type: ignore[misc]

    async def writes() -> int:
        url = f"http://127.0.0.1:{operator.metrics_port()}/metrics"
        async with aiohttp.ClientSession() as session, session.get(url) as answer:
            found = re.search(r"kaito_operator_writes_total\{[^}]*\} (\d+)", await answer.text())
            assert found is not None
            return int(found.group(1))

    await asyncio.sleep(1.0)
    before = await writes()
    await asyncio.sleep(2.0)
    assert await writes() == before
    for index in range(20):
        await client.delete(WORKSPACES, f"many-{index}", "default")


async def test_a_killed_operator_goes_on_where_it_was(client: Client, operator: Operator) -> None:
    await client.create(WORKSPACES, fresh("survivor"))
    operator.kill()
    try:
        await client.create(WORKSPACES, fresh("meanwhile"))
        operator.start()
        for name in ("survivor", "meanwhile"):
            await eventually(lambda name=name: failed_for(client, name, names.REASON_IMAGE_PULL), name)  # type: ignore[misc]
    finally:
        for name in ("survivor", "meanwhile"):
            with contextlib.suppress(ApiError):
                await client.delete(WORKSPACES, name, "default")
