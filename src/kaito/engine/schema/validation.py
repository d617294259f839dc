# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Is a built-in object valid, and may it become that? Field errors in Kubernetes' words.

This module knows metadata and which function judges which kind. Pods are in `validation_pod.py`, what owns pods in
`validation_workloads.py`, the rest in `validation_core.py`. Objects come decoded and defaulted.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Final

from kaito.engine.schema import syntax
from kaito.engine.schema import validation_core as core
from kaito.engine.schema import validation_policy as policy
from kaito.engine.schema import validation_workloads as workloads
from kaito.engine.schema.field import FieldError, forbidden, invalid, required
from kaito.engine.schema.validation_pod import validate_pod, validate_pod_update
from kaito.kube.manifest import Manifest

NameRule = Callable[[str], list[str]]
Check = Callable[[Manifest], list[FieldError]]
UpdateCheck = Callable[[Manifest, Manifest], list[FieldError]]

_STANDARD_FINALIZERS: Final = ("foregroundDeletion", "kubernetes", "orphan")
_OWNER_FIELDS: Final = ("apiVersion", "kind", "name", "uid", "controller", "blockOwnerDeletion")
_ANNOTATIONS_LIMIT: Final = 256 * 1024
_NAME_RULES: Final[Mapping[str, NameRule]] = {
    "Namespace": syntax.dns_label_problems,
    "Service": syntax.dns_1035_problems,
    "StatefulSet": syntax.dns_label_problems,
    "Role": syntax.path_segment_problems,
    "ClusterRole": syntax.path_segment_problems,
    "RoleBinding": syntax.path_segment_problems,
    "ClusterRoleBinding": syntax.path_segment_problems,
}
_CHECKS: Final[Mapping[str, Check]] = {
    "Pod": validate_pod,
    "Deployment": workloads.validate_deployment,
    "ReplicaSet": workloads.validate_replica_set,
    "StatefulSet": workloads.validate_stateful_set,
    "DaemonSet": workloads.validate_daemon_set,
    "Job": workloads.validate_job,
    "CronJob": workloads.validate_cron_job,
    "Service": core.validate_service,
    "ConfigMap": core.validate_config_map,
    "Secret": core.validate_secret,
    "Node": core.validate_node,
    "PersistentVolumeClaim": core.validate_claim,
    "PersistentVolume": core.validate_volume,
    "StorageClass": core.validate_storage_class,
    "EndpointSlice": core.validate_endpoint_slice,
    "Lease": core.validate_lease,
    "Event": core.validate_event,
    "Role": policy.validate_role,
    "ClusterRole": policy.validate_cluster_role,
    "RoleBinding": policy.validate_role_binding,
    "ClusterRoleBinding": policy.validate_role_binding,
    "ValidatingWebhookConfiguration": policy.validate_webhooks,
    "MutatingWebhookConfiguration": policy.validate_webhooks,
    "PodDisruptionBudget": policy.validate_disruption_budget,
    "ResourceQuota": policy.validate_quota,
}
_UPDATE_CHECKS: Final[Mapping[str, UpdateCheck]] = {
    "Pod": validate_pod_update,
    "Deployment": workloads.validate_selector_update,
    "ReplicaSet": workloads.validate_selector_update,
    "DaemonSet": workloads.validate_selector_update,
    "StatefulSet": workloads.validate_stateful_set_update,
    "Job": workloads.validate_job_update,
    "Node": core.validate_node_update,
    "Service": core.validate_service_update,
    "ConfigMap": core.validate_config_map_update,
    "Secret": core.validate_secret_update,
    "PersistentVolumeClaim": core.validate_claim_update,
    "StorageClass": core.validate_storage_class_update,
    "EndpointSlice": core.validate_endpoint_slice_update,
    "RoleBinding": policy.validate_role_binding_update,
    "ClusterRoleBinding": policy.validate_role_binding_update,
}


def validate_create(obj: Manifest) -> list[FieldError]:
    """What is wrong with a new object of a built-in kind; its name must have been generated already."""
    kind = obj.get("kind", "")
    rule = _NAME_RULES.get(kind, syntax.dns_subdomain_problems)
    check = _CHECKS.get(kind)
    return validate_metadata(obj, rule) + (check(obj) if check else [])


def validate_update(obj: Manifest, old: Manifest) -> list[FieldError]:
    """What is wrong with an object of a built-in kind that replaces `old`."""
    kind = obj.get("kind", "")
    check, update_check = _CHECKS.get(kind), _UPDATE_CHECKS.get(kind)
    errors = validate_metadata_update(obj, old)
    if update_check:
        errors += update_check(obj, old)
    if check and (kind != "Pod" or not errors):
        errors += check(obj)
    return errors


def validate_metadata(obj: Manifest, name_rule: NameRule = syntax.dns_subdomain_problems) -> list[FieldError]:
    """What is wrong with the metadata of a new object of any kind."""
    meta = obj.get("metadata") or {}
    errors = []
    prefix = meta.get("generateName") or ""
    if prefix:
        trimmed = prefix[:-1] + "a" if prefix.endswith("-") else prefix
        errors += [invalid("metadata.generateName", prefix, problem) for problem in name_rule(trimmed)]
    name = meta.get("name") or ""
    if name:
        errors += [invalid("metadata.name", name, problem) for problem in name_rule(name)]
    else:
        errors.append(required("metadata.name", "name or generateName is required"))
    return errors + _marks(meta, is_custom=_is_custom(obj))


def _is_custom(obj: Manifest) -> bool:
    """Whether the kind is defined by a CustomResourceDefinition: its group is a domain of somebody else's."""
    group = str(obj.get("apiVersion") or "").rpartition("/")[0]
    return "." in group and not group.endswith(".k8s.io")


def _marks(meta: Manifest, *, is_custom: bool) -> list[FieldError]:
    errors = labels(meta.get("labels"), "metadata.labels") + _annotations(meta.get("annotations") or {})
    for index, finalizer in enumerate(meta.get("finalizers") or []):
        path = f"metadata.finalizers[{index}]"
        problems = syntax.label_key_problems(finalizer)
        # Kubernetes holds only its own kinds to this; a custom resource's finalizer may be any qualified name.
        if not problems and not is_custom and "/" not in finalizer and finalizer not in _STANDARD_FINALIZERS:
            problems = ["name is neither a standard finalizer name nor is it fully qualified"]
        errors += [invalid(path, finalizer, problem) for problem in problems]
    return errors + _owners(meta.get("ownerReferences") or [])


def labels(found: Mapping[str, str] | None, path: str) -> list[FieldError]:
    """What is wrong with keys and values of labels."""
    errors = []
    for key, value in sorted((found or {}).items()):
        errors += [invalid(path, key, problem) for problem in syntax.label_key_problems(key)]
        errors += [invalid(path, value, problem) for problem in syntax.label_value_problems(value)]
    return errors


def _annotations(found: Mapping[str, str]) -> list[FieldError]:
    errors = []
    for key in sorted(found):
        problems = syntax.label_key_problems(key.lower())
        errors += [invalid("metadata.annotations", key, problem) for problem in problems]
    if sum(len(key.encode()) + len(value.encode()) for key, value in found.items()) > _ANNOTATIONS_LIMIT:
        message = f"Too long: may not be more than {_ANNOTATIONS_LIMIT} bytes"
        errors.append(FieldError("metadata.annotations", "FieldValueTooLong", message))
    return errors


def _owners(references: list[Manifest]) -> list[FieldError]:
    errors = []
    for reference in references:
        for name in ("apiVersion", "kind", "name", "uid"):
            if not reference.get(name):
                value = reference.get(name) or ""
                detail = "version must not be empty" if name == "apiVersion" else "must not be empty"
                errors.append(invalid(f"metadata.ownerReferences.{name}", value, detail))
    controllers = [reference for reference in references if reference.get("controller")]
    if len(controllers) > 1:
        names = " and ".join(f"{reference.get('kind')}/{reference.get('name')}" for reference in controllers[:2])
        ordered = [{name: item[name] for name in _OWNER_FIELDS if name in item} for item in references]
        shown = json.dumps(ordered, separators=(",", ":"))
        detail = f'Only one reference can have Controller set to true. Found "true" in references for {names}'
        errors.append(FieldError("metadata.ownerReferences", "FieldValueInvalid", f"Invalid value: {shown}: {detail}"))
    return errors


_IMMUTABLE: Final = ("name", "namespace", "uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds")


def validate_metadata_update(obj: Manifest, old: Manifest) -> list[FieldError]:
    """What is wrong with the metadata of an object of any kind that replaces `old`."""
    meta, before = obj.get("metadata") or {}, old.get("metadata") or {}
    errors = []
    for name in _IMMUTABLE:
        if meta.get(name) and meta[name] != before.get(name):  # what is left out is kept by the registry
            errors.append(invalid(f"metadata.{name}", meta.get(name), "field is immutable"))
    if before.get("deletionTimestamp"):
        new = sorted(set(meta.get("finalizers") or []) - set(before.get("finalizers") or []))
        if new:
            shown = ", ".join(f'"{name}"' for name in new)
            detail = "no new finalizers can be added if the object is being deleted, found new finalizers "
            errors.append(forbidden("metadata.finalizers", f"{detail}[]string{{{shown}}}"))
    return errors + _marks(meta, is_custom=_is_custom(obj))


def validate_status_update(obj: Manifest, old: Manifest) -> list[FieldError]:
    """What is wrong with a write of the status subresource of a built-in kind: only its metadata is judged."""
    return validate_metadata_update(obj, old)
