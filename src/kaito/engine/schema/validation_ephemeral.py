# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Validation of ephemeral containers, which only come to a pod that is there, and never go.

In Kubernetes' words (k8s.io/kubernetes/pkg/apis/core/validation). What they have in common with other containers is
judged in `validation_pod`.
"""

from __future__ import annotations

from typing import Final

from kaito.engine.schema.field import FieldError, forbidden, not_found
from kaito.engine.schema.validation_pod import names_and_volumes, validate_container
from kaito.kube.manifest import Manifest

PATH: Final = "spec.ephemeralContainers"
_NOT_FOR_THEM: Final = ("lifecycle", "livenessProbe", "ports", "readinessProbe", "resources", "restartPolicy")
_NOT_FOR_THEM_EITHER: Final = ("resizePolicy", "restartPolicyRules", "startupProbe")


def creation_errors(pod: Manifest) -> list[FieldError]:
    """A new pod has none."""
    return [forbidden(PATH, "cannot be set on create")] if pod["spec"].get("ephemeralContainers") else []


def template_errors(spec: Manifest, path: str) -> list[FieldError]:
    """A template has none; `path` is that of the pod's spec."""
    wrong = bool(spec.get("ephemeralContainers"))
    text = "ephemeral containers not allowed in pod template"
    return [forbidden(f"{path}.ephemeralContainers", text)] if wrong else []


def update_errors(pod: Manifest, old: Manifest) -> list[FieldError]:
    """What is wrong with a pod that was given ephemeral containers."""
    containers = pod["spec"].get("ephemeralContainers") or []
    names, volumes = names_and_volumes(pod["spec"])
    targets = {container["name"] for container in pod["spec"]["containers"]}
    errors: list[FieldError] = []
    for index, container in enumerate(containers):
        path = f"{PATH}[{index}]"
        errors += validate_container(container, path, volumes, names)
        target = container.get("targetContainerName")
        if target and target not in targets:
            errors.append(not_found(f"{path}.targetContainerName", target))
        for field in (*_NOT_FOR_THEM, *_NOT_FOR_THEM_EITHER):
            if container.get(field):
                errors.append(forbidden(f"{path}.{field}", "cannot be set for an Ephemeral Container"))
        for place, mount in enumerate(container.get("volumeMounts") or []):
            for field in ("subPath", "subPathExpr"):
                if mount.get(field):
                    at = f"{path}.volumeMounts[{place}].{field}"
                    errors.append(forbidden(at, "cannot be set for an Ephemeral Container"))
    return errors + _changes(containers, old["spec"].get("ephemeralContainers") or [])


def _changes(containers: list[Manifest], before: list[Manifest]) -> list[FieldError]:
    known = {container.get("name"): container for container in containers}
    errors = []
    for old in before:
        new = known.get(old["name"])
        if new is None:
            errors.append(forbidden(PATH, f'existing ephemeral containers "{old["name"]}" may not be removed'))
        elif new != old:
            errors.append(forbidden(PATH, f'existing ephemeral containers "{old["name"]}" may not be changed'))
    return errors
