# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Validation of the core kinds beside pods: Services, ConfigMaps, Secrets, Nodes, storage, EndpointSlices, Leases."""

from __future__ import annotations

import base64
import ipaddress
import json
from typing import Any, Final

from kaito.engine.schema import syntax
from kaito.engine.schema.field import (
    FieldError,
    duplicate,
    forbidden,
    invalid,
    quoted,
    required,
    unsupported,
)
from kaito.engine.schema.quantity import value_of
from kaito.kube.manifest import Manifest

_IMMUTABLE: Final = "field is immutable"
_SET_IMMUTABLE: Final = "field is immutable when `immutable` is set"
_SERVICE_TYPES: Final = ("ClusterIP", "ExternalName", "LoadBalancer", "NodePort")
_PROTOCOLS: Final = ("SCTP", "TCP", "UDP")
_ACCESS_MODES: Final = ("ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod")
_TAINT_EFFECTS: Final = ("NoSchedule", "PreferNoSchedule", "NoExecute")
_MAX_SECRET: Final = 1024 * 1024
_VOLUME_FIELDS: Final = frozenset(
    {
        "accessModes",
        "capacity",
        "claimRef",
        "mountOptions",
        "nodeAffinity",
        "persistentVolumeReclaimPolicy",
        "storageClassName",
        "volumeAttributesClassName",
        "volumeMode",
    }
)
_CIDR_RULE: Final = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)"
_CLAIM_RULE: Final = (
    "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims"
)


def validate_service(obj: Manifest) -> list[FieldError]:
    """What is wrong with a Service."""
    spec = obj.get("spec") or {}
    kind, ports, address = spec.get("type"), spec.get("ports") or [], spec.get("clusterIP") or ""
    errors = []
    if kind not in _SERVICE_TYPES:
        errors.append(unsupported("spec.type", kind or "", _SERVICE_TYPES))
    if not ports and address != "None" and kind != "ExternalName":
        errors.append(required("spec.ports"))
    if kind == "ExternalName":
        errors += _external_name(spec)
    elif address and address != "None":
        errors += [invalid("spec.clusterIPs[0]", address, problem) for problem in syntax.ip_problems(address)]
    if address == "None" and kind in ("LoadBalancer", "NodePort"):
        errors.append(invalid("spec.clusterIPs[0]", address, f"may not be set to 'None' for {kind} services"))
    errors += _service_ports(ports)
    for key, value in sorted((spec.get("selector") or {}).items()):
        errors += [invalid("spec.selector", key, problem) for problem in syntax.label_key_problems(key)]
        errors += [invalid("spec.selector", value, problem) for problem in syntax.label_value_problems(value)]
    affinity = spec.get("sessionAffinity")
    if affinity not in ("ClientIP", "None"):
        errors.append(unsupported("spec.sessionAffinity", affinity or "", ("ClientIP", "None")))
    return errors


def _external_name(spec: Manifest) -> list[FieldError]:
    name = spec.get("externalName") or ""
    if spec.get("clusterIP"):
        return [forbidden("spec.clusterIPs[0]", "may not be set when `type` is 'ExternalName'")]
    if not name:
        return [required("spec.externalName")]
    return [invalid("spec.externalName", name, problem) for problem in syntax.dns_subdomain_problems(name.rstrip("."))]


def _service_ports(ports: list[Manifest]) -> list[FieldError]:
    errors = []
    names: set[str] = set()
    numbers: set[tuple[Any, Any]] = set()
    for index, port in enumerate(ports):
        at, name, number = f"spec.ports[{index}]", port.get("name") or "", port.get("port") or 0
        if not name and len(ports) > 1:
            errors.append(required(f"{at}.name"))
        elif name:
            errors += [invalid(f"{at}.name", name, problem) for problem in syntax.dns_label_problems(name)]
            if name in names:
                errors.append(duplicate(f"{at}.name", name))
            names.add(name)
        errors += [invalid(f"{at}.port", number, problem) for problem in syntax.port_number_problems(number)]
        if port.get("protocol") not in _PROTOCOLS:
            errors.append(unsupported(f"{at}.protocol", port.get("protocol") or "", _PROTOCOLS))
        errors += _target_port(port.get("targetPort"), f"{at}.targetPort")
        if (number, port.get("protocol")) in numbers:
            errors.append(duplicate(at, {"port": number, "protocol": port.get("protocol")}))
        numbers.add((number, port.get("protocol")))
    return errors


def _target_port(target: Any, path: str) -> list[FieldError]:
    if isinstance(target, str):
        return [invalid(path, target, problem) for problem in syntax.port_name_problems(target)]
    if target is None:
        return []
    return [invalid(path, target, problem) for problem in syntax.port_number_problems(target)]


def validate_service_update(obj: Manifest, old: Manifest) -> list[FieldError]:
    """A ClusterIP may not change once it is given, unless the type becomes ExternalName."""
    spec, before = obj.get("spec") or {}, old.get("spec") or {}
    was, now = before.get("clusterIP"), spec.get("clusterIP")
    if "ExternalName" in (spec.get("type"), before.get("type")) or not was or was == now:
        return []
    return [invalid("spec.clusterIPs[0]", [now] if now else None, "may not change once set")]


def validate_config_map(obj: Manifest) -> list[FieldError]:
    """What is wrong with a ConfigMap."""
    data, binary = obj.get("data") or {}, obj.get("binaryData") or {}
    errors = []
    for key in sorted(data):
        errors += [invalid(f"data[{key}]", key, problem) for problem in syntax.config_key_problems(key)]
        if key in binary:
            errors.append(invalid(f"data[{key}]", key, "duplicate of key present in binaryData"))
    for key in sorted(binary):
        errors += [invalid(f"binaryData[{key}]", key, problem) for problem in syntax.config_key_problems(key)]
    size = sum(len(text.encode()) for text in data.values()) + sum(len(text) * 3 // 4 for text in binary.values())
    if size > _MAX_SECRET:
        errors.append(FieldError("", "FieldValueTooLong", f"Too long: may not be more than {_MAX_SECRET} bytes"))
    return errors


def validate_config_map_update(obj: Manifest, old: Manifest) -> list[FieldError]:
    """What may not change in an immutable ConfigMap."""
    if not old.get("immutable"):
        return []
    errors = [] if obj.get("immutable") else [forbidden("immutable", _SET_IMMUTABLE)]
    for name in ("data", "binaryData"):
        if (obj.get(name) or {}) != (old.get(name) or {}):
            errors.append(forbidden(name, _SET_IMMUTABLE))
    return errors


_SECRET_KEYS: Final = {
    "kubernetes.io/tls": ("tls.crt", "tls.key"),
    "kubernetes.io/ssh-auth": ("ssh-privatekey",),
    "kubernetes.io/dockerconfigjson": (".dockerconfigjson",),
    "kubernetes.io/dockercfg": (".dockercfg",),
}


def validate_secret(obj: Manifest) -> list[FieldError]:
    """What is wrong with a Secret; no message shows its data."""
    data, kind = obj.get("data") or {}, obj.get("type")
    errors = []
    for key in sorted(data):
        errors += [invalid(f"data[{key}]", key, problem) for problem in syntax.config_key_problems(key)]
    if sum(len(text) * 3 // 4 for text in data.values()) > _MAX_SECRET:
        errors.append(FieldError("data", "FieldValueTooLong", f"Too long: may not be more than {_MAX_SECRET} bytes"))
    for key in _SECRET_KEYS.get(kind or "", ()):
        if key not in data:
            errors.append(required(f"data[{key}]"))
        elif key.startswith(".docker"):
            errors += _docker_config(data[key], f"data[{key}]")
    if kind == "kubernetes.io/basic-auth" and not {"username", "password"} & set(data):
        errors += [required("data[username]"), required("data[password]")]
    if kind == "kubernetes.io/service-account-token":
        name = ((obj.get("metadata") or {}).get("annotations") or {}).get("kubernetes.io/service-account.name")
        if not name:
            errors.append(required("metadata.annotations[kubernetes.io/service-account.name]"))
    return errors


def _docker_config(text: str, path: str) -> list[FieldError]:
    plain = base64.b64decode(text)
    try:
        json.loads(plain)
    except ValueError:
        return [invalid(path, "<secret contents redacted>", _go_json_error(plain))]
    return []


def _go_json_error(text: bytes) -> str:
    """What Go's decoder says about the first character of a document that is no JSON."""
    for literal in (b"null", b"true", b"false"):
        if text[:1] == literal[:1]:
            for at, (found, wanted) in enumerate(zip(text, literal, strict=False)):
                if found != wanted:
                    word = literal.decode()
                    return f"invalid character {chr(found)!r} in literal {word} (expecting {chr(literal[at])!r})"
    if not text.strip():
        return "unexpected end of JSON input"
    return f"invalid character {chr(text.strip()[0])!r} looking for beginning of value"


def validate_secret_update(obj: Manifest, old: Manifest) -> list[FieldError]:
    """A Secret's type may not change, and nothing in an immutable one."""
    errors = [] if obj.get("type") == old.get("type") else [invalid("type", obj.get("type"), _IMMUTABLE)]
    if old.get("immutable"):
        if not obj.get("immutable"):
            errors.append(forbidden("immutable", _SET_IMMUTABLE))
        if (obj.get("data") or {}) != (old.get("data") or {}):
            errors.append(forbidden("data", _SET_IMMUTABLE))
    return errors


def validate_node_update(obj: Manifest, old: Manifest) -> list[FieldError]:
    """Kubernetes judges the taints of an update once more."""
    return _taints(obj)


def _taints(obj: Manifest) -> list[FieldError]:
    errors = []
    for index, taint in enumerate((obj.get("spec") or {}).get("taints") or []):
        at, key, effect = f"metadata.taints[{index}]", taint.get("key") or "", taint.get("effect") or ""
        errors += [invalid(f"{at}.key", key, problem) for problem in syntax.label_key_problems(key)]
        if not effect:
            errors.append(required(f"{at}.effect"))
        elif effect not in _TAINT_EFFECTS:
            errors.append(unsupported(f"{at}.effect", effect, _TAINT_EFFECTS))
    return errors


def validate_node(obj: Manifest) -> list[FieldError]:
    """What is wrong with a Node."""
    spec = obj.get("spec") or {}
    errors = _taints(obj)
    networks = spec.get("podCIDRs") or ([spec["podCIDR"]] if spec.get("podCIDR") else [])
    for index, network in enumerate(networks):
        try:
            ipaddress.ip_network(network)
        except ValueError:
            errors.append(invalid(f"spec.podCIDRs[{index}]", network, _CIDR_RULE))
    return errors


def validate_claim(obj: Manifest) -> list[FieldError]:
    """What is wrong with a PersistentVolumeClaim."""
    spec = obj.get("spec") or {}
    modes = spec.get("accessModes") or []
    errors = [] if modes else [required("spec.accessModes", "at least 1 access mode is required")]
    errors += [unsupported("spec.accessModes", mode, _ACCESS_MODES) for mode in modes if mode not in _ACCESS_MODES]
    size = ((spec.get("resources") or {}).get("requests") or {}).get("storage")
    if size is None:
        errors.append(required("spec.resources[storage]"))
    elif value_of(size) <= 0:
        errors.append(invalid("spec.resources[storage]", size, "must be greater than zero"))
    name = spec.get("storageClassName")
    if name:
        errors += [invalid("spec.storageClassName", name, problem) for problem in syntax.dns_subdomain_problems(name)]
    return errors


def validate_claim_update(obj: Manifest, old: Manifest) -> list[FieldError]:
    """What may not change in a claim: all of its spec, but a binder may set the volume, and requests may grow."""
    spec, before = dict(obj.get("spec") or {}), dict(old.get("spec") or {})
    if not before.get("volumeName"):
        before.pop("volumeName", None)
        spec.pop("volumeName", None)
    if before.get("storageClassName") is None:
        spec.pop("storageClassName", None)
    for name in ("resources", "volumeAttributesClassName"):
        spec.pop(name, None)
        before.pop(name, None)
    if spec == before:
        return []
    changes = {name: spec.get(name) for name in {**before, **spec} if before.get(name) != spec.get(name)}
    return [FieldError("spec", "FieldValueForbidden", f"Forbidden: {_CLAIM_RULE}\n{quoted(changes)}")]


def validate_volume(obj: Manifest) -> list[FieldError]:
    """What is wrong with a PersistentVolume."""
    spec = obj.get("spec") or {}
    modes = spec.get("accessModes") or []
    errors = [] if modes else [required("spec.accessModes")]
    errors += [unsupported("spec.accessModes", mode, _ACCESS_MODES) for mode in modes if mode not in _ACCESS_MODES]
    capacity = spec.get("capacity") or {}
    if not capacity:
        errors.append(required("spec.capacity"))
    elif set(capacity) != {"storage"}:
        errors.append(unsupported("spec.capacity", capacity, ("storage",)))
    sources = [name for name in spec if name not in _VOLUME_FIELDS]
    if not sources:
        errors.append(required("spec", "must specify a volume type"))
    errors += [forbidden(f"spec.{name}", "may not specify more than 1 volume type") for name in sources[1:]]
    policy = spec.get("persistentVolumeReclaimPolicy")
    if policy not in ("Delete", "Recycle", "Retain"):
        values = ("Delete", "Recycle", "Retain")
        errors.append(unsupported("spec.persistentVolumeReclaimPolicy", policy or "", values))
    return errors


def validate_storage_class(obj: Manifest) -> list[FieldError]:
    """What is wrong with a StorageClass."""
    errors = [] if obj.get("provisioner") else [required("provisioner", "")]
    if obj.get("reclaimPolicy") not in ("Delete", "Retain"):
        errors.append(unsupported("reclaimPolicy", obj.get("reclaimPolicy") or "", ("Delete", "Retain")))
    mode = obj.get("volumeBindingMode")
    if mode not in ("Immediate", "WaitForFirstConsumer"):
        errors.append(unsupported("volumeBindingMode", mode or "", ("Immediate", "WaitForFirstConsumer")))
    return errors


def validate_storage_class_update(obj: Manifest, old: Manifest) -> list[FieldError]:
    """What may not change in a StorageClass."""
    errors = []
    for name in ("parameters", "provisioner", "reclaimPolicy", "volumeBindingMode"):
        if obj.get(name) != old.get(name):
            error = forbidden("parameters", "updates to parameters are forbidden.")
            errors.append(error if name == "parameters" else invalid(name, obj.get(name), _IMMUTABLE))
    return errors


def validate_endpoint_slice(obj: Manifest) -> list[FieldError]:
    """What is wrong with an EndpointSlice."""
    family = obj.get("addressType") or ""
    errors = []
    if not family:
        errors.append(required("addressType"))
    elif family not in ("FQDN", "IPv4", "IPv6"):
        errors.append(unsupported("addressType", family, ("FQDN", "IPv4", "IPv6")))
    for index, endpoint in enumerate(obj.get("endpoints") or []):
        path = f"endpoints[{index}].addresses"
        addresses = endpoint.get("addresses") or []
        if not addresses:
            errors.append(required(path, "must contain at least 1 address"))
        rule = syntax.dns_subdomain_problems if family == "FQDN" else syntax.ip_problems
        for at, address in enumerate(addresses):
            errors += [invalid(f"{path}[{at}]", address, problem) for problem in rule(address)]
    names: set[str] = set()
    for index, port in enumerate(obj.get("ports") or []):
        name = port.get("name") or ""
        if name in names:
            errors.append(duplicate(f"ports[{index}].name", name))
        names.add(name)
    return errors


def validate_endpoint_slice_update(obj: Manifest, old: Manifest) -> list[FieldError]:
    """The address type of a slice may not change."""
    same = obj.get("addressType") == old.get("addressType")
    return [] if same else [invalid("addressType", obj.get("addressType"), _IMMUTABLE)]


def validate_lease(obj: Manifest) -> list[FieldError]:
    """What is wrong with a Lease."""
    spec = obj.get("spec") or {}
    errors = []
    if spec.get("leaseDurationSeconds") is not None and spec["leaseDurationSeconds"] <= 0:
        path = "spec.leaseDurationSeconds"
        errors.append(invalid(path, spec["leaseDurationSeconds"], "must be greater than 0"))
    if (spec.get("leaseTransitions") or 0) < 0:
        path = "spec.leaseTransitions"
        errors.append(invalid(path, spec["leaseTransitions"], "must be greater than or equal to 0"))
    return errors


def validate_event(obj: Manifest) -> list[FieldError]:
    """What is wrong with an Event: it lives where the object that it is about lives."""
    about = obj.get("involvedObject") or obj.get("regarding") or {}
    namespace = (obj.get("metadata") or {}).get("namespace") or ""
    if (about.get("namespace") or "default") == namespace or not namespace:
        return []
    return [invalid("involvedObject.namespace", about.get("namespace") or "", "does not match event.namespace")]
