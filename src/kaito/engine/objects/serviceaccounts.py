# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""What a new pod gets from its ServiceAccount: the account's name, its pull secrets, and a volume with its token.

As Kubernetes' admission plugin ServiceAccount (source: plugin/pkg/admission/serviceaccount). One difference: the
account `default` need not be there yet, because a namespace is given it right after it was made.
"""

from __future__ import annotations

import random
from typing import Final

from kaito.engine.kinds import Kind
from kaito.engine.objects.registry import NAME_SUFFIX_LETTERS, Registry
from kaito.engine.wire.status import forbidden
from kaito.kube.manifest import Manifest

DEFAULT_ACCOUNT: Final = "default"
VOLUME_PREFIX: Final = "kube-api-access-"
MOUNT_PATH: Final = "/var/run/secrets/kubernetes.io/serviceaccount"
TOKEN_S: Final = 3607
"""How long the token is asked for, in seconds: an hour, told from one that a user asks for."""


def with_account(registry: Registry, kind: Kind, namespace: str, obj: Manifest) -> Manifest:
    """The new pod with all that its ServiceAccount gives it; any other object as it is.

    Raises StatusError 403 when the account that the pod names is not there.
    """
    if kind.collection != "/pods":
        return obj
    name = obj["spec"].get("serviceAccountName") or DEFAULT_ACCOUNT
    account = registry.object("", "serviceaccounts", name, namespace)
    if account is None and name != DEFAULT_ACCOUNT:
        why = f'error looking up service account {namespace}/{name}: serviceaccount "{name}" not found'
        raise forbidden(kind, obj["metadata"].get("name", ""), why)
    account = account or {}
    spec = {**obj["spec"], "serviceAccountName": name, "serviceAccount": name}
    if not spec.get("imagePullSecrets") and account.get("imagePullSecrets"):
        spec["imagePullSecrets"] = account["imagePullSecrets"]
    return {**obj, "spec": _with_token(spec) if _wants_token(spec, account) else spec}


def without_token(pod: Manifest) -> Manifest:
    """The pod without its token's volume, for readers to whom it means nothing.

    The volume's name is each pod's own; without it the specs of an owner's pods are equal.
    """
    spec = pod.get("spec") or {}
    names = {volume["name"] for volume in spec.get("volumes") or () if volume["name"].startswith(VOLUME_PREFIX)}
    if not names:
        return pod
    kept = {**spec, "volumes": _others(spec["volumes"], names)}
    for part in ("initContainers", "containers"):
        if part in spec:
            kept[part] = [
                {**container, "volumeMounts": _others(container.get("volumeMounts") or [], names)}
                for container in spec[part]
            ]
    return {**pod, "spec": kept}


def _others(named: list[Manifest], names: set[str]) -> list[Manifest]:
    return [item for item in named if item["name"] not in names]


def _wants_token(spec: Manifest, account: Manifest) -> bool:
    for holder in (spec, account):
        wish = holder.get("automountServiceAccountToken")
        if wish is not None:
            return bool(wish)
    return True


def _with_token(spec: Manifest) -> Manifest:
    """The spec with the token's volume, mounted into every container that has nothing else at its place."""
    volumes = spec.get("volumes") or []
    known = next((volume["name"] for volume in volumes if volume["name"].startswith(VOLUME_PREFIX)), None)
    name = known or VOLUME_PREFIX + "".join(random.choices(NAME_SUFFIX_LETTERS, k=5))
    mount = {"name": name, "readOnly": True, "mountPath": MOUNT_PATH}
    parts: Manifest = {}
    is_mounted = False
    for part in ("initContainers", "containers"):
        parts[part] = [_mounted(container, mount) for container in spec.get(part) or []]
        is_mounted = is_mounted or parts[part] != (spec.get(part) or [])
    if not is_mounted:
        return spec
    changed = {**spec, **{part: containers for part, containers in parts.items() if containers}}
    return changed if known else {**changed, "volumes": [*volumes, _volume(name)]}


def _mounted(container: Manifest, mount: Manifest) -> Manifest:
    mounts = container.get("volumeMounts") or []
    if any(own.get("mountPath") == MOUNT_PATH for own in mounts):
        return container
    return {**container, "volumeMounts": [*mounts, mount]}


def _volume(name: str) -> Manifest:
    namespace = {"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}
    sources: list[Manifest] = [
        {"serviceAccountToken": {"expirationSeconds": TOKEN_S, "path": "token"}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {"downwardAPI": {"items": [namespace]}},
    ]
    return {"name": name, "projected": {"sources": sources, "defaultMode": 0o644}}
