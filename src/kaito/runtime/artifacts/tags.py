# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""What lies under a tag of a registry, and its removal. Who pushes is `push.py`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from kaito.api.names import REASON_ARTIFACT_NOT_FOUND
from kaito.runtime.artifacts.push import Target, connected
from kaito.runtime.artifacts.transport import Unreachable
from kaito.runtime.failure import Failed


@dataclass(frozen=True, slots=True)
class Tagged:
    """What a tag stands for now."""

    digest: str
    annotations: Mapping[str, str]


def look(target: Target) -> Tagged | None:
    """What lies there, None where nothing does; raises Failed."""
    with connected(target) as registry:
        try:
            manifest, _, digest = registry.manifest(registry.reference.wanted)
        except Failed as error:
            if error.failure.reason == REASON_ARTIFACT_NOT_FOUND:
                return None
            raise
    annotations = manifest.get("annotations")
    return Tagged(digest, annotations if isinstance(annotations, dict) else {})


def remove(target: Target, digest: str) -> bool:
    """Delete a manifest, with all tags that stand for it; whether it is gone. Many registries do not allow that.

    Its blobs go when the registry cleans up, those that another manifest lists stay. Raises Failed when nobody answers.
    """
    with connected(target, deletes=True) as registry:
        try:
            response = registry.ask("DELETE", f"manifests/{digest}")
        except Unreachable as error:
            raise registry.unavailable(error) from None
        registry.transport.done(response)
        return response.status < 400 or response.status == 404
