# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""What is generated from the provisioner's code: `python -m kaito.provisioner.page FILE` writes the file of that name.

docs/reference/provisioner.md has every setting, condition, reason and right; the policies below deploy/provisioner are
what each cloud is told.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from typing import Final

import yaml

from kaito.api import nodeclaims as names
from kaito.provisioner.backends.calls import AKS, AWS, AWS_BESIDE, GCP, Calls, rights
from kaito.provisioner.settings import Settings, help_texts

HEAD: Final = """# Reference of the node provisioner

Generated from the code (`make generate`). [../provisioning.md](../provisioning.md) says how to run it.
"""
CONDITIONS: Final[Mapping[str, str]] = {
    names.LAUNCHED: "the cloud has made the machine",
    names.REGISTERED: "the machine has joined as a node, and the node has the claim's labels and taints",
    names.INITIALIZED: "the node is ready and shows all that its type promises, the GPUs first of all",
    names.READY: "all of the three",
    names.DRIFTED: "the machine is not what would be made today; nothing is done about it",
    names.DRAINED: "no pod that has to leave is on the node any more",
    names.VOLUMES_DETACHED: "no volume is attached to the node any more",
    names.INSTANCE_TERMINATING: "the machine is being deleted",
}
REASONS: Final[Mapping[str, tuple[str, str]]] = {
    names.REASON_WAITING: ("nothing has gone wrong; the stage before is not reached", "Wait."),
    names.REASON_LAUNCH_FAILED: ("the machine was given up; the event says why", "See the event; another one is made."),
    names.REASON_CAPACITY: (
        "no allowed type, zone and capacity type has such a machine free; asked again after three minutes",
        "Wait, or allow more types or zones.",
    ),
    names.REASON_QUOTA: ("the account may not have more such machines", "Raise the quota; it is noticed in minutes."),
    names.REASON_UNAUTHORISED: ("the identity is missing or may not do this", "Grant the rights below."),
    names.REASON_THROTTLED: ("the cloud asks to slow down, or another operation is under way", "Wait."),
    names.REASON_UNCLEAR: ("the cloud did not answer; the same attempt is asked for again", "Wait."),
    names.REASON_REJECTED: ("the cloud refuses a parameter", "Correct what the message names."),
    names.REASON_NAME_TAKEN: ("a pool of somebody else has the claim's name", "Rename one of the two."),
    names.REASON_NO_TYPE: (
        "the instance type is not known here",
        "Correct it, and make a new claim: specs do not change.",
    ),
    names.REASON_IMPOSSIBLE: (
        "no machine satisfies the requirements; the message names the first that fails",
        "Correct it.",
    ),
    names.REASON_BUDGET: ("the limit on nodes or dollars is reached", "Raise it, or delete what is not needed."),
    names.REASON_PRICE: ("dollars are limited and the type has no list price", "Use another type, or lift the limit."),
    names.REASON_NODE_NOT_FOUND: ("the machine has not joined", "Wait; see the machine's own log in the cloud."),
    names.REASON_SEVERAL_NODES: ("several nodes say that they are this claim's", "Delete the wrong one."),
    names.REASON_NODE_NOT_READY: ("the node has joined and is not ready", "See kubectl describe node."),
    names.REASON_STARTUP_TAINTS: ("a startup taint of the claim is still there", "See whoever is to remove it."),
    names.REASON_EPHEMERAL_TAINTS: ("a taint of a node that starts is still there", "Wait."),
    names.REASON_RESOURCE_MISSING: ("a requested resource is not shown", "See the device plugin that is to show it."),
    names.REASON_GPUS_MISSING: (
        "the node shows fewer GPUs than its type has; it is replaced in time, as often as --gpu-replacements says",
        "See NVIDIA's device plugin on the node.",
    ),
    names.REASON_INSTANCE_LOST: (
        "the machine is gone, taken back by the cloud for one; the claim goes too",
        "Nothing.",
    ),
    names.REASON_LAUNCH_TIMEOUT: ("no machine was found in time; the claim goes", "See the message."),
    names.REASON_REGISTRATION_TIMEOUT: ("the machine did not join in time; the claim goes", "See the machine's log."),
    names.REASON_DRAINING: ("pods are leaving; the message names those that a PodDisruptionBudget holds", "Wait."),
    names.REASON_DETACHING: ("volumes are being detached", "Wait."),
    names.REASON_GRACE_ELAPSED: ("terminationGracePeriod is over before that was done", "Nothing."),
    names.REASON_REQUIREMENTS_DRIFTED: (
        "type, zone or capacity type is not what the claim asks for",
        "Delete the claim.",
    ),
}
EVENTS: Final[Mapping[str, str]] = {
    names.EVENT_LAUNCHED: "the cloud makes the machine",
    names.EVENT_EXPIRED: "the claim is older than its expireAfter and is deleted",
    names.EVENT_ORPHAN: "a node without claim and machine is removed",
    names.EVENT_DRY_RUN: "what would be asked of the cloud",
}
CALL_HEAD: Final = ["| Method | Rights |", "|---|---|"]


def aws_policy() -> str:
    """The IAM policy of the provisioner's role."""
    listed = rights(AWS, AWS_BESIDE)
    policy = {
        "Version": "2012-10-17",
        "Statement": [
            {"Effect": "Allow", "Action": [r for r in listed if r not in OF_ONE], "Resource": "*"},
            {
                "Effect": "Allow",
                "Action": "ec2:TerminateInstances",
                "Resource": "*",
                "Condition": {"StringEquals": {f"aws:ResourceTag/{names.CLUSTER_LABEL}": "CLUSTER"}},
            },
            {
                "Effect": "Allow",
                "Action": "iam:PassRole",
                "Resource": "arn:aws:iam::ACCOUNT:role/NODE_ROLE",
                "Condition": {"StringEquals": {"iam:PassedToService": "ec2.amazonaws.com"}},
            },
        ],
    }
    return json.dumps(policy, indent=2) + "\n"


OF_ONE: Final = ("ec2:TerminateInstances", "iam:PassRole")
"""Rights that are granted for some resources only."""


def aks_role() -> str:
    """The custom role of the provisioner's managed identity."""
    role = {
        "Name": "kaito node provisioner",
        "Description": "Makes and removes agent pools of one AKS cluster.",
        "Actions": rights(AKS),
        "AssignableScopes": ["/subscriptions/SUBSCRIPTION/resourceGroups/GROUP"],
    }
    return json.dumps(role, indent=2) + "\n"


def gcp_role() -> str:
    """The custom role of the provisioner's service account."""
    role = {
        "title": "kaito node provisioner",
        "description": "Makes and removes node pools of GKE clusters.",
        "stage": "GA",
        "includedPermissions": rights(GCP),
    }
    return str(yaml.safe_dump(role, sort_keys=False))


def reference() -> str:
    """docs/reference/provisioner.md."""
    return "\n".join([HEAD, *_settings(), *_conditions(), *_rights()])


def _settings() -> list[str]:
    lines = ["## Settings", "", "Each flag can be a variable: `KAITO_PROVISIONER_MAX_NODES` for `--max-nodes`.", ""]
    lines += ["| Flag | Default | Meaning |", "|---|---|---|"]
    defaults = _defaults()
    return [*lines, *(f"| `{flag}` | {defaults[flag]} | {text} |" for flag, text in help_texts().items()), ""]


def _defaults() -> dict[str, str]:
    made, found = Settings(), {}
    for flag in help_texts():
        name = flag.strip("-").replace("-", "_")
        owner: object = made
        if name.endswith("_timeout"):
            owner, name = made.timing, f"{name.removesuffix('_timeout')}_s"
        value = getattr(owner, name) if hasattr(owner, name) else getattr(owner, f"{name}_s")
        text = ",".join(value) if isinstance(value, tuple) else f"{value:g}" if isinstance(value, float) else str(value)
        found[flag] = f"`{text}`" if value not in (None, "", ()) else ""
    return found


def _conditions() -> list[str]:
    stages = [f"| `{type_}` | {text} |" for type_, text in CONDITIONS.items()]
    reasons = [f"| `{reason}` | {what} | {step} |" for reason, (what, step) in REASONS.items()]
    events = [f"| `{event}` | {text} |" for event, text in EVENTS.items()]
    return [
        "## Conditions", "",
        "Of a NodeClaim; the first three of a Machine begin with `Machine`. The message has the cloud's own words.", "",
        "| Type | True when |", "|---|---|", *stages, "",
        "| Reason | What it says | Next step |", "|---|---|---|", *reasons, "",
        "## Events", "", "Besides the reasons above:", "", "| Event | Meaning |", "|---|---|", *events, "",
    ]  # fmt: skip


def _rights() -> list[str]:
    found = ["## Rights in the cloud", "", "Tests compare these tables with the calls that are made.", ""]
    for title, calls, file in (
        ("AWS", AWS, "aws-policy.json"), ("AKS", AKS, "aks-role.json"), ("GKE", GCP, "gcp-role.yaml"),
    ):  # fmt: skip
        found += [f"### {title}", "", *_table(calls), ""]
        found += [f"As a policy or role: [{file}](../../deploy/provisioner/{file}).", ""]
    return found


def _table(calls: Calls) -> list[str]:
    rows = [
        f"| {method} | {', '.join(f'`{right}`' for right in needed) or 'none'} |" for method, needed in calls.items()
    ]
    return [*CALL_HEAD, *rows]


FILES: Final[Mapping[str, Callable[[], str]]] = {
    "docs/reference/provisioner.md": reference,
    "deploy/provisioner/aws-policy.json": aws_policy,
    "deploy/provisioner/aks-role.json": aks_role,
    "deploy/provisioner/gcp-role.yaml": gcp_role,
}


if __name__ == "__main__":
    sys.stdout.write(FILES[sys.argv[1]]())
