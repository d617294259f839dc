# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Validation of pods and pod templates, in Kubernetes' words (k8s.io/kubernetes/pkg/apis/core/validation)."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any, Final

from kaito.engine.schema import syntax
from kaito.engine.schema.field import (
    FieldError,
    duplicate,
    forbidden,
    invalid,
    not_found,
    quoted,
    required,
    unsupported,
)
from kaito.engine.schema.quantity import QuantityError, canonical, value_of
from kaito.kube.manifest import Manifest

_RESTART: Final = ("Always", "OnFailure", "Never")
_DNS: Final = ("ClusterFirstWithHostNet", "ClusterFirst", "Default", "None")
_PULL: Final = ("Always", "IfNotPresent", "Never")
_PROTOCOLS: Final = ("SCTP", "TCP", "UDP")
_TOLERATION_EFFECTS: Final = ("NoSchedule", "PreferNoSchedule", "NoExecute")
_HANDLERS: Final = ("exec", "httpGet", "tcpSocket", "grpc", "sleep")
_UPDATABLE: Final = (
    "Forbidden: pod updates may not change fields other than `spec.containers[*].image`,"
    "`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing "
    "tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)"
)


def validate_pod(pod: Manifest) -> list[FieldError]:
    """What is wrong with a pod."""
    return validate_pod_spec(pod.get("spec") or {}, "spec")


def validate_pod_spec(spec: Manifest, path: str) -> list[FieldError]:
    """What is wrong with a pod's spec at `path`."""
    errors, volumes = _volumes(spec.get("volumes") or [], f"{path}.volumes")
    containers = spec.get("containers") or []
    if not containers:
        errors.append(required(f"{path}.containers"))
    names: set[str] = set()
    for index, container in enumerate(containers):
        errors += validate_container(container, f"{path}.containers[{index}]", volumes, names)
    for index, container in enumerate(spec.get("initContainers") or []):
        errors += validate_container(container, f"{path}.initContainers[{index}]", volumes, names)
    errors += _choice(spec, "restartPolicy", _RESTART, path) + _choice(spec, "dnsPolicy", _DNS, path)
    return errors + _placement(spec, path)


def _choice(holder: Manifest, name: str, values: tuple[str, ...], path: str) -> list[FieldError]:
    value = holder.get(name)
    if not value:
        return [required(f"{path}.{name}")]
    return [] if value in values else [unsupported(f"{path}.{name}", value, values)]


def _placement(spec: Manifest, path: str) -> list[FieldError]:
    errors = []
    for key, value in sorted((spec.get("nodeSelector") or {}).items()):
        errors += [invalid(f"{path}.nodeSelector", key, problem) for problem in syntax.label_key_problems(key)]
        errors += [invalid(f"{path}.nodeSelector", value, problem) for problem in syntax.label_value_problems(value)]
    for index, toleration in enumerate(spec.get("tolerations") or []):
        errors += _toleration(toleration, f"{path}.tolerations[{index}]")
    for name, rule in (
        ("serviceAccountName", syntax.dns_subdomain_problems),
        ("nodeName", syntax.dns_subdomain_problems),
    ):
        if spec.get(name):
            errors += [invalid(f"{path}.{name}", spec[name], problem) for problem in rule(spec[name])]
    for name in ("hostname", "subdomain"):
        if spec.get(name):
            errors += [
                invalid(f"{path}.{name}", spec[name], problem) for problem in syntax.dns_label_problems(spec[name])
            ]
    grace = spec.get("terminationGracePeriodSeconds")
    if grace is not None and grace < 0:
        errors.append(invalid(f"{path}.terminationGracePeriodSeconds", grace, "must be greater than or equal to 0"))
    deadline = spec.get("activeDeadlineSeconds")
    if deadline is not None and not 1 <= deadline <= 2**31 - 1:
        errors.append(invalid(f"{path}.activeDeadlineSeconds", deadline, "must be between 1 and 2147483647, inclusive"))
    return errors


def _toleration(toleration: Manifest, path: str) -> list[FieldError]:
    errors = []
    key, operator, effect = (toleration.get(name) or "" for name in ("key", "operator", "effect"))
    if key:
        errors += [invalid(f"{path}.key", key, problem) for problem in syntax.label_key_problems(key)]
    elif operator != "Exists":
        errors.append(
            invalid(
                f"{path}.operator",
                operator,
                'operator must be Exists when `key` is empty, which means "match all values and all keys"',
            )
        )
    if operator not in ("", "Equal", "Exists", "Lt", "Gt"):
        errors.append(unsupported(f"{path}.operator", operator, ("Equal", "Exists")))
    if operator == "Exists" and toleration.get("value"):
        errors.append(invalid(f"{path}.operator", toleration, "value must be empty when `operator` is 'Exists'"))
    if effect and effect not in _TOLERATION_EFFECTS:
        errors.append(unsupported(f"{path}.effect", effect, _TOLERATION_EFFECTS))
    if toleration.get("tolerationSeconds") is not None and effect != "NoExecute":
        errors.append(invalid(f"{path}.effect", effect, "effect must be 'NoExecute' when `tolerationSeconds` is set"))
    return errors


def _volumes(volumes: list[Manifest], path: str) -> tuple[list[FieldError], set[str]]:
    errors = []
    names: set[str] = set()
    for index, volume in enumerate(volumes):
        at, name = f"{path}[{index}]", volume.get("name") or ""
        if not name:
            errors.append(required(f"{at}.name"))
        else:
            errors += [invalid(f"{at}.name", name, problem) for problem in syntax.dns_label_problems(name)]
        if name and name in names:
            errors.append(duplicate(f"{at}.name", name))
        names.add(name)
        errors += _volume_source(volume, at)
    return errors, names


_NEEDS: Final[Mapping[str, str]] = {
    "secret": "secretName",
    "configMap": "name",
    "persistentVolumeClaim": "claimName",
    "hostPath": "path",
}


def _volume_source(volume: Manifest, path: str) -> list[FieldError]:
    sources = [name for name in volume if name != "name"]
    if not sources:
        return [required(path, "must specify a volume type")]
    errors = [forbidden(f"{path}.{name}", "may not specify more than 1 volume type") for name in sources[1:]]
    field = _NEEDS.get(sources[0])
    if field and not volume[sources[0]].get(field):
        errors.append(required(f"{path}.{sources[0]}.{field}"))
    return errors


def names_and_volumes(spec: Manifest) -> tuple[set[str], set[str]]:
    """The names that the pod's containers have taken, and those of its volumes."""
    containers = [*spec["containers"], *(spec.get("initContainers") or [])]
    return {item["name"] for item in containers}, {item["name"] for item in spec.get("volumes") or []}


def validate_container(container: Manifest, path: str, volumes: set[str], names: set[str]) -> list[FieldError]:
    """What is wrong with a container at `path`; its name joins `names`."""
    name, image = container.get("name") or "", container.get("image") or ""
    errors = []
    if not name:
        errors.append(required(f"{path}.name"))
    else:
        errors += [invalid(f"{path}.name", name, problem) for problem in syntax.dns_label_problems(name)]
        if name in names:
            errors.append(duplicate(f"{path}.name", name))
        names.add(name)
    if not image:
        errors.append(required(f"{path}.image"))
    elif image != image.strip():
        errors.append(invalid(f"{path}.image", image, "must not have leading or trailing whitespace"))
    policy = container.get("imagePullPolicy")
    if policy and policy not in _PULL:
        errors.append(unsupported(f"{path}.imagePullPolicy", policy, _PULL))
    errors += _ports(container.get("ports") or [], f"{path}.ports")
    errors += _env(container.get("env") or [], f"{path}.env")
    errors += _mounts(container.get("volumeMounts") or [], f"{path}.volumeMounts", volumes)
    for probe in ("livenessProbe", "readinessProbe", "startupProbe"):
        if container.get(probe) is not None:
            errors += _probe(container[probe], f"{path}.{probe}", ready=probe == "readinessProbe")
    return errors + validate_resources(container.get("resources") or {}, f"{path}.resources")


def _ports(ports: list[Manifest], path: str) -> list[FieldError]:
    errors = []
    names: set[str] = set()
    for index, port in enumerate(ports):
        at = f"{path}[{index}]"
        name, number = port.get("name") or "", port.get("containerPort") or 0
        if name:
            errors += [invalid(f"{at}.name", name, problem) for problem in syntax.port_name_problems(name)]
            if name in names:
                errors.append(duplicate(f"{at}.name", name))
            names.add(name)
        if number == 0:
            errors.append(required(f"{at}.containerPort"))
        else:
            errors += [
                invalid(f"{at}.containerPort", number, problem) for problem in syntax.port_number_problems(number)
            ]
        host = port.get("hostPort") or 0
        if host:
            errors += [invalid(f"{at}.hostPort", host, problem) for problem in syntax.port_number_problems(host)]
        if port.get("protocol") not in _PROTOCOLS:
            errors.append(unsupported(f"{at}.protocol", port.get("protocol") or "", _PROTOCOLS))
    return errors


_ENV_SOURCES: Final = ("fieldRef", "resourceFieldRef", "configMapKeyRef", "secretKeyRef", "fileKeyRef")


def _env(env: list[Manifest], path: str) -> list[FieldError]:
    errors = []
    for index, variable in enumerate(env):
        at, name = f"{path}[{index}]", variable.get("name") or ""
        if not name:
            errors.append(required(f"{at}.name"))
        else:
            errors += [invalid(f"{at}.name", name, problem) for problem in syntax.env_name_problems(name)]
        source = variable.get("valueFrom")
        if source is None:
            continue
        found = [kind for kind in _ENV_SOURCES if kind in source]
        if variable.get("value"):
            errors.append(invalid(f"{at}.valueFrom", "", "may not be specified when `value` is not empty"))
        elif not found:
            options = "`fieldRef`, `resourceFieldRef`, `configMapKeyRef` or `secretKeyRef`"
            errors.append(invalid(f"{at}.valueFrom", "", f"must specify one of: {options}"))
        elif len(found) > 1:
            errors.append(invalid(f"{at}.valueFrom", "", "may not have more than one field specified at a time"))
        for kind in ("configMapKeyRef", "secretKeyRef"):
            if kind in source and not source[kind].get("key"):
                errors.append(required(f"{at}.valueFrom.{kind}.key"))
    return errors


def _mounts(mounts: list[Manifest], path: str, volumes: set[str]) -> list[FieldError]:
    errors = []
    seen: set[str] = set()
    for index, mount in enumerate(mounts):
        at, name, target = f"{path}[{index}]", mount.get("name") or "", mount.get("mountPath") or ""
        if not name:
            errors.append(required(f"{at}.name"))
        elif name not in volumes:
            errors.append(not_found(f"{at}.name", name))
        if not target:
            errors.append(required(f"{at}.mountPath"))
        elif target in seen:
            errors.append(invalid(f"{at}.mountPath", target, "must be unique"))
        seen.add(target)
        inside = mount.get("subPath") or ""
        if inside.startswith("/"):
            errors.append(invalid(f"{at}.subPath", inside, "must be a relative path"))
        elif ".." in inside.split("/"):
            errors.append(invalid(f"{at}.subPath", inside, "must not contain '..'"))
    return errors


def _probe(probe: Manifest, path: str, *, ready: bool) -> list[FieldError]:
    errors = []
    handlers = [name for name in _HANDLERS if name in probe]
    if not handlers:
        errors.append(required(path, "must specify a handler type"))
    errors += [forbidden(f"{path}.{name}", "may not specify more than 1 handler type") for name in handlers[1:]]
    action = probe.get("httpGet") or probe.get("tcpSocket") or probe.get("grpc")
    if action is not None and "httpGet" in probe and not action.get("path"):
        errors.append(required(f"{path}.httpGet.path"))
    if action is not None:
        errors += _target_port(action.get("port"), f"{path}.{handlers[0]}.port")
    for name in ("initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"):
        if (probe.get(name) or 0) < 0:
            errors.append(invalid(f"{path}.{name}", probe[name], "must be greater than or equal to 0"))
    if not ready and probe.get("successThreshold", 1) != 1:
        errors.append(invalid(f"{path}.successThreshold", probe["successThreshold"], "must be 1"))
    return errors


def _target_port(port: Any, path: str) -> list[FieldError]:
    if isinstance(port, str):
        return [invalid(path, port, problem) for problem in syntax.port_name_problems(port)]
    return [invalid(path, port or 0, problem) for problem in syntax.port_number_problems(port or 0)]


def validate_resources(resources: Manifest, path: str) -> list[FieldError]:
    """What is wrong with limits and requests: quantities, and that no request is above its limit."""
    errors = []
    limits, requests = resources.get("limits") or {}, resources.get("requests") or {}
    for part, values in (("limits", limits), ("requests", requests)):
        for name, amount in values.items():
            errors += _amount(name, amount, f"{path}.{part}")
    if errors:
        return errors
    for name, amount in requests.items():
        if name not in limits:
            continue
        if value_of(amount) > value_of(limits[name]):
            detail = f"must be less than or equal to {name} limit of {canonical(limits[name])}"
            errors.append(invalid(f"{path}.requests", amount, detail))
        elif _is_extended(name) and value_of(amount) != value_of(limits[name]):
            detail = f"must be equal to {name} limit of {canonical(limits[name])}"
            errors.append(invalid(f"{path}.requests", amount, detail))
    for name in requests:
        if _is_extended(name) and name not in limits:
            errors.append(required(f"{path}.limits", "Limit must be set for non overcommitable resources"))
    return errors


def _is_extended(name: str) -> bool:
    return "/" in name and not name.partition("/")[0].endswith("kubernetes.io")


def _amount(name: str, amount: Any, path: str) -> list[FieldError]:
    at = f"{path}[{name}]"
    if (
        "/" not in name
        and name not in ("cpu", "memory", "ephemeral-storage", "storage")
        and not name.startswith("hugepages-")
    ):
        return [
            invalid(at, name, "must be a standard resource type or fully qualified"),
            invalid(at, name, "must be a standard resource for containers"),
        ]
    try:
        value = value_of(amount)
    except QuantityError as error:
        return [invalid(at, amount, str(error))]
    if value < 0:
        return [invalid(at, amount, "must be greater than or equal to 0")]
    if _is_extended(name) and value != value.to_integral_value():
        return [invalid(at, amount, "must be an integer")]
    return []


def validate_pod_update(pod: Manifest, old: Manifest) -> list[FieldError]:
    """What may not change in a pod: all of the spec but images, deadline, and additions to tolerations."""
    spec, before = pod.get("spec") or {}, old.get("spec") or {}
    if spec == before:
        return []
    errors = []
    if len(spec.get("containers") or []) != len(before.get("containers") or []):
        return [forbidden("spec.containers", "pod updates may not add or remove containers")]
    for toleration in before.get("tolerations") or []:
        if toleration not in (spec.get("tolerations") or []):
            errors.append(
                forbidden("spec.tolerations", "existing toleration can not be modified except its tolerationSeconds")
            )
            break
    masked = _masked(spec, before)
    if masked != before:
        errors.append(FieldError("spec", "FieldValueForbidden", f"{_UPDATABLE}\n{quoted(_changes(before, masked))}"))
    return errors


def _masked(spec: Manifest, before: Manifest) -> Manifest:
    """The new spec with everything that may change taken from the old one."""
    masked = deepcopy(spec)
    for group in ("containers", "initContainers"):
        for new, old in zip(masked.get(group) or [], before.get(group) or [], strict=False):
            new["image"] = old.get("image")
    gated = bool(before.get("schedulingGates"))
    free = ["activeDeadlineSeconds", "tolerations", "schedulingGates"]
    if before.get("terminationGracePeriodSeconds", 0) < 0:
        free.append("terminationGracePeriodSeconds")
    if gated:
        free += ["nodeSelector", "affinity"]
    for name in free:
        masked.pop(name, None)
        if name in before:
            masked[name] = before[name]
    return masked


def _changes(before: Manifest, after: Manifest) -> Manifest:
    return {name: after.get(name) for name in {**before, **after} if before.get(name) != after.get(name)}
