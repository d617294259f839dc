# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Older API versions of a Workspace to the one that we work with, and back, as pure functions on manifests.

Inside there is only v1beta1. Both versions carry the same fields in their schemas, so that an API server that converts
by rewriting `apiVersion` (strategy None) loses nothing; the one difference is the instance type that v1alpha1 fills in.
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
    return {**manifest, "apiVersion": WORKSPACES_V1ALPHA1.api_version}


def _with_v1alpha1_defaults(manifest: Manifest) -> Manifest:
    resource = manifest.get("resource")
    if not isinstance(resource, dict) or resource.get("instanceType") is not None:
        return manifest
    return {**manifest, "resource": {**resource, "instanceType": V1ALPHA1_INSTANCE_TYPE}}
