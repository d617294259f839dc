# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Ephemeral containers come to a pod that is there, through a subresource of their own, and stay as they are."""

from __future__ import annotations

from typing import Any

import pytest

from kaito.engine.schema.rules import built_in_errors
from kaito.kube.manifest import Manifest

OLD: Manifest = {"name": "old", "image": "i"}


def pod(*ephemeral: Manifest) -> Manifest:
    spec = {
        "containers": [{"name": "app", "image": "i"}],
        "restartPolicy": "Always",
        "dnsPolicy": "ClusterFirst",
        "volumes": [{"name": "data", "emptyDir": {}}],
        "ephemeralContainers": list(ephemeral),
    }
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "resourceVersion": "1"}, "spec": spec}


def refusals(*ephemeral: Manifest) -> list[str]:
    return [str(error) for error in built_in_errors(pod(*ephemeral), pod(OLD), "ephemeralcontainers")]


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"targetContainerName": "app", "stdin": True, "tty": True, "resources": {}},
        {"volumeMounts": [{"name": "data", "mountPath": "/data"}]},
    ],
)
def test_one_more_is_welcome(more: dict[str, Any]) -> None:
    assert refusals(OLD, {"name": "new", "image": "i", **more}) == []


AT = "spec.ephemeralContainers"


@pytest.mark.parametrize(
    ("containers", "refusal"),
    [
        ([], f'{AT}: Forbidden: existing ephemeral containers "old" may not be removed'),
        ([{**OLD, "image": "j"}], f'{AT}: Forbidden: existing ephemeral containers "old" may not be changed'),
        ([OLD, {"name": "app", "image": "i"}], f'{AT}[1].name: Duplicate value: "app"'),
        ([OLD, {"name": "new"}], f"{AT}[1].image: Required value"),
        (
            [OLD, {"name": "n", "image": "i", "targetContainerName": "x"}],
            f'{AT}[1].targetContainerName: Not found: "x"',
        ),
        (
            [OLD, {"name": "n", "image": "i", "ports": [{"containerPort": 1, "protocol": "TCP"}]}],
            f"{AT}[1].ports: Forbidden: cannot be set for an Ephemeral Container",
        ),
        (
            [OLD, {"name": "n", "image": "i", "volumeMounts": [{"name": "data", "mountPath": "/d", "subPath": "s"}]}],
            f"{AT}[1].volumeMounts[0].subPath: Forbidden: cannot be set for an Ephemeral Container",
        ),
    ],
)
def test_what_it_may_not_be(containers: list[Manifest], refusal: str) -> None:
    assert refusals(*containers) == [refusal]


def test_a_new_pod_has_none() -> None:
    found = [str(error) for error in built_in_errors(pod(OLD), None, "")]
    assert found == ["spec.ephemeralContainers: Forbidden: cannot be set on create"]
