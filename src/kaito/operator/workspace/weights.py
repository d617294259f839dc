# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Weights from elsewhere than a hub, where a Workspace's annotations say so.

From a registry: an image or an artifact holds the preset's files. They are fetched into the folder where the runtime
looks before it asks a hub, so an engine needs to know nothing of it. From the node: an administrator has put them into
a folder that is named after the preset.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from kaito.api import contracts, names
from kaito.api.contracts import OciSource
from kaito.api.references import parse
from kaito.api.workspace import Workspace
from kaito.catalog.models import ModelFacts
from kaito.operator import pods
from kaito.operator.pods import Mounted
from kaito.operator.workspace.fetching import Fetch

_SECRET = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?")


@dataclass(frozen=True, slots=True)
class WeightsImage:
    """Where a preset's weights are."""

    reference: str
    secrets: tuple[str, ...] = ()


def weights_image(annotations: Mapping[str, str]) -> WeightsImage | str | None:
    """What the annotations say: an image, None when there is none, or what is wrong with them."""
    reference = annotations.get(names.WEIGHTS_IMAGE_ANNOTATION, "").strip()
    if not reference:
        return None
    try:
        parse(reference)
    except ValueError as error:
        return f"The annotation {names.WEIGHTS_IMAGE_ANNOTATION}: {error} Write registry/name:tag."
    listed = annotations.get(names.WEIGHTS_SECRETS_ANNOTATION, "").split(",")
    secrets = tuple(dict.fromkeys(filter(None, (secret.strip() for secret in listed))))
    wrong = next((secret for secret in secrets if not _SECRET.fullmatch(secret)), None)
    if wrong is not None:
        return (
            f"The annotation {names.WEIGHTS_SECRETS_ANNOTATION} has {wrong[:80]}: write names of Secrets, with commas."
        )
    return WeightsImage(reference, secrets)


def node_folder(workspace: Workspace) -> str:
    """The folder on the node that holds the preset's weights; empty where they come from elsewhere."""
    if workspace.preset is None or workspace.annotations.get(names.USE_LOCAL_WEIGHTS_ANNOTATION) != "true":
        return ""
    return f"{contracts.NODE_WEIGHTS}/{workspace.preset.name.lower().replace('/', '-')}"


def node_mount(folder: str) -> tuple[Mounted, ...]:
    """The node's folder in the pod, under the same path; nothing where there is none."""
    return (pods.host_path("model-weights-hostpath", folder, folder),) if folder else ()


def fetches(weights: WeightsImage | None, model: ModelFacts) -> tuple[Fetch, ...]:
    """The weights as one thing to fetch, laid out by the model's id; nothing without an image."""
    if weights is None:
        return ()
    destination = f"{contracts.WEIGHTS_MOUNT}/{model.id}"
    return (Fetch(f"weights of {model.id}", OciSource(reference=weights.reference), destination, weights.secrets),)
