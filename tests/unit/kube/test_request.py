# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json

import pytest

from kaito.kube import request
from kaito.kube.resource import CONFIG_MAPS, NODES, PODS

MANIFEST = {"metadata": {"name": "a", "namespace": "n"}}


@pytest.mark.parametrize(
    ("built", "method", "path", "params", "content_type"),
    [
        (request.get(PODS, "a", "n"), "GET", "/api/v1/namespaces/n/pods/a", {}, None),
        (request.get(NODES, "a", "", subresource="status"), "GET", "/api/v1/nodes/a/status", {}, None),
        (request.list_page(PODS, None), "GET", "/api/v1/pods", {}, None),
        (
            request.list_page(PODS, "n", label_selector="a=b", field_selector="c=d", limit=5, token="t"),
            "GET",
            "/api/v1/namespaces/n/pods",
            {"labelSelector": "a=b", "fieldSelector": "c=d", "limit": "5", "continue": "t"},
            None,
        ),
        (
            request.watch(PODS, None, resource_version="7", timeout_s=9),
            "GET",
            "/api/v1/pods",
            {"watch": "true", "allowWatchBookmarks": "true", "resourceVersion": "7", "timeoutSeconds": "9"},
            None,
        ),
        (
            request.create(CONFIG_MAPS, MANIFEST, "n", field_manager="m"),
            "POST",
            "/api/v1/namespaces/n/configmaps",
            {"fieldManager": "m"},
            "application/json",
        ),
        (
            request.create(PODS, {}, "n", name="a", subresource="binding"),
            "POST",
            "/api/v1/namespaces/n/pods/a/binding",
            {},
            "application/json",
        ),
        (request.replace(PODS, MANIFEST, "n"), "PUT", "/api/v1/namespaces/n/pods/a", {}, "application/json"),
        (
            request.patch(PODS, "a", "n", [{"op": "test"}], kind="json", subresource="status"),
            "PATCH",
            "/api/v1/namespaces/n/pods/a/status",
            {},
            "application/json-patch+json",
        ),
        (
            request.apply(PODS, MANIFEST, "n", field_manager="m", force=False),
            "PATCH",
            "/api/v1/namespaces/n/pods/a",
            {"fieldManager": "m", "force": "false"},
            "application/apply-patch+yaml",
        ),
    ],
)
def test_each_verb_is_one_request(
    built: request.Request, method: str, path: str, params: dict[str, str], content_type: str | None
) -> None:
    assert (built.method, built.path, built.params) == (method, path, params)
    assert built.headers.get("Content-Type") == content_type


def test_a_delete_says_which_object_and_how() -> None:
    built = request.delete(PODS, "a", "n", uid="u", propagation="Foreground", grace_period_s=0)
    options = json.loads(built.body or b"")
    assert options["preconditions"] == {"uid": "u"}
    assert (options["propagationPolicy"], options["gracePeriodSeconds"]) == ("Foreground", 0)


@pytest.mark.parametrize(
    ("status", "headers", "attempt", "seconds"),
    [
        (200, {}, 0, None),
        (429, {"Retry-After": "3"}, 0, 3.0),
        (429, {}, 0, 1.0),
        (429, {}, 2, 4.0),
        (429, {"Retry-After": "3600"}, 0, 30.0),
        (503, {"Retry-After": "1"}, 0, 1.0),
        (503, {}, 0, None),
        (500, {}, 0, None),
        (503, {"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT"}, 0, None),
    ],
)
def test_only_what_the_server_asks_to_repeat_is_repeated(
    status: int, headers: dict[str, str], attempt: int, seconds: float | None
) -> None:
    assert request.retry_after_s(status, headers, attempt) == seconds
