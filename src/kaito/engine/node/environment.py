# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""A container's environment variables, as Kubernetes computes them. Pure.

What pods refer to (ConfigMaps, Secrets) is looked up through `Sources`; a missing one is a `ConfigError`, whose text
is what `kubectl describe pod` shows beside CreateContainerConfigError.
"""

from __future__ import annotations

import base64
import binascii
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Protocol

from kaito.engine.schema.quantity import QuantityError, value_of
from kaito.kube.manifest import Manifest, annotations_of, labels_of

REFERENCE = re.compile(r"\$\$|\$\(([-._a-zA-Z0-9]+)\)")
SUBSCRIPT = re.compile(r"^metadata\.(labels|annotations)\['(.*)'\]$")


class ConfigError(Exception):
    """The container cannot be created because something it refers to is not there."""


class Sources(Protocol):
    """Where objects that pods refer to are looked up; None when there is no such object."""

    def config_map(self, namespace: str, name: str) -> Manifest | None:
        """The ConfigMap."""

    def secret(self, namespace: str, name: str) -> Manifest | None:
        """The Secret."""

    def claim(self, namespace: str, name: str) -> Manifest | None:
        """The PersistentVolumeClaim."""

    def volume(self, name: str) -> Manifest | None:
        """The PersistentVolume."""


@dataclass(frozen=True, slots=True)
class Placement:
    """What a pod learns about where it runs."""

    address: str
    host_address: str
    node_name: str
    cpu: Decimal = Decimal(1)
    """What the node has: stands in for a missing limit, as Kubernetes does."""
    memory: Decimal = Decimal(0)


def api_environment(host: str, port: int) -> dict[str, str]:
    """What tells every container where the API is: the variables of the Service `kubernetes`, as the kubelet sets them.

    They name the server itself and not its Service: an ordinary user may not listen on the Service's port 443.
    """
    url = f"tcp://{host}:{port}"
    return {
        "KUBERNETES_SERVICE_HOST": host,
        "KUBERNETES_SERVICE_PORT": str(port),
        "KUBERNETES_SERVICE_PORT_HTTPS": str(port),
        "KUBERNETES_PORT": url,
        f"KUBERNETES_PORT_{port}_TCP": url,
        f"KUBERNETES_PORT_{port}_TCP_ADDR": host,
        f"KUBERNETES_PORT_{port}_TCP_PORT": str(port),
        f"KUBERNETES_PORT_{port}_TCP_PROTO": "tcp",
    }


def expand(text: str, variables: Mapping[str, str]) -> str:
    """`text` with `$(NAME)` replaced; unknown names stay as written, `$$` means one `$`."""

    def value(match: re.Match[str]) -> str:
        name = match.group(1)
        if name is None:
            return "$"
        return variables.get(name, match.group(0))

    return REFERENCE.sub(value, text)


def declared(pod: Manifest, container: Manifest, sources: Sources, placement: Placement) -> dict[str, str]:
    """The variables that the manifest declares (`envFrom`, then `env`). Raises ConfigError."""
    variables: dict[str, str] = {}
    namespace = pod["metadata"].get("namespace", "")
    for item in container.get("envFrom") or []:
        prefix = item.get("prefix", "")
        variables |= {prefix + name: value for name, value in _all_of(item, namespace, sources).items()}
    for item in container.get("env") or []:
        value = _value(item, pod, container, sources, placement, variables)
        if value is not None:
            variables[item["name"]] = value
    return variables


def _value(
    item: Manifest,
    pod: Manifest,
    container: Manifest,
    sources: Sources,
    placement: Placement,
    variables: Mapping[str, str],
) -> str | None:
    origin = item.get("valueFrom")
    if not origin:
        return expand(item.get("value", ""), variables)
    if "fieldRef" in origin:
        return field(pod, origin["fieldRef"]["fieldPath"], placement)
    if "resourceFieldRef" in origin:
        return resource(pod, container, origin["resourceFieldRef"], placement)
    return _one_of(origin, pod["metadata"].get("namespace", ""), sources)


def _one_of(origin: Manifest, namespace: str, sources: Sources) -> str | None:
    """The value of one key of a ConfigMap or Secret; None when it is missing and optional."""
    reference = origin.get("configMapKeyRef") or origin.get("secretKeyRef") or {}
    kind = "ConfigMap" if "configMapKeyRef" in origin else "Secret"
    name, key = reference.get("name", ""), reference.get("key", "")
    found = sources.config_map(namespace, name) if kind == "ConfigMap" else sources.secret(namespace, name)
    if found is None:
        if reference.get("optional"):
            return None
        raise ConfigError(f'{kind.lower()} "{name}" not found')
    data = texts_of(found)
    if key in data:
        return data[key]
    if reference.get("optional"):
        return None
    raise ConfigError(f"couldn't find key {key} in {kind} {namespace}/{name}")


def _all_of(item: Manifest, namespace: str, sources: Sources) -> dict[str, str]:
    """All values of a ConfigMap or Secret."""
    reference = item.get("configMapRef") or item.get("secretRef") or {}
    is_map = "configMapRef" in item
    name = reference.get("name", "")
    found = sources.config_map(namespace, name) if is_map else sources.secret(namespace, name)
    if found is not None:
        return texts_of(found)
    if reference.get("optional"):
        return {}
    raise ConfigError(f'{"configmap" if is_map else "secret"} "{name}" not found')


def bytes_of(obj: Manifest) -> dict[str, bytes]:
    """The contents of a ConfigMap or Secret by key."""
    contents = {}
    if obj.get("kind") == "Secret":
        encoded, plain = obj.get("data") or {}, obj.get("stringData") or {}
    else:
        encoded, plain = obj.get("binaryData") or {}, obj.get("data") or {}
    for key, text in plain.items():
        contents[key] = text.encode()
    for key, text in encoded.items():
        try:
            contents[key] = base64.b64decode(text or "")
        except binascii.Error as error:
            raise ConfigError(f"{obj['metadata']['name']}: key {key} is not base64") from error
    return contents


def texts_of(obj: Manifest) -> dict[str, str]:
    """The contents that can be an environment variable; binary data of a ConfigMap cannot."""
    contents = bytes_of(obj)
    if obj.get("kind") != "Secret":
        contents = {key: contents[key] for key in obj.get("data") or {}}
    return {key: value.decode(errors="replace") for key, value in contents.items()}


def field(pod: Manifest, path: str, placement: Placement) -> str:
    """What a `fieldRef` means. Raises ConfigError for a path that Kubernetes does not know."""
    meta, spec = pod["metadata"], pod["spec"]
    match = SUBSCRIPT.match(path)
    if match:
        texts = labels_of(pod) if match.group(1) == "labels" else annotations_of(pod)
        return texts.get(match.group(2), "")
    simple = {
        "metadata.name": meta["name"],
        "metadata.namespace": meta.get("namespace", ""),
        "metadata.uid": meta.get("uid", ""),
        "metadata.labels": _listing(labels_of(pod)),
        "metadata.annotations": _listing(annotations_of(pod)),
        "spec.nodeName": placement.node_name,
        "spec.serviceAccountName": spec.get("serviceAccountName", "default"),
        "status.hostIP": placement.host_address,
        "status.hostIPs": placement.host_address,
        "status.podIP": placement.address,
        "status.podIPs": placement.address,
    }
    if path not in simple:
        raise ConfigError(f"unsupported fieldPath: {path}")
    return str(simple[path])


def _listing(texts: Mapping[str, str]) -> str:
    lines = []
    for key in sorted(texts):
        quoted = texts[key].replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
        lines.append(f'{key}="{quoted}"')
    return "\n".join(lines)


def resource(pod: Manifest, container: Manifest, reference: Manifest, placement: Placement) -> str:
    """What a `resourceFieldRef` means: the amount in units of the divisor, rounded up. Raises ConfigError."""
    name = reference.get("containerName")
    if name:
        everyone = [*(pod["spec"].get("initContainers") or []), *pod["spec"]["containers"]]
        container = next((item for item in everyone if item["name"] == name), container)
    where, _, what = reference["resource"].partition(".")
    resources = container.get("resources") or {}
    text = (resources.get(where) or {}).get(what)
    if text is None and where == "limits" and what in ("cpu", "memory"):
        amount = placement.cpu if what == "cpu" else placement.memory
    else:
        amount = _quantity(text or 0)
    divisor = _quantity(reference.get("divisor") or 0) or Decimal(1)
    return str(math.ceil(amount / divisor))


def _quantity(text: str | int | float) -> Decimal:
    try:
        return value_of(text)
    except QuantityError as error:
        raise ConfigError(f"{text!r} is not a quantity") from error
