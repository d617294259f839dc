# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Our kinds as `kube.Resource`s: what the operator and the CLI hand to the Kubernetes client."""

from __future__ import annotations

from kaito.api.names import GROUP
from kaito.kube.resource import Resource

WORKSPACES = Resource(GROUP, "v1beta1", "workspaces", "Workspace")
WORKSPACES_V1ALPHA1 = Resource(GROUP, "v1alpha1", "workspaces", "Workspace")
