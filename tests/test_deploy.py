# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""What `kubectl apply -k deploy` sends is valid, complete, and lets the operator do what its code does."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from kaito.operator.flags import read
from kaito.operator.provisioners.byo import BYO
from kaito.operator.settings import Settings
from kaito.operator.workspace.controller import workspace_controller

DEPLOY = Path(__file__).parents[1] / "deploy"
FILES: list[str] = yaml.safe_load((DEPLOY / "kustomization.yaml").read_text())["resources"]


def objects() -> list[dict[str, Any]]:
    return [one for name in FILES for one in yaml.safe_load_all((DEPLOY / name).read_text())]


def one(kind: str) -> dict[str, Any]:
    return next(found for found in objects() if found["kind"] == kind)


@pytest.mark.parametrize(
    "manifest", objects(), ids=lambda manifest: f"{manifest['kind']}-{manifest['metadata']['name']}"
)
def test_every_object_is_valid_against_the_published_schemas(manifest: dict[str, Any]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        kubernetes_validate.validate(manifest, "1.36", strict=True)


def test_the_operator_takes_the_arguments_of_the_deployment() -> None:
    [container] = one("Deployment")["spec"]["template"]["spec"]["containers"]
    settings = read(container["args"], {entry["name"]: entry["value"] for entry in container["env"]})
    assert settings.leader_elect
    assert settings.namespace == one("Deployment")["metadata"]["namespace"]
    assert settings.webhook_service == one("Service")["metadata"]["name"]
    assert settings.webhook_port in [port["containerPort"] for port in container["ports"]]


def test_the_operator_may_watch_all_that_it_watches() -> None:
    allowed = {
        (group, resource)
        for rule in one("ClusterRole")["rules"]
        if {"get", "list", "watch"} <= set(rule["verbs"])
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    }
    controller = workspace_controller(Settings(), BYO, lambda *_: None)  # type: ignore[arg-type,return-value]
    watched = {controller.resource, *(watch.resource for watch in controller.watches)}
    assert {(resource.group, resource.plural) for resource in watched} <= allowed
