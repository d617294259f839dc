# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Admission webhooks: who is asked, in which order, and what becomes of the answers."""

from __future__ import annotations

import asyncio
import base64
from typing import Any

import msgspec
import pytest

from kaito.kube.manifest import Manifest
from tests.unit.engine.api import CONFIG_MAPS, Api, api, config_map

GROUP = "/apis/admissionregistration.k8s.io/v1"


def hook(name: str, **more: Any) -> Manifest:
    rule = {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE", "UPDATE"], "resources": ["configmaps"]}
    return {
        "name": f"{name}.example.com",
        "clientConfig": {"url": "https://127.0.0.1:1/x"},
        "rules": [rule],
        "sideEffects": "None",
        "admissionReviewVersions": ["v1"],
        **more,
    }


async def configured(*hooks: Manifest, mutating: bool = True) -> Api:
    server = await api()
    kind = "mutating" if mutating else "validating"
    body = {"metadata": {"name": "hooks"}, "webhooks": list(hooks)}
    await server.do("POST", f"{GROUP}/{kind}webhookconfigurations", body)
    return server


def patch(*operations: Manifest) -> Manifest:
    encoded = base64.b64encode(msgspec.json.encode(operations)).decode()
    return {"allowed": True, "patchType": "JSONPatch", "patch": encoded}


def setting(key: str, value: str) -> Manifest:
    return patch({"op": "add", "path": f"/data/{key}", "value": value})


async def test_each_webhook_sees_what_the_one_before_has_made() -> None:
    server = await configured(hook("a"), hook("b"))
    server.webhook.answers = {
        "a.example.com": setting("a", "1"),
        "b.example.com": lambda request: setting("saw", ",".join(sorted(request["object"]["data"]))),
    }
    made = await server.do("POST", CONFIG_MAPS, config_map("c", k="v"))
    assert made["data"] == {"k": "v", "a": "1", "saw": "a,k"}


async def test_a_webhook_is_asked_again_when_a_later_one_changed_what_it_saw() -> None:
    server = await configured(hook("a", reinvocationPolicy="IfNeeded"), hook("b"), hook("c"))
    server.webhook.answers = {
        "a.example.com": lambda request: setting("seen", str(len(request["object"]["data"]))),
        "b.example.com": setting("b", "1"),
    }
    made = await server.do("POST", CONFIG_MAPS, config_map("c", k="v"))
    assert [name for name, _ in server.webhook.reviews] == [f"{name}.example.com" for name in "abca"]
    assert made["data"]["seen"] == "3"


async def test_a_review_says_what_is_done_by_whom() -> None:
    server = await configured(hook("a"), mutating=False)
    await server.do("POST", f"{CONFIG_MAPS}?fieldManager=me", config_map("c"))
    await server.patch(f"{CONFIG_MAPS}/c", {"data": {"k": "v"}})
    created, updated = [request for _, request in server.webhook.reviews]
    assert (created["operation"], created["oldObject"], created["options"]["kind"]) == ("CREATE", None, "CreateOptions")
    assert created["options"]["fieldManager"] == "me"
    assert (updated["operation"], updated["options"]["kind"]) == ("UPDATE", "UpdateOptions")
    assert "data" not in updated["oldObject"]
    assert updated["object"]["data"] == {"k": "v"}
    assert updated["userInfo"]["groups"] == ["system:masters"]


async def test_an_apply_that_creates_is_shown_as_a_create() -> None:
    server = await configured(hook("a"), mutating=False)
    config = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}}
    await server.patch(f"{CONFIG_MAPS}/c?fieldManager=me", config, "apply")
    [(_, request)] = server.webhook.reviews
    assert (request["operation"], request["options"]["kind"]) == ("CREATE", "CreateOptions")


@pytest.mark.parametrize(
    ("answer", "code", "text"),
    [
        ({"allowed": False}, 400, 'admission webhook "a.example.com" denied the request without explanation'),
        ({"allowed": False, "status": {"message": "no", "code": 422}}, 422, "denied the request: no"),
        ({"allowed": False, "status": {"reason": "Forbidden", "code": 403}}, 403, "denied the request: Forbidden"),
        ({"allowed": True, "uid": "other"}, 500, "expected response.uid"),
        (ConnectionError("refused"), 500, 'failed calling webhook "a.example.com": refused'),
        (patch({"op": "remove", "path": "/nothing"}), 500, "patch"),
    ],
)
async def test_a_refusal_or_a_failure_stops_the_write(answer: Any, code: int, text: str) -> None:
    server = await configured(hook("a"))
    server.webhook.answers = {"a.example.com": answer}
    error = await server.refused("POST", CONFIG_MAPS, config_map("c"))
    assert error.code == code
    assert text in error.message
    assert (await server.refused("GET", f"{CONFIG_MAPS}/c")).code == 404


async def test_a_failing_webhook_may_be_ignored() -> None:
    server = await configured(hook("a", failurePolicy="Ignore"))
    server.webhook.answers = {"a.example.com": ConnectionError("refused")}
    await server.do("POST", CONFIG_MAPS, config_map("c"))


@pytest.mark.parametrize(
    "narrowed",
    [
        {"objectSelector": {"matchLabels": {"wanted": "yes"}}},
        {"namespaceSelector": {"matchLabels": {"wanted": "yes"}}},
        {"matchConditions": [{"name": "never", "expression": "object.metadata.name == 'other'"}]},
        {"rules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["DELETE"], "resources": ["*"]}]},
        {"rules": [{"apiGroups": ["apps"], "apiVersions": ["*"], "operations": ["*"], "resources": ["*"]}]},
    ],
)
async def test_a_webhook_is_asked_only_about_what_it_selects(narrowed: Manifest) -> None:
    server = await configured(hook("a", **narrowed))
    await server.do("POST", CONFIG_MAPS, config_map("c"))
    assert server.webhook.reviews == []


async def test_warnings_reach_the_client() -> None:
    server = await configured(hook("a"), mutating=False)
    server.webhook.answers = {"a.example.com": {"allowed": True, "warnings": ["careful"]}}
    await server.do("POST", CONFIG_MAPS, config_map("c"))
    assert server.last.warnings == ["careful"]


WIDGETS = "/apis/x.example.com/{}/namespaces/default/widgets"


async def served_in_two_versions(server: Api) -> None:
    """A custom kind, whose versions have the same fields."""
    schema = {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}}
    versions = [{"name": name, "served": True, "storage": name == "v2", "schema": schema} for name in ("v1", "v2")]
    names = {"plural": "widgets", "kind": "Widget"}
    spec = {"group": "x.example.com", "scope": "Namespaced", "names": names, "versions": versions}
    body = {"metadata": {"name": "widgets.x.example.com"}, "spec": spec}
    await server.do("POST", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", body)
    async with asyncio.timeout(5):
        while server.kinds.find("x.example.com", "v1", "widgets") is None:
            await asyncio.sleep(0.01)


def widget(version: str, name: str) -> Manifest:
    return {"apiVersion": f"x.example.com/{version}", "kind": "Widget", "metadata": {"name": name}}


def widget_hook(policy: str) -> Manifest:
    operations = ["CREATE"]
    rule = {"apiGroups": ["x.example.com"], "apiVersions": ["v2"], "operations": operations, "resources": ["widgets"]}
    return hook("a", rules=[rule], matchPolicy=policy)


async def test_a_webhook_for_another_version_is_asked_in_that_version() -> None:
    server = await configured(widget_hook("Equivalent"))
    await served_in_two_versions(server)
    server.webhook.answers = {"a.example.com": patch({"op": "add", "path": "/set", "value": 1})}
    made = await server.do("POST", WIDGETS.format("v1"), widget("v1", "w"))
    assert (made["apiVersion"], made["set"]) == ("x.example.com/v1", 1)
    [(_, request)] = server.webhook.reviews
    assert request["kind"]["version"] == request["resource"]["version"] == "v2"
    assert request["requestKind"]["version"] == request["requestResource"]["version"] == "v1"
    assert request["object"]["apiVersion"] == "x.example.com/v2"


async def test_a_webhook_may_ask_for_its_own_version_only() -> None:
    server = await configured(widget_hook("Exact"))
    await served_in_two_versions(server)
    await server.do("POST", WIDGETS.format("v1"), widget("v1", "w"))
    assert server.webhook.reviews == []
    await server.do("POST", WIDGETS.format("v2"), widget("v2", "x"))
    assert len(server.webhook.reviews) == 1
