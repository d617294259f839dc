# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import asyncio
import base64
import io
import ssl
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import aiohttp
import pytest
from cryptography import x509

from kaito.kube.admission import AdmissionRequest, FieldError, Verdict
from kaito.kube.certificates import new_authority, serving_pair
from kaito.kube.clock import VirtualClock
from kaito.kube.manifest import Manifest
from kaito.kube.webhook import BODY_LIMIT, WebhookServer

NOW = datetime.now(UTC)


def no_red(request: AdmissionRequest) -> Verdict:
    spec = (request.object or {}).get("spec", {})
    if spec.get("crash"):
        raise RuntimeError("boom")
    warnings = ("green is out of fashion",) if spec.get("colour") == "green" else ()
    errors = [FieldError("spec.colour", "red is taken; choose blue")] if spec.get("colour") == "red" else []
    if not spec.get("size") and request.operation != "DELETE":
        errors.append(FieldError("spec.size", "say how large", "FieldValueRequired"))
    return Verdict(errors=tuple(errors), warnings=warnings)


def paint(request: AdmissionRequest) -> Verdict:
    return Verdict(patch=({"op": "add", "path": "/spec/colour", "value": "blue"},))


def convert(obj: Manifest, api_version: str) -> Manifest:
    if obj["spec"].get("unknown"):
        raise ValueError("spec.unknown cannot be said in v2")
    return {**obj, "apiVersion": api_version}


@pytest.fixture
async def server() -> AsyncIterator[WebhookServer]:
    async with WebhookServer(
        {"/validate": no_red, "/mutate": paint},
        converters={"/convert": convert},
        names=["hook.sys.svc", "127.0.0.1"],
        host="127.0.0.1",
        port=0,
        clock=VirtualClock(NOW),
    ) as running:
        yield running


async def call(server: WebhookServer, path: str, body: Any) -> tuple[int, Any]:
    """POST as an API server does: trusting the caBundle, and nothing else."""
    context = ssl.create_default_context(cadata=base64.b64decode(server.ca_bundle()).decode())
    async with aiohttp.ClientSession() as session:
        url = f"https://127.0.0.1:{server.port}{path}"
        payload: dict[str, Any] = {"data": io.BytesIO(body)} if isinstance(body, bytes) else {"json": body}
        async with session.post(url, ssl=context, **payload) as response:
            is_json = response.content_type == "application/json"
            return response.status, await response.json() if is_json else await response.text()


def review(operation: str = "CREATE", **spec: Any) -> Manifest:
    obj = {"apiVersion": "example.io/v1", "kind": "Widget", "metadata": {"name": "w"}, "spec": spec}
    return {
        "apiVersion": "admission.k8s.io/v1",
        "kind": "AdmissionReview",
        "request": {
            "uid": "u-1",
            "operation": operation,
            "kind": {"group": "example.io", "version": "v1", "kind": "Widget"},
            "resource": {"group": "example.io", "version": "v1", "resource": "widgets"},
            "requestKind": {"group": "example.io", "version": "v1", "kind": "Widget"},
            "name": "w",
            "namespace": "default",
            "object": obj if operation != "DELETE" else None,
            "oldObject": obj if operation != "CREATE" else None,
            "userInfo": {"username": "ann", "groups": ["g"]},
            "dryRun": False,
            "options": {"kind": "CreateOptions"},
        },
    }


async def test_what_is_right_is_allowed_with_warnings_if_any(server: WebhookServer) -> None:
    status, answer = await call(server, "/validate", review(size="1", colour="green"))
    assert status == 200
    assert answer["response"] == {"uid": "u-1", "allowed": True, "warnings": ["green is out of fashion"]}
    _, answer = await call(server, "/validate", review("DELETE"))
    assert answer["response"] == {"uid": "u-1", "allowed": True}


async def test_what_is_wrong_is_denied_field_by_field(server: WebhookServer) -> None:
    _, answer = await call(server, "/validate", review(colour="red"))
    assert answer["response"]["allowed"] is False
    denial = answer["response"]["status"]
    assert (denial["code"], denial["reason"]) == (422, "Invalid")
    assert denial["message"] == (
        'Widget.example.io "w" is invalid: [spec.colour: Invalid value: red is taken; choose blue, '
        "spec.size: Required value: say how large]"
    )
    assert [(cause["reason"], cause["field"]) for cause in denial["details"]["causes"]] == [
        ("FieldValueInvalid", "spec.colour"),
        ("FieldValueRequired", "spec.size"),
    ]


async def test_a_mutation_is_a_json_patch(server: WebhookServer) -> None:
    _, answer = await call(server, "/mutate", review(size="1"))
    assert answer["response"]["patchType"] == "JSONPatch"
    assert base64.b64decode(answer["response"]["patch"]) == b'[{"op":"add","path":"/spec/colour","value":"blue"}]'


async def test_objects_are_converted_all_or_none(server: WebhookServer) -> None:
    def conversion(*specs: Manifest) -> Manifest:
        objects = [{"apiVersion": "example.io/v1", "kind": "Widget", "spec": spec} for spec in specs]
        request = {"uid": "c", "desiredAPIVersion": "example.io/v2", "objects": objects}
        return {"apiVersion": "apiextensions.k8s.io/v1", "kind": "ConversionReview", "request": request}

    _, answer = await call(server, "/convert", conversion({}, {"a": 1}))
    assert [obj["apiVersion"] for obj in answer["response"]["convertedObjects"]] == ["example.io/v2"] * 2
    _, answer = await call(server, "/convert", conversion({}, {"unknown": 1}))
    assert answer["response"]["result"] == {"status": "Failure", "message": "spec.unknown cannot be said in v2"}


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/validate", b""),
        ("/validate", b"{"),
        ("/validate", {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview"}),
        ("/validate", {**review(size="1"), "apiVersion": "admission.k8s.io/v1beta1"}),
        ("/validate", review("APPLY")),
        ("/convert", review()),
    ],
)
async def test_what_is_no_review_is_a_400(server: WebhookServer, path: str, body: Any) -> None:
    status, told = await call(server, path, body)
    assert status == 400
    assert told.strip().count("\n") == 0


async def test_a_body_beyond_the_limit_and_an_unknown_path_are_refused(server: WebhookServer) -> None:
    assert (await call(server, "/validate", b"x" * (BODY_LIMIT + 1)))[0] == 413
    assert (await call(server, "/other", review()))[0] == 404


async def test_a_defect_is_a_500_without_its_traceback(server: WebhookServer, caplog: pytest.LogCaptureFixture) -> None:
    status, told = await call(server, "/validate", review(crash=True))
    assert status == 500
    assert "boom" not in told
    assert "/validate" in caplog.text


async def test_the_certificate_is_renewed_before_it_ends_and_the_ca_stays() -> None:
    clock = VirtualClock(NOW - timedelta(days=62))
    async with WebhookServer({"/validate": no_red}, names=["127.0.0.1"], host="127.0.0.1", port=0, clock=clock) as hook:
        bundle = hook.ca_bundle()

        def certificate() -> x509.Certificate:
            pem = ssl.get_server_certificate(("127.0.0.1", hook.port))
            return x509.load_pem_x509_certificate(pem.encode())

        first = await asyncio.to_thread(certificate)
        for _ in range(62):
            await clock.advance(24 * 3600)
        assert hook.ca_bundle() == bundle
        second = await asyncio.to_thread(certificate)
        assert second.not_valid_after_utc > first.not_valid_after_utc
        assert (await call(hook, "/validate", review("DELETE")))[0] == 200


def test_a_pair_is_due_when_a_third_of_its_life_is_left() -> None:
    pair = serving_pair(new_authority("ca", NOW), ["a.b.svc", "::1"], NOW)
    assert not pair.is_due(NOW + timedelta(days=59))
    assert pair.is_due(NOW + timedelta(days=61))
    assert "PRIVATE" not in f"{pair!r}"
