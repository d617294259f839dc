# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""The feature gates of KAITO v0.12: all are accepted, and what a gate does not change here is said.

Pure: `settings.py` asks what a `--feature-gates` text means.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Effect = Literal["works", "always", "never"]


@dataclass(frozen=True, slots=True)
class Gate:
    """One gate: what it is without being set, and what setting it does here."""

    default: bool
    effect: Effect
    """`works`: it does what it does in KAITO. `always`: what it turns on is on anyway. `never`: it is not there."""
    note: str


GATES: Mapping[str, Gate] = {
    "vLLM": Gate(True, "works", "Off, every Workspace without the annotation kaito.sh/runtime takes transformers."),
    "disableNodeAutoProvisioning": Gate(
        False, "works", "On, nodes are brought by you, as with --provisioner byo, unless a provisioner is given."
    ),
    "gatewayAPIInferenceExtension": Gate(False, "never", "Routing by the Gateway API is not part of this operator."),
    "enableInferenceSetController": Gate(True, "never", "InferenceSets are not part of this operator yet."),
    "enableMIG": Gate(False, "always", "resource.partition with mode mig works without it."),
    "enableAccelerator": Gate(False, "always", "resource.partition with mode accelerator works without it."),
    "enableMultiRoleInferenceController": Gate(
        False, "never", "MultiRoleInferences are not part of this operator yet."
    ),
    "ModelMirror": Gate(False, "never", "ModelMirrors are not part of this operator yet."),
    "ModelStreaming": Gate(False, "never", "Streaming of weights is not part of this operator yet."),
    "enableBaseImageAutoUpgrade": Gate(
        False, "always", "An upgraded operator rolls its runtime image out by itself, one Workspace like the other."
    ),
}


class BadGate(ValueError):
    """A text that names no gate, or gives it no value; the message says what to write."""


def parse_gates(text: str) -> dict[str, bool]:
    """The gates of `name=true,name=false`. Raises BadGate."""
    found = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, _, value = part.partition("=")
        if name not in GATES:
            near = difflib.get_close_matches(name, GATES, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(GATES)}."
            raise BadGate(f"{name} is no feature gate: {hint}")
        if value.lower() not in ("true", "false"):
            raise BadGate(f"{part} gives {name} no value: write {name}=true or {name}=false.")
        found[name] = value.lower() == "true"
    return found


def without_effect(gates: Mapping[str, bool]) -> list[str]:
    """What to tell about the gates that were set to another value than they have, and change nothing."""
    return [
        f"feature gate {name}={str(value).lower()} has no effect: {GATES[name].note}"
        for name, value in gates.items()
        if value != GATES[name].default and GATES[name].effect != "works"
    ]
