# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""The whole operator in one process against a small API server: what it installs, serves, creates, and how it ends."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import logging
import re
import ssl
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import aiohttp
import pytest

from kaito.api import names
from kaito.kube.certificates import AUTHORITY_LIFE
from kaito.kube.clock import Clock, VirtualClock
from kaito.kube.manifest import Manifest
from kaito.operator.app import CannotStart, run
from kaito.operator.settings import Settings
from tests.builders import node, workspace
from tests.unit.kube.apiserver import ApiServer, running

LOCAL = Settings(
    provisioner="local", install_crds=True, webhook_port=0, webhook_url_host="127.0.0.1", metrics_port=0, workers=2
)
WORKSPACES = "/apis/kaito.sh/v1beta1/workspaces"
"""The collection of all namespaces; the small server does not know that namespaced writes belong to it."""
WEBHOOKS = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations"
WITHIN_S = 30.0


def established(obj: Manifest) -> None:
    if obj.get("kind") == "CustomResourceDefinition":
        obj["status"] = {"conditions": [{"type": "Established", "status": "True"}]}


@contextlib.asynccontextmanager
async def operating(
    server: ApiServer, settings: Settings = LOCAL, clock: Clock | None = None
) -> AsyncIterator[asyncio.Task[None]]:
    server.normalise = established
    task = asyncio.create_task(run(settings, server.config, clock=clock))
    try:
        yield task
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def found(server: ApiServer, kind: str, name: str) -> Manifest:
    """The object of the kind and name, once it is there."""
    deadline = asyncio.get_running_loop().time() + WITHIN_S
    while asyncio.get_running_loop().time() < deadline:
        for objects in server.objects.values():
            if name in objects and objects[name].get("kind") == kind:
                return objects[name]
        await asyncio.sleep(0.01)
    raise AssertionError(f"{kind} {name} is not there within {WITHIN_S:g} s")


async def test_it_installs_itself_reconciles_and_counts_what_it_does(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with running() as server, operating(server):
        await found(server, "ValidatingWebhookConfiguration", "validation.workspace.kaito.sh")
        assert await found(server, "CustomResourceDefinition", "workspaces.kaito.sh")
        await server.put("/api/v1/nodes", node())
        await server.put(WORKSPACES, workspace())
        await found(server, "StatefulSet", "demo")
        await found(server, "Service", "demo")
        (port,) = re.findall(r"metrics on http://127\.0\.0\.1:(\d+)/", caplog.text)
        async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session:
            async with session.get("/readyz") as answer:
                assert answer.status == 200
            async with session.get("/metrics") as answer:
                text = await answer.text()
                assert 'controller_runtime_reconcile_total{controller="kaito-workspace",result="success"}' in text
                assert 'kaito_workspace_count{phase="pending"} 1' in text
                assert 'kaito_workspace_preset_count{preset_name="phi-3-mini-4k-instruct"} 1' in text
                assert 'leader_election_master_status{name="kaito-operator"} 1' in text


async def test_the_webhook_that_it_registers_denies_what_it_should() -> None:
    async with running() as server, operating(server):
        configuration = await found(server, "ValidatingWebhookConfiguration", "validation.workspace.kaito.sh")
        client_config = configuration["webhooks"][0]["clientConfig"]
        authority = base64.b64decode(client_config["caBundle"]).decode()
        review = {
            "apiVersion": "admission.k8s.io/v1",
            "kind": "AdmissionReview",
            "request": {
                "uid": "u",
                "operation": "CREATE",
                "kind": {"group": "kaito.sh", "version": "v1beta1", "kind": "Workspace"},
                "resource": {"group": "kaito.sh", "version": "v1beta1", "resource": "workspaces"},
                "name": "demo",
                "object": workspace(inference=None),
            },
        }
        context = ssl.create_default_context(cadata=authority)
        async with (
            aiohttp.ClientSession() as session,
            session.post(client_config["url"], data=json.dumps(review), ssl=context) as answer,
        ):
            response = (await answer.json())["response"]
        assert response["allowed"] is False
        assert response["status"]["code"] == 422
        assert response["status"]["details"]["causes"][0]["field"] == "inference"


async def test_replicas_share_one_authority_in_a_secret() -> None:
    settings = Settings(webhook_port=0, install_crds=True)
    async with running() as server, operating(server, settings):
        await found(server, "ValidatingWebhookConfiguration", "validation.workspace.kaito.sh")
        secret = await found(server, "Secret", "kaito-webhook-ca")
        hook = server.objects[WEBHOOKS]["validation.workspace.kaito.sh"]["webhooks"][0]
        assert hook["clientConfig"]["caBundle"] == secret["data"]["ca.crt"]
        assert hook["failurePolicy"] == "Fail"
        async with operating(server, settings):
            await asyncio.sleep(0.2)
            again = server.objects[WEBHOOKS]["validation.workspace.kaito.sh"]["webhooks"][0]
            assert again["clientConfig"]["caBundle"] == hook["clientConfig"]["caBundle"]


async def test_a_leader_works_and_the_other_waits() -> None:
    settings = Settings(provisioner="local", leader_elect=True)
    async with running() as server, operating(server, settings):
        lease = await found(server, "Lease", "kaito-operator")
        assert lease["spec"]["holderIdentity"]
        await server.put("/api/v1/nodes", node())
        await server.put(WORKSPACES, workspace())
        assert (await found(server, "StatefulSet", "demo"))["metadata"]["annotations"][names.REVISION_ANNOTATION] == "1"


async def test_a_port_in_use_is_said_in_one_sentence() -> None:
    async with running() as server:
        with pytest.raises(CannotStart, match=r"--metrics-port .* cannot be listened on"):
            await asyncio.wait_for(run(Settings(metrics_port=server.port), server.config), WITHIN_S)


def port_of(text: str, what: str) -> int:
    return int(re.findall(rf"{what} on http://127\.0\.0\.1:(\d+)/", text)[-1])


async def asked(port: int, path: str) -> tuple[int, str]:
    async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}{path}") as answer:
        return answer.status, await answer.text()


async def ready(port: int, status: int, part: str) -> str:
    """What /readyz says once it answers so and speaks of the part."""
    deadline = asyncio.get_running_loop().time() + WITHIN_S
    while True:
        found, text = await asked(port, "/readyz")
        if found == status and part in text:
            return text
        assert asyncio.get_running_loop().time() < deadline, text
        await asyncio.sleep(0.01)


async def test_readiness_names_what_is_waited_for(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    settings = Settings(provisioner="local", health_port=0, metrics_port=0)
    async with running() as server:
        server.thawed.clear()
        async with operating(server, settings):
            while "health on" not in caplog.text or "metrics on" not in caplog.text:
                await asyncio.sleep(0.01)
            port = port_of(caplog.text, "health")
            assert port != port_of(caplog.text, "metrics")
            assert (await asked(port, "/healthz"))[0] == 200, "it lives"
            await ready(port, 503, "[-]api-server not ready")
            server.thawed.set()
            assert "[+]caches ok" in await ready(port, 200, "caches")
            assert (await asked(port, "/metrics"))[0] == 404, "it has a port of its own"


async def test_a_replica_that_stands_by_is_ready_and_counts_nothing(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    settings = Settings(provisioner="byo", metrics_port=0, health_port=None)
    async with running() as server, operating(server, settings):
        await found(server, "Lease", "kaito-operator")
        first = port_of(caplog.text, "metrics")
        async with operating(server, settings):
            while caplog.text.count("metrics on") < 2:
                await asyncio.sleep(0.01)
            second = port_of(caplog.text, "metrics")
            assert "[+]caches ok" in await ready(second, 200, "caches")
            assert 'leader_election_master_status{name="kaito-operator"} 1' in (await asked(first, "/metrics"))[1]
            assert 'leader_election_master_status{name="kaito-operator"} 0' in (await asked(second, "/metrics"))[1]


async def test_a_new_authority_is_taken_over_and_told_to_the_api_server() -> None:
    settings = Settings(webhook_port=0, install_crds=True, leader_elect=False)
    clock = VirtualClock(datetime.now(UTC))
    async with running() as server, operating(server, settings, clock):
        hook = await found(server, "ValidatingWebhookConfiguration", "validation.workspace.kaito.sh")
        old = hook["webhooks"][0]["clientConfig"]["caBundle"]
        secret = await found(server, "Secret", "kaito-webhook-ca")
        await turned(clock, AUTHORITY_LIFE.total_seconds() * 0.7)
        deadline = asyncio.get_running_loop().time() + WITHIN_S
        while True:
            hook = await found(server, "ValidatingWebhookConfiguration", "validation.workspace.kaito.sh")
            crd = await found(server, "CustomResourceDefinition", "workspaces.kaito.sh")
            bundle = hook["webhooks"][0]["clientConfig"]["caBundle"]
            converts = crd["spec"]["conversion"]["webhook"]["clientConfig"]["caBundle"]
            if bundle == converts != old:
                break
            assert asyncio.get_running_loop().time() < deadline
            await turned(clock, 400)
        trusted = base64.b64decode(bundle)
        assert base64.b64decode(old) in trusted, "replicas that have not noticed are still believed"
        assert trusted.count(b"BEGIN CERTIFICATE") == 2
        renewed = await found(server, "Secret", "kaito-webhook-ca")
        assert renewed["data"]["ca.crt"] == bundle != secret["data"]["ca.crt"]


async def turned(clock: VirtualClock, seconds: float) -> None:
    await clock.jump(seconds)
    await asyncio.sleep(0.05)


async def test_a_secret_that_holds_no_authority_is_said_in_one_sentence() -> None:
    async with running() as server:
        empty = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "kaito-webhook-ca"},
                 "data": {"ca.crt": "", "ca.key": "eA=="}}  # fmt: skip
        await server.put("/api/v1/secrets", empty)
        with pytest.raises(CannotStart, match="Secret kaito-system/kaito-webhook-ca holds no certificate authority"):
            await asyncio.wait_for(run(Settings(webhook_port=0), server.config), WITHIN_S)
