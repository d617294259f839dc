# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""The operator as Helm installs it, with the rights of its ServiceAccount and no others, beside a real engine.

Helm is the real one. The operator's pods run on nodes that only pretend; the process that works is started here with
the Deployment's own arguments and a token of its ServiceAccount. Its webhooks are called by address.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import helm_python as helm
import pytest
import yaml

from kaito.api import names
from kaito.api.kinds import WORKSPACES, WORKSPACES_V1ALPHA1
from kaito.kube.client import Client
from kaito.kube.config import load_kubeconfig
from kaito.kube.errors import ApiError, Forbidden, Invalid, NotFound
from kaito.kube.manifest import Manifest, is_true
from kaito.kube.resource import (
    CUSTOM_RESOURCE_DEFINITIONS,
    DEPLOYMENTS,
    NODES,
    SECRETS,
    SERVICE_ACCOUNTS,
    STATEFUL_SETS,
    VALIDATING_WEBHOOKS,
)
from tests.builders import workspace
from tests.engine_process import EngineProcess, free_port

pytestmark = pytest.mark.slow
CHART = Path(__file__).parents[2] / "charts" / "kaito"
NAMESPACE = "kaito-system"
HOOK = "validation.workspace.kaito.sh"
WITHIN_S = 30.0
LABELS = {"apps": "demo"}
NODES_THERE = 5
"""Each Workspace takes all the GPUs of one."""


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineProcess]:
    options = ("--no-node", "--simulated-nodes", str(NODES_THERE), "--simulated-gpus", "8")
    with EngineProcess(tmp_path_factory.mktemp("engine"), *options) as running:
        yield running


@pytest.fixture(scope="module")
def release(engine: EngineProcess) -> Iterator[helm.Config]:
    with helm.Config(kubeconfig_path=str(engine.kubeconfig), namespace=NAMESPACE) as config:
        config.install(str(CHART), "kaito", namespace=NAMESPACE, create_namespace=True)
        yield config


class Operator:
    """The operator's process with its ServiceAccount's rights."""

    def __init__(self, engine: EngineProcess, deployment: Manifest, token: str) -> None:
        config = yaml.safe_load(engine.kubeconfig.read_text())
        config["users"][0]["user"] = {"token": token}
        kubeconfig = engine.folder / "operator.kubeconfig"
        kubeconfig.write_text(yaml.safe_dump(config))
        kubeconfig.chmod(0o600)
        self.log = engine.folder / "operator.log"
        [container] = deployment["spec"]["template"]["spec"]["containers"]
        own = {"--metrics-port": free_port(), "--health-port": free_port(), "--webhook-port": free_port(),
               "--shutdown-delay-seconds": 0}  # fmt: skip
        kept = [argument for argument in container["args"] if argument.split("=")[0] not in own]
        self.argv = [
            sys.executable, "-m", "kaito.operator", *kept, *(f"{name}={value}" for name, value in own.items()),
            f"--kubeconfig={kubeconfig}", f"--namespace={NAMESPACE}", "--webhook-url-host=127.0.0.1",
        ]  # fmt: skip
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(self.argv, stdout=log, stderr=log, stdin=subprocess.DEVNULL)

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        assert self.process is not None
        self.process.terminate()
        return self.process.wait(15)


@pytest.fixture(scope="module")
def operator(engine: EngineProcess, release: helm.Config) -> Iterator[Operator]:
    async def prepared() -> Operator:
        async with Client(load_kubeconfig(engine.kubeconfig)) as client:
            await client.create(WORKSPACES, {**asked("older"), "inference": {"preset": {"name": "no-such-model"}}})
            deployment = await client.get(DEPLOYMENTS, "kaito-operator", NAMESPACE)
            wanted = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}
            answer = await client.create(
                SERVICE_ACCOUNTS, wanted, namespace=NAMESPACE, name="kaito-operator", subresource="token"
            )
            for number in range(NODES_THERE):
                await client.patch(NODES, f"simulated-{number:04}", "", {"metadata": {"labels": LABELS}})
            return Operator(engine, deployment, answer["status"]["token"])

    # An object from before our rules: it is created while nobody asks the webhook.
    async def unasked() -> None:
        async with Client(load_kubeconfig(engine.kubeconfig)) as client:
            await client.patch(VALIDATING_WEBHOOKS, HOOK, "", {"webhooks": []})

    asyncio.run(unasked())
    made = asyncio.run(prepared())
    with helm.Config(kubeconfig_path=str(engine.kubeconfig), namespace=NAMESPACE) as config:
        config.upgrade(str(CHART), "kaito", namespace=NAMESPACE)
    made.start()
    yield made
    assert made.stop() == 0


@pytest.fixture
async def client(engine: EngineProcess, operator: Operator) -> AsyncIterator[Client]:
    async with Client(load_kubeconfig(engine.kubeconfig)) as opened:
        yield opened


def asked(name: str, **changes: object) -> Manifest:
    manifest = workspace(name, **changes)
    manifest["metadata"] = {"name": name, "namespace": "default"}
    return manifest


async def eventually(check: Callable[[], Awaitable[bool]], what: str, operator: Operator | None = None) -> None:
    deadline = time.monotonic() + WITHIN_S
    while time.monotonic() < deadline:
        with contextlib.suppress(NotFound):
            if await check():
                return
        await asyncio.sleep(0.05)
    raise AssertionError(f"not within {WITHIN_S:g} s: {what}\n{operator.log.read_text()[-2000:] if operator else ''}")


async def ready(client: Client, operator: Operator, name: str) -> None:
    async def check() -> bool:
        return is_true(await client.get(WORKSPACES, name, "default"), names.WORKSPACE_READY)

    await eventually(check, f"{name} is ready", operator)


def listens(port: int) -> bool:
    """Whether somebody does: a killed operator leaves its registration behind."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


async def registered(client: Client, operator: Operator) -> None:
    """Return once the webhooks that the API server knows are those of the process that runs."""
    port = next(argument for argument in operator.argv if argument.startswith("--webhook-port=")).split("=")[1]

    async def check() -> bool:
        hooks = (await client.get(VALIDATING_WEBHOOKS, HOOK)).get("webhooks") or []
        crd = await client.get(CUSTOM_RESOURCE_DEFINITIONS, "workspaces.kaito.sh")
        converts = crd["spec"]["conversion"].get("webhook") or {}
        urls = [
            hooks[0]["clientConfig"].get("url", "") if hooks else "",
            converts.get("clientConfig", {}).get("url", ""),
        ]
        return all(f":{port}/" in url for url in urls) and listens(int(port))

    await eventually(check, "the webhooks are registered", operator)


async def test_with_its_own_rights_it_makes_a_workspace_ready(client: Client, operator: Operator) -> None:
    await registered(client, operator)
    await client.create(WORKSPACES, asked("first"))
    await ready(client, operator, "first")
    found = await client.get(WORKSPACES, "first", "default")
    steps = [step["step"] for step in found["status"]["timeline"]]
    assert steps == [names.STEP_NODES_READY, names.STEP_IMAGE_PULLED, names.STEP_ENGINE_READY, names.STEP_SERVING]
    log = operator.log.read_text()
    assert "orbidden" not in log and "cannot" not in log, log[-2000:]


async def test_it_may_not_read_a_secret_of_anybody(client: Client, operator: Operator) -> None:
    kubeconfig = next(a for a in operator.argv if a.startswith("--kubeconfig=")).split("=", 1)[1]
    async with Client(load_kubeconfig(Path(kubeconfig))) as its:
        with pytest.raises(Forbidden):
            await its.list_objects(SECRETS, "default")
        with pytest.raises(Forbidden):
            await its.list_objects(SECRETS, NAMESPACE)
        with pytest.raises(Forbidden):
            await its.get(SECRETS, "sh.helm.release.v1.kaito.v1", NAMESPACE)
        assert await its.get(SECRETS, "kaito-webhook-ca", NAMESPACE)


async def test_the_old_version_is_converted_and_written_back_without_a_change(
    client: Client, operator: Operator
) -> None:
    await registered(client, operator)
    await client.create(WORKSPACES, asked("both"))
    await ready(client, operator, "both")
    old = await client.get(WORKSPACES_V1ALPHA1, "both", "default")
    assert old["apiVersion"] == "kaito.sh/v1alpha1"
    assert old["resource"]["instanceType"] == "", "nothing fills in a machine"
    before = await client.get(WORKSPACES, "both", "default")
    await client.replace(WORKSPACES_V1ALPHA1, old)
    after = await client.get(WORKSPACES, "both", "default")
    assert {part: after.get(part) for part in ("resource", "inference")} == {
        part: before.get(part) for part in ("resource", "inference")
    }
    assert after["metadata"]["generation"] == before["metadata"]["generation"]
    listed, _ = await client.list_objects(WORKSPACES_V1ALPHA1, "default")
    assert {"both"} <= {item["metadata"]["name"] for item in listed}


async def test_what_was_accepted_once_may_be_changed_elsewhere_and_deleted(client: Client, operator: Operator) -> None:
    await registered(client, operator)
    with pytest.raises(Invalid, match="no-such-model"):
        await client.create(WORKSPACES, {**asked("newer"), "inference": {"preset": {"name": "no-such-model"}}})
    labels = {"metadata": {"labels": {"team": "a"}}}
    assert (await client.patch(WORKSPACES, "older", "default", labels))["metadata"]["labels"] == {"team": "a"}
    config = {"inference": {"config": "settings"}}
    assert (await client.patch(WORKSPACES, "older", "default", config))["inference"]["config"] == "settings"
    with pytest.raises(Invalid, match=r"inference\.preset\.name"):
        await client.patch(WORKSPACES, "older", "default", {"inference": {"preset": {"name": "nor-this-one"}}})
    with pytest.raises(Invalid, match=r"inference\.adapters"):
        await client.patch(WORKSPACES, "older", "default", {"inference": {"adapters": [{"source": {"name": "A_"}}]}})
    await client.delete(WORKSPACES, "older", "default")

    async def gone() -> bool:
        try:
            await client.get(WORKSPACES, "older", "default")
        except NotFound:
            return True
        return False

    await eventually(gone, "it is deleted", operator)


async def test_while_no_operator_answers_only_requests_for_something_else_wait(
    client: Client, operator: Operator
) -> None:
    await registered(client, operator)
    await client.create(WORKSPACES, asked("kept"))
    await ready(client, operator, "kept")
    operator.kill()
    try:
        await client.patch(WORKSPACES, "kept", "default", {"metadata": {"labels": {"team": "b"}}})
        status = {"status": {"state": "NotReady"}}
        await client.patch(WORKSPACES, "kept", "default", status, subresource="status")
        with pytest.raises(ApiError, match="webhook"):
            await client.create(WORKSPACES, asked("refused"))
        await client.delete(WORKSPACES, "kept", "default")
        body = {"metadata": {"finalizers": None}}
        await client.patch(WORKSPACES, "kept", "default", body)
        with pytest.raises(NotFound):
            await client.get(WORKSPACES, "kept", "default")
    finally:
        operator.start()
    await registered(client, operator)


async def test_uninstalling_leaves_the_definitions_and_the_workspaces(
    client: Client, operator: Operator, release: helm.Config
) -> None:
    await registered(client, operator)
    await client.create(WORKSPACES, asked("stays"))
    await ready(client, operator, "stays")
    release.uninstall("kaito")
    assert await client.get(CUSTOM_RESOURCE_DEFINITIONS, "workspaces.kaito.sh")
    assert await client.get(STATEFUL_SETS, "stays", "default")
    with pytest.raises(NotFound):
        await client.get(VALIDATING_WEBHOOKS, HOOK)
    with pytest.raises(NotFound):
        await client.get(DEPLOYMENTS, "kaito-operator", NAMESPACE)
    bundle = (await client.get(CUSTOM_RESOURCE_DEFINITIONS, "workspaces.kaito.sh"))["spec"]["conversion"]
    assert base64.b64decode(bundle["webhook"]["clientConfig"]["caBundle"]).startswith(b"-----BEGIN")
