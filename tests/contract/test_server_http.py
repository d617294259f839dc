# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""What a client sees of the engine over HTTP besides objects: logins, forms of answers, documents, warnings."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from kaito.kube.client import Client
from kaito.kube.config import load_kubeconfig
from tests.engine_process import EngineProcess

CONFIG_MAPS = "/api/v1/namespaces/default/configmaps"
TABLE = "application/json;as=Table;g=meta.k8s.io;v=v1"
PARTIAL = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
AGGREGATED = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
SWAGGER_PROTOBUF = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf"


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineProcess]:
    with EngineProcess(tmp_path_factory.mktemp("http"), "--no-node", "--no-controllers") as process:
        yield process


@pytest.fixture
async def client(engine: EngineProcess) -> AsyncIterator[Client]:
    async with Client(load_kubeconfig(engine.kubeconfig)) as made:
        yield made


@pytest.mark.parametrize(
    ("path", "accept", "status", "content_type", "text"),
    [
        ("/healthz", "", 200, "text/plain; charset=utf-8", "ok"),
        ("/readyz?verbose", "", 200, "text/plain; charset=utf-8", "readyz check passed"),
        ("/version", "", 200, "application/json", '"major": "1"'),
        ("/api", "", 200, "application/json", '"APIVersions"'),
        ("/api/v1", "", 200, "application/json", '"pods/log"'),
        ("/apis/apps", "", 200, "application/json", '"preferredVersion"'),
        ("/apis", AGGREGATED, 200, AGGREGATED, '"APIGroupDiscoveryList"'),
        ("/apis/none.example.com", "", 404, "text/plain; charset=utf-8", "404 page not found"),
        ("/openapi/v3", "", 200, "text/plain; charset=utf-8", "api/v1"),
        ("/openapi/v3/apis/apps/v1", "", 200, "application/json", "io.k8s.api.apps.v1.Deployment"),
        ("/openapi/v2", "", 200, "application/json", '"swagger":"2.0"'),
        ("/openapi/v2", SWAGGER_PROTOBUF, 200, "application/com.github.proto-openapi.spec.v2.v1.0+protobuf", "2.0"),
        (CONFIG_MAPS, TABLE, 200, "application/json", '"columnDefinitions"'),
        (CONFIG_MAPS, PARTIAL, 200, "application/json", '"PartialObjectMetadataList"'),
        (CONFIG_MAPS, "application/yaml", 200, "application/yaml", "kind: ConfigMapList"),
        (CONFIG_MAPS, "text/html", 406, "application/json", "406: Not Acceptable"),
        ("/api/v1/nothing", "", 404, "application/json", "the server could not find the requested resource"),
        ("/api/v1/namespaces/default/pods/x", "", 404, "application/json", 'pods \\"x\\" not found'),
        ("/api/v1/namespaces/default/pods/x/foo", "", 404, "application/json", "could not find the requested"),
        ("/api/v1/namespaces/default?pretty=true", "", 200, "application/json", '\n  "kind": "Namespace"'),
    ],
)
async def test_a_path_is_answered_in_the_form_asked_for(
    client: Client, path: str, accept: str, status: int, content_type: str, text: str
) -> None:
    bare, _, query = path.partition("?")
    params = dict(part.partition("=")[::2] for part in query.split("&")) if query else None
    answer = await client.raw("GET", bare, params=params, headers={"Accept": accept} if accept else {})
    assert answer.status == status
    assert answer.headers["Content-Type"] == content_type
    assert text in answer.body.decode("utf-8", "replace")


@pytest.mark.parametrize(
    ("method", "path", "body", "content_type", "status", "text"),
    [
        ("POST", CONFIG_MAPS, b"<a/>", "application/xml", 415, "accepted media types include"),
        ("POST", CONFIG_MAPS, b"{", "application/json", 400, "unexpected end of JSON input"),
        ("POST", CONFIG_MAPS, b"{}" + b" " * 3_200_000, "application/json", 413, "limit is 3145728"),
        ("POST", CONFIG_MAPS, b'{"metadata":{"name":"No"}}', "application/json", 422, "RFC 1123 subdomain"),
        ("POST", "/api/v1/configmaps", b'{"metadata":{"name":"a"}}', "application/json", 405, "does not allow"),
        ("POST", "/api/v1/namespaces/none/configmaps", b'{"metadata":{"name":"a"}}', "", 404, "namespaces"),
        ("PATCH", f"{CONFIG_MAPS}/a", b"{}", "application/json", 415, "415: Unsupported Media Type"),
        ("PUT", f"{CONFIG_MAPS}/a", b'{"metadata":{"name":"b"}}', "application/json", 400, "does not match"),
        ("DELETE", "/api/v1/configmaps", b"", "", 405, "does not allow this method"),
        ("DELETE", "/api/v1/namespaces/kube-system", b"", "", 403, "this namespace may not be deleted"),
        ("POST", f"{CONFIG_MAPS}?fieldManager=a%0Ab", b"{}", "", 422, "invalid character U+000A (at position 1)"),
        ("POST", f"{CONFIG_MAPS}?dryRun=Some", b"{}", "", 422, "dryRun"),
    ],
)
async def test_a_request_that_makes_no_sense_is_refused(
    client: Client, method: str, path: str, body: bytes, content_type: str, status: int, text: str
) -> None:
    headers = {"Content-Type": content_type or "application/json"}
    answer = await client.raw(method, path, body=body, headers=headers)
    assert answer.status == status
    refusal = json.loads(answer.body)
    assert (refusal["kind"], refusal["code"]) == ("Status", status)
    assert text in refusal["message"]


@pytest.mark.parametrize(
    ("body", "query", "status", "warnings"),
    [
        ({"metadata": {"name": "w1"}, "dataa": {}}, "", 201, ['299 - "unknown field \\"dataa\\""']),
        ({"metadata": {"name": "w2"}, "dataa": {}}, "?fieldValidation=Ignore", 201, []),
        ({"metadata": {"name": "w3"}, "dataa": {}}, "?fieldValidation=Strict", 400, []),
    ],
)
async def test_unknown_fields_are_warned_of(
    client: Client, body: dict[str, Any], query: str, status: int, warnings: list[str]
) -> None:
    headers = {"Content-Type": "application/json"}
    answer = await client.raw("POST", CONFIG_MAPS + query, body=json.dumps(body).encode(), headers=headers)
    assert answer.status == status
    assert [value for name, value in answer.headers.items() if name.lower() == "warning"] == warnings


async def test_old_kinds_are_warned_of(client: Client) -> None:
    answer = await client.raw("GET", "/api/v1/namespaces/default/endpoints")
    assert "v1 Endpoints is deprecated" in answer.headers["Warning"]


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        ("/healthz", {"Authorization": ""}, 200),
        ("/version", {"Authorization": ""}, 200),
        ("/api", {"Authorization": ""}, 401),
        (CONFIG_MAPS, {"Authorization": "Bearer wrong"}, 401),
        (CONFIG_MAPS, {"Impersonate-User": "nobody"}, 403),
        (CONFIG_MAPS, {"Impersonate-User": "root", "Impersonate-Group": "system:masters"}, 200),
    ],
)
async def test_only_those_who_may_are_answered(client: Client, path: str, headers: dict[str, str], status: int) -> None:
    assert (await client.raw("GET", path, headers=headers)).status == status
