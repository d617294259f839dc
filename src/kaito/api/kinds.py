# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Our kinds as `kube.Resource`s: enough to ask a server for their objects.

The fields of the objects are in `kaito.api.meta` and the kinds' own modules. Programs that show objects as they are,
such as the command line, need only this one, which loads no model.
"""

from __future__ import annotations

from kaito.api.names import GROUP
from kaito.kube.resource import Resource

WORKSPACES = Resource(GROUP, "v1beta1", "workspaces", "Workspace")
WORKSPACES_V1ALPHA1 = Resource(GROUP, "v1alpha1", "workspaces", "Workspace")

DEFINED = (WORKSPACES,)
"""Every kind that has a CustomResourceDefinition of ours, in its stored version."""


def definition_name(kind: Resource) -> str:
    """The name of the kind's CustomResourceDefinition."""
    return f"{kind.plural}.{kind.group}"
