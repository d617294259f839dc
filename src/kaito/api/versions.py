# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Older API versions of a Workspace to the one that we work with, and back, as pure functions on manifests.

Inside there is only v1beta1. Both versions carry the same fields in their schemas, so that an API server that converts
by rewriting `apiVersion` (strategy None) keeps every field. The one difference is the instance type that v1alpha1 fills
in where none is given: a Workspace on nodes of one's own, read and written back as v1alpha1, would order a machine.
Converted here, it has an empty instance type in v1alpha1, which nothing fills in, and none in v1beta1.
"""

from __future__ import annotations

from typing import Final

from kaito.api.meta import WORKSPACES, WORKSPACES_V1ALPHA1
from kaito.kube.manifest import Manifest

V1ALPHA1_INSTANCE_TYPE: Final = "Standard_NC24ads_A100_v4"
"""What `resource.instanceType` is in v1alpha1 when a resource is given without one."""


class UnservedVersion(ValueError):
    """The manifest's apiVersion is none of ours."""


def to_v1beta1(manifest: Manifest) -> Manifest:
    """A Workspace of any served version as v1beta1; the argument is left as it was.

    Raises UnservedVersion for an apiVersion that is not served.
    """
    version = manifest.get("apiVersion")
    if version == WORKSPACES.api_version:
        return manifest
    if version != WORKSPACES_V1ALPHA1.api_version:
        raise UnservedVersion(
            f"apiVersion {version!r} of a Workspace is not served: write {WORKSPACES.api_version} "
            f"or {WORKSPACES_V1ALPHA1.api_version}"
        )
    return {**_with_v1alpha1_defaults(manifest), "apiVersion": WORKSPACES.api_version}


def to_v1alpha1(manifest: Manifest) -> Manifest:
    """A v1beta1 Workspace as v1alpha1, which can hold all that v1beta1 can; the argument is left as it was."""
    old = {**manifest, "apiVersion": WORKSPACES_V1ALPHA1.api_version}
    resource = manifest.get("resource")
    if isinstance(resource, dict) and resource.get("instanceType") is None:
        old["resource"] = {**resource, "instanceType": ""}
    return old


def converted(manifest: Manifest, api_version: str) -> Manifest:
    """A Workspace of any served version in another one. Raises UnservedVersion."""
    ours = to_v1beta1(manifest)
    if api_version == WORKSPACES.api_version:
        return ours
    if api_version == WORKSPACES_V1ALPHA1.api_version:
        return to_v1alpha1(ours)
    raise UnservedVersion(f"apiVersion {api_version!r} of a Workspace is not served")


def _with_v1alpha1_defaults(manifest: Manifest) -> Manifest:
    resource = manifest.get("resource")
    if not isinstance(resource, dict):
        return manifest
    if resource.get("instanceType") == "":
        return {**manifest, "resource": {key: value for key, value in resource.items() if key != "instanceType"}}
    if resource.get("instanceType") is None:
        return {**manifest, "resource": {**resource, "instanceType": V1ALPHA1_INSTANCE_TYPE}}
    return manifest
