# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""What the server tells of itself: groups, versions and resources, in the old form and the aggregated one.

Pure functions from the served kinds to documents. `kubectl` starts every session with these.
"""

from __future__ import annotations

import base64
import hashlib

from kaito.engine.kinds import STANDARD_SUBRESOURCE_VERBS, SUBRESOURCE_KINDS, SUBRESOURCE_VERBS, Kind, Kinds
from kaito.kube.manifest import Manifest

VERSION: Manifest = {
    "major": "1",
    "minor": "36",
    "gitVersion": "v1.36.0+kaito",
    "gitCommit": "kaito",
    "gitTreeState": "clean",
    "buildDate": "2026-01-01T00:00:00Z",
    "goVersion": "none",
    "compiler": "cpython",
    "platform": "linux/amd64",
}

HEALTH_CHECKS = ("ping", "log", "etcd", "poststarthook/crd-informer-synced", "poststarthook/rbac/bootstrap-roles")


def api_versions(server: str) -> Manifest:
    """`/api`."""
    addresses = [{"clientCIDR": "0.0.0.0/0", "serverAddress": server}]
    return {"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": addresses}


def group(name: str, versions: list[str]) -> Manifest:
    """One group, as in `/apis` and at `/apis/GROUP`."""
    served = [{"groupVersion": f"{name}/{version}", "version": version} for version in versions]
    return {"name": name, "versions": served, "preferredVersion": served[0]}


def group_list(kinds: Kinds) -> Manifest:
    """`/apis`."""
    groups = [group(name, versions) for name, versions in kinds.groups().items() if name]
    return {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}


def one_group(kinds: Kinds, name: str) -> Manifest | None:
    """`/apis/GROUP`, or None when the group is not served."""
    versions = kinds.groups().get(name)
    return {"kind": "APIGroup", "apiVersion": "v1", **group(name, versions)} if versions and name else None


def subresource_kind(kind: Kind, subresource: str) -> tuple[str, str, str]:
    """Group, version and kind that a subresource speaks; group and version are empty where they are the owner's."""
    if subresource == "proxy":
        return ("", "", f"{kind.kind}ProxyOptions")
    return SUBRESOURCE_KINDS.get(subresource, ("", "", kind.kind))


def resource_list(kinds: Kinds, group_name: str, version: str) -> Manifest | None:
    """`/apis/GROUP/VERSION`, or None when that is not served."""
    resources: list[Manifest] = []
    for kind in kinds.all():
        if (kind.group, kind.version) == (group_name, version):
            resources.append(_resource(kind))
            resources += [_subresource(kind, name) for name in kind.subresources]
    if not resources:
        return None
    api_version = f"{group_name}/{version}" if group_name else version
    body: Manifest = {"kind": "APIResourceList"}
    if group_name:
        body["apiVersion"] = "v1"
    return {**body, "groupVersion": api_version, "resources": resources}


def _resource(kind: Kind) -> Manifest:
    entry: Manifest = {
        "name": kind.plural,
        "singularName": kind.singular_name,
        "namespaced": kind.namespaced,
        "kind": kind.kind,
        "verbs": list(kind.verbs),
    }
    if kind.short_names:
        entry["shortNames"] = list(kind.short_names)
    if kind.categories:
        entry["categories"] = list(kind.categories)
    if "list" in kind.verbs:
        entry["storageVersionHash"] = _hash(kind)
    return entry


def _hash(kind: Kind) -> str:
    digest = hashlib.sha256(f"{kind.api_version}/{kind.kind}".encode()).digest()
    return base64.b64encode(digest[:8]).decode()


def _subresource(kind: Kind, name: str) -> Manifest:
    group_name, version, spoken = subresource_kind(kind, name)
    entry: Manifest = {"name": f"{kind.plural}/{name}", "singularName": "", "namespaced": kind.namespaced}
    if version:
        entry |= {"group": group_name, "version": version}
    return {**entry, "kind": spoken, "verbs": list(SUBRESOURCE_VERBS.get(name, STANDARD_SUBRESOURCE_VERBS))}


def aggregated(kinds: Kinds, *, core: bool, version: str = "v2") -> Manifest:
    """`/api` (core) or `/apis` as APIGroupDiscoveryList: everything in one answer."""
    items: list[Manifest] = []
    for name, versions in kinds.groups().items():
        if bool(name) != core:
            entries = [_aggregated_version(kinds, name, entry) for entry in versions]
            items.append({"metadata": {"name": name, "creationTimestamp": None} if name else {}, "versions": entries})
    return {
        "kind": "APIGroupDiscoveryList",
        "apiVersion": f"apidiscovery.k8s.io/{version}",
        "metadata": {},
        "items": items,
    }


def _aggregated_version(kinds: Kinds, group_name: str, version: str) -> Manifest:
    resources = [
        _aggregated_resource(kind) for kind in kinds.all() if (kind.group, kind.version) == (group_name, version)
    ]
    return {"version": version, "resources": resources, "freshness": "Current"}


def _response_kind(kind: Kind, spoken: tuple[str, str, str]) -> Manifest:
    group_name, version, name = spoken
    if version:
        return {"group": group_name, "version": version, "kind": name}
    return {"group": kind.group, "version": kind.version, "kind": name}


def _aggregated_resource(kind: Kind) -> Manifest:
    entry: Manifest = {
        "resource": kind.plural,
        "responseKind": {"group": kind.group, "version": kind.version, "kind": kind.kind},
        "scope": "Namespaced" if kind.namespaced else "Cluster",
        "singularResource": kind.singular_name,
        "verbs": list(kind.verbs),
    }
    if kind.short_names:
        entry["shortNames"] = list(kind.short_names)
    if kind.categories:
        entry["categories"] = list(kind.categories)
    if kind.subresources:
        entry["subresources"] = [
            {
                "subresource": name,
                "responseKind": _response_kind(kind, subresource_kind(kind, name)),
                "verbs": list(SUBRESOURCE_VERBS.get(name, STANDARD_SUBRESOURCE_VERBS)),
            }
            for name in kind.subresources
        ]
    return entry


def root_paths(kinds: Kinds) -> Manifest:
    """`/`: the paths there are."""
    paths = ["/api", "/api/v1", "/apis", "/apis/"]
    for name, versions in kinds.groups().items():
        if name:
            paths += [f"/apis/{name}", *(f"/apis/{name}/{version}" for version in versions)]
    paths += ["/healthz", "/livez", "/openapi/v2", "/openapi/v3", "/openapi/v3/", "/readyz", "/version"]
    return {"paths": sorted(paths)}
