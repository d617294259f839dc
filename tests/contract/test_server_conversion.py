# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Custom kinds whose versions a webhook converts: a real engine, a real HTTPS webhook, real requests."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from kaito.kube.client import Client
from kaito.kube.config import load_kubeconfig
from kaito.kube.manifest import Manifest
from tests.engine_process import EngineProcess
from tests.webhook_thread import WebhookThread

GROUP = "demo.example.com"
DEFINITIONS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
PLACE = "/apis/{group}/{version}/namespaces/default/crons"


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineProcess]:
    with EngineProcess(tmp_path_factory.mktemp("conversion"), "--no-node", "--no-controllers") as process:
        yield process


class Webhook:
    """Converts v1 (`spec.host: "a:1"`) and v2 (`spec.host: a`, `spec.port: "1"`); `broken` is what it does instead."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []
        self.broken = ""

    def answer(self, path: str, review: Manifest) -> Manifest:
        request = review["request"]
        response: Manifest = {"uid": request["uid"], "result": {"status": "Success"}}
        if self.broken == "refuse":
            response["result"] = {"status": "Failure", "message": "no idea how"}
        else:
            response["convertedObjects"] = [self(obj, request["desiredAPIVersion"]) for obj in request["objects"]]
        return {"apiVersion": review["apiVersion"], "kind": review["kind"], "response": response}

    def __call__(self, obj: Manifest, api_version: str) -> Manifest:
        version = api_version.rpartition("/")[2]
        self.asked.append((obj["metadata"]["name"], version))
        if self.broken == "rename":
            return {**obj, "apiVersion": api_version, "metadata": {**obj["metadata"], "name": "other"}}
        if self.broken == "version":
            return obj
        spec = dict(obj["spec"])
        if version == "v2":
            spec["host"], _, spec["port"] = spec["host"].partition(":")
        else:
            spec["host"] = f"{spec['host']}:{spec.pop('port', '')}"
        labels = {**obj["metadata"].get("labels", {}), "seen": version}
        finalizers = ["example.com/not-for-a-conversion-to-say"]
        meta = {**obj["metadata"], "labels": labels, "finalizers": finalizers}
        return {**obj, "apiVersion": api_version, "metadata": meta, "spec": spec}


@pytest.fixture
async def client(engine: EngineProcess) -> AsyncIterator[Client]:
    async with Client(load_kubeconfig(engine.kubeconfig)) as made:
        yield made


@pytest.fixture
async def webhook(client: Client) -> AsyncIterator[Webhook]:
    converter = Webhook()
    with WebhookThread(converter.answer) as server:
        await client.raw("POST", DEFINITIONS, body=encoded(definition(server)), headers=JSON)
        yield converter
        converter.broken = ""
        await client.raw("DELETE", f"{DEFINITIONS}/crons.{GROUP}")
        while (await client.raw("GET", f"{DEFINITIONS}/crons.{GROUP}")).status != 404:
            await asyncio.sleep(0.01)


JSON = {"Content-Type": "application/json"}


def encoded(obj: Manifest) -> bytes:
    return json.dumps(obj).encode()


def definition(server: WebhookThread) -> Manifest:
    def version(name: str, *, storage: bool, **fields: Any) -> Manifest:
        spec = {"type": "object", "properties": fields}
        schema = {"openAPIV3Schema": {"type": "object", "properties": {"spec": spec}}}
        return {
            "name": name, "served": True, "storage": storage, "schema": schema, "subresources": {"status": {}},
            "selectableFields": [{"jsonPath": ".spec.host"}],
        }  # fmt: skip

    text = {"type": "string"}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"crons.{GROUP}"},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {"plural": "crons", "kind": "Cron"},
            "versions": [
                version("v1", storage=True, host=text),
                version("v2", storage=False, host=text, port={**text, "default": "80"}),
            ],
            "conversion": {
                "strategy": "Webhook",
                "webhook": {"clientConfig": server.config("/convert"), "conversionReviewVersions": ["v1"]},
            },
        },
    }


def cron(version: str, name: str, **spec: str) -> bytes:
    return encoded(
        {"apiVersion": f"{GROUP}/{version}", "kind": "Cron", "metadata": {"name": name, "labels": {"l": name}}}
        | {"spec": spec}
    )


async def ask(client: Client, method: str, version: str, rest: str = "", body: bytes = b"", **headers: str) -> Any:
    path, _, query = (PLACE.format(group=GROUP, version=version) + rest).partition("?")
    params = dict(part.split("=", 1) for part in query.split("&")) if query else None
    answer = await client.raw(method, path, params=params, body=body or None, headers={**JSON, **headers})
    return json.loads(answer.body)


async def test_every_verb_speaks_the_version_of_its_path(client: Client, webhook: Webhook) -> None:
    made = await ask(client, "POST", "v2", "", cron("v2", "a", host="x"))
    assert made["spec"] == {"host": "x", "port": "80"}
    assert made["metadata"]["labels"] == {"l": "a", "seen": "v2"}
    assert "finalizers" not in made["metadata"]
    stored = await ask(client, "GET", "v1", "/a")
    assert (stored["apiVersion"], stored["spec"]) == (f"{GROUP}/v1", {"host": "x:80"})

    merge = {"Content-Type": "application/merge-patch+json"}
    patched = await ask(client, "PATCH", "v2", "/a", encoded({"spec": {"port": "81"}}), **merge)
    assert patched["spec"] == {"host": "x", "port": "81"}
    assert patched["metadata"]["generation"] == 2
    await ask(client, "POST", "v1", "", cron("v1", "b", host="y:2"))
    listed = await ask(client, "GET", "v2")
    assert [item["spec"] for item in listed["items"]] == [{"host": "x", "port": "81"}, {"host": "y", "port": "2"}]
    chosen = await ask(client, "GET", "v2", "?fieldSelector=spec.host=y")
    assert [item["metadata"]["name"] for item in chosen["items"]] == ["b"]
    applied = await ask(
        client, "PATCH", "v2", "/a?fieldManager=me&force=true", cron("v2", "a", host="z", port="81"),
        **{"Content-Type": "application/apply-patch+yaml"},
    )  # fmt: skip
    assert applied["spec"] == {"host": "z", "port": "81"}
    assert (await ask(client, "DELETE", "v2", "/a"))["status"] == "Success"


async def test_one_review_carries_all_objects_of_a_list_and_is_not_asked_again(
    client: Client, webhook: Webhook
) -> None:
    for name in ("a", "b", "c"):
        await ask(client, "POST", "v1", "", cron("v1", name, host=f"{name}:1"))
    assert webhook.asked == []
    await ask(client, "GET", "v2")
    assert webhook.asked == [("a", "v2"), ("b", "v2"), ("c", "v2")]
    await ask(client, "GET", "v2")
    assert len(webhook.asked) == 3


async def test_a_watch_shows_its_version(client: Client, webhook: Webhook) -> None:
    first = await ask(client, "POST", "v1", "", cron("v1", "a", host="a:1"))
    version = first["metadata"]["resourceVersion"]
    await ask(client, "PUT", "v1", "/a", encoded({**first, "spec": {"host": "a:2"}}))
    await ask(client, "DELETE", "v1", "/a")
    path = PLACE.format(group=GROUP, version="v2")
    answer = await client.raw(
        "GET", path, params={"watch": "1", "resourceVersion": version, "timeoutSeconds": "1"}, headers={}
    )
    events = [json.loads(line) for line in answer.body.splitlines()]
    assert [(e["type"], e["object"]["spec"]) for e in events] == [
        ("MODIFIED", {"host": "a", "port": "2"}),
        ("DELETED", {"host": "a", "port": "2"}),
    ]


@pytest.mark.parametrize(
    ("broken", "text"),
    [
        ("refuse", "conversion webhook for demo.example.com/v1, Kind=Cron failed: no idea how"),
        ("rename", "returned invalid converted object at index 0: must have the same name: a != other"),
        ("version", "invalid groupVersion (expected demo.example.com/v2, received demo.example.com/v1)"),
    ],
)
async def test_a_failing_webhook_is_named_and_spoils_only_what_needs_it(
    client: Client, webhook: Webhook, broken: str, text: str
) -> None:
    await ask(client, "POST", "v1", "", cron("v1", "a", host="a:1"))
    webhook.broken = broken
    for rest in ("/a", ""):
        refused = await ask(client, "GET", "v2", rest)
        assert (refused["kind"], refused["code"], refused.get("reason", "")) == ("Status", 500, "")
        assert text in refused["message"]
    assert (await ask(client, "POST", "v2", "", cron("v2", "b", host="b")))["code"] == 500
    assert (await ask(client, "GET", "v1", "/b"))["reason"] == "NotFound"
    assert (await ask(client, "GET", "v1", "/a"))["spec"] == {"host": "a:1"}


async def test_the_storage_version_can_change_while_objects_lie_in_the_old_one(
    client: Client, webhook: Webhook
) -> None:
    await ask(client, "POST", "v1", "", cron("v1", "a", host="a:1"))
    answer = await client.raw("GET", f"{DEFINITIONS}/crons.{GROUP}")
    found = json.loads(answer.body)
    for version in found["spec"]["versions"]:
        version["storage"] = version["name"] == "v2"
    await client.raw("PUT", f"{DEFINITIONS}/crons.{GROUP}", body=encoded(found), headers=JSON)
    live = await ask(client, "GET", "v1", "/a")
    assert (live["spec"], webhook.asked) == ({"host": "a:1"}, [])
    await ask(client, "PUT", "v1", "/a", encoded({**live, "spec": {"host": "b:1"}}))
    webhook.asked.clear()
    assert (await ask(client, "GET", "v2", "/a"))["spec"] == {"host": "b", "port": "1"}
    assert webhook.asked == []
