# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""What a Workspace says about its nodes, and the form in which an answer to it is given.

Knows label selectors as Kubernetes defines them, and no provisioner.
"""

from __future__ import annotations

from dataclasses import dataclass

from kaito.kube.manifest import Key
from kaito.operator.faults.fault import Diagnosis

CAPACITY_TYPE_LABEL = "karpenter.sh/capacity-type"
AZURE_SPOT_LABEL = "kubernetes.azure.com/scalesetpriority"
NOBODY = Key("", "")


@dataclass(frozen=True, slots=True)
class Requirement:
    """One term of a label selector."""

    key: str
    operator: str
    values: tuple[str, ...] = ()

    def holds(self, labels: dict[str, str]) -> bool:
        """Whether labels satisfy the term. An operator that does not exist is satisfied by nothing."""
        if self.operator == "In":
            return labels.get(self.key) in self.values
        if self.operator == "NotIn":
            return labels.get(self.key) not in self.values
        if self.operator == "Exists":
            return self.key in labels
        return self.operator == "DoesNotExist" and self.key not in labels

    def __str__(self) -> str:
        match self.operator:
            case "In" | "NotIn":
                values = ",".join(self.values)
                if self.operator == "In" and len(self.values) == 1:
                    return f"{self.key}={values}"
                return f"{self.key} {'in' if self.operator == 'In' else 'notin'} ({values})"
            case "Exists":
                return self.key
            case "DoesNotExist":
                return f"!{self.key}"
            case _:
                return f"{self.key} {self.operator}"


@dataclass(frozen=True, slots=True)
class Wish:
    """What a Workspace says about its nodes."""

    requirements: tuple[Requirement, ...] = ()
    """The label selector without reserved keys: matchLabels first, by key, then matchExpressions."""
    instance_type: str = ""
    owner: Key = NOBODY
    """The Workspace itself."""

    @property
    def is_spot(self) -> bool:
        """Whether machines are asked for that the cloud may take back."""
        return any(
            requirement.operator == "In" and "spot" in requirement.values
            for requirement in self.requirements
            if requirement.key in (CAPACITY_TYPE_LABEL, AZURE_SPOT_LABEL)
        )


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether an aspect is as it should be, and why not: what becomes a condition."""

    ok: bool
    reason: str
    message: str
    is_failure: bool = False
    """It does not come right by waiting: somebody has to do something."""
    diagnosis: Diagnosis | None = None
    """The fault behind it, where there is one."""
