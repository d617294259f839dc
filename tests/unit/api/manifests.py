# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Workspace manifests for the tests of the admission rules."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

INFERENCE: dict[str, Any] = {
    "apiVersion": "kaito.sh/v1beta1",
    "kind": "Workspace",
    "metadata": {"name": "demo", "namespace": "default"},
    "resource": {"labelSelector": {"matchLabels": {"apps": "phi"}}},
    "inference": {"preset": {"name": "phi-4"}},
}
TUNING: dict[str, Any] = {
    **{key: INFERENCE[key] for key in ("apiVersion", "kind", "metadata", "resource")},
    "tuning": {
        "preset": {"name": "phi-4"},
        "method": "qlora",
        "input": {"urls": ["https://example.com/data.parquet"]},
        "output": {"image": "registry.example.com/result:1", "imagePushSecret": "push"},
    },
}
ADAPTER: dict[str, Any] = {"source": {"name": "poet", "image": "registry.example.com/poet:1"}, "strength": "0.5"}

GONE: Any = object()
"""As a value of `changed`: take the field out."""


def changed(manifest: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """A copy of the manifest with fields set by their path, written with __ for a dot."""
    copy = deepcopy(manifest)
    for path, value in fields.items():
        *parents, last = path.split("__")
        part = copy
        for parent in parents:
            part = part.setdefault(parent, {})
        if value is GONE:
            part.pop(last, None)
        else:
            part[last] = deepcopy(value)
    return copy
