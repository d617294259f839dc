# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""A Job's `podFailurePolicy`: which failed pods end the Job, and which do not count. Pure.

https://kubernetes.io/docs/concepts/workloads/controllers/job/#pod-failure-policy; the first rule that fits decides.
"""

from __future__ import annotations

from collections.abc import Iterable

from kaito.engine.controllers import pods as pod
from kaito.kube.manifest import Manifest, condition_of


def action(job: Manifest, failed: Manifest) -> str:
    """What the policy says of a failed pod: FailJob, Ignore, FailIndex or Count; Count without a policy."""
    rule, _ = _rule(job, failed)
    return rule.get("action", "Count") if rule else "Count"


def fatal(job: Manifest, pods: Iterable[Manifest]) -> str:
    """Why a failed pod ends the Job, in Kubernetes' words; empty when none does."""
    for one in pods:
        if pod.phase(one) != "Failed":
            continue
        rule, said = _rule(job, one)
        if rule and rule.get("action") == "FailJob":
            return said
    return ""


def _rule(job: Manifest, failed: Manifest) -> tuple[Manifest | None, str]:
    """The first rule that fits the pod, and what it was that fits."""
    name = f"{failed['metadata'].get('namespace', '')}/{failed['metadata']['name']}"
    for index, rule in enumerate((job["spec"].get("podFailurePolicy") or {}).get("rules") or []):
        if rule.get("onExitCodes"):
            said = _exit_code(rule["onExitCodes"], failed)
            if said:
                how = f"matching {rule['action']} rule at index {index}"
                return rule, f"{said[0]} for pod {name} failed with exit code {said[1]} {how}"
        elif any(_has(failed, wanted) for wanted in rule.get("onPodConditions") or []):
            kind = rule["onPodConditions"][0]["type"]
            return rule, f"Pod {name} has condition {kind} matching {rule['action']} rule at index {index}"
    return None, ""


def _exit_code(wanted: Manifest, failed: Manifest) -> tuple[str, int] | None:
    """The container that ended with one of the codes (or, with NotIn, with none of them), and its code."""
    status = failed.get("status") or {}
    named = wanted.get("containerName")
    for container in [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]:
        ended = (container.get("state") or {}).get("terminated")
        if ended is None or (named and container["name"] != named) or not ended.get("exitCode"):
            continue
        if (ended["exitCode"] in wanted["values"]) == (wanted["operator"] == "In"):
            return f"Container {container['name']}", ended["exitCode"]
    return None


def _has(failed: Manifest, wanted: Manifest) -> bool:
    condition = condition_of(failed, wanted["type"])
    return condition is not None and condition.get("status") == wanted.get("status", "True")
