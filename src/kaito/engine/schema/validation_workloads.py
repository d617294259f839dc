# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Validation of what owns pods: Deployments, ReplicaSets, StatefulSets, DaemonSets, Jobs, CronJobs."""

from __future__ import annotations

import re
from typing import Final

from kaito.engine.schema import cron, syntax
from kaito.engine.schema.field import FieldError, forbidden, invalid, quoted, required, unsupported
from kaito.engine.schema.select import SelectorError, from_label_selector
from kaito.engine.schema.validation_ephemeral import template_errors
from kaito.engine.schema.validation_pod import validate_pod_spec
from kaito.kube.manifest import Manifest

_STATEFUL_SET_UPDATABLE: Final = (
    "replicas",
    "ordinals",
    "template",
    "updateStrategy",
    "revisionHistoryLimit",
    "persistentVolumeClaimRetentionPolicy",
    "minReadySeconds",
)
_STATEFUL_SET_RULE: Final = (
    "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', "
    "'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden"
)
_MISMATCH: Final = "`selector` does not match template `labels`"


def validate_deployment(obj: Manifest) -> list[FieldError]:
    """What is wrong with a Deployment."""
    spec = obj.get("spec") or {}
    errors = _counts(spec, "replicas", "minReadySeconds", "revisionHistoryLimit") + _selector(spec)
    strategy = spec.get("strategy") or {}
    if strategy.get("type") not in ("RollingUpdate", "Recreate"):
        values = ("Recreate", "RollingUpdate")
        errors.append(unsupported("spec.strategy.type", strategy.get("type") or "", values))
    elif strategy["type"] == "Recreate" and strategy.get("rollingUpdate"):
        path = "spec.strategy.rollingUpdate"
        errors.append(forbidden(path, "may not be specified when strategy `type` is 'Recreate'"))
    deadline, ready = spec.get("progressDeadlineSeconds"), spec.get("minReadySeconds") or 0
    if deadline is not None and deadline <= ready:
        errors.append(invalid("spec.progressDeadlineSeconds", deadline, "must be greater than minReadySeconds"))
    return errors + _template(spec, ("Always",))


def validate_replica_set(obj: Manifest) -> list[FieldError]:
    """What is wrong with a ReplicaSet."""
    spec = obj.get("spec") or {}
    return _counts(spec, "replicas", "minReadySeconds") + _selector(spec) + _template(spec, ("Always",))


def validate_daemon_set(obj: Manifest) -> list[FieldError]:
    """What is wrong with a DaemonSet."""
    spec = obj.get("spec") or {}
    return _counts(spec, "minReadySeconds", "revisionHistoryLimit") + _selector(spec) + _template(spec, ("Always",))


def validate_stateful_set(obj: Manifest) -> list[FieldError]:
    """What is wrong with a StatefulSet."""
    spec = obj.get("spec") or {}
    errors = []
    if spec.get("podManagementPolicy") not in ("OrderedReady", "Parallel"):
        value = spec.get("podManagementPolicy") or ""
        detail = "must be 'OrderedReady' or 'Parallel'"
        errors.append(invalid("spec.podManagementPolicy", value, detail))
    strategy = (spec.get("updateStrategy") or {}).get("type")
    if strategy not in ("RollingUpdate", "OnDelete"):
        errors.append(
            invalid("spec.updateStrategy", spec.get("updateStrategy"), "must be 'RollingUpdate' or 'OnDelete'")
        )
    errors += _counts(spec, "replicas", "minReadySeconds", "revisionHistoryLimit")
    return errors + _selector(spec) + _template(spec, ("Always",))


def validate_stateful_set_update(obj: Manifest, old: Manifest) -> list[FieldError]:
    """What may not change in a StatefulSet."""

    def fixed(spec: Manifest) -> Manifest:
        return {name: value for name, value in spec.items() if name not in _STATEFUL_SET_UPDATABLE}

    same = fixed(obj.get("spec") or {}) == fixed(old.get("spec") or {})
    return [] if same else [forbidden("spec", _STATEFUL_SET_RULE)]


def validate_selector_update(obj: Manifest, old: Manifest) -> list[FieldError]:
    """The selector of a Deployment, ReplicaSet or DaemonSet may not change."""
    selector = (obj.get("spec") or {}).get("selector")
    same = selector == (old.get("spec") or {}).get("selector")
    return [] if same else [invalid("spec.selector", selector, "field is immutable")]


def validate_job(obj: Manifest) -> list[FieldError]:
    """What is wrong with a Job; its selector is generated, so only a manual one is judged."""
    return _job_spec(obj.get("spec") or {}, "spec")


def _job_spec(spec: Manifest, path: str) -> list[FieldError]:
    errors = _counts(
        spec,
        "parallelism",
        "completions",
        "activeDeadlineSeconds",
        "backoffLimit",
        "ttlSecondsAfterFinished",
        path=path,
    )
    if spec.get("completionMode") == "Indexed" and spec.get("completions") is None:
        errors.append(required(f"{path}.completions", "when completion mode is Indexed"))
    errors += _success_policy(spec, f"{path}.successPolicy")
    return errors + _template(spec, ("OnFailure", "Never"), path=path)


_INDEX_RANGES: Final = re.compile(r"\d+(-\d+)?(,\d+(-\d+)?)*")


def _success_policy(spec: Manifest, path: str) -> list[FieldError]:
    """What is wrong with the rules that end a Job before all its indexes have succeeded."""
    policy = spec.get("successPolicy")
    if policy is None:
        return []
    if spec.get("completionMode") != "Indexed":
        return [invalid(path, policy, "requires indexed completion mode")]
    rules = policy.get("rules") or []
    if not rules:
        return [required(f"{path}.rules", "at least one rules must be specified when the successPolicy is specified")]
    errors = []
    for place, rule in enumerate(rules):
        at, named = f"{path}.rules[{place}]", rule.get("succeededIndexes")
        if named is None and rule.get("succeededCount") is None:
            errors.append(required(at, "at least one of succeededCount or succeededIndexes must be specified"))
        if named is not None and not _INDEX_RANGES.fullmatch(named):
            errors.append(invalid(f"{at}.succeededIndexes", named, "error parsing succeededIndexes"))
    return errors


def validate_job_update(obj: Manifest, old: Manifest) -> list[FieldError]:
    """What may not change in a Job; its template may while it is suspended and not started."""
    spec, before = obj.get("spec") or {}, old.get("spec") or {}
    errors = []
    for name in (
        "completions",
        "selector",
        "completionMode",
        "podFailurePolicy",
        "backoffLimitPerIndex",
        "successPolicy",
    ):
        if spec.get(name) != before.get(name) and not _is_elastic(spec, before, name):
            errors.append(invalid(f"spec.{name}", spec.get(name), "field is immutable"))
    suspended = before.get("suspend") and not (old.get("status") or {}).get("startTime")
    if spec.get("template") != before.get("template") and not suspended:
        errors.append(invalid("spec.template", spec.get("template"), "field is immutable"))
    return errors


def _is_elastic(spec: Manifest, before: Manifest, name: str) -> bool:
    indexed = spec.get("completionMode") == "Indexed" == before.get("completionMode")
    return name == "completions" and indexed and spec.get("completions") == spec.get("parallelism")


_LONGEST_CRON_NAME: Final = 52
"""A Job of it gets eleven characters more, and its pods are labelled with the Job's name."""


def validate_cron_job(obj: Manifest) -> list[FieldError]:
    """What is wrong with a CronJob."""
    spec = obj.get("spec") or {}
    errors = []
    errors += _schedule(spec)
    if spec.get("concurrencyPolicy") not in ("Allow", "Forbid", "Replace"):
        policies = ("Allow", "Forbid", "Replace")
        errors.append(unsupported("spec.concurrencyPolicy", spec.get("concurrencyPolicy") or "", policies))
    if len((obj.get("metadata") or {}).get("name") or "") > _LONGEST_CRON_NAME:
        detail = "must be no more than 52 characters"
        errors.append(invalid("metadata.name", obj["metadata"]["name"], detail))
    errors += _counts(spec, "successfulJobsHistoryLimit", "failedJobsHistoryLimit")
    return errors + _job_spec((spec.get("jobTemplate") or {}).get("spec") or {}, "spec.jobTemplate.spec")


def _schedule(spec: Manifest) -> list[FieldError]:
    schedule, zone = spec.get("schedule") or "", spec.get("timeZone")
    errors = []
    if not schedule:
        errors.append(required("spec.schedule"))
    elif "TZ=" in schedule:
        detail = "cannot use TZ or CRON_TZ in schedule, use timeZone field instead"
        errors.append(invalid("spec.schedule", schedule, detail))
    else:
        errors += _cron_errors("spec.schedule", schedule, schedule)
    if zone == "":
        errors.append(invalid("spec.timeZone", zone, "timeZone must be nil or non-empty string"))
    elif zone and zone.lower() == "local":
        detail = "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones"
        errors.append(invalid("spec.timeZone", zone, detail))
    elif zone:
        errors += _cron_errors("spec.timeZone", zone, "@daily", zone)
    return errors


def _cron_errors(path: str, value: str, schedule: str, zone: str | None = None) -> list[FieldError]:
    try:
        cron.parse(schedule, zone)
    except ValueError as error:
        return [invalid(path, value, str(error))]
    return []


def _counts(spec: Manifest, *names: str, path: str = "spec") -> list[FieldError]:
    return [
        invalid(f"{path}.{name}", spec[name], "must be greater than or equal to 0")
        for name in names
        if (spec.get(name) or 0) < 0
    ]


def _selector(spec: Manifest) -> list[FieldError]:
    selector = spec.get("selector")
    labels = ((spec.get("template") or {}).get("metadata") or {}).get("labels") or {}
    if selector is None:
        return [required("spec.selector"), invalid("spec.template.metadata.labels", labels, _MISMATCH)]
    if not selector.get("matchLabels") and not selector.get("matchExpressions"):
        return [invalid("spec.selector", selector, "empty selector is invalid for deployment")]
    try:
        parsed = from_label_selector(selector)
    except SelectorError as error:
        return [invalid("spec.selector", selector, str(error))]
    return [] if parsed.matches(labels) else [invalid("spec.template.metadata.labels", labels, _MISMATCH)]


def _template(spec: Manifest, policies: tuple[str, ...], *, path: str = "spec") -> list[FieldError]:
    template = spec.get("template") or {}
    errors = []
    for key, value in sorted(((template.get("metadata") or {}).get("labels") or {}).items()):
        at = f"{path}.template.labels"
        errors += [invalid(at, key, problem) for problem in syntax.label_key_problems(key)]
        errors += [invalid(at, value, problem) for problem in syntax.label_value_problems(value)]
    pod = template.get("spec") or {}
    errors += validate_pod_spec(pod, f"{path}.template.spec") + template_errors(pod, f"{path}.template.spec")
    policy = pod.get("restartPolicy")
    if policy in ("Always", "OnFailure", "Never") and policy not in policies:
        at = f"{path}.template.spec.restartPolicy"
        if policies == ("Always",):
            errors.append(unsupported(at, policy, policies))
        else:
            shown = ", ".join(quoted(name) for name in sorted(policies))
            message = f"Required value: valid values: {shown}"
            errors.append(FieldError(at, "FieldValueRequired", message))
    return errors
