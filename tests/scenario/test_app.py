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

import aiohttp
import pytest

from kaito.api import names
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
WITHIN_S = 5.0


def established(obj: Manifest) -> None:
    if obj.get("kind") == "CustomResourceDefinition":
        obj["status"] = {"conditions": [{"type": "Established", "status": "True"}]}


@contextlib.asynccontextmanager
async def operating(server: ApiServer, settings: Settings = LOCAL) -> AsyncIterator[asyncio.Task[None]]:
    server.normalise = established
    task = asyncio.create_task(run(settings, server.config))
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
                assert 'kaito_operator_reconciles_total{controller="kaito-workspace"}' in await answer.text()


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
    settings = Settings(webhook_port=0)
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
