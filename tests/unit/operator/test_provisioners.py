# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""What the provisioners say of nodes, and what is read from a node."""

from __future__ import annotations

import pytest

from kaito.catalog.gpus import machines
from kaito.kube.manifest import Manifest
from kaito.operator.provisioners.byo import BYO
from kaito.operator.provisioners.local import LOCAL
from kaito.operator.provisioners.survey import Provisioner, matches
from kaito.operator.provisioners.wish import Requirement, Wish
from kaito.operator.workspace.nodes import hardware_of
from tests.builders import node

APPS = Wish((Requirement("apps", "In", ("demo",)),))


def labelled(name: str, *, ready: bool = True, **labels: str) -> Manifest:
    return node(name, ready=ready, metadata={"labels": labels})


@pytest.mark.parametrize(
    ("requirement", "labels", "holds"),
    [
        (Requirement("a", "In", ("x", "y")), {"a": "y"}, True),
        (Requirement("a", "In", ("x",)), {}, False),
        (Requirement("a", "NotIn", ("x",)), {}, True),
        (Requirement("a", "NotIn", ("x",)), {"a": "x"}, False),
        (Requirement("a", "Exists"), {"a": ""}, True),
        (Requirement("a", "DoesNotExist"), {"a": ""}, False),
        (Requirement("a", "Like", ("x",)), {"a": "x"}, False),
    ],
)
def test_a_label_selectors_term_means_what_it_means_in_kubernetes(
    requirement: Requirement, labels: dict[str, str], holds: bool
) -> None:
    assert matches(Wish((requirement,)), node(metadata={"labels": labels})) is holds


@pytest.mark.parametrize(
    ("provisioner", "wish", "nodes", "target", "ok", "says"),
    [
        (LOCAL, Wish(), [], 1, False, "register as a node"),
        (LOCAL, Wish(), [node(ready=False)], 1, False, "laptop (KubeletNotReady)"),
        (LOCAL, Wish(), [node()], 1, True, "Served by laptop."),
        (LOCAL, APPS, [node()], 1, True, "On one machine labelSelector does not restrict the choice."),
        (BYO, APPS, [], 1, False, "1 more ready node with apps=demo needed (0 of 1 ready). Add nodes, or label"),
        (BYO, APPS, [labelled("a", apps="demo")], 3, False, "2 more ready nodes with apps=demo needed (1 of 3 ready)"),
        (BYO, APPS, [labelled("a", ready=False, apps="demo")], 1, False, "not ready: a (KubeletNotReady)"),
        (BYO, APPS, [labelled("a", apps="demo"), labelled("b", apps="x")], 1, True, "1 matching node is ready"),
        (BYO, Wish(), [labelled("a"), labelled("b")], 2, True, "2 matching nodes are ready, 2 needed: a, b."),
    ],
)
def test_a_provisioner_says_whether_the_nodes_suffice_and_what_is_missing(
    provisioner: Provisioner, wish: Wish, nodes: list[Manifest], target: int, ok: bool, says: str
) -> None:
    verdict = provisioner.judge(wish, provisioner.select(wish, nodes), target)
    assert verdict.ok is ok
    assert says in verdict.message


@pytest.mark.parametrize(
    ("labels", "gpus", "memory_gib", "product"),
    [
        ({}, 2, 280.0, "NVIDIA H200"),
        ({"nvidia.com/gpu.memory": None}, 2, 282.0, "NVIDIA H200"),
        ({"nvidia.com/gpu.memory": "much"}, 2, 282.0, "NVIDIA H200"),
        ({"nvidia.com/gpu.memory": None, "nvidia.com/gpu.product": "Novel-GPU"}, 2, None, "Novel-GPU"),
    ],
)
def test_a_nodes_gpus_are_read_from_its_capacity_and_labels(
    labels: dict[str, str | None], gpus: int, memory_gib: float | None, product: str
) -> None:
    found = hardware_of(node(gpus=gpus, metadata={"labels": labels}), machines())
    assert (found.gpus, found.memory_gib, found.product) == (gpus, memory_gib, product)


def test_a_node_without_gpus_computes_on_its_cpu() -> None:
    assert hardware_of(node(), machines()).gpus == 0
    assert hardware_of(node(status=None), machines()).known is None
