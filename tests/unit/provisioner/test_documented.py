# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""What is generated from the provisioner's code is current, and names everything that a user can see."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from kaito.api import nodeclaims as names
from kaito.provisioner.app import definitions
from kaito.provisioner.backends.calls import AKS, AWS, AWS_BESIDE, GCP, rights
from kaito.provisioner.page import CONDITIONS, EVENTS, FILES, OF_ONE, REASONS, aws_policy

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("name", FILES)
def test_generated_files_are_what_make_generate_writes(name: str) -> None:
    assert (ROOT / name).read_text() == FILES[name]()


def constants(prefix: str) -> set[str]:
    return {value for name, value in vars(names).items() if name.startswith(prefix) and isinstance(value, str)}


def test_every_condition_reason_and_event_is_documented() -> None:
    types = {"LAUNCHED", "REGISTERED", "INITIALIZED", "READY", "DRIFTED", "DRAINED", "VOLUMES_DETACHED"}
    assert {getattr(names, name) for name in types | {"INSTANCE_TERMINATING"}} == set(CONDITIONS)
    assert constants("REASON_") == set(REASONS)
    assert constants("EVENT_") == set(EVENTS)


def test_the_definitions_are_those_that_are_shipped() -> None:
    folder = ROOT / "deploy" / "provisioner" / "crds"
    files = ("karpenter.sh_nodeclaims.yaml", "kaito.sh_nodebudgets.yaml")
    assert definitions() == [yaml.safe_load((folder / name).read_text()) for name in files]


def test_every_right_of_the_tables_is_granted() -> None:
    statements = yaml.safe_load(aws_policy())["Statement"]
    granted = {
        action for s in statements for action in ([s["Action"]] if isinstance(s["Action"], str) else s["Action"])
    }
    assert granted == set(rights(AWS, AWS_BESIDE))
    assert set(OF_ONE) <= granted
    for calls in (AKS, GCP):
        assert rights(calls) == sorted({right for needed in calls.values() for right in needed})
