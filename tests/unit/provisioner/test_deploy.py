# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""What `kubectl apply -k deploy/provisioner` sends is valid, and lets the provisioner do what its code does."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from kaito.api import nodeclaims as names
from kaito.provisioner.cloud import AnyChange
from kaito.provisioner.controllers import budget_controller, claim_controller
from kaito.provisioner.fleet import Fleet
from kaito.provisioner.offers import Market
from kaito.provisioner.settings import Settings, parse

DEPLOY = Path(__file__).parents[3] / "deploy" / "provisioner"
FILES: list[str] = yaml.safe_load((DEPLOY / "kustomization.yaml").read_text())["resources"]
OBJECTS: list[dict[str, Any]] = [one for name in FILES for one in yaml.safe_load_all((DEPLOY / name).read_text())]


@pytest.mark.parametrize("manifest", OBJECTS, ids=lambda one: f"{one['kind']}-{one['metadata']['name']}")
def test_every_object_is_valid_against_the_published_schemas(manifest: dict[str, Any]) -> None:
    if manifest["kind"] == "NodeBudget":
        assert manifest["metadata"]["name"] == "default"
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        kubernetes_validate.validate(manifest, "1.36", strict=True)


def test_the_provisioner_takes_the_arguments_of_the_deployment() -> None:
    [deployment] = [one for one in OBJECTS if one["kind"] == "Deployment"]
    [container] = deployment["spec"]["template"]["spec"]["containers"]
    settings = parse(container["args"], {})
    assert settings.leader_elect
    assert settings.namespace == deployment["metadata"]["namespace"]
    assert settings.metrics_port in [port["containerPort"] for port in container["ports"]]


def test_it_may_watch_all_that_it_watches() -> None:
    [role] = [one for one in OBJECTS if one["kind"] == "ClusterRole"]
    allowed = {
        (group, resource)
        for rule in role["rules"]
        if {"get", "list", "watch"} <= set(rule["verbs"])
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    }
    fleet, settings = Fleet(Market([])), Settings()
    outside = AnyChange(fleet)
    controllers = [
        claim_controller(names.NODE_CLAIMS, fleet, outside, settings),
        claim_controller(names.MACHINES, fleet, outside, settings),
        budget_controller(fleet, outside, settings),
    ]
    watched = {c.resource for c in controllers} | {watch.resource for c in controllers for watch in c.watches}
    assert {(resource.group, resource.plural) for resource in watched} <= allowed
