# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""The priority that a new pod gets from its class."""

from __future__ import annotations

from typing import Any

import pytest

from kaito.kube.manifest import Manifest
from tests.unit.engine.api import Api, api

PODS = "/api/v1/namespaces/default/pods"
CLASSES = "/apis/scheduling.k8s.io/v1/priorityclasses"


async def server(**for_all: int) -> Api:
    made = await api()
    named: Manifest = {"metadata": {"name": "high"}, "value": 1000, "preemptionPolicy": "Never"}
    await made.do("POST", CLASSES, named)
    for name in ("x", "y"):
        await made.do("POST", CLASSES, {"metadata": {"name": name}, "value": 1})
    for name, value in for_all.items():
        await made.do("POST", CLASSES, {"metadata": {"name": name}, "value": value, "globalDefault": True})
    return made


def pod(**spec: Any) -> Manifest:
    return {"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}], **spec}}


@pytest.mark.parametrize(
    ("for_all", "spec", "priority", "policy", "name"),
    [
        ({}, {}, 0, "PreemptLowerPriority", None),
        ({}, {"priorityClassName": "high"}, 1000, "Never", "high"),
        ({}, {"priorityClassName": "high", "priority": 1000}, 1000, "Never", "high"),
        ({"some": 7, "all": 5}, {}, 5, "PreemptLowerPriority", "all"),
    ],
)
async def test_a_pods_priority_is_that_of_its_class(
    for_all: dict[str, int], spec: Manifest, priority: int, policy: str, name: str | None
) -> None:
    made = (await (await server(**for_all)).do("POST", PODS, pod(**spec)))["spec"]
    assert (made["priority"], made["preemptionPolicy"], made.get("priorityClassName")) == (priority, policy, name)


@pytest.mark.parametrize(
    ("spec", "why"),
    [
        ({"priorityClassName": "none"}, "no PriorityClass with name none was found"),
        ({"priority": 5}, "the integer value of priority (5) must not be provided in pod spec"),
        (
            {"priorityClassName": "high", "preemptionPolicy": "PreemptLowerPriority"},
            "the string value of PreemptionPolicy (PreemptLowerPriority) must not be provided in pod spec",
        ),
    ],
)
async def test_what_the_class_does_not_say_is_refused(spec: Manifest, why: str) -> None:
    refused = await (await server()).refused("POST", PODS, pod(**spec))
    assert (refused.code, why in refused.message) == (403, True), refused.message
